//! The mount while it is kept: made, adopted from systemd's store, taken away.

use std::fs::DirBuilder;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::fuse::notifier::{self, Notifier, Order};
use crate::fuse::{MARKS_BYTES, introduce};
use crate::sys::mount::{self, MountFault, MountHandle, MountOptions, Mounted};
use crate::sys::notify::Notify;
use crate::sys::poll::{self, Interest};
use crate::sys::{connection, memory_file};

use super::assignment::KeepFault;
use super::session::{Session, SessionFault};

/// How long a mount found in the way may take to say that it is alive.
const PROBE_WAIT: Duration = Duration::from_secs(1);
/// How long one that is being taken away, because its keeper has just died, is waited for.
const LEAVING_WAIT: Duration = Duration::from_secs(2);
/// How long the end of a session is waited for before its connection is aborted.
const END_WAIT: Duration = Duration::from_millis(500);
/// Longest saved session, in bytes.
const SESSION_BYTES_MAX: u64 = 8192;
const DEVICE: &str = "device";
const SESSION: &str = "session";
const PAGES: &str = "pages";

/// A mount of ours.
pub(super) struct Kept {
    pub(super) device: OwnedFd,
    pub(super) session: Session,
    /// Where each worker marks which files the kernel has pages of, for the next one.
    pub(super) pages: OwnedFd,
    notifier: Notifier,
}

impl Kept {
    /// Makes a fresh mount, also in the place of a dead one of ours. INIT is answered: whoever opens anything on it
    /// waits for a worker.
    pub(super) fn make(mount_point: &Path, allow_other: bool) -> Result<Self, KeepFault> {
        make_directory(mount_point)?;
        let until = Instant::now() + LEAVING_WAIT;
        let mounted = loop {
            let cleared = mount::clear_stale(mount_point, PROBE_WAIT)?;
            if cleared > 0 {
                tracing::warn!(cleared, "a dead mount was in the way and was taken away");
            }
            let options = MountOptions { allow_other, probe_max: PROBE_WAIT, ..MountOptions::default() };
            match mount::mount(mount_point, &options) {
                Ok(mounted) => break mounted,
                Err(MountFault::AlreadyServed(_) | MountFault::Silent { .. }) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(fault) => return Err(fault.into()),
            }
        };
        let Mounted { device, tree, handle } = mounted;
        let begun = introduce(&device).and_then(|introduction| {
            let notifier = Notifier::start(tree, notifier::Options::default())?;
            Ok((introduction, notifier, marks_of_pages()?))
        });
        match begun {
            Ok((introduction, notifier, pages)) => {
                Ok(Self { device, session: Session { introduction, handle }, pages, notifier })
            }
            Err(error) => {
                drop(mount::unmount(&handle));
                Err(KeepFault::Kernel(error))
            }
        }
    }

    /// Goes on with the mount of the keeper before us, whose descriptors systemd kept; nothing where it is not to be
    /// gone on with: then it is let go.
    pub(super) fn adopt(mount_point: &Path, kept: Vec<(String, OwnedFd)>) -> Option<Self> {
        let mut device = None;
        let mut session = None;
        let mut pages = None;
        for (name, descriptor) in kept {
            match name.as_str() {
                DEVICE => device = Some(descriptor),
                SESSION => session = Some(descriptor),
                PAGES => pages = Some(descriptor),
                _ => {}
            }
        }
        let (device, session) = (device?, session?);
        let read = memory_file::read_sealed(&session, SESSION_BYTES_MAX).ok()?;
        let session = match Session::from_bytes(&read) {
            Ok(session) => session,
            Err(fault) => {
                tracing::warn!(%fault);
                // The device lives, so the numbers of its mount belong to nobody else.
                if let SessionFault::OtherVersion(handle) = &fault
                    && !has_ended(&device)
                {
                    take_away(handle, &device);
                }
                return None;
            }
        };
        if has_ended(&device) {
            // Numbers of mounts are used again: what they name now may be somebody else's. A dead mount of ours is
            // seen to be dead before another is made.
            tracing::warn!("the kept mount is dead: a fresh one takes its place");
            return None;
        }
        let is_there = mount::is_there(&session.handle).unwrap_or(false);
        if !is_there || session.handle.mount_point != resolved(mount_point) {
            tracing::warn!("the kept mount is gone or elsewhere: a fresh one takes its place");
            take_away(&session.handle, &device);
            return None;
        }
        let again = mount::writable_again(&session.handle)
            .map_err(std::io::Error::other)
            .and_then(|tree| Notifier::start(tree, notifier::Options::default()))
            .and_then(|notifier| Ok((notifier, pages.map_or_else(marks_of_pages, Ok)?)));
        match again {
            Ok((notifier, pages)) => Some(Self { device, session, pages, notifier }),
            Err(error) => {
                tracing::warn!(%error, "watchers of the kept mount could not be told of changes: a fresh one is made");
                take_away(&session.handle, &device);
                None
            }
        }
    }

    /// Has systemd keep what a successor of ours needs.
    pub(super) fn store(&self, notify: &Notify) -> std::io::Result<()> {
        let session = memory_file::sealed(c"credfs-session", &self.session.to_bytes())?;
        notify.store(DEVICE, self.device.as_fd())?;
        notify.store(SESSION, session.as_fd())?;
        notify.store(PAGES, self.pages.as_fd())
    }

    pub(super) fn helper(&self) -> u32 {
        self.notifier.helper_pid().unwrap_or(0)
    }

    pub(super) fn order(&self, bytes: &[u8]) {
        match Order::received(bytes.to_vec()) {
            Some(order) => self.notifier.notify(order),
            None => tracing::warn!("the worker gave an order that is none"),
        }
    }

    /// Whether the connection is gone: unmounted and let go by everybody, or aborted.
    pub(super) fn has_ended(&self) -> bool {
        has_ended(&self.device)
    }

    /// Whether the mount is where it was made.
    pub(super) fn is_there(&self) -> bool {
        mount::is_there(&self.session.handle).unwrap_or(false)
    }

    /// Fails every request that waits, and every open file.
    pub(super) fn abort(&self) {
        if let Err(error) = connection::abort(self.session.handle.minor) {
            tracing::debug!(%error, "the connection ends with its last descriptor");
        }
    }

    /// Takes the mount away. Files that are open keep it alive for a moment, and then their connection is aborted.
    pub(super) fn take_away(self) {
        let Self { device, session, notifier, .. } = self;
        // First: its process holds the tree.
        if !notifier.stop() {
            tracing::debug!("the notifier's helper hangs in the kernel and ends with the connection");
        }
        take_away(&session.handle, &device);
    }
}

fn marks_of_pages() -> std::io::Result<OwnedFd> {
    memory_file::fixed(c"credfs-pages", MARKS_BYTES)
}

fn take_away(handle: &MountHandle, device: &OwnedFd) {
    if let Err(fault) = mount::unmount(handle) {
        tracing::warn!(%fault, "could not unmount");
    }
    let until = Instant::now() + END_WAIT;
    while !has_ended(device) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
    if !has_ended(device) {
        tracing::info!("files are still open: their connection is ended");
        if let Err(error) = connection::abort(handle.minor) {
            tracing::warn!(%error, "could not end the connection");
        }
    }
}

/// Asked at leisure and never waited for: whoever waits at the device is woken by every request.
fn has_ended(device: &OwnedFd) -> bool {
    poll::wait(&[(device.as_fd(), Interest::End)], Duration::ZERO).is_ok_and(|ready| ready[0].has_ended)
}

fn resolved(mount_point: &Path) -> std::path::PathBuf {
    let parent = mount_point.parent().and_then(|parent| parent.canonicalize().ok());
    match (parent, mount_point.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => mount_point.to_owned(),
    }
}

/// Makes the mount point where it is missing. One that is there, even as a dead mount, stays as it is.
fn make_directory(mount_point: &Path) -> Result<(), KeepFault> {
    if std::fs::symlink_metadata(mount_point).is_ok_and(|_| true) || is_dead_mount(mount_point) {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(mount_point)
        // The umask is for secrets.
        .and_then(|()| std::fs::set_permissions(mount_point, std::fs::Permissions::from_mode(0o755)))
        .map_err(|source| KeepFault::MountPoint { path: mount_point.to_owned(), source })
}

fn is_dead_mount(mount_point: &Path) -> bool {
    std::fs::symlink_metadata(mount_point).is_err_and(|error| error.kind() != std::io::ErrorKind::NotFound)
}
