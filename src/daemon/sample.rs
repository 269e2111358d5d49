//! A throw-away instance for trying things out: directories of its own, sample secrets, nothing left behind.

mod certificate;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::access::Actor;
use crate::control::{Command, CommandFault, Instance, execute};
use crate::model::{FieldName, Impact, Ownership, SecretBytes, SecretPath, Stage};
use crate::sys::harden;

use super::{Laid, Layout, ourselves};

/// The directories of a throw-away instance. They and all that is in them are gone when this is dropped.
pub struct Sandbox {
    private: PathBuf,
    /// What was made for the mount point, outermost; `None`: it was there.
    made_mount: Option<PathBuf>,
    laid: Laid,
}

impl Sandbox {
    /// Makes a fresh directory below `parent`, mode 0700, and the mount point beside it, where others can reach it.
    ///
    /// # Errors
    /// Where something cannot be made.
    pub fn make(parent: &Path, mount_point: Option<&Path>) -> Result<Self, CommandFault> {
        let failed = |error: io::Error| {
            CommandFault::failed(format!("no directory could be made in {}: {error}", parent.display()))
        };
        let name = format!("credfs-dev-{}", random_text(6)?.as_str());
        let private = parent.join(&name);
        fs::DirBuilder::new().mode(0o700).create(&private).map_err(failed)?;
        let mount = match mount_point {
            Some(given) => std::path::absolute(given).map_err(failed)?,
            None => parent.join(format!("{name}-mnt")),
        };
        let existed = fs::symlink_metadata(&mount).is_ok();
        if !existed {
            let made = fs::DirBuilder::new()
                .mode(0o755)
                .create(&mount)
                .and_then(|()| fs::set_permissions(&mount, fs::Permissions::from_mode(0o755)));
            if let Err(error) = made {
                remove(&private);
                return Err(CommandFault::failed(format!("{} cannot be made: {error}", mount.display())));
            }
        }
        let made_mount = (!existed).then(|| mount.clone());
        let policy = policy_text(harden::own_uid());
        let laid = Layout::of(&private.join("credfs.toml"), Some(&mount))
            .map_err(failed)
            .and_then(|layout| layout.make(Some(&policy)));
        match laid {
            Ok(laid) => Ok(Self { private, made_mount, laid }),
            Err(fault) => {
                remove(&private);
                Err(fault)
            }
        }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.laid.layout.config
    }

    /// The mount point.
    #[must_use]
    pub fn mount_point(&self) -> &Path {
        &self.laid.layout.mount_point
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Path {
        self.laid.layout.policy()
    }

    /// Stores the samples, two versions of each.
    ///
    /// # Errors
    /// Where the store or the log fails.
    pub fn fill(&self, instance: &Instance, runtime: &tokio::runtime::Runtime) -> Result<(), CommandFault> {
        for _ in 0..2 {
            for sample in samples()? {
                let command = Command::Put {
                    secret: SecretPath::parse(sample.path)?,
                    fields: sample
                        .fields
                        .iter()
                        .map(|(name, _)| FieldName::parse(name))
                        .collect::<Result<_, _>>()?,
                    only: false,
                    stage: Stage::Current,
                    ownership: Ownership {
                        owner: Some("credfs dev".to_owned()),
                        impact: Some(sample.impact),
                        rotate_every: Some(std::time::Duration::from_secs(90 * 86_400)),
                        grace: None,
                    },
                };
                let values = sample.fields.into_iter().map(|(_, value)| value).collect();
                runtime.block_on(execute(instance, &Actor::Owner(ourselves()), command, values))?;
            }
        }
        Ok(())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        remove(&self.private);
        if let Some(mount) = &self.made_mount
            // Not recursive: what is mounted there after all must not be walked.
            && let Err(error) = fs::remove_dir(mount)
        {
            tracing::warn!(path = %mount.display(), %error, "could not be removed");
        }
    }
}

fn remove(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory) {
        tracing::warn!(path = %directory.display(), %error, "could not be removed");
    }
}

struct Sample {
    path: &'static str,
    impact: Impact,
    fields: Vec<(&'static str, SecretBytes)>,
}

fn samples() -> Result<Vec<Sample>, CommandFault> {
    let plain = |text: &str| SecretBytes::taken_from(&mut text.to_owned().into_bytes());
    let mut password = random_text(18)?;
    let mut url = Zeroizing::new(format!("postgresql://shop:{}@db.example:5432/shop", password.as_str()));
    let mut api_key = Zeroizing::new(format!("sk_dev_{}", random_text(24)?.as_str()));
    let pair = certificate::self_signed("localhost")?;
    Ok(vec![
        Sample {
            path: "shop/database",
            impact: Impact::High,
            fields: vec![
                ("host", plain("db.example")),
                ("password", taken(&mut password)),
                ("url", taken(&mut url)),
                ("username", plain("shop")),
            ],
        },
        Sample {
            path: "shop/tls",
            impact: Impact::High,
            fields: vec![("certificate", plain(&pair.certificate)), ("key", pair.key)],
        },
        Sample {
            path: "shop/payments",
            impact: Impact::Medium,
            fields: vec![("api_key", taken(&mut api_key))],
        },
    ])
}

fn taken(text: &mut Zeroizing<String>) -> SecretBytes {
    let mut bytes = Zeroizing::new(std::mem::take(&mut **text).into_bytes());
    SecretBytes::taken_from(&mut bytes)
}

/// Text of that many random bytes, in characters that need no quoting anywhere.
fn random_text(bytes: usize) -> Result<Zeroizing<String>, CommandFault> {
    let mut random = Zeroizing::new(vec![0; bytes]);
    getrandom::fill(&mut random)
        .map_err(|error| CommandFault::failed(format!("the kernel gives no random bytes: {error}")))?;
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(&*random).replace(['-', '_'], "x")))
}

fn policy_text(uid: u32) -> String {
    let (who, identity) = if uid == 0 {
        ("every user of this machine", "everyone")
    } else {
        ("the user who started it", "developer")
    };
    let mut text = format!("# The policy of a throw-away instance: {who} may read the samples.\n");
    if uid != 0 {
        text.push_str(&format!("[identities.developer]\nuid = [{uid}]\n\n"));
    }
    text.push_str(&format!("[[grants]]\nto = [\"{identity}\"]\nread = [\"shop/*\"]\n\n"));
    text.push_str("# A file at a path of its own, as nginx wants its key.\n");
    text.push_str("[views.\"nginx/key.pem\"]\nsecret = \"shop/tls\"\nfield = \"key\"\nmode = \"0400\"\n");
    text
}

/// A PEM block (RFC 7468).
fn pem(label: &str, content: &[u8]) -> Zeroizing<String> {
    let text = Zeroizing::new(STANDARD.encode(content));
    let mut out = Zeroizing::new(String::with_capacity(text.len() + 128));
    out.push_str(&format!("-----BEGIN {label}-----\n"));
    for (at, character) in text.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            out.push('\n');
        }
        out.push(character);
    }
    out.push_str(&format!("\n-----END {label}-----\n"));
    out
}
