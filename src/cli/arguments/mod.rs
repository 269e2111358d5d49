//! The command line: verbs, options, and the help that teaches them.

mod secrets;
mod upkeep;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub(super) use secrets::{Destroying, Getting, Put, Revoking, Rollback, VersionOf};
pub(super) use upkeep::{AuditVerb, Dev, Explain, Init, Learn, Logged, Restoring, Verify, WhoRead};

const AFTER: &str = "\
First steps:
  credfs dev                                a throw-away instance, with samples and things to try
  credfs init                               configuration, key, empty store and a policy that grants nothing
  credfs put prod/orders/db password        asks for the value, or reads it from standard input
  credfs mount                              serves below the mount point
  cat /run/credfs/prod/orders/db/password   what a program does

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 refused by policy, 5 store away, 6 audit log cannot be written
or does not verify, 7 configuration or policy invalid, 8 already exists or the name is taken.";

/// Secrets as files: every read authorised for its caller, taken from an encrypted store, and recorded before a byte
/// is handed over.
#[derive(Parser)]
#[command(name = "credfs", version, after_help = AFTER, max_term_width = 110)]
pub(super) struct Arguments {
    /// The configuration file.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "CREDFS_CONFIG",
        default_value = crate::config::DEFAULT_CONFIG
    )]
    pub(super) config: PathBuf,
    /// Print JSON instead of text for people.
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// How much to say on standard error: error, warn, info, debug or trace; RUST_LOG is used where this is not given.
    #[arg(long, global = true, value_name = "LEVEL", env = "RUST_LOG")]
    pub(super) log_level: Option<String>,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// What to do.
#[derive(Subcommand)]
pub(super) enum Verb {
    /// Run a throw-away instance in the foreground. It has sample secrets with two versions each, prints what to try
    /// and leaves nothing behind when it ends.
    #[command(after_help = "Examples:\n  credfs dev\n  credfs dev --mount-point ~/secrets")]
    Dev(Dev),
    /// Make a new instance: configuration, key, empty store and a policy that grants nothing. Existing files are never
    /// overwritten.
    #[command(
        after_help = "Examples:\n  credfs init\n  credfs init --config ~/vault/credfs.toml --mount-point ~/vault/mnt\n  credfs init --complete"
    )]
    Init(Init),
    /// Serve the tree in the foreground until SIGTERM or Ctrl-C. SIGHUP reads configuration and policy again.
    #[command(after_help = "Examples:\n  credfs mount\n  credfs mount --config ~/vault/credfs.toml")]
    Mount,
    /// Keep the mount for a worker that another unit starts: the service's privileged half. It makes the mount, holds its
    /// descriptor (also in systemd's store), tells the worker which program asks, watches it, and answers requests with
    /// a time-out while none is ready. It knows no secret. In the foreground `credfs mount` does this too.
    #[command(
        after_help = "Examples:\n  credfs keeper\n  credfs keeper --config ./credfs.toml --socket ./worker.sock"
    )]
    Keeper {
        /// Where the worker comes to. Only the user that `worker.user` names is let in.
        #[arg(long, value_name = "PATH", default_value = crate::keeper::DEFAULT_SOCKET)]
        socket: PathBuf,
    },
    /// Serve the mount that a keeper holds: the service's other half, without any privilege. SIGTERM hands over to a
    /// successor without a reader noticing; SIGHUP reads configuration and policy again.
    #[command(
        after_help = "Examples:\n  credfs worker --keeper /run/credfs-keeper/worker.sock\n\nWithout --keeper the keeper \
                      is at the other end of standard input: so `credfs mount` starts it."
    )]
    Worker {
        /// Where the keeper listens.
        #[arg(long, value_name = "PATH")]
        keeper: Option<PathBuf>,
    },
    /// Store a new version of a secret. Fields that are not named are carried over from the version before, and named
    /// in the output.
    #[command(
        alias = "patch",
        after_help = "Examples:\n  credfs put prod/orders/db password               asks on a terminal, else reads \
                      standard input\n  pwgen 40 1 | tr -d '\\n' | credfs put prod/orders/db password\n  credfs put \
                      prod/orders/tls key=@server.key cert=@server.pem\n  vault kv get -format=json x | jq .data.data \
                      | credfs put prod/x --fields-json\n  credfs put prod/orders/db password --stage next"
    )]
    Put(Put),
    /// Print a value to standard output, byte for byte. It is recorded before it is printed.
    #[command(
        after_help = "Examples:\n  credfs get prod/orders/db password\n  credfs get prod/orders/db password --version \
                      previous\n  credfs get prod/orders/db --json"
    )]
    Get(Getting),
    /// List the secrets below PATH by their full paths. Where PATH is a secret itself, its fields are listed first.
    #[command(after_help = "Examples:\n  credfs ls\n  credfs ls prod\n  credfs ls prod/orders/db")]
    Ls {
        /// A directory or a secret; everything if it is left out.
        path: Option<String>,
    },
    /// List the versions of a secret: number, stages, age, state and fields. Values are not opened.
    #[command(
        after_help = "Examples:\n  credfs versions prod/orders/db\n  credfs versions prod/orders/db --json"
    )]
    Versions {
        /// The secret.
        path: String,
    },
    /// Make the staged version (next) current. The current one becomes previous.
    #[command(
        after_help = "Examples:\n  credfs put prod/orders/db password --stage next\n  credfs promote prod/orders/db"
    )]
    Promote {
        /// The secret.
        path: String,
    },
    /// Make the previous version current again, or the one named. The version that is left loses its stage, so that
    /// doing it twice does not toggle.
    #[command(
        after_help = "Examples:\n  credfs rollback prod/orders/db\n  credfs rollback prod/orders/db --to 3"
    )]
    Rollback(Rollback),
    /// Refuse a version at once and for good: new opens, and files that are open. This cannot be taken back.
    #[command(after_help = "Examples:\n  credfs revoke prod/orders/db --version 7 --reason compromised")]
    Revoke(Revoking),
    /// Hide a secret, or one version of it. `credfs undelete` brings it back.
    #[command(
        after_help = "Examples:\n  credfs delete prod/orders/db\n  credfs delete prod/orders/db --version 3"
    )]
    Delete(VersionOf),
    /// Bring back what was deleted, a secret or one version of it. It stands where it stood before.
    #[command(
        after_help = "Examples:\n  credfs undelete prod/orders/db\n  credfs undelete prod/orders/db --version 3"
    )]
    Undelete(VersionOf),
    /// Erase a secret, or one version of it, for good: bytes and key. Asks first on a terminal.
    #[command(
        after_help = "Examples:\n  credfs destroy prod/orders/db --version 3\n  credfs destroy prod/orders/db --yes"
    )]
    Destroy(Destroying),
    /// Have the running instance read configuration and policy again. Returns when they are in force; with a fault the
    /// old policy stays in force and the exit code is 7.
    #[command(after_help = "Examples:\n  credfs check && credfs reload")]
    Reload,
    /// Ask the stores again now, about one secret or all. The embedded store is always up to date.
    #[command(after_help = "Examples:\n  credfs refresh\n  credfs refresh prod/orders/db")]
    Refresh {
        /// The secret; all if it is left out.
        path: Option<String>,
    },
    /// Check configuration and policy and print every fault with file, line and remedy. Nothing is changed, no
    /// instance is needed.
    #[command(after_help = "Examples:\n  credfs check\n  credfs check --config ./credfs.toml --json")]
    Check,
    /// Say who may read a secret and by which rule, and what keeps the other rules from holding. Without options it
    /// answers for you.
    #[command(
        after_help = "Examples:\n  credfs explain prod/orders/db\n  credfs explain prod/orders/db --user orders --unit \
                      orders.service\n  credfs explain prod/orders/db --uid 1000 --field password --check"
    )]
    Explain(Box<Explain>),
    /// Propose grants for what the audit log says was refused. The proposal is a policy file to be read by a person,
    /// never put in force by itself. With --store: print what the grants in force mean as policies of that store's server.
    ///
    /// With --store NAME nothing is learned from the log. For each login that credfs has at the Vault or OpenBao server
    /// behind NAME it prints the policy (HCL) that lets that login do what the local grants let its identities do, and no
    /// more: least privilege on both sides. The machine's login lists and describes for all, makes every change, and
    /// reads for the identities that have no login of their own; an identity's own login reads for that one. Where secrets
    /// are minted, the login for whose identities that is done may ask for, renew and end exactly those. Which version the
    /// KV engine has the running instance says, else the server, under the machine's login; before there is one that
    /// works, version 2 is taken, and the output says so (NOT ASKED). Where the server's language has no equal for a pattern (a star within a name, ** before another name) the
    /// policy says so in a comment that begins with WIDER, and prints the narrowest that lets everything granted through.
    #[command(
        after_help = "Examples:\n  credfs learn --since 1h\n  credfs learn --since 1d > /etc/credfs/policy.d/proposed.toml\n  credfs learn --store central\n  credfs learn --store central --login machine | bao policy write credfs-central-machine -\n  credfs learn --store central --login identity:orders | bao policy write credfs-central-orders -"
    )]
    Learn(Learn),
    /// Say who has read a secret, from the audit log. Commands that handed out a value count as well.
    ///
    /// A fact stands in a record only where it was read for the decision: uid, gid, process, unit and container always;
    /// the executable, its digest and the login only where a rule about the secret asked for them. What was not read
    /// is - here and an absent key with --json: it was not looked for, and says nothing about the reader. To have the
    /// executable recorded, name it in a rule (exe = [...]).
    #[command(
        name = "who-read",
        after_help = "Examples:\n  credfs who-read prod/orders/db --since 7d\n  credfs who-read prod/orders/db --version 6 --json"
    )]
    WhoRead(WhoRead),
    /// Query, prove and hand off the audit log. Records are chained by hash and signed by one-time keys.
    #[command(subcommand)]
    Audit(AuditVerb),
    /// Write a copy of the local store to a new file. It stays sealed: restoring needs the key, which is not in it.
    #[command(after_help = "Examples:\n  credfs backup /backup/credfs-$(date +%F).db")]
    Backup {
        /// A file that does not exist yet.
        file: PathBuf,
        /// Which store, where there are several.
        #[arg(long, value_name = "NAME")]
        store: Option<String>,
    },
    /// Put a backup in the place of the local store, after proving every row and value of it. The store that was there
    /// is kept beside. No instance may be running.
    #[command(after_help = "Examples:\n  credfs restore /backup/credfs-2026-11-23.db")]
    Restore(Restoring),
    /// Give the local store a new key and replace the key file. Values stay as they are; only their keys are wrapped
    /// anew.
    #[command(after_help = "Examples:\n  credfs rekey\n  credfs rekey --store main")]
    Rekey {
        /// Which store, where there are several.
        #[arg(long, value_name = "NAME")]
        store: Option<String>,
    },
    /// Say how the instance is: mount, stores, audit log, policy. Exit code 0 when it serves, else 1.
    #[command(after_help = "Examples:\n  credfs status\n  until credfs status; do sleep 0.1; done")]
    Status,
    /// Look for what is wrong on this machine and say the remedy. Exit code 1 where the instance would not run.
    #[command(after_help = "Examples:\n  credfs doctor\n  credfs doctor --json")]
    Doctor,
}
