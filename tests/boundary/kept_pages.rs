//! The kernel keeps pages of what is mapped, and of what goes through sendfile(2) and splice(2). They are no way around
//! the decision for who reads, nor around a revocation.

use crate::harness::{Asker, Instance, Setup};

const POLICY: &str = "
[identities.readers]
uid = [24001, 24004]
[identities.bob]
uid = 24002
[[grants]]
to = [\"readers\"]
read = [\"prod/**\"]
[[grants]]
to = [\"bob\"]
list = [\"prod/**\"]
";

/// Ways to get at bytes; and a child that inherits a descriptor under another uid.
const PRELUDE: &str = "
import errno, mmap, os, signal, sys, time
path = sys.argv[1]
inlet, outlet = os.pipe()
def by_sendfile(fd):
    return os.read(inlet, os.sendfile(outlet, fd, 0, 7))
def by_splice(fd):
    return os.read(inlet, os.splice(fd, outlet, 7, offset_src=0))
def by_read(fd):
    return os.pread(fd, 7, 0)
def by_mapping(fd):
    with mmap.mmap(fd, 7, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as mapped:
        return mapped[:]
def attempt(way, fd):
    try:
        return 'read ' + way(fd).decode()
    except OSError as error:
        return errno.errorcode[error.errno]
def as_child(uid, act):
    pid = os.fork()
    if pid == 0:
        os.seteuid(0)
        os.setresuid(uid, uid, uid)
        print(act(), flush=True)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if status:
        print(signal.Signals(status & 127).name, flush=True)
os.setgroups([])
os.setresuid(24001, 24001, 0)
WAYS = {'sendfile': by_sendfile, 'splice': by_splice, 'read': by_read, 'mapping': by_mapping}
";

fn start() -> Instance {
    let instance = Setup::policy(POLICY).start();
    instance.put("prod/db", &[("password", b"hunter2")]);
    instance
}

#[test]
fn pages_that_one_reader_left_in_the_kernel_are_handed_to_no_other_without_a_decision_and_a_record() {
    let instance = start();
    let script = format!(
        "{PRELUDE}
fd = os.open(path, os.O_RDONLY)
for how in ('sendfile', 'splice', 'mapping'):
    print(attempt(WAYS[how], fd), flush=True)
    time.sleep(0.1)
    as_child(int(sys.argv[2]), lambda: attempt(WAYS[sys.argv[3]], fd))
"
    );
    let path = instance.path("prod/db/password");
    let ask = |uid: &str, way: &str| Asker::root().python(&script, &[&path, uid, way]);
    for way in ["sendfile", "splice", "read", "mapping"] {
        let before = instance.records().0.len();
        let bob = if way == "mapping" { "SIGBUS" } else { "EACCES" };
        assert_eq!(ask("24002", way), format!("read hunter2\n{bob}\n").repeat(3).trim(), "{way}");
        let records = instance.records();
        let refused = records.iter().skip(before).filter(|record| record.is("read", "denied")).count();
        assert!(refused >= 3, "{way}: only {refused} refusals of three readers are recorded");
    }
    for way in ["sendfile", "splice", "read", "mapping"] {
        let before = instance.records().all("read", "released").len();
        assert_eq!(ask("24004", way), "read hunter2\n".repeat(6).trim(), "{way}");
        let recorded = instance.records().all("read", "released").len() - before;
        assert_eq!(recorded, 3, "{way}: each of three other readers once");
    }
}

#[test]
fn a_revocation_reaches_pages_that_are_kept_or_mapped() {
    let instance = start();
    let go = instance.file("go");
    let script = format!(
        "{PRELUDE}
fd = os.open(path, os.O_RDONLY)
mapped = mmap.mmap(fd, 7, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
print(mapped[:], attempt(by_sendfile, fd), attempt(by_splice, fd), flush=True)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
print(attempt(by_sendfile, fd), attempt(by_splice, fd), flush=True)
as_child(24001, lambda: mapped[:])
"
    );
    let words = [crate::harness::PYTHON, "-I", "-c", &script, &instance.path("prod/db/password"), &go];
    let mut reader = Asker::root().program(&words).keep(&instance.dir().join("reader.out"));
    let limit = std::time::Duration::from_secs(5);
    crate::harness::wait_until("the first reads", limit, || {
        reader.output().contains("read hunter2 read hunter2")
    });
    instance.command(&["revoke", "prod/db", "--version", "1"]).ok();
    std::fs::write(&go, "go").expect("it looks for it");
    reader.wait(limit).expect("it ends");
    let output = reader.output();
    assert_eq!(output.lines().skip(1).collect::<Vec<_>>(), ["ESTALE ESTALE", "SIGBUS"], "{output}");
}

#[test]
fn a_mapping_and_a_sendfile_of_the_largest_value_go_on_for_as_long_as_they_like() {
    let instance = start();
    let value: Vec<u8> = (0..1_048_576_u32).map(|at| (at / 4096 + at % 251) as u8).collect();
    instance.put("prod/large", &[("value", &value)]);
    let script = format!(
        "{PRELUDE}
import hashlib, socket, threading
fd = os.open(path, os.O_RDONLY)
size = os.fstat(fd).st_size
mapped = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
digests, end, rounds = set(), time.monotonic() + 1.5, [0, 0]
def map_on():
    while time.monotonic() < end:
        digests.add(hashlib.sha256(mapped[:]).hexdigest())
        rounds[0] += 1
def send_on():
    while time.monotonic() < end:
        ours, theirs = socket.socketpair()
        def send():
            offset = 0
            while offset < size:
                offset += os.sendfile(ours.fileno(), fd, offset, size - offset)
            ours.close()
        sender = threading.Thread(target=send)
        sender.start()
        got = b''.join(iter(lambda: theirs.recv(1 << 20), b''))
        sender.join()
        digests.add(hashlib.sha256(got).hexdigest())
        rounds[1] += 1
threads = [threading.Thread(target=act) for act in (map_on, send_on)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(digests), digests.pop(), min(rounds))
"
    );
    let path = instance.path("prod/large/value");
    let text = Asker::root().python(&script, &[&path]);
    let words: Vec<&str> = text.split(' ').collect();
    let expected = Asker::uid(24_001).run(&["sha256sum", &path]).ok().text();
    assert_eq!((words[0], Some(words[1])), ("1", expected.split(' ').next()), "{text}");
    assert!(words[2].parse::<u32>().is_ok_and(|rounds| rounds >= 5), "it hardly went on: {text}");
}
