//! Who asks is found out afresh for every open and every read by another: what changes between them counts.

use crate::harness::{ALICE, Asker, BOB, CAROL, Instance, Setup};

/// A second user with the same grant as alice.
const DAVE: u32 = 24_004;

const POLICY: &str = r#"
[identities.alice]
uid = 24001
[identities.bob]
uid = 24002
[identities.dave]
uid = 24004
[identities.operators]
uid = 24001
gid = 24100

[[grants]]
to = ["alice", "dave"]
read = ["prod/**"]
[[grants]]
to = ["bob", "alice"]
list = ["prod/**", "team/**"]
[[grants]]
to = ["operators"]
read = ["team/**"]
"#;

/// What every script here begins with.
const PRELUDE: &str = "
import os, sys, errno, socket, threading, ctypes
def attempt(act):
    try:
        return 'read ' + act().decode()
    except OSError as error:
        return errno.errorcode[error.errno]
def become(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
def opened(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)
";

fn start() -> Instance {
    let instance = Setup::policy(POLICY).start();
    instance.put("prod/db", &[("password", b"hunter2")]);
    instance.put("team/db", &[("password", b"hunter3")]);
    instance
}

#[track_caller]
fn python(script: &str, arguments: &[&str]) -> String {
    Asker::root().python(&format!("{PRELUDE}{script}"), arguments)
}

/// A descriptor that alice opened is read by `reader`; his pid, and what he got.
#[track_caller]
fn passed_over_a_socket(instance: &Instance, reader: u32) -> (u64, String) {
    let script = "
path, reader = sys.argv[1], int(sys.argv[2])
mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
if os.fork() == 0:
    become(24001)
    fd = os.open(path, os.O_RDONLY)
    socket.send_fds(theirs, [b'x'], [fd])
    theirs.recv(1)
    os._exit(0)
become(reader)
fd = socket.recv_fds(mine, 1, 1)[1][0]
print(os.getpid(), attempt(lambda: os.pread(fd, 100, 0)), attempt(lambda: os.pread(fd, 100, 0)), sep='|')
mine.send(b'x')
os.wait()
";
    let text = python(script, &[&instance.path("prod/db/password"), &reader.to_string()]);
    let parts: Vec<&str> = text.split('|').collect();
    assert_eq!(parts[1], parts[2], "the second read is answered as the first");
    (parts[0].parse().expect("a pid"), parts[1].to_owned())
}

#[test]
fn a_descriptor_passed_over_a_socket_is_decided_for_the_reader() {
    let instance = start();
    for (reader, expected, outcome) in
        [(DAVE, "read hunter2", "released"), (BOB, "EACCES", "denied"), (CAROL, "ENOENT", "hidden")]
    {
        let before = instance.records();
        let (pid, got) = passed_over_a_socket(&instance, reader);
        assert_eq!(got, expected, "uid {reader}");
        let records = instance.records();
        let record = records.last("read", outcome);
        assert_eq!(record.number("uid"), Some(u64::from(reader)));
        assert_eq!(record.number("pid"), Some(pid));
        assert!(record.0.get("opener").is_some(), "it names the opener: {record:?}");
        let fresh: Vec<_> =
            records.iter().skip(before.0.len()).filter(|one| one.is("open", "released")).collect();
        assert_eq!(fresh.len(), 1, "one open");
        assert_eq!(fresh[0].number("uid"), Some(u64::from(ALICE)));
        if outcome == "released" {
            let reads = records.all("read", "released").len();
            assert_eq!(reads, 1, "the second read by the same process adds none");
        }
    }
}

#[test]
fn a_change_of_uid_after_open_is_seen_at_the_next_read() {
    let instance = start();
    let script = "
path = sys.argv[1]
os.setgroups([]); os.setresgid(24001, 24001, 24001); os.setresuid(24001, 24001, 0)
fd = os.open(path, os.O_RDONLY)
print(attempt(lambda: os.pread(fd, 100, 0)))
os.seteuid(0)
os.seteuid(int(sys.argv[2]))
print(attempt(lambda: os.pread(fd, 100, 0)))
print(attempt(lambda: opened(path)))
";
    let path = instance.path("prod/db/password");
    assert_eq!(python(script, &[&path, "24002"]), "read hunter2\nEACCES\nEACCES");
    let records = instance.records();
    assert_eq!(records.last("read", "denied").number("uid"), Some(u64::from(BOB)));
    assert_eq!(records.last("open", "denied").number("uid"), Some(u64::from(BOB)));
    assert_eq!(python(script, &[&path, "24003"]), "read hunter2\nENOENT\nENOENT");
    assert_eq!(instance.records().last("read", "hidden").number("uid"), Some(u64::from(CAROL)));
}

#[test]
fn a_reopen_through_proc_self_fd_is_an_open_of_its_own() {
    let instance = start();
    let script = "
path = sys.argv[1]
os.setgroups([]); os.setresgid(24001, 24001, 24001); os.setresuid(24001, 24001, 0)
fd = os.open(path, os.O_RDONLY)
link = '/proc/self/fd/%d' % fd
print(attempt(lambda: opened(link)))
os.seteuid(0)
print(attempt(lambda: opened(link)))
os.setegid(24002)
os.setresuid(24002, 24002, 24002)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
print(attempt(lambda: opened(link)))
";
    let text = python(script, &[&instance.path("prod/db/password")]);
    assert_eq!(text, "read hunter2\nENOENT\nEACCES", "alice; root, from whom it is hidden; bob");
    let records = instance.records();
    assert_eq!(records.released(), 2, "alice's open and her reopen");
    assert_eq!(records.last("open", "denied").number("uid"), Some(u64::from(BOB)));
    assert_eq!(records.last("open", "hidden").number("uid"), Some(0));
}

#[test]
fn a_reopen_of_another_process_descriptor_is_decided_for_who_reopens() {
    let instance = start();
    let script = "
path = sys.argv[1]
ready, go = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    become(24001)
    fd = os.open(path, os.O_RDONLY)
    os.write(ready[1], b'%d' % fd)
    os.read(go[0], 1)
    os._exit(0)
fd = int(os.read(ready[0], 10))
print(attempt(lambda: opened('/proc/%d/fd/%d' % (child, fd))))
os.write(go[1], b'x')
os.wait()
";
    assert_eq!(python(script, &[&instance.path("prod/db/password")]), "ENOENT");
    let records = instance.records();
    assert_eq!(records.last("open", "hidden").number("uid"), Some(0));
    assert_eq!(records.released(), 1);
}

#[test]
fn supplementary_groups_are_read_afresh_for_each_decision() {
    let instance = start();
    let script = "
path = sys.argv[1]
def groups(list):
    os.seteuid(0)
    os.setgroups(list)
    os.seteuid(24001)
os.setresgid(24001, 24001, 24001)
groups([])
print(attempt(lambda: opened(path)))
groups([24100])
fd = os.open(path, os.O_RDONLY)
print(attempt(lambda: os.pread(fd, 100, 0)))
groups([1, 2, 3])
print(attempt(lambda: opened(path)))
print(attempt(lambda: os.pread(fd, 100, 0)))
groups([7, 24100])
print(attempt(lambda: opened(path)))
";
    let path = instance.path("team/db/password");
    assert_eq!(Asker::uid(ALICE).groups(&[1, 24100]).read(&path), "read hunter3");
    assert_eq!(Asker::uid(BOB).groups(&[24100]).read(&path), "EACCES", "the group of another user");
    let text = python(script, &[&path]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "EACCES");
    assert_eq!(lines[1], "read hunter3");
    assert_eq!(lines[2], "EACCES", "left the group after an allowed read");
    assert_eq!(lines[4], "read hunter3", "joined it after a denied one");
    let records = instance.records();
    assert_eq!(records.released(), 3);
    assert_eq!(records.all("open", "denied").iter().map(|record| record.count()).sum::<u64>(), 3);
    let released = records.last("open", "released");
    assert_eq!(released.text("identity"), "operators");
    // The opener himself is read from his handle under the policy in force: uid, gid and process are unchanged.
    assert!(["EACCES", "read hunter3"].contains(&lines[3]), "{text}");
}

#[test]
fn a_gid_rule_holds_by_the_group_of_the_request_and_by_any_of_many_others() {
    let policy = "[identities.alice]\nuid = 24001\n[identities.crew]\ngid = [24100, 24200]\n\
        [[grants]]\nto = [\"alice\"]\nlist = [\"team/**\"]\n[[grants]]\nto = [\"crew\"]\nread = [\"team/**\"]\n";
    let instance = Setup::policy(policy).start();
    instance.put("team/db", &[("password", b"hunter3")]);
    let path = instance.path("team/db/password");
    let many: Vec<u32> = (30_000..30_900).collect();
    let with = |more: &[u32]| [&many[..], more].concat();
    for (asker, expected) in [
        (Asker::uid(ALICE), "EACCES"),
        (Asker::uid(ALICE).gid(24_100), "read hunter3"),
        (Asker::uid(ALICE).gid(24_200), "read hunter3"),
        (Asker::uid(ALICE).gid(24_300), "EACCES"),
        (Asker::uid(ALICE).groups(&[1, 24_200, 3]), "read hunter3"),
        (Asker::uid(ALICE).groups(&with(&[24_200])), "read hunter3"),
        (Asker::uid(ALICE).groups(&with(&[])), "EACCES"),
        (Asker::uid(CAROL).groups(&[24_100, 24_200]), "read hunter3"),
        (Asker::uid(CAROL).groups(&[2_410, 241_000, 24_101]), "ENOENT"),
    ] {
        assert_eq!(asker.read(&path), expected, "{asker:?}");
    }
    assert_eq!(instance.records().released(), 5);
}

/// Threads whose credentials differ from their leader's, by the bare system call: libc would change all of them.
const THREAD_OF_ITS_OWN: &str = "
libc = ctypes.CDLL(None, use_errno=True)
SYS_setresuid, SYS_setgroups = 117, 116
path, uid, group = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.setresgid(24001, 24001, 24001)
os.setgroups([24100])
os.setresuid(24001, 24001, 0)
result = []
def act():
    assert libc.syscall(SYS_setresuid, -1, 0, -1) == 0
    groups = (ctypes.c_uint32 * 1)(group)
    assert libc.syscall(SYS_setgroups, 1 if group else 0, groups) == 0
    assert libc.syscall(SYS_setresuid, uid, uid, uid) == 0
    result.append('%d|%s' % (threading.get_native_id(), attempt(lambda: opened(path))))
thread = threading.Thread(target=act)
thread.start()
thread.join()
print(os.getpid(), attempt(lambda: opened(path)), result[0], sep='|')
";

#[test]
fn a_thread_with_credentials_of_its_own_is_judged_by_them() {
    let instance = start();
    let path = instance.path("team/db/password");
    let bob = BOB.to_string();
    for (uid, group, of_thread) in
        [("24001", "0", "EACCES"), (bob.as_str(), "24100", "EACCES"), ("24001", "24100", "read hunter3")]
    {
        let before = instance.records().0.len();
        let text = python(THREAD_OF_ITS_OWN, &[&path, uid, group]);
        let words: Vec<&str> = text.split('|').collect();
        assert_eq!(words[1], "read hunter3", "the leader: {text}");
        assert_eq!(words[3], of_thread, "the thread as uid {uid} with group {group}: {text}");
        let records = instance.records();
        let of_it = records.iter().skip(before).find(|record| {
            record.text("op") == "open"
                && record.number("tid").map(|tid| tid.to_string()).as_deref() == Some(words[2])
        });
        let of_it = of_it.unwrap_or_else(|| panic!("no record of thread {}: {records:#?}", words[2]));
        assert_eq!(of_it.number("pid").map(|pid| pid.to_string()).as_deref(), Some(words[0]));
        assert_eq!(of_it.number("uid").map(|uid| uid.to_string()).as_deref(), Some(uid), "{of_it:?}");
    }
}

#[test]
fn a_thread_is_recorded_by_its_process_and_by_itself() {
    let instance = start();
    let script = "
os.setgroups([]); os.setresgid(24001, 24001, 24001); os.setresuid(24001, 24001, 24001)
result = []
def act():
    result.append((os.getpid(), threading.get_native_id(), attempt(lambda: opened(sys.argv[1]))))
thread = threading.Thread(target=act)
thread.start()
thread.join()
print(*result[0])
";
    let text = python(script, &[&instance.path("prod/db/password")]);
    let words: Vec<&str> = text.split(' ').collect();
    assert_ne!(words[0], words[1]);
    let records = instance.records();
    let record = records.last("open", "released");
    assert_eq!(record.number("pid"), words[0].parse().ok());
    assert_eq!(record.number("tid"), words[1].parse().ok());
}

#[test]
fn a_denial_is_not_remembered_and_neither_is_a_permission() {
    let instance = start();
    let path = instance.path("prod/db/password");
    assert_eq!(Asker::uid(BOB).read(&path), "EACCES");
    let grant = "\n[[grants]]\nto = [\"bob\"]\nread = [\"prod/**\"]\n";
    instance.reload_policy(&format!("{POLICY}{grant}"));
    assert_eq!(Asker::uid(BOB).read(&path), "read hunter2");
    instance.reload_policy(POLICY);
    assert_eq!(Asker::uid(BOB).read(&path), "EACCES");
}

#[test]
fn a_reload_reaches_open_handles_when_it_returns() {
    let instance = start();
    let ready = instance.dir().join("ready");
    let go = instance.dir().join("go");
    let (ready_text, go_text) = (ready.to_str().expect("UTF-8"), go.to_str().expect("UTF-8"));
    crate::harness::Program::of(&["mkfifo", "-m", "0666", go_text]).run().ok();
    let script = format!(
        "{PRELUDE}
open(sys.argv[2], 'w').close()
become(24001)
fd = os.open(sys.argv[1], os.O_RDONLY)
print(attempt(lambda: os.pread(fd, 100, 0)), flush=True)
open(sys.argv[3]).read()
print(attempt(lambda: os.pread(fd, 100, 0)), flush=True)
"
    );
    let path = instance.path("prod/db/password");
    let log = instance.dir().join("reader.out");
    let words = [crate::harness::PYTHON, "-I", "-c", &script, &path, ready_text, go_text];
    let mut reader = Asker::root().program(&words).keep(&log);
    let limit = std::time::Duration::from_secs(5);
    crate::harness::wait_until("the first read", limit, || reader.output().contains("read hunter2\n"));
    instance.reload_policy(
        "[identities.alice]\nuid = 24001\n[[grants]]\nto = [\"alice\"]\nlist = [\"prod/**\"]\n",
    );
    std::fs::write(&go, "go").expect("the reader waits");
    reader.wait(limit).expect("it ends");
    assert_eq!(reader.output(), "read hunter2\nEACCES\n");
    assert_eq!(instance.records().last("read", "denied").number("uid"), Some(u64::from(ALICE)));
}
