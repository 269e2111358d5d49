//! Who asks, asked of real processes: other users, threads, cgroups, executables, namespaces. Needs root and a
//! unified cgroup hierarchy, and fails without them.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "in tests a panic is the report")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use credfs::caller::{Asker, Caller, Identifier, Mode, Options, ProcExecutables};
use credfs::model::{Facts, Session, Sha256Digest, Unknown};
use credfs::sys::process::{PidFd, Scope};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// A process that says "ready" and then waits for a line or the end of its input.
struct Subject {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Subject {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    /// A shell that runs `script` with `arguments`; the script says "ready" itself.
    fn shell(script: &str, arguments: &[&str]) -> Self {
        let mut subject = Self::start(Command::new("/bin/bash").args(["-c", script, "bash"]).args(arguments));
        assert_eq!(subject.line(), "ready");
        subject
    }

    /// Starts `program`, a copy of cat, and waits until it runs: it gives back what it is given.
    fn cat(program: &Path) -> Self {
        let mut subject = Self::start(&mut Command::new(program));
        subject.say("hello");
        assert_eq!(subject.line(), "hello");
        subject
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    fn end(&mut self) {
        drop(self.input.take());
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn need_root() {
    assert_eq!(fs::metadata("/proc/self").unwrap().uid(), 0, "this test needs root");
}

fn identifier(mode: Mode) -> Identifier {
    need_root();
    let options = Options { mode: Some(mode), ..Options::default() };
    Identifier::new(options, Arc::new(ProcExecutables::default())).unwrap()
}

/// Runs a check in both modes.
fn in_both_modes(check: impl Fn(&Identifier)) {
    for mode in [Mode::Pidfd, Mode::Proc] {
        check(&identifier(mode));
    }
}

fn ask(identifier: &Identifier, tid: u32) -> Caller<'_> {
    identifier.identify(Asker { uid: 0, gid: 0, tid, is_resent: false }).unwrap()
}

static SCRATCH: AtomicU32 = AtomicU32::new(0);

/// A directory of its own that anyone may enter, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let number = SCRATCH.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("credfs-caller-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    /// A copy of cat under this name, put there by a rename. `tail` makes its content another one.
    fn program(&self, name: &str, tail: &str) -> PathBuf {
        let mut bytes = fs::read("/bin/cat").unwrap();
        bytes.extend_from_slice(tail.as_bytes());
        let beside = self.0.join(format!("{name}.new"));
        fs::write(&beside, bytes).unwrap();
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).unwrap();
        let path = self.0.join(name);
        fs::rename(beside, &path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _removed = fs::remove_dir_all(&self.0);
    }
}

/// Held by tests that make cgroups, so that each finds and leaves the parents as they were.
static CGROUPS: Mutex<()> = Mutex::new(());

/// A directory in the unified hierarchy, removed at the end with the parents that it had to make. To be made before
/// the processes in it, so that it goes after them.
struct Cgroup {
    path: PathBuf,
    made: Vec<PathBuf>,
}

impl Cgroup {
    fn new(path: &str) -> Self {
        let mut at = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .into_iter()
            .map(PathBuf::from)
            .find(|root| root.join("cgroup.procs").exists())
            .expect("this test needs the unified cgroup hierarchy");
        let mut made = Vec::new();
        for name in path.split('/') {
            at.push(name);
            match fs::create_dir(&at) {
                Ok(()) => made.push(at.clone()),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists),
            }
        }
        Self { path: at, made }
    }

    fn admit(&self, id: u32) {
        fs::write(self.path.join("cgroup.procs"), id.to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            // A parent that others use meanwhile stays.
            let _removed = fs::remove_dir(path);
        }
    }
}

#[test]
fn groups_are_those_of_the_thread_and_only_those() {
    in_both_modes(|identifier| {
        let command = "setpriv --reuid 1000 --regid 1001 --groups 4,2500 bash -c 'echo ready; read'";
        let subject = Subject::shell(&format!("exec {command}"), &[]);
        let caller =
            identifier.identify(Asker { uid: 1000, gid: 1001, tid: subject.id(), is_resent: false }).unwrap();
        for (gid, expected) in
            [(1001, true), (4, true), (2500, true), (1000, false), (0, false), (250, false)]
        {
            assert_eq!(caller.in_group(gid), Ok(expected), "{gid}");
        }
        assert_eq!((caller.uid(), caller.gid(), caller.pid()), (1000, 1001, Some(subject.id())));

        let command = "setpriv --reuid 1000 --regid 1001 --clear-groups bash -c 'echo ready; read'";
        let alone = Subject::shell(&format!("exec {command}"), &[]);
        let caller =
            identifier.identify(Asker { uid: 1000, gid: 1001, tid: alone.id(), is_resent: false }).unwrap();
        assert_eq!((caller.in_group(1001), caller.in_group(4)), (Ok(true), Ok(false)));
    });
}

#[test]
fn a_thread_is_asked_for_by_its_own_id_and_belongs_to_its_process() {
    in_both_modes(|identifier| {
        let script = "import threading,sys\n\
            def run():\n  print(threading.get_native_id(), flush=True); sys.stdin.readline()\n\
            t=threading.Thread(target=run); t.start(); t.join()";
        let mut subject = Subject::start(Command::new("python3").args(["-c", script]));
        let tid: u32 = subject.line().parse().unwrap();
        let process = ask(identifier, tid).pid().unwrap();
        assert_ne!(tid, process);
        let (by_thread, by_leader) = (ask(identifier, tid), ask(identifier, process));
        assert_eq!(by_leader.pid(), Some(process));
        assert_eq!(by_thread.witness(), by_leader.witness(), "one process");
        assert!(by_thread.exec_fingerprint().is_ok());
        assert_eq!(by_thread.describe().tid, Some(tid));
    });
}

#[test]
fn the_unit_follows_the_caller_from_one_cgroup_to_another() {
    in_both_modes(|identifier| {
        let _alone = CGROUPS.lock();
        let name = format!("credfs-test-{}-{:?}", std::process::id(), identifier.mode()).to_lowercase();
        let one = Cgroup::new(&format!("system.slice/{name}-one.service"));
        let two = Cgroup::new(&format!("system.slice/{name}-two.service/inner"));
        let alike = Cgroup::new(&format!(
            "user.slice/user-1000.slice/user@1000.service/app.slice/{name}-one.service"
        ));
        let evil = Cgroup::new(&format!("{name}-evil/system.slice/{name}-one.service"));
        let subject = Subject::cat(Path::new("/bin/cat"));
        let unit = || ask(identifier, subject.id()).unit().map(|unit| unit.map(str::to_owned));
        let mut witnesses = Vec::new();
        for (cgroup, expected) in [
            (&one, Some(format!("{name}-one.service"))),
            (&two, Some(format!("{name}-two.service"))),
            (&alike, Some("user@1000.service".to_owned())),
            (&evil, None),
        ] {
            cgroup.admit(subject.id());
            assert_eq!(unit(), Ok(expected.clone()));
            assert_eq!(unit(), Ok(expected), "remembered");
            let witness = ask(identifier, subject.id()).witness();
            assert_eq!(witness, ask(identifier, subject.id()).witness());
            assert!(witnesses.iter().all(|earlier| *earlier != witness), "a move is another witness");
            witnesses.push(witness);
        }
        one.admit(subject.id());
        assert_eq!(unit(), Ok(Some(format!("{name}-one.service"))));
        assert_eq!(ask(identifier, subject.id()).witness(), witnesses[0]);
    });
}

#[test]
fn a_move_between_the_id_and_the_path_ties_no_cgroup_to_a_foreign_path() {
    in_both_modes(|identifier| {
        let _alone = CGROUPS.lock();
        let name = format!("credfs-test-{}-{:?}-move", std::process::id(), identifier.mode()).to_lowercase();
        let one = Cgroup::new(&format!("system.slice/{name}-one.service"));
        let two = Cgroup::new(&format!("system.slice/{name}-two.service"));
        let subject = Subject::cat(Path::new("/bin/cat"));
        one.admit(subject.id());
        let caller = ask(identifier, subject.id());
        two.admit(subject.id());
        assert_eq!(caller.unit(), Ok(Some(format!("{name}-two.service").as_str())), "where it is now");
        for (cgroup, end) in [(&one, "one.service"), (&two, "two.service")] {
            cgroup.admit(subject.id());
            let unit = ask(identifier, subject.id()).describe().unit.unwrap();
            assert!(unit.ends_with(end), "{unit} where {end} is");
        }
    });
}

#[test]
fn an_exec_between_two_requests_is_seen() {
    in_both_modes(|identifier| {
        let scratch = Scratch::new();
        let program = scratch.program("program", "");
        let mut subject = Subject::shell("echo ready; read; exec \"$1\"", &[program.to_str().unwrap()]);
        let before = ask(identifier, subject.id());
        let (witness, fingerprint) = (before.witness(), before.exec_fingerprint().unwrap());
        assert_eq!(before.runs(&program), Ok(false));
        assert_eq!(before.runs(&fs::canonicalize("/bin/bash").unwrap()), Ok(true));
        subject.say("go");
        subject.say("hello");
        assert_eq!(subject.line(), "hello");
        let after = ask(identifier, subject.id());
        assert_eq!(after.runs(&program), Ok(true));
        assert_eq!(after.runs(Path::new("/bin/bash")), Ok(false));
        assert_eq!(after.witness(), witness, "which is why exec has a fingerprint of its own");
        assert_ne!(after.exec_fingerprint().unwrap(), fingerprint);
    });
}

#[test]
fn a_replaced_executable_stays_valid_if_it_was_seen_and_no_other_does() {
    in_both_modes(|identifier| {
        let scratch = Scratch::new();
        let path = scratch.program("program", "");
        identifier.watch_executables(std::slice::from_ref(&path));
        let old = Subject::cat(&path);
        let digest = Sha256Digest(Sha256::digest(fs::read(&path).unwrap()).into());
        scratch.program("program", "upgraded");
        let new = Subject::cat(&path);
        assert_eq!(ask(identifier, old.id()).runs(&path), Ok(true), "seen at the path");
        assert_eq!(ask(identifier, new.id()).runs(&path), Ok(true));
        assert_eq!(ask(identifier, old.id()).executable_digest(), Ok(digest), "of the file it runs");
        assert_ne!(ask(identifier, new.id()).executable_digest(), Ok(digest));

        let copy = Subject::cat(&scratch.program("copy", "upgraded"));
        assert_eq!(ask(identifier, copy.id()).runs(&path), Ok(false), "same content, another file");
        fs::hard_link(&path, scratch.0.join("link")).unwrap();
        let linked = Subject::cat(&scratch.0.join("link"));
        assert_eq!(ask(identifier, linked.id()).runs(&path), Ok(true), "a hard link is the same file");

        fs::remove_file(&path).unwrap();
        assert_eq!(ask(identifier, new.id()).runs(&path), Ok(false), "nothing is at the path");
        let unseen = scratch.program("unseen", "");
        let early = Subject::cat(&unseen);
        scratch.program("unseen", "replaced before anybody looked");
        assert_eq!(ask(identifier, early.id()).runs(&unseen), Ok(false), "never seen there");
    });
}

#[test]
fn a_bind_mount_over_an_allowed_path_fools_the_link_text_and_nothing_else() {
    in_both_modes(|identifier| {
        let scratch = Scratch::new();
        let allowed = scratch.program("allowed", "");
        let own = scratch.program("own", "spoof");
        identifier.watch_executables(std::slice::from_ref(&allowed));
        let script = "exec setpriv --reuid 1000 --regid 1000 --clear-groups unshare -Urm bash -c \
            'mount --bind \"$2\" \"$1\" && exec \"$1\"' bash \"$@\"";
        let arguments = [allowed.to_str().unwrap(), own.to_str().unwrap()];
        let mut subject =
            Subject::start(Command::new("/bin/bash").args(["-c", script, "bash"]).args(arguments));
        subject.say("hello");
        assert_eq!(subject.line(), "hello", "the caller runs under a user namespace of its own");
        let caller =
            identifier.identify(Asker { uid: 1000, gid: 1000, tid: subject.id(), is_resent: false }).unwrap();
        assert_eq!(caller.runs(&allowed), Ok(false));
        let described = caller.describe().exe.unwrap();
        assert_eq!(Path::new(&*described.path_unproven), allowed, "the text is what he made it");
        assert_eq!(described.inode, fs::metadata(&own).unwrap().ino());
    });
}

#[test]
fn a_chroot_and_a_program_without_a_name_run_no_allowed_file() {
    in_both_modes(|identifier| {
        let memory = "import os,sys\n\
            f=os.memfd_create('cat',0); os.write(f,open('/bin/cat','rb').read()); os.execve(f,['cat'],{})";
        let mut subject = Subject::start(Command::new("python3").args(["-c", memory]));
        subject.say("hello");
        assert_eq!(subject.line(), "hello");
        let cat = fs::canonicalize("/bin/cat").unwrap();
        assert_eq!(ask(identifier, subject.id()).runs(&cat), Ok(false));

        let scratch = Scratch::new();
        let script = "mount -t tmpfs none \"$1\" && mkdir -p \"$1/bin\" \"$1/real\" && mount --rbind / \"$1/real\" && \
            for d in lib lib64 usr; do mkdir -p \"$1/$d\"; mount --rbind /$d \"$1/$d\"; done; \
            cp /bin/cat \"$1/bin/cat\" && exec chroot \"$1\" /bin/cat";
        let mut jailed = Subject::start(
            Command::new("unshare").args(["-m", "bash", "-c", script, "bash"]).arg(&scratch.0),
        );
        jailed.say("hello");
        assert_eq!(jailed.line(), "hello");
        let caller = ask(identifier, jailed.id());
        assert_eq!(caller.runs(Path::new("/bin/cat")), Ok(false));
        caller.exec_fingerprint().unwrap();
    });
}

#[test]
fn a_kept_thread_that_died_is_nobody_and_never_someone_else() {
    in_both_modes(|identifier| {
        let mut subject = Subject::cat(Path::new("/bin/cat"));
        let pid = subject.id();
        let witness = ask(identifier, pid).witness();
        assert_eq!(witness, witness);
        // What was read lazily after the death is unknown as well.
        let late = ask(identifier, pid);
        subject.end();
        for fact in [late.unit().err(), late.in_group(7).err(), late.age().err(), late.session().err()] {
            if identifier.mode() == Mode::Pidfd {
                assert_eq!(fact, Some(Unknown));
            }
        }
        assert_eq!(late.runs(Path::new("/bin/cat")), Err(Unknown));
        let after = ask(identifier, pid);
        assert!(!after.is_identified());
        assert_eq!(after.pid(), None);
        assert_ne!(after.witness(), witness);
        assert_ne!(after.witness(), after.witness(), "nobody equals nobody");
    });
}

#[test]
fn a_thread_id_that_is_used_again_means_the_new_process() {
    need_root();
    // In a pid namespace of its own, so that the machine's numbers are left alone.
    if std::env::var_os("CREDFS_TEST_INSIDE").is_none() {
        let done = Command::new("unshare")
            .args(["-p", "-f", "--mount-proc"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "a_thread_id_that_is_used_again_means_the_new_process", "--nocapture"])
            .env("CREDFS_TEST_INSIDE", "1")
            .status()
            .unwrap();
        assert!(done.success());
        return;
    }
    in_both_modes(|identifier| {
        for _ in 0..50 {
            let mut first = Subject::cat(Path::new("/bin/cat"));
            let pid = first.id();
            let before = ask(identifier, pid);
            let (witness, fingerprint) = (before.witness(), before.exec_fingerprint().unwrap());
            let late = ask(identifier, pid);
            assert_eq!(
                late.pid(),
                Some(pid),
                "known while it lives; of an unread caller nothing is known yet"
            );
            first.end();
            fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
            let second = Subject::shell("echo ready; read", &[]);
            assert_eq!(second.id(), pid, "the number is used again");
            // Asked of the dead after the number was used again: nothing of the new process is told.
            assert_eq!(late.runs(Path::new("/bin/bash")), Err(Unknown));
            assert_eq!(late.in_group(7).err(), (identifier.mode() == Mode::Pidfd).then_some(Unknown));
            assert_eq!(late.age(), Err(Unknown));
            assert_eq!(late.session(), Err(Unknown));
            let after = ask(identifier, pid);
            assert_eq!(after.pid(), Some(pid));
            assert_ne!(after.exec_fingerprint().unwrap(), fingerprint);
            // Start times have a grain of 10 ms: within one the proc mode cannot tell the two apart.
            assert!(after.witness() != witness || identifier.mode() == Mode::Proc);
        }
    });
}

#[test]
fn a_caller_in_a_child_pid_namespace_is_known_by_its_number_in_ours() {
    in_both_modes(|identifier| {
        let subject = Subject::shell("exec unshare -p -f bash -c 'echo ready; read'", &[]);
        let children = format!("/proc/{0}/task/{0}/children", subject.id());
        let inner: u32 = fs::read_to_string(children).unwrap().trim().parse().unwrap();
        let caller = ask(identifier, inner);
        assert_eq!(caller.pid(), Some(inner));
        assert_eq!(caller.runs(&fs::canonicalize("/bin/bash").unwrap()), Ok(true));
    });
}

#[test]
fn nothing_but_uid_and_gid_is_known_without_a_thread_id() {
    in_both_modes(|identifier| {
        let caller = identifier.identify(Asker { uid: 7, gid: 8, tid: 0, is_resent: false }).unwrap();
        assert_eq!((caller.uid(), caller.gid(), caller.is_identified()), (7, 8, false));
        assert_eq!(caller.in_group(8), Err(Unknown));
        assert_eq!(caller.unit(), Err(Unknown));
        assert_eq!(caller.container(), Err(Unknown));
        assert_eq!(caller.runs(Path::new("/bin/cat")), Err(Unknown));
        assert_eq!(caller.executable_digest(), Err(Unknown));
        assert_eq!(caller.session(), Err(Unknown));
        assert_eq!(caller.age(), Err(Unknown));
        let described = caller.describe();
        assert_eq!((described.uid, described.gid, described.pid, described.tid), (7, 8, None, None));
    });
}

#[test]
fn a_thread_of_this_process_is_refused() {
    in_both_modes(|identifier| {
        let own = std::process::id();
        assert!(identifier.identify(Asker { uid: 0, gid: 0, tid: own, is_resent: false }).is_err());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
                let tid = stat.split(' ').next().unwrap().parse().unwrap();
                assert_ne!(tid, own);
                assert!(identifier.identify(Asker { uid: 0, gid: 0, tid, is_resent: false }).is_err());
            });
        });
    });
}

#[test]
fn a_socket_peer_is_who_the_kernel_said_it_was() {
    in_both_modes(|identifier| {
        let script = "exec setpriv --reuid 1000 --regid 1001 --clear-groups bash -c 'echo ready; read'";
        let mut subject = Subject::shell(script, &[]);
        let peer = |uid, gid| identifier.identify_peer(uid, gid, subject.id(), None).unwrap().pid();
        assert_eq!(peer(1000, 1001), Some(subject.id()));
        assert_eq!(peer(0, 0), None, "the number is another user's by now");
        assert_eq!(peer(1000, 0), None);
        let pid = subject.id();
        let with = |handle: &PidFd| {
            identifier.identify_peer(1000, 1001, pid, Some(handle.as_fd())).unwrap().is_identified()
        };
        let handle = PidFd::open(pid, Scope::Process).unwrap();
        assert!(with(&handle));
        let mut other = Subject::cat(Path::new("/bin/cat"));
        let others = PidFd::open(other.id(), Scope::Process).unwrap();
        assert!(identifier.mode() == Mode::Proc || !with(&others), "another process's handle");
        other.end();
        assert!(!with(&others), "the peer is gone, so its number may be someone else's");
        subject.end();
        assert!(!identifier.identify_peer(1000, 1001, pid, None).unwrap().is_identified());
    });
}

#[test]
fn age_and_session_are_those_of_the_process() {
    in_both_modes(|identifier| {
        let subject = Subject::shell("echo ready; read", &[]);
        let caller = ask(identifier, subject.id());
        assert!(caller.age().unwrap() < Duration::from_secs(60), "{:?}", caller.age());
        let init = ask(identifier, 1).age().unwrap();
        assert!(init > caller.age().unwrap());
        assert_eq!(caller.session(), Ok(Session::default()), "nobody logged in");
        let described = caller.describe();
        assert_eq!((described.pid, described.exe), (Some(subject.id()), None), "only what was read");
    });
}

/// Not a check: prints what a warm `identify` costs. `cargo test --release --test caller -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_warm_identification() {
    for mode in [Mode::Pidfd, Mode::Proc] {
        let identifier = identifier(mode);
        let subject = Subject::cat(Path::new("/bin/cat"));
        let rounds = 100_000;
        let started = std::time::Instant::now();
        for _ in 0..rounds {
            std::hint::black_box(ask(&identifier, subject.id()).unit().is_ok());
        }
        println!("{mode:?}: identify + unit {} ns", started.elapsed().as_nanos() / rounds);
        let started = std::time::Instant::now();
        for _ in 0..rounds {
            std::hint::black_box(ask(&identifier, subject.id()).runs(Path::new("/bin/cat")).is_ok());
        }
        println!("{mode:?}: identify + runs {} ns", started.elapsed().as_nanos() / rounds);
    }
}
