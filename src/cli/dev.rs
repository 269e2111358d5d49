//! `credfs dev`: a throw-away instance, and what to try with it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::control::CommandFault;
use crate::daemon::{self, Mounting, Sandbox};
use crate::sys::harden;

use super::arguments::Dev;
use super::instance::exit_of;
use super::{Context, Exit, output};

pub(super) fn dev(context: &Context, options: &Dev) -> Result<Exit, CommandFault> {
    let sandbox = Sandbox::make(&parent(), options.mount_point.as_deref())?;
    daemon::with_instance(sandbox.config(), &context.surroundings, |instance, runtime| {
        sandbox.fill(instance, runtime)
    })?;
    let mut ready = || {
        // Where nobody reads what is printed, the instance serves nevertheless.
        drop(output::text(&welcome(sandbox.mount_point(), &sandbox)));
    };
    let ended = daemon::mount(Mounting {
        config: sandbox.config(),
        surroundings: &context.surroundings,
        log_level: context.log_level.as_deref(),
        hangup_ends: true,
        ready: &mut ready,
    })?;
    Ok(exit_of(ended))
}

/// Root's mount shall be within everyone's reach; a user's own runtime directory is cleared when he logs out.
fn parent() -> PathBuf {
    let uid = harden::own_uid();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let is_ours =
        |path: &PathBuf| std::fs::metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == uid);
    match runtime.filter(|path| uid != 0 && is_ours(path)) {
        Some(runtime) => runtime,
        None => std::env::temp_dir(),
    }
}

fn welcome(mount_point: &Path, sandbox: &Sandbox) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| "credfs".into());
    let (program, config_file) = (quoted(&program), quoted(sandbox.config()));
    let mount = quoted(mount_point);
    let whom = if harden::own_uid() == 0 { "every user" } else { "you" };
    format!(
        "A throw-away instance serves sample secrets to {whom} below {mount}\n\
         Five things to try in another terminal:\n\n\
         1  read a secret as a file\n     \
         cat {mount}/shop/database/password; echo\n\
         2  see its versions, and the one before\n     \
         ls -l {mount}/shop/database; cat {mount}/shop/database/previous/password; echo\n\
         3  replace it, and read it again\n     \
         printf %s new-key | {program} put shop/payments api_key --config {config_file}; cat \
         {mount}/shop/payments/api_key; echo\n\
         4  ask who read it\n     \
         {program} who-read shop/database --config {config_file}\n\
         5  ask who may read it, and why\n     \
         {program} explain shop/tls key --uid 65534 --config {config_file}\n\n\
         The policy is {policy}. Ctrl-C ends it and leaves nothing behind.\n",
        policy = quoted(sandbox.policy()),
    )
}

/// A path as it can be pasted into a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
