//! Options of the commands on instances, policy and the audit log.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::model::Version;

/// `dev`.
#[derive(Args)]
pub(crate) struct Dev {
    /// Where to mount; a new directory beside the temporary files if it is left out.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) mount_point: Option<PathBuf>,
}

/// `init`.
#[derive(Args)]
pub(crate) struct Init {
    /// Where the instance shall mount. With a configuration of your own everything else lies beside that file.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) mount_point: Option<PathBuf>,
    /// The configuration is there: make what it names and is missing, such as key, store and audit log. Nothing that
    /// exists is touched, so it may be run again at any time.
    #[arg(long, conflicts_with = "mount_point")]
    pub(crate) complete: bool,
}

/// `restore`.
#[derive(Args)]
pub(crate) struct Restoring {
    /// What `credfs backup` wrote.
    pub(crate) file: PathBuf,
    /// Which store, where there are several.
    #[arg(long, value_name = "NAME")]
    pub(crate) store: Option<String>,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// `explain`.
#[derive(Args)]
pub(crate) struct Explain {
    /// The secret.
    pub(crate) path: String,
    /// The field; where it is left out the question is about the secret as a whole.
    #[arg(value_name = "FIELD")]
    pub(crate) of_field: Option<String>,
    /// The same, as an option.
    #[arg(long, value_name = "FIELD", conflicts_with = "of_field")]
    pub(crate) field: Option<String>,
    /// The caller's uid.
    #[arg(long, value_name = "UID", conflicts_with = "user")]
    pub(crate) uid: Option<u32>,
    /// The caller's user, with the groups that the machine gives him.
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// A group of the caller, by name or number; the first is his own. May be given several times.
    #[arg(long, visible_alias = "gid", value_name = "GROUP")]
    pub(crate) group: Vec<String>,
    /// The systemd unit the caller runs in.
    #[arg(long, value_name = "UNIT")]
    pub(crate) unit: Option<String>,
    /// The container the caller runs in.
    #[arg(long, value_name = "ID")]
    pub(crate) container: Option<String>,
    /// The file the caller runs.
    #[arg(long, value_name = "FILE")]
    pub(crate) exe: Option<PathBuf>,
    /// The digest of the file the caller runs; worked out where --exe names a file that is there.
    #[arg(long, value_name = "DIGEST")]
    pub(crate) sha256: Option<String>,
    /// The login session the caller belongs to, by number.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) session: Option<u32>,
    /// Who logged in for that session; the caller's uid if it is left out.
    #[arg(long, value_name = "UID")]
    pub(crate) login_uid: Option<u32>,
    /// The stage of the version: current, previous, next, or none.
    #[arg(long, value_name = "STAGE", default_value = "current")]
    pub(crate) stage: String,
    /// What the caller wants: read, list or admin.
    #[arg(long, value_name = "ACTION", default_value = "read")]
    pub(crate) action: String,
    /// Exit with 4 where the answer is no.
    #[arg(long)]
    pub(crate) check: bool,
}

/// `who-read`.
#[derive(Args)]
pub(crate) struct WhoRead {
    /// The secret.
    pub(crate) path: String,
    /// From when: a span back from now such as 7d, or a time (RFC 3339).
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Until when: a span back from now, or a time.
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<String>,
    /// One version only.
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub(crate) version: Option<Version>,
}

/// `audit …`.
#[derive(Subcommand)]
pub(crate) enum AuditVerb {
    /// Print audit records, newest last. Options narrow them down.
    #[command(
        after_help = "Examples:\n  credfs audit log --since 1h\n  credfs audit log --outcome denied --json"
    )]
    Log(Logged),
    /// Prove that nothing in the audit log was changed. Without --root the proof begins at the log's own first record.
    #[command(
        after_help = "Examples:\n  credfs audit verify --root 3f0c…   the fingerprint that `credfs init` printed\n  credfs audit verify --json"
    )]
    Verify(Verify),
    /// Seal what the log holds so far and print where it stands, to be kept on another machine. Files whose last
    /// record is checkpointed may be removed when the log outgrows its budget.
    #[command(after_help = "Examples:\n  credfs audit checkpoint | ssh vault 'cat >> credfs-checkpoints'")]
    Checkpoint,
    /// Begin a new segment file. The chain goes on in it.
    #[command(after_help = "Examples:\n  credfs audit rotate")]
    Rotate,
}

/// `audit log`.
#[derive(Args)]
pub(crate) struct Logged {
    /// From when: a span back from now such as 7d, or a time (RFC 3339).
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Until when.
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<String>,
    /// This secret only.
    #[arg(long, value_name = "PATH")]
    pub(crate) secret: Option<String>,
    /// This operation only, such as open, put or reload.
    #[arg(long, value_name = "OPERATION")]
    pub(crate) op: Option<String>,
    /// This outcome only, such as released, denied or hidden.
    #[arg(long, value_name = "OUTCOME")]
    pub(crate) outcome: Option<String>,
    /// This uid only.
    #[arg(long, value_name = "UID")]
    pub(crate) uid: Option<u32>,
    /// At most this many, the newest.
    #[arg(long, short = 'n', value_name = "COUNT")]
    pub(crate) lines: Option<usize>,
}

/// `audit verify`.
#[derive(Args)]
pub(crate) struct Verify {
    /// The fingerprint that `credfs init` printed: without it nobody can tell this log from one made up whole.
    #[arg(long, value_name = "FINGERPRINT")]
    pub(crate) root: Option<String>,
    /// A checkpoint that was kept elsewhere: the log must reach at least as far as it says.
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: Option<PathBuf>,
}

fn version(text: &str) -> Result<Version, String> {
    text.parse().map_err(|()| "not a number from 1".to_owned())
}

#[derive(Args)]
pub(crate) struct Learn {
    /// How far to look back: a span such as 7d, or a time (RFC 3339).
    #[arg(long, default_value = "1d", value_name = "SPAN", conflicts_with = "store")]
    pub(crate) since: String,
    /// Print the policies of the server behind this store instead.
    #[arg(long, value_name = "NAME")]
    pub(crate) store: Option<String>,
    /// Only the policy of this login: machine, or identity:NAME.
    #[arg(long, value_name = "LOGIN", requires = "store")]
    pub(crate) login: Option<String>,
    /// The version of the KV engine at the store's mount, 1 or 2. Where it is not given the running instance is asked, else
    /// the server under the machine's login; where that cannot be, 2 is taken and the output says so.
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u8).range(1..=2), requires = "store")]
    pub(crate) kv: Option<u8>,
    /// Give the machine's login the rights of root and of the configuration's owner as well, who may administer every
    /// secret.
    #[arg(long, requires = "store")]
    pub(crate) administrator: bool,
}
