//! A reader sees one version, whole: across a hundred swaps a second, and from handles that stay open.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{PYTHON, Program, Random, Setup, is_full, repetitions};

const POLICY: &str = "[identities.root]\nuid = 0\n[[grants]]\nto = [\"root\"]\nread = [\"prod/**\"]\n\
    stages = [\"current\", \"previous\", \"all\"]\n";

/// The value of version `number`: its number over and over, in a length of its own, 8 bytes to 9 KiB.
fn value(number: u64) -> Vec<u8> {
    let mut bytes = format!("{number:08}").repeat(1 + usize::try_from(number * 7919 % 1151).expect("small"));
    bytes.extend(std::iter::repeat_n('.', usize::try_from(number % 8).expect("small")));
    bytes.into_bytes()
}

/// Which version `bytes` is, if it is one, whole.
fn number_of(bytes: &[u8]) -> Option<u64> {
    let number = std::str::from_utf8(bytes.get(..8)?).ok()?.parse().ok()?;
    (bytes == value(number)).then_some(number)
}

/// One way to read a file.
type Way = fn(&Path, &mut Random) -> std::io::Result<Vec<u8>>;

fn in_odd_chunks(path: &Path, random: &mut Random) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    loop {
        let mut chunk = vec![0; 1 + usize::try_from(random.below(4099)).expect("small")];
        match file.read(&mut chunk)? {
            0 => return Ok(bytes),
            count => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

fn as_long_as_fstat_says(path: &Path, _: &mut Random) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).expect("small")];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn backwards_by_pread(path: &Path, random: &mut Random) -> std::io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).expect("small")];
    let mut end = bytes.len();
    while end > 0 {
        let start = end.saturating_sub(1 + usize::try_from(random.below(3001)).expect("small"));
        file.read_exact_at(&mut bytes[start..end], start as u64)?;
        end = start;
    }
    Ok(bytes)
}

/// Both fields by the version that `current` pointed to: they must be of one version.
fn both_fields_by_the_symlink(path: &Path, _: &mut Random) -> std::io::Result<Vec<u8>> {
    let secret = path.parent().expect("a secret");
    let version = secret.join(std::fs::read_link(secret.join("current"))?);
    let (one, other) = (std::fs::read(version.join("value"))?, std::fs::read(version.join("twin"))?);
    if one == other { Ok(one) } else { Err(std::io::Error::other("two versions in one directory")) }
}

const WAYS: [Way; 4] = [in_odd_chunks, as_long_as_fstat_says, backwards_by_pread, both_fields_by_the_symlink];

/// Maps the file so often, each time as a whole; prints what was not one version.
const MAPPER: &str = "
import mmap, os, sys
path, count = sys.argv[1], int(sys.argv[2])
for _ in range(count):
    fd = os.open(path, os.O_RDONLY)
    with mmap.mmap(fd, os.fstat(fd).st_size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as mapped:
        got = mapped[:]
    os.close(fd)
    number = int(got[:8])
    expected = b'%08d' % number * (1 + number * 7919 % 1151) + b'.' * (number % 8)
    if got != expected:
        print('wrong', len(got), got[:20])
        break
print('done')
";

/// A tenth more often than a hundred times a second.
const SWAP_EVERY: Duration = Duration::from_millis(9);

/// Swaps until it is done; when each swap was acknowledged.
fn swap_until(done: &AtomicBool, put: &dyn Fn(u64), acknowledged: &AtomicU64) -> Vec<Instant> {
    let mut swapped = Vec::new();
    let mut next = Instant::now();
    while !done.load(Ordering::Relaxed) {
        let number = 2 + swapped.len() as u64;
        put(number);
        acknowledged.store(number, Ordering::SeqCst);
        swapped.push(Instant::now());
        // What one swap is late the next make up for, as far as a quarter of a second.
        next = (next + SWAP_EVERY).max(Instant::now() - Duration::from_millis(250));
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    swapped
}

/// Swaps a second: over all of the time, and over its last quarter, when the secret has thousands of versions.
fn rates(swapped: &[Instant], begun: Instant, took: Duration) -> (f64, f64) {
    let late = swapped.iter().filter(|at| **at >= begun + took * 3 / 4).count();
    (swapped.len() as f64 / took.as_secs_f64(), late as f64 / (took.as_secs_f64() / 4.0))
}

#[test]
fn a_hundred_swaps_a_second_tear_nothing() {
    let instance = Setup::policy(POLICY).start();
    let put = |number: u64| {
        let bytes = value(number);
        let stored = instance.put_by_socket("prod/db", &[("value", &bytes), ("twin", &bytes)]);
        assert_eq!(stored, number, "numbers go up by one");
    };
    put(1);
    let path = instance.path("prod/db/value");
    let path = Path::new(&path);
    let wanted = repetitions(100_000, 1_000_000);
    let (acknowledged, reads, done) = (AtomicU64::new(1), AtomicU64::new(0), AtomicBool::new(false));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| swap_until(&done, &put, &acknowledged));
        // Two readers and the mapper leave the daemon enough of two processors to swap as often as it is asked to.
        let readers: Vec<_> = (1..=2)
            .map(|seed| {
                let (acknowledged, reads) = (&acknowledged, &reads);
                scope.spawn(move || {
                    let mut random = Random(seed);
                    let mut faults = Vec::new();
                    let mut ways = WAYS.iter().cycle();
                    while reads.fetch_add(1, Ordering::Relaxed) < wanted && faults.len() < 5 {
                        let way = ways.next().expect("a cycle has no end");
                        let at_least = acknowledged.load(Ordering::SeqCst);
                        match way(path, &mut random).map(|bytes| (number_of(&bytes), bytes.len())) {
                            Ok((Some(number), _)) if number >= at_least => {}
                            Ok((Some(number), _)) => faults.push(format!("{number} after {at_least}")),
                            Ok((None, length)) => faults.push(format!("{length} bytes that are no version")),
                            Err(error) => faults.push(error.to_string()),
                        }
                    }
                    faults
                })
            })
            .collect();
        let mapped = Program::of(&[
            PYTHON,
            "-I",
            "-c",
            MAPPER,
            path.to_str().expect("UTF-8"),
            &(wanted / 20).to_string(),
        ])
        .limit(Duration::from_secs(1200))
        .run();
        let faults: Vec<_> =
            readers.into_iter().flat_map(|reader| reader.join().expect("a reader")).collect();
        let took = begun.elapsed();
        done.store(true, Ordering::Relaxed);
        let swapped = swapper.join().expect("the swapper");
        let swaps = swapped.len();
        let (rate, late_rate) = rates(&swapped, begun, took);
        println!(
            "{wanted} reads and {} mappings in {took:.1?} under {rate:.1} swaps a second, {late_rate:.1} in the last \
             quarter, {swaps} in all",
            wanted / 20
        );
        assert!(faults.is_empty(), "torn, mixed, short, empty, stale or failed: {faults:#?}");
        assert_eq!(mapped.ok().text(), "done");
        assert!(swaps > 100, "only {swaps} swaps");
        if is_full() {
            assert!(rate >= 100.0 && late_rate >= 100.0, "{rate:.1} and {late_rate:.1} swaps a second");
        }
    });
}

#[test]
fn the_check_for_whole_versions_sees_every_kind_of_fault() {
    let (old, new) = (value(6), value(7));
    assert_eq!(number_of(&new), Some(7));
    assert_eq!(number_of(b""), None, "empty");
    assert_eq!(number_of(&old[..old.len() - 1]), None, "short");
    assert_eq!(number_of(&[&new[..400], &old[400..]].concat()), None, "torn");
    assert_eq!(number_of(&[&old[..], &[0; 5]].concat()), None, "padded");
}

fn errno(result: std::io::Result<impl Sized>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

// errno(3), Linux generic numbers.
const ENOENT: Option<i32> = Some(2);
const EACCES: Option<i32> = Some(13);
const ESTALE: Option<i32> = Some(116);

#[test]
fn an_open_handle_keeps_its_version_and_its_length() {
    let instance = Setup::policy(POLICY).start();
    instance.put("prod/db", &[("value", b"the first, a long one")]);
    let path = instance.path("prod/db/value");
    let old = File::open(&path).expect("readable");
    instance.put("prod/db", &[("value", b"second")]);
    let mut bytes = vec![0; 100];
    assert_eq!(old.read_at(&mut bytes, 0).expect("still readable"), 21);
    assert_eq!(&bytes[..21], b"the first, a long one");
    assert_eq!(old.metadata().expect("fstat").len(), 21);
    assert_eq!(std::fs::read(&path).expect("readable"), b"second");
    assert_eq!(
        old.read_at(&mut bytes, 4).expect("still readable"),
        17,
        "and after someone opened the new one"
    );
}

#[test]
fn revoke_makes_an_open_handle_estale_at_once_and_refuses_a_new_open() {
    let instance = Setup::policy(POLICY).start();
    instance.put("prod/db", &[("value", b"first")]);
    instance.put("prod/db", &[("value", b"second")]);
    let (current, previous) = (instance.path("prod/db/value"), instance.path("prod/db/versions/1/value"));
    let (new, old) = (File::open(&current).expect("readable"), File::open(&previous).expect("readable"));
    let mut bytes = [0; 10];
    assert_eq!(new.read_at(&mut bytes, 0).expect("readable"), 6);
    instance.command(&["revoke", "prod/db", "--version", "2", "--reason", "compromised"]).ok();
    assert_eq!(errno(new.read_at(&mut bytes, 0)), ESTALE);
    assert_eq!(errno(File::open(&current)), EACCES);
    assert_eq!(errno(File::open(instance.path("prod/db/versions/2/value"))), EACCES);
    assert_eq!(old.read_at(&mut bytes, 0).expect("the other version is untouched"), 5);
    let records = instance.records();
    assert_eq!(records.last("read", "revoked").number("version"), Some(2));
    assert_eq!(records.last("open", "revoked").number("version"), Some(2));
    instance.put("prod/db", &[("value", b"third")]);
    assert_eq!(std::fs::read(&current).expect("readable again"), b"third");
}

#[test]
fn a_version_without_a_stage_is_readable_for_retire_after_and_then_no_more() {
    let policy = POLICY.replace("stages = [\"current\", \"previous\", \"all\"]\n", "");
    let instance = Setup::policy(&policy).set("policy.retire_after", "2s").start();
    for bytes in [b"one", b"two"] {
        instance.put("prod/db", &[("value", bytes)]);
    }
    let first = instance.path("prod/db/versions/1/value");
    let held = File::open(&first).expect("previous");
    instance.put("prod/db", &[("value", b"three")]);
    let retired = Instant::now();
    assert_eq!(std::fs::read(&first).expect("held for retire_after"), b"one");
    std::thread::sleep(Duration::from_millis(2_200).saturating_sub(retired.elapsed()));
    let refused = errno(File::open(&first));
    assert!([ESTALE, ENOENT].contains(&refused), "{refused:?}");
    assert_eq!(held.read_at(&mut [0; 10], 0).expect("handles do not expire"), 3);
}

#[test]
fn a_staged_version_is_seen_only_by_those_granted_it() {
    let policy = "[identities.root]\nuid = 0\n[identities.alice]\nuid = 24001\n\
        [[grants]]\nto = [\"root\"]\nread = [\"prod/**\"]\nstages = [\"current\", \"next\"]\n\
        [[grants]]\nto = [\"alice\"]\nread = [\"prod/**\"]\n";
    let instance = Setup::policy(policy).start();
    instance.put("prod/db", &[("value", b"now")]);
    assert_eq!(instance.put_with("prod/db", &[("value", b"soon")], &["--stage", "next"]), 2);
    let next = instance.path("prod/db/next/value");
    assert_eq!(std::fs::read(&next).expect("granted"), b"soon");
    assert_eq!(std::fs::read(instance.path("prod/db/value")).expect("granted"), b"now");
    let alice = crate::harness::Asker::uid(crate::harness::ALICE);
    assert_eq!(alice.read(&next), "ENOENT");
    assert_eq!(alice.read(&instance.path("prod/db/versions/2/value")), "ENOENT");
    assert_eq!(alice.read(&instance.path("prod/db/current/value")), "read now");
}

#[test]
fn fields_that_a_put_does_not_name_are_carried_over() {
    let instance = Setup::policy(POLICY).start();
    instance.put("prod/db", &[("value", b"v1"), ("user", b"orders")]);
    let done = instance.command_with(&["put", "prod/db", "value"], "v2").ok();
    let said = format!("{}{}", done.text(), done.err);
    assert!(said.contains("user"), "the output names what is carried over: {said}");
    assert_eq!(std::fs::read(instance.path("prod/db/user")).expect("carried"), b"orders");
    instance.command_with(&["put", "prod/db", "value", "--only"], "v3").ok();
    assert_eq!(errno(File::open(instance.path("prod/db/user"))), ENOENT);
}
