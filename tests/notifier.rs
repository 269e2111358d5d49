//! What inotify's watchers see when the notifier's helper acts, and what the daemon is asked meanwhile. Needs root
//! and inotify-tools.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use credfs::fuse::notifier::{Command, Counts, Notifier, Options};
use credfs::model::notice::{Alias, NOTICE_DIRECTORY};
use credfs::sys::mount::{self, MountOptions, Mounted};
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, OpenFlags,
    ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, Request, TimeOrNow,
};

const ROOT: u64 = 1;
const PROD: u64 = 2;
const SECRET: u64 = 3;
const HIDDEN: u64 = 0xF0;
const FILE_V1: u64 = 0x10;
const FILE_V2: u64 = 0x11;
const LINK_V1: u64 = 0x20;
const LINK_V2: u64 = 0x21;
const WAIT_MAX: Duration = Duration::from_secs(5);

/// How the daemon answers the helper's own lookup of the link it is about to replace.
#[derive(Clone, Copy, PartialEq)]
enum Target {
    Absent,
    Old,
    New,
}

/// A tree of one secret, `prod/db`, with the file `password` (owned by 1001) and the link `current`.
struct Tree {
    swapped: AtomicBool,
    helper: AtomicU64,
    target: Target,
    log: Mutex<Vec<String>>,
    hung: (Mutex<bool>, Condvar),
}

struct Daemon(Arc<Tree>);

fn attributes(inode: u64) -> FileAttr {
    let kind = match inode {
        FILE_V1 | FILE_V2 => FileType::RegularFile,
        LINK_V1 | LINK_V2 => FileType::Symlink,
        _ => FileType::Directory,
    };
    let time: SystemTime = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let directory = kind == FileType::Directory;
    FileAttr {
        ino: INodeNo(inode),
        size: 7,
        blocks: 1,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm: if directory { 0o555 } else { 0o400 },
        nlink: if directory { 2 } else { 1 },
        uid: if kind == FileType::RegularFile { 1001 } else { 0 },
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Daemon {
    fn note(&self, request: &Request, text: String) -> bool {
        let helper = u64::from(request.pid()) == self.0.helper.load(Ordering::Acquire);
        let who = if helper { "helper" } else { "other" };
        self.0.log.lock().unwrap().push(format!("{who} uid {}: {text}", request.uid()));
        helper
    }

    fn find(&self, parent: u64, name: &str, helper: bool) -> Option<u64> {
        let swapped = self.0.swapped.load(Ordering::Acquire);
        match (parent, name) {
            (ROOT, NOTICE_DIRECTORY) if helper => Some(HIDDEN),
            (HIDDEN, name) if helper => match Alias::decode(name)? {
                Alias::Touch { inode } => Some(inode),
                Alias::Swap { directory: SECRET, .. } => Some(LINK_V2),
                Alias::Swap { .. } => None,
            },
            (ROOT, "prod") => Some(PROD),
            (PROD, "db") => Some(SECRET),
            (SECRET, "password") => Some(if swapped { FILE_V2 } else { FILE_V1 }),
            (SECRET, "current") if helper => match self.0.target {
                Target::Absent => None,
                Target::Old => Some(LINK_V1),
                Target::New => Some(LINK_V2),
            },
            (SECRET, "current") => Some(if swapped { LINK_V2 } else { LINK_V1 }),
            _ => None,
        }
    }
}

impl fuser::Filesystem for Daemon {
    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_str().unwrap();
        let helper = self.note(request, format!("LOOKUP {:#x} {name}", parent.0));
        match self.find(parent.0, name, helper) {
            Some(inode) => reply.entry_with_ttls(
                &Duration::from_secs(3600),
                &Duration::ZERO,
                &attributes(inode),
                Generation(0),
            ),
            None => reply.error(Errno::ENOENT),
        }
    }
    fn getattr(&self, request: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.note(request, format!("GETATTR {:#x}", inode.0));
        reply.attr(&Duration::from_secs(3600), &attributes(inode.0));
    }
    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let times = (atime, mtime);
        self.note(request, format!("SETATTR {:#x} {:?} {times:?}", inode.0, (mode, uid, gid, size, handle)));
        let mut hung = self.0.hung.0.lock().unwrap();
        while *hung {
            hung = self.0.hung.1.wait(hung).unwrap();
        }
        reply.attr(&Duration::from_secs(3600), &attributes(inode.0));
    }
    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let to = (new_parent.0, new_name);
        self.note(request, format!("RENAME {:#x} {name:?} -> {to:x?} flags {flags}", parent.0));
        reply.ok();
    }
    fn readlink(&self, request: &Request, inode: INodeNo, reply: ReplyData) {
        self.note(request, format!("READLINK {:#x}", inode.0));
        reply.data(if inode.0 == LINK_V1 { b"v/1" } else { b"v/2" });
    }
    fn open(&self, request: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.note(request, format!("OPEN {:#x}", inode.0));
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }
}

/// One mount with a daemon, a notifier and everything taken away at the end.
struct Stage {
    tree: Arc<Tree>,
    notifier: Option<Notifier>,
    handle: mount::MountHandle,
    session: Option<fuser::BackgroundSession>,
    place: PathBuf,
}

impl Stage {
    fn new(name: &str, target: Target) -> Self {
        Self::with_program(name, target, Path::new(env!("CARGO_BIN_EXE_credfs")))
    }

    fn with_program(name: &str, target: Target, program: &Path) -> Self {
        let place = std::env::temp_dir().join(format!("credfs-notifier-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        let Mounted { device, tree: writable, handle } =
            mount::mount(&place, &MountOptions::default()).expect("run these tests as root");
        let tree = Arc::new(Tree {
            swapped: AtomicBool::new(false),
            helper: AtomicU64::new(0),
            target,
            log: Mutex::default(),
            hung: Default::default(),
        });
        let daemon = Daemon(Arc::clone(&tree));
        let config = fuser::Config::default();
        let session = fuser::Session::from_fd(daemon, device, fuser::SessionACL::All, config).unwrap();
        let session = session.spawn().unwrap();
        let options = Options { program: program.into(), queue_max: 4, ..Options::default() };
        let notifier = Notifier::start(writable, options).unwrap();
        let stage = Self { tree, notifier: Some(notifier), handle, session: Some(session), place };
        until("the helper runs", || stage.notifier().helper_pid().is_some());
        let pid = u64::from(stage.notifier().helper_pid().unwrap());
        stage.tree.helper.store(pid, Ordering::Release);
        stage
    }

    fn notifier(&self) -> &Notifier {
        self.notifier.as_ref().unwrap()
    }

    fn order(&self, command: Command) -> Counts {
        let before = self.notifier().counts();
        self.notifier().notify(command);
        let finished = |counts: Counts| counts.done + counts.failed;
        until("the order is carried out", || finished(self.notifier().counts()) > finished(before));
        self.notifier().counts()
    }

    fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.tree.log.lock().unwrap())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.notifier.take().unwrap().stop();
        mount::unmount(&self.handle).unwrap();
        if !std::thread::panicking() {
            self.session.take().unwrap().join().unwrap();
        }
        std::fs::remove_dir_all(&self.place).unwrap();
    }
}

/// Waits for what another process does and tells nobody of.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !condition() {
        assert!(started.elapsed() < WAIT_MAX, "waited too long: {what}");
        std::thread::yield_now();
    }
}

/// `inotifywait -m` on one path.
struct Watch {
    child: Child,
    lines: Receiver<String>,
}

impl Watch {
    fn on(path: &Path, extra: &[&str]) -> Self {
        let mut child = Program::new("inotifywait")
            .args(["-m", "--format", "%e %f"])
            .args(extra)
            .arg(path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("install inotify-tools");
        let mut established = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(established.any(|line| line.unwrap().contains("established")));
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(WAIT_MAX).expect("no event came")
    }

    fn rest(&self) -> Vec<String> {
        std::iter::from_fn(|| self.lines.recv_timeout(Duration::from_millis(150)).ok()).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().unwrap();
    }
}

fn swap() -> Command {
    Command::Swap { path: "prod/db".into(), directory: SECRET, link: "current".into() }
}

fn requests(stage: &Stage) -> Vec<String> {
    // The kernel may or may not ask twice for a name that it has just been told is absent.
    let mut log = stage.take_log();
    log.dedup();
    log
}

#[test]
fn a_swap_is_seen_as_moved_to_and_asks_the_daemon_for_exactly_this() {
    let stage = Stage::new("swap", Target::Absent);
    let secret = stage.place.join("prod/db");
    assert_eq!(std::fs::read_link(secret.join("current")).unwrap(), Path::new("v/1"));
    let directory = Watch::on(&secret, &[]);
    stage.tree.swapped.store(true, Ordering::Release);
    for _ in 0..3 {
        stage.take_log();
        assert_eq!(stage.order(swap()).failed, 0);
        assert_eq!(
            requests(&stage),
            [
                "helper uid 0: LOOKUP 0x1 .credfs-notify",
                "helper uid 0: LOOKUP 0x1 prod",
                "helper uid 0: LOOKUP 0x2 db",
                "helper uid 0: LOOKUP 0xf0 swap-3-current",
                "helper uid 0: LOOKUP 0x3 current",
                "helper uid 0: RENAME 0xf0 \"swap-3-current\" -> (3, \"current\") flags 0",
            ]
        );
        assert_eq!(directory.next(), "MOVED_TO current");
        assert_eq!(std::fs::read_link(secret.join("current")).unwrap(), Path::new("v/2"));
    }
    assert_eq!(directory.rest(), Vec::<String>::new(), "and nothing else");
}

#[test]
fn a_rename_onto_the_old_link_also_deletes_that_and_one_onto_the_new_link_is_seen_by_nobody() {
    for (name, target, seen_on_directory, seen_on_link) in [
        ("old", Target::Old, vec!["MOVED_TO current"], vec!["ATTRIB ", "DELETE_SELF "]),
        ("new", Target::New, vec![], vec![]),
    ] {
        let stage = Stage::new(name, target);
        let secret = stage.place.join("prod/db");
        let link = Watch::on(&secret.join("current"), &["-P"]);
        let directory = Watch::on(&secret, &[]);
        stage.tree.swapped.store(true, Ordering::Release);
        assert_eq!(stage.order(swap()).failed, 0);
        assert_eq!(
            (directory.rest(), link.rest()),
            (owned(&seen_on_directory), owned(&seen_on_link)),
            "{name}"
        );
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn a_touch_is_seen_as_attrib_on_exactly_the_inode_named_whoever_owns_it() {
    let stage = Stage::new("touch", Target::Absent);
    let secret = stage.place.join("prod/db");
    let file = Watch::on(&secret.join("password"), &[]);
    let link = Watch::on(&secret.join("current"), &["-P"]);
    let directory = Watch::on(&secret, &[]);
    stage.tree.swapped.store(true, Ordering::Release);
    stage.take_log();
    assert_eq!(stage.order(Command::Touch { inode: FILE_V1 }).failed, 0);
    assert_eq!(file.next(), "ATTRIB ");
    let epoch = "Some(SpecificTime(SystemTime { tv_sec: 0, tv_nsec: 0 }))";
    assert_eq!(
        requests(&stage),
        [
            "helper uid 0: LOOKUP 0x1 .credfs-notify".to_owned(),
            "helper uid 0: LOOKUP 0xf0 touch-10".to_owned(),
            format!("helper uid 0: SETATTR 0x10 (None, None, None, None, None) ({epoch}, {epoch})"),
        ]
    );
    assert_eq!(stage.order(Command::Touch { inode: LINK_V1 }).failed, 0);
    assert_eq!(link.next(), "ATTRIB ");
    assert_eq!(stage.order(Command::TouchDirectory { path: "prod/db".into() }).failed, 0);
    assert_eq!(directory.next(), "ATTRIB,ISDIR ");
    assert_eq!(stage.order(Command::TouchDirectory { path: PathBuf::new() }).failed, 0);
    assert_eq!((file.rest(), link.rest(), directory.rest()), (vec![], vec![], vec![]));
    // Nobody else finds the hidden directory, or changes a time through the public mount.
    assert!(!stage.place.join(NOTICE_DIRECTORY).exists());
    let touched = Program::new("touch").arg(secret.join("password")).output().unwrap();
    assert!(String::from_utf8_lossy(&touched.stderr).contains("Read-only"), "{touched:?}");
}

#[test]
fn a_helper_that_hangs_holds_up_nobody_and_orders_beyond_the_queue_are_counted() {
    let stage = Stage::new("hung", Target::Absent);
    *stage.tree.hung.0.lock().unwrap() = true;
    stage.notifier().notify(Command::Touch { inode: FILE_V1 });
    until("the helper hangs", || stage.tree.log.lock().unwrap().iter().any(|line| line.contains("SETATTR")));
    let started = std::time::Instant::now();
    for inode in 0..10 {
        for _ in 0..100 {
            stage.notifier().notify(Command::Touch { inode: FILE_V1 + inode % 2 });
        }
    }
    assert_eq!(stage.notifier().counts().dropped, 0, "the same inode waits once");
    for inode in 100..106 {
        stage.notifier().notify(Command::Touch { inode });
    }
    assert_eq!(stage.notifier().counts().dropped, 4, "four of eight find room");
    assert!(started.elapsed() < Duration::from_millis(100));
    *stage.tree.hung.0.lock().unwrap() = false;
    stage.tree.hung.1.notify_all();
    until("the queue runs empty", || {
        let counts = stage.notifier().counts();
        counts.done + counts.failed == 5
    });
}

#[test]
fn a_helper_that_dies_is_replaced_and_holds_nothing_but_its_socket_and_the_tree() {
    let stage = Stage::new("dies", Target::Absent);
    let pid = stage.notifier().helper_pid().unwrap();
    until("it has become the helper", || {
        std::fs::read(format!("/proc/{pid}/cmdline")).unwrap().windows(6).any(|word| word == b"credfs")
    });
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert!(
        (4..=5).contains(&descriptors),
        "input, output, error, tree (and its copy of input): {descriptors}"
    );
    assert!(std::fs::read(format!("/proc/{pid}/environ")).unwrap().is_empty());
    assert!(Program::new("kill").arg("-9").arg(pid.to_string()).status().unwrap().success());
    stage.notifier().notify(Command::TouchDirectory { path: PathBuf::new() });
    until("another helper runs", || stage.notifier().helper_pid().is_some_and(|now| now != pid));
    assert_eq!(stage.order(Command::TouchDirectory { path: PathBuf::new() }).done, 1);
}

#[test]
fn a_helper_of_a_plain_user_may_swap_in_a_directory_and_touch_a_file_of_others() {
    let place = std::env::temp_dir().join(format!("credfs-notifier-{}-program", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    let (program, wrapper) = (place.join("credfs"), place.join("as-nobody"));
    // By another process: a file that any process has open for writing cannot be run.
    assert!(
        std::process::Command::new("cp")
            .arg(env!("CARGO_BIN_EXE_credfs"))
            .arg(&program)
            .status()
            .unwrap()
            .success()
    );
    let text = format!(
        "#!/bin/sh\nexec /usr/bin/setpriv --reuid=65534 --regid=65534 --clear-groups '{}' \"$@\"\n",
        program.display()
    );
    std::fs::write(&wrapper, text).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&wrapper, executable).unwrap();
    {
        let stage = Stage::with_program("nobody", Target::Absent, &wrapper);
        let secret = stage.place.join("prod/db");
        let file = Watch::on(&secret.join("password"), &[]);
        let directory = Watch::on(&secret, &[]);
        stage.tree.swapped.store(true, Ordering::Release);
        stage.take_log();
        assert_eq!(stage.order(swap()).failed, 0);
        assert_eq!(directory.next(), "MOVED_TO current");
        assert_eq!(stage.order(Command::Touch { inode: FILE_V1 }).failed, 0);
        assert_eq!(file.next(), "ATTRIB ");
        assert!(requests(&stage).iter().all(|line| line.starts_with("helper uid 65534: ")));
    }
    std::fs::remove_dir_all(&place).unwrap();
}
