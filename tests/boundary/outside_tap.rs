//! What leaves is counted twice: by the audit log, and by strace in the readers' own processes. Both must agree, open
//! by open and first read by first read, for what was handed over and for what was refused.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Duration;

use crate::harness::{Asker, Filling, Instance, PYTHON, Record, RecordList, Setup, wait_until};

const POLICY: &str = "
[identities.readers]
uid = [24001, 24004]
[identities.lister]
uid = 24002
[[grants]]
to = [\"readers\"]
read = [\"prod/**\"]
[[grants]]
to = [\"lister\"]
list = [\"prod/**\"]
";

/// Secrets that are each opened once, to be shared: so a path says which descriptor is meant.
const SHARED: usize = 27;

/// Processes that open, pass on, inherit, map and are refused. Every line that a child writes goes nowhere.
const CROWD: &str = "
import mmap, os, socket, sys, threading
root = sys.argv[1]
LISTER, STRANGER = 24002, 24003

def become(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)

def child(act):
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except OSError:
            pass
        os._exit(0)
    return pid

def attempt(act):
    try:
        act()
    except OSError:
        pass

def by_read(fd):
    for _ in range(3):
        attempt(lambda: os.read(fd, 4))

def by_pread(fd):
    for offset in (2, 0, 1):
        attempt(lambda: os.pread(fd, 4, offset))

def by_sendfile(fd):
    sink = os.open('/dev/null', os.O_WRONLY)
    for _ in range(2):
        attempt(lambda: os.sendfile(sink, fd, 0, 4))

def by_mapping(fd):
    mapped = mmap.mmap(fd, 4, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    assert mapped[:4]

def by_thread(fd):
    thread = threading.Thread(target=by_read, args=(fd,))
    thread.start()
    thread.join()
    by_pread(fd)

def by_another_program(fd):
    os.dup2(fd, 0)
    os.execv('/usr/bin/head', ['head', '-c', '3'])

def over_a_socket(path, uid, act):
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    def opener():
        mine.close()
        become(24001)
        fd = os.open(path, os.O_RDONLY)
        os.read(fd, 2)
        socket.send_fds(theirs, [b'x'], [fd])
        os.close(fd)
        theirs.recv(1)  # the end of file, when the reader has ended
    def reader():
        theirs.close()
        become(uid)
        fd = socket.recv_fds(mine, 1, 1)[1][0]
        act(fd)
    pids = [child(opener), child(reader)]
    mine.close()
    theirs.close()
    for pid in pids:
        os.waitpid(pid, 0)

def by_inheritance(path, uid, act):
    def opener():
        os.setresgid(24001, 24001, 0)
        os.setresuid(24001, 24001, 0)
        fd = os.open(path, os.O_RDONLY)
        os.pread(fd, 2, 0)
        def reader():
            os.seteuid(0)
            become(uid)
            act(fd)
        os.waitpid(child(reader), 0)
        os.read(fd, 2)
    os.waitpid(child(opener), 0)

def alone(uid, rounds):
    def act():
        become(uid)
        for _ in range(rounds):
            for name in ('prod/own/password', 'prod/own/current/user', 'prod/own/nothing'):
                def read():
                    fd = os.open(root + '/' + name, os.O_RDONLY)
                    os.read(fd, 3)
                    os.close(fd)
                attempt(read)
    os.waitpid(child(act), 0)

shared = ['%s/prod/shared-%d/password' % (root, n) for n in range(int(sys.argv[2]))]
for way in (over_a_socket, by_inheritance):
    for uid in (24004, LISTER, STRANGER):
        for act in (by_read, by_pread, by_sendfile, by_another_program):
            way(shared.pop(), uid, act)
over_a_socket(shared.pop(), 24004, by_mapping)
by_inheritance(shared.pop(), 24004, by_thread)
over_a_socket(shared.pop(), 24001, by_read)
assert not shared
for uid in (24001, LISTER, STRANGER, 24004):
    alone(uid, 20)
";

/// (file below the mount point, `open` or `read`, outcome) → how often.
type Counts = BTreeMap<(String, &'static str, &'static str), u64>;

fn outcome_of(result: &str) -> &'static str {
    match result {
        _ if result.contains("EACCES") => "denied",
        _ if result.contains("ENOENT") => "hidden",
        _ => {
            assert!(!result.starts_with('-'), "an errno that nobody expects: {result}");
            "released"
        }
    }
}

/// The system calls of one thread, in their order, counted as the log should.
fn count(trace: &str, mount_point: &str, counts: &mut Counts) {
    // Descriptors that this process opened itself, by number: their opener reads without a further record.
    let mut own = HashSet::new();
    let mut read_already = HashSet::new();
    for line in trace.lines() {
        let (Some((call, rest)), Some((_, result))) = (line.split_once('('), line.rsplit_once(" = ")) else {
            continue;
        };
        let descriptor = rest.split(['<', ',', ')']).next().unwrap_or("").to_owned();
        if call == "setresuid" {
            own.clear();
            read_already.clear();
        }
        if call == "close" {
            own.remove(&descriptor);
        }
        let Some(at) = line.find(mount_point) else { continue };
        let path: String =
            line[at + mount_point.len() + 1..].chars().take_while(|one| !"\">".contains(*one)).collect();
        match call {
            "openat" => {
                *counts.entry((path, "open", outcome_of(result))).or_default() += 1;
                own.insert(result.split('<').next().expect("a number").to_owned());
            }
            "read" | "pread64" | "mmap" | "sendfile" => {
                let descriptor = match call {
                    "mmap" => line.split(", ").nth(4),
                    "sendfile" => line.split(", ").nth(1),
                    _ => Some(descriptor.as_str()),
                };
                let descriptor = descriptor.and_then(|one| one.split('<').next()).expect("a descriptor");
                let outcome = outcome_of(result);
                let is_further = outcome == "released" && !read_already.insert(descriptor.to_owned());
                // What goes by pages the kernel may ask for twice before it passes a refusal on.
                let operation = if call == "sendfile" && outcome != "released" { "pages" } else { "read" };
                if !own.contains(descriptor) && !is_further {
                    *counts.entry((path, operation, outcome)).or_default() += 1;
                }
            }
            _ => {}
        }
    }
}

/// The log's own count, in the same words. A name that is hidden is refused before there is anything to open.
fn count_records(records: &RecordList, with_lookups: bool) -> Counts {
    let mut counts = Counts::new();
    for record in records.iter() {
        let operation = match record.text("op") {
            "open" => "open",
            "read" => "read",
            "lookup" if with_lookups => "open",
            _ => continue,
        };
        let outcome = ["released", "denied", "hidden"].into_iter().find(|one| record.text("outcome") == *one);
        let outcome = outcome.unwrap_or_else(|| panic!("another outcome: {record:?}"));
        *counts.entry((record.file(), operation, outcome)).or_default() += record.count();
    }
    counts
}

/// `prod/own/current/user` is recorded as the field of the secret that it is.
fn as_recorded(counts: Counts) -> Counts {
    let mut plain = Counts::new();
    for ((path, operation, outcome), count) in counts {
        *plain.entry((path.replace("/current/", "/"), operation, outcome)).or_default() += count;
    }
    plain
}

/// The traces of each process: the leader's, and behind it those of its threads.
fn by_process(traces: &Path) -> Vec<String> {
    let mut of_threads = BTreeMap::new();
    for entry in std::fs::read_dir(traces).expect("traces").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let thread: u32 = name.rsplit('.').next().and_then(|number| number.parse().ok()).expect("a thread");
        let text = String::from_utf8_lossy(&std::fs::read(entry.path()).expect("a trace")).into_owned();
        of_threads.insert(thread, text);
    }
    let made_by = |line: &str| -> Option<u32> {
        let is_thread = line.starts_with("clone") && line.contains("CLONE_THREAD");
        is_thread.then(|| line.rsplit(" = ").next()?.trim().parse().ok()).flatten()
    };
    let leaders: BTreeMap<u32, u32> = of_threads
        .iter()
        .flat_map(|(leader, text)| text.lines().filter_map(made_by).map(|thread| (thread, *leader)))
        .collect();
    let mut of_processes: BTreeMap<u32, String> = BTreeMap::new();
    let (threads, whole): (Vec<_>, Vec<_>) =
        of_threads.into_iter().partition(|(thread, _)| leaders.contains_key(thread));
    for (thread, text) in whole.into_iter().chain(threads) {
        of_processes.entry(*leaders.get(&thread).unwrap_or(&thread)).or_default().push_str(&text);
    }
    of_processes.into_values().collect()
}

fn traced(instance: &Instance) -> Counts {
    let traces = instance.dir().join("traces");
    std::fs::create_dir(&traces).expect("a directory");
    let prefix = traces.join("of");
    let calls = "trace=openat,read,pread64,mmap,sendfile,close,setresuid,clone,clone3";
    let mount_point = instance.mount_point();
    let words = ["strace", "-ff", "-qq", "-y", "-e", calls, "-e", "signal=none", "-o"];
    let shared = SHARED.to_string();
    let mut words = words.to_vec();
    words.extend([prefix.to_str().expect("UTF-8"), PYTHON, "-I", "-c", CROWD, &mount_point, &shared]);
    Asker::root().program(&words).limit(Duration::from_secs(120)).run().ok();
    let mut counts = Counts::new();
    for trace in by_process(&traces) {
        count(&trace, &mount_point, &mut counts);
    }
    as_recorded(counts)
}

fn sum(counts: &Counts, operation: &str, outcome: &str) -> u64 {
    counts
        .iter()
        .filter(|((_, op, out), _)| *op == operation && *out == outcome)
        .map(|(_, count)| count)
        .sum()
}

#[test]
fn opens_and_first_reads_by_others_that_strace_saw_are_what_the_log_holds() {
    let instance = Setup::policy(POLICY).initialised();
    let shared: Vec<String> = (0..SHARED).map(|number| format!("prod/shared-{number}")).collect();
    let fillings = shared.iter().map(|secret| (secret.as_str(), "password"));
    let own = [("prod/own", "password"), ("prod/own", "user")];
    let fillings = fillings.chain(own);
    instance.fill_store(fillings.map(|(secret, field)| Filling { secret, field, value: b"hunter2" }));
    instance.mount();
    let tap = traced(&instance);
    // What was refused by name is gathered for a second before it is written.
    let hidden_opens = sum(&tap, "open", "hidden");
    let lookups = || -> u64 {
        let records = instance.records();
        let of_crowd = |record: &&Record| record.is("lookup", "hidden") && record.number("uid") != Some(0);
        records.iter().filter(of_crowd).map(Record::count).sum()
    };
    wait_until("refused names are written", Duration::from_secs(10), || lookups() >= hidden_opens);
    let records = instance.records();
    let hidden: Vec<_> = records.iter().filter(|record| record.is("lookup", "hidden")).collect();
    // Where another user's entry is still in the kernel's cache, the first refusal makes the kernel ask once more.
    let asked_twice = lookups() - hidden_opens;
    assert!(asked_twice <= 2, "{hidden_opens} names were hidden: {hidden:#?}");
    let mut recorded = count_records(&records, false);
    let mut seen = tap;
    // Whose name was hidden is recorded by the first hidden component, and compared by count above.
    for counts in [&mut recorded, &mut seen] {
        counts.retain(|(_, operation, outcome), _| (*operation, *outcome) != ("open", "hidden"));
    }
    let mut pages = seen.clone();
    pages.retain(|(_, operation, _), _| *operation == "pages");
    seen.retain(|(_, operation, _), _| *operation != "pages");
    for ((path, _, outcome), count) in &pages {
        let refused = recorded.remove(&(path.clone(), "read", *outcome)).unwrap_or(0);
        assert!(
            (*count..=2 * count).contains(&refused),
            "{path}: {refused} records of {count} refused calls"
        );
    }
    assert!(pages.len() >= 4, "{pages:?}");
    assert_eq!(recorded, seen, "the log (left) and strace (right)");
    for (operation, outcome, at_least) in [
        ("open", "released", 27 + 80),
        ("open", "denied", 40),
        ("read", "released", 11),
        ("read", "denied", 12),
        ("read", "hidden", 12),
    ] {
        let count = sum(&seen, operation, outcome);
        assert!(count >= at_least, "only {count} of {operation} {outcome}: {seen:#?}");
    }
    let openers = records.all("open", "released");
    for read in records.iter().filter(|record| record.text("op") == "read") {
        let opener = openers.iter().find(|open| {
            open.number("seq").map(|seq| seq.to_string()).as_deref() == Some(read.text("opener"))
        });
        let opener = opener.unwrap_or_else(|| panic!("no opener of {read:?}"));
        assert_eq!(opener.file(), read.file());
        assert_ne!(
            (opener.number("pid"), opener.number("uid")),
            (read.number("pid"), read.number("uid")),
            "{read:?}"
        );
    }
}
