//! Worker follows worker, by kill -9 and by SIGTERM, under load: no reader fails, no open goes unrecorded, no handle
//! changes its version, and what was revoked stays revoked.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use crate::death::hold_threads;
use crate::harness::{Instance, Program, Random, repetitions, wait_until};
use crate::load::{self, Found};
use crate::pair::{setup, signal, worker_after};

/// A file that is kept open, and what it must always read.
struct Held {
    file: File,
    bytes: Vec<u8>,
}

impl Held {
    fn open(instance: &Instance, path: &str) -> Self {
        let file = File::open(instance.path(path)).unwrap();
        let bytes = read_whole(&file).unwrap();
        Self { file, bytes }
    }

    #[track_caller]
    fn is_unchanged(&self) {
        assert_eq!(read_whole(&self.file).unwrap(), self.bytes, "a handle keeps its version");
    }
}

fn read_whole(file: &File) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4096];
    let count = file.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Ends the worker again and again by `signal_name`, and checks what must hold each time; when each was ended.
fn replace_workers(instance: &Instance, times: u64, signal_name: &str) -> Vec<Instant> {
    let revoked = Held::open(instance, "prod/revoked/key");
    instance.command(&["revoke", "prod/revoked", "--version", "1"]).ok();
    let mut held = vec![Held::open(instance, "prod/app/key")];
    let mut random = Random(0xC0FF_EE00 + times);
    let (mut worker, mut moments) = (None, Vec::new());
    for _ in 0..times {
        let current = worker_after(instance, worker);
        std::thread::sleep(Duration::from_millis(random.below(250)));
        if held.len() < 32 {
            held.push(Held::open(instance, "prod/app/key"));
        }
        signal(current, signal_name);
        // Not before: to start the program that sends it takes longer than most pauses.
        moments.push(Instant::now());
        worker = Some(current);
        let refused = read_whole(&revoked.file).expect_err("what was revoked stays revoked");
        assert_eq!(refused.raw_os_error(), Some(116), "ESTALE: {refused}");
        for held in &held {
            held.is_unchanged();
        }
    }
    worker_after(instance, worker);
    moments
}

/// Every open that was answered has its record; every record more than that belongs to one that was sent again.
fn every_open_is_recorded(instance: &Instance, opened: u64) {
    // All parts: it rotates by size.
    let path = instance.audit_path();
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut log = String::new();
    for entry in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let rest = file.strip_prefix(&name).map(|rest| rest.strip_prefix('.').unwrap_or(rest));
        if rest.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit())) {
            log += &std::fs::read_to_string(path.with_file_name(file)).unwrap();
        }
    }
    let records = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let (mut released, mut resent) = (0, 0);
    for record in records.filter(|record| {
        record["op"] == "open" && record["outcome"] == "released" && record["secret"] == "prod/app"
    }) {
        released += 1;
        resent += u64::from(record["resent"] == true);
    }
    println!("{opened} opens answered, {released} recorded, {resent} of them sent again");
    assert!(released >= opened, "an open was answered without a record");
    assert!(released - opened <= resent, "a record without an answered open that was not sent again");
    let verdict = instance.command(&["audit", "verify", "--json"]).ok().json();
    assert_eq!(verdict["ok"], true, "{verdict}");
}

fn nobody_noticed(found: &Found, moments: &[Instant], limit: Duration) {
    let pauses = found.pauses(moments);
    let (middle, longest) = (pauses[pauses.len() / 2], pauses[pauses.len() - 1]);
    println!("{} replacements: pause p50 {middle:?}, p100 {longest:?}", moments.len());
    assert!(
        found.faults.is_empty(),
        "{} faults: {:#?}",
        found.faults.len(),
        &found.faults[..found.faults.len().min(10)]
    );
    assert!(found.refused > 0 && found.opened > 100, "there was load");
    assert!(longest < limit, "the longest pause was {longest:?}");
}

/// How many handles [`replace_workers`] opens on the secret that is counted.
fn held_count(times: u64) -> u64 {
    1 + times.min(31)
}

#[test]
fn no_reader_fails_and_no_open_goes_unrecorded_while_workers_are_killed() {
    let instance = setup().start();
    load::fill(&instance);
    instance.put("prod/revoked", &[("key", b"old")]);
    let times = repetitions(40, 200);
    let mut moments = Vec::new();
    let found = load::under(&instance, true, || moments = replace_workers(&instance, times, "KILL"));
    every_open_is_recorded(&instance, found.opened + held_count(times));
    nobody_noticed(&found, &moments, Duration::from_secs(2));
}

#[test]
fn no_reader_fails_while_workers_hand_over() {
    let instance = setup().start();
    load::fill(&instance);
    instance.put("prod/revoked", &[("key", b"old")]);
    let mut moments = Vec::new();
    let found = load::under(&instance, false, || moments = replace_workers(&instance, 20, "TERM"));
    every_open_is_recorded(&instance, found.opened + held_count(20));
    nobody_noticed(&found, &moments, Duration::from_secs(2));
    let output = instance.daemon_output();
    assert!(!output.contains("without handing over"), "{output}");
}

#[test]
fn an_opener_stays_the_opener_and_is_not_recorded_again_after_a_hand_over() {
    let instance = setup().start();
    load::fill(&instance);
    let held = Held::open(&instance, "prod/app/key");
    let before = instance.records().all("read", "released").len();
    let worker = worker_after(&instance, None);
    signal(worker, "TERM");
    worker_after(&instance, Some(worker));
    held.is_unchanged();
    assert_eq!(instance.records().all("read", "released").len(), before, "the same opener reads on");
    let other = std::process::Command::new("cat").stdin(held.file.try_clone().unwrap()).output().unwrap();
    assert_eq!(other.stdout, held.bytes);
    assert_eq!(instance.records().all("read", "released").len(), before + 1, "another reader is recorded");
    let policy = crate::pair::POLICY.replace("prod/**", "elsewhere/**");
    instance.reload_policy(&policy);
    let refused = read_whole(&held.file).expect_err("a handle of the worker before is subject to policy");
    assert!(matches!(refused.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied), "{refused}");
}

/// Leaves pages in the kernel by sendfile, and then has a child of another user ask for them.
const PAGES: &str = r#"
import errno, os, sys, time
path, go = sys.argv[1:]
inlet, outlet = os.pipe()
def send(fd):
    try:
        return os.read(inlet, os.sendfile(outlet, fd, 0, 64)).decode()
    except OSError as error:
        return errno.errorcode[error.errno]
fd = os.open(path, os.O_RDONLY)
print("first", send(fd), flush=True)
while not os.path.exists(go):
    time.sleep(0.01)
if os.fork() == 0:
    os.setresuid(24002, 24002, 24002)
    print("other", send(fd), flush=True)
    os._exit(0)
os.wait()
"#;

#[test]
fn pages_that_a_killed_worker_left_in_the_kernel_are_dropped_by_its_successor() {
    let instance = setup().start();
    load::fill(&instance);
    let worker = worker_after(&instance, None);
    // It dies before it takes them back.
    let mut holding = hold_threads(&instance, worker, &["pages"]);
    let (path, go) = (instance.path("prod/app/key"), instance.file("go"));
    let words = [crate::harness::PYTHON, "-I", "-c", PAGES, &path, &go];
    let mut reader = Program::of(&words).keep(&instance.dir().join("reader.out"));
    wait_until("the first has read", Duration::from_secs(5), || reader.output().contains("first <1>"));
    signal(worker, "KILL");
    worker_after(&instance, Some(worker));
    holding.wait(Duration::from_secs(5)).expect("its threads are gone");
    wait_until("it serves again", Duration::from_secs(10), || {
        instance.program(&["status"]).run().code == Some(0)
    });
    // The moment for which pages stay.
    std::thread::sleep(Duration::from_millis(50));
    std::fs::write(&go, "go").unwrap();
    reader.wait(Duration::from_secs(5)).expect("it ends");
    let output = reader.output();
    assert!(output.contains("other ENOENT") || output.contains("other EACCES"), "{output}");
}
