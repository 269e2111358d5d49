//! Making, recognising and removing the mount, against the running kernel. Needs root, /dev/fuse and fuse3.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use credfs::sys::mount::{self, MountFault, MountOptions, Mounted, Standing, WritableTree};
use credfs::sys::{connection, mountinfo};

const PROBE_MAX: Duration = Duration::from_millis(500);
/// FUSE_INIT, the first request of every connection.
const INIT: u32 = 26;

/// A directory of its own for one test; whatever is mounted in it is taken away when the test ends.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
        assert!(root, "these tests mount file systems: run them as root");
        let path = std::env::temp_dir().join(format!("credfs-mount {}-{name}", std::process::id()));
        std::fs::create_dir_all(path.join("mnt")).unwrap();
        Self(path)
    }

    fn mount_point(&self) -> PathBuf {
        self.0.join("mnt")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for entry in mountinfo::mounts().unwrap() {
            if entry.mount_point.starts_with(&self.0) {
                Command::new("umount").arg("-l").arg(&entry.mount_point).status().unwrap();
            }
        }
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn mounted(place: &Place) -> Mounted {
    mount::mount(&place.mount_point(), &MountOptions { probe_max: PROBE_MAX, ..MountOptions::default() })
        .unwrap()
}

/// Opcodes that lie unread in a connection.
fn waiting_requests(device: &OwnedFd) -> Vec<u32> {
    let path = format!("/proc/self/fd/{}", device.as_raw_fd());
    assert_eq!(std::fs::read_link(path).unwrap(), Path::new("/dev/fuse"));
    let mut device = std::fs::File::from(device.try_clone().unwrap());
    let mut seen = Vec::new();
    let mut buffer = vec![0_u8; 1 << 17];
    while readable(&device) {
        match device.read(&mut buffer) {
            Ok(_) => seen.push(u32::from_ne_bytes(buffer[4..8].try_into().unwrap())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    seen
}

#[allow(unsafe_code, reason = "poll(2) has no name in std")]
fn readable(file: &std::fs::File) -> bool {
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, which lives through the call.
    unsafe { libc::poll(&raw mut poll, 1, 50) == 1 }
}

#[test]
fn mounting_sends_nothing_but_init_and_leaves_a_read_only_mount_with_a_writable_clone() {
    let place = Place::new("init");
    let started = Instant::now();
    let mounted = mounted(&place);
    assert!(started.elapsed() < Duration::from_secs(2), "no step waited for a daemon");
    assert_eq!(waiting_requests(&mounted.device), [INIT]);
    let mounts = mountinfo::mounts().unwrap();
    let entry = mountinfo::at(&mounts, &place.mount_point())[0].clone();
    assert_eq!(entry.kind, mount::KIND);
    for option in ["ro", "nosuid", "nodev", "noexec", "noatime"] {
        assert!(entry.has_option(option), "{option} in {}", entry.options);
    }
    assert!(entry.super_options.starts_with("rw,"), "{}", entry.super_options);
    assert!(entry.super_options.contains("allow_other"));
    assert!(!entry.super_options.contains("default_permissions"));
    let WritableTree::Detached(tree) = &mounted.tree else { panic!("root gets a detached clone") };
    let clone = mountinfo::mount_id_of(std::os::fd::AsFd::as_fd(tree)).unwrap();
    assert!(mounts.iter().all(|entry| entry.id != clone), "the clone is mounted nowhere");
    assert!(mount::unmount(&mounted.handle).unwrap());
    assert!(!mount::unmount(&mounted.handle).unwrap(), "a second time there is nothing to do");
    assert_eq!(mount::standing(&place.mount_point(), PROBE_MAX).unwrap(), Standing::Free);
}

#[test]
fn dead_mounts_are_recognised_and_all_taken_away_also_stacked_ones() {
    let place = Place::new("stale");
    let at = place.mount_point();
    drop(mounted(&place).device);
    assert_eq!(mount::standing(&at, PROBE_MAX).unwrap(), Standing::Stale);
    // mount() refuses to stack, so a second one is stacked by the plain tool.
    let stacked = Command::new("mount").args(["--bind"]).arg(&at).arg(&at).output().unwrap();
    assert!(stacked.status.success(), "{stacked:?}");
    assert_eq!(mountinfo::at(&mountinfo::mounts().unwrap(), &at).len(), 2);
    assert_eq!(mount::clear_stale(&at, PROBE_MAX).unwrap(), 2);
    assert_eq!(mount::clear_stale(&at, PROBE_MAX).unwrap(), 0);
    let again = mounted(&place);
    assert!(mount::unmount(&again.handle).unwrap());
}

#[test]
fn a_mount_that_does_not_answer_is_neither_replaced_nor_waited_for() {
    let place = Place::new("silent");
    let mounted = mounted(&place);
    let started = Instant::now();
    let standing = mount::standing(&place.mount_point(), PROBE_MAX).unwrap();
    assert!(started.elapsed() < PROBE_MAX * 3);
    assert_eq!(standing, Standing::Silent { minor: mounted.handle.minor });
    assert_eq!(mount::clear_stale(&place.mount_point(), PROBE_MAX).unwrap(), 0);
    let fault =
        mount::mount(&place.mount_point(), &MountOptions { probe_max: PROBE_MAX, ..Default::default() });
    assert!(matches!(fault, Err(MountFault::Silent { .. })), "{fault:?}");
    connection::abort(mounted.handle.minor).unwrap();
    assert_eq!(mount::standing(&place.mount_point(), PROBE_MAX).unwrap(), Standing::Stale);
}

struct Empty;

impl fuser::Filesystem for Empty {
    fn getattr(
        &self,
        _: &fuser::Request,
        ino: fuser::INodeNo,
        _: Option<fuser::FileHandle>,
        reply: fuser::ReplyAttr,
    ) {
        let time = std::time::UNIX_EPOCH;
        let attributes = fuser::FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: fuser::FileType::Directory,
            perm: 0o555,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&Duration::from_secs(3600), &attributes);
    }
}

fn serve(mounted: &Mounted) -> fuser::BackgroundSession {
    let device = mounted.device.try_clone().unwrap();
    let session =
        fuser::Session::from_fd(Empty, device, fuser::SessionACL::All, fuser::Config::default()).unwrap();
    session.spawn().unwrap()
}

#[test]
fn a_dead_daemon_is_recognised_also_while_the_kernel_remembers_what_it_said_of_its_root() {
    let place = Place::new("remembered");
    let mounted = mounted(&place);
    let served = serve(&mounted);
    std::fs::metadata(place.mount_point()).unwrap();
    assert_eq!(mount::standing(&place.mount_point(), PROBE_MAX).unwrap(), Standing::Served);
    connection::abort(mounted.handle.minor).unwrap();
    served.join().unwrap();
    assert!(std::fs::metadata(place.mount_point()).is_ok(), "the kernel still answers a plain stat");
    assert_eq!(mount::standing(&place.mount_point(), PROBE_MAX).unwrap(), Standing::Stale);
}

#[test]
fn a_served_mount_and_a_foreign_one_are_left_alone() {
    let place = Place::new("others");
    let at = place.mount_point();
    let first = mounted(&place);
    let served = serve(&first);
    let second = mount::mount(&at, &MountOptions::default());
    assert!(matches!(second, Err(MountFault::AlreadyServed(_))), "{second:?}");
    assert_eq!(mount::clear_stale(&at, PROBE_MAX).unwrap(), 0);
    drop(first.tree);
    assert!(mount::unmount(&first.handle).unwrap());
    drop(first.device);
    served.join().unwrap();

    let tmpfs = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&at).status().unwrap();
    assert!(tmpfs.success());
    let over = mount::mount(&at, &MountOptions::default());
    assert!(matches!(&over, Err(MountFault::Foreign { kind, .. }) if kind == "tmpfs"), "{over:?}");
    assert_eq!(mount::clear_stale(&at, PROBE_MAX).unwrap(), 0);
    assert!(!mount::unmount(&first.handle).unwrap(), "a mount that took our place is not ours");
    assert_eq!(mountinfo::at(&mountinfo::mounts().unwrap(), &at).len(), 1);
}

#[test]
fn every_unfit_directory_is_refused_by_its_own_fault() {
    let place = Place::new("unfit");
    let try_at = |name: &str| mount::mount(&place.0.join(name), &MountOptions::default()).unwrap_err();
    assert!(matches!(try_at("missing"), MountFault::Missing(_)));
    assert!(matches!(try_at("missing/deeper"), MountFault::Missing(_)));
    std::fs::write(place.0.join("file"), "").unwrap();
    assert!(matches!(try_at("file"), MountFault::NotADirectory(_)));
    std::os::unix::fs::symlink("mnt", place.0.join("link")).unwrap();
    assert!(matches!(try_at("link"), MountFault::NotADirectory(_)));
    std::fs::write(place.mount_point().join("something"), "").unwrap();
    assert!(matches!(try_at("mnt"), MountFault::NotEmpty(_)));
    assert!(mountinfo::mounts().unwrap().iter().all(|entry| !entry.mount_point.starts_with(&place.0)));
}

/// Runs itself twice more: in a mount namespace whose /dev/fuse every user may open (as udev makes it), there as root,
/// and from there as a plain user.
#[test]
fn a_plain_user_mounts_through_fusermount3_and_root_sees_it_die() {
    const NAME: &str = "a_plain_user_mounts_through_fusermount3_and_root_sees_it_die";
    if let Some(at) = std::env::var_os("CREDFS_TEST_MOUNT_AS_USER") {
        return mount_as_plain_user(Path::new(&at));
    }
    let place = Place::new("user");
    if std::env::var_os("CREDFS_TEST_IN_NAMESPACE").is_none() {
        let enter = "mknod -m 666 \"$1\" c 10 229 && mount --bind \"$1\" /dev/fuse && exec \"$2\" --exact \"$3\" --nocapture";
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", enter, "sh"])
            .arg(place.0.join("fuse"))
            .arg(std::env::current_exe().unwrap())
            .arg(NAME)
            .env("CREDFS_TEST_IN_NAMESPACE", "1")
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
        return;
    }
    let at = place.mount_point();
    for directory in [&place.0, &at] {
        std::os::unix::fs::chown(directory, Some(65534), Some(65534)).unwrap();
    }
    let program = place.0.join("test-program");
    // By another process: a file that any process has open for writing cannot be run.
    assert!(
        std::process::Command::new("cp")
            .arg(std::env::current_exe().unwrap())
            .arg(&program)
            .status()
            .unwrap()
            .success()
    );
    let output = Command::new(&program)
        .args(["--exact", NAME, "--nocapture"])
        .env("CREDFS_TEST_MOUNT_AS_USER", &at)
        .uid(65534)
        .gid(65534)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    // The user's process is gone and left its last mount behind, without allow_other.
    assert_eq!(mount::standing(&at, PROBE_MAX).unwrap(), Standing::Stale);
    assert_eq!(mount::clear_stale(&at, PROBE_MAX).unwrap(), 1);
}

fn mount_as_plain_user(at: &Path) {
    let options = MountOptions { allow_other: false, max_read_bytes: Some(65536), probe_max: PROBE_MAX };
    let mounted = mount::mount(at, &options).unwrap();
    assert_eq!(waiting_requests(&mounted.device), [INIT]);
    assert!(matches!(&mounted.tree, WritableTree::Path(path) if path == at));
    assert!(mount::unmount(&mounted.handle).unwrap());
    let left_behind = mount::mount(at, &options).unwrap();
    assert!(left_behind.handle.minor > 0);
}
