//! The log against everything that can happen to its file, its disk and its process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::testing::{Scratch, Tmpfs, open, record};
use super::*;
use crate::model::{Operation, Outcome};

fn proven(path: &Path) -> Verdict {
    let verdict = verify(path, None).unwrap();
    assert!(verdict.ok, "{verdict:?}");
    verdict
}

fn lines(path: &Path) -> usize {
    query(path, &Filter::default()).unwrap().map(Result::unwrap).count()
}

#[test]
fn a_log_goes_on_where_it_was_left_and_verifies_from_its_root() {
    let scratch = Scratch::new();
    let (log, opened) = Log::open(Options::at(&scratch.log())).unwrap();
    let root = opened.new_chain.unwrap();
    for _ in 0..2_500 {
        record(&log, "prod/orders/db", 7).unwrap();
    }
    drop(log);
    let (log, opened) = Log::open(Options::at(&scratch.log())).unwrap();
    assert_eq!((opened.new_chain, opened.root, opened.cut_bytes), (None, Some(root), 0));
    let seq = record(&log, "prod/orders/db", 7).unwrap();
    assert_eq!(seq, opened.next_seq);
    assert!(find(&scratch.log(), seq).unwrap().unwrap().contains("\"version\":7"));
    drop(log);
    let verdict = verify(&scratch.log(), Some(&root)).unwrap();
    assert!(verdict.ok && verdict.root_pinned && verdict.held_key == HeldKey::Held, "{verdict:?}");
    assert_eq!((verdict.unsealed, verdict.torn_bytes), (0, 0));
    let other = Fingerprint::parse(&"0".repeat(64)).unwrap();
    assert!(!verify(&scratch.log(), Some(&other)).unwrap().ok);
}

#[test]
fn no_segment_has_more_records_than_the_limit() {
    let scratch = Scratch::new();
    let log = open(&scratch.log());
    for _ in 0..5_000 {
        record(&log, "a", 1).unwrap();
    }
    drop(log);
    let text = std::fs::read_to_string(scratch.log()).unwrap();
    let mut since = 0;
    for line in text.lines() {
        since += 1;
        if line.contains("\"op\":\"seal\"") {
            assert!(since <= 1_000);
            since = 0;
        }
    }
    assert_eq!(text.matches("\"signature\"").count(), 6, "five by size, one at the end");
}

#[test]
fn only_one_process_holds_the_log_and_another_can_wait_for_it() {
    let scratch = Scratch::new();
    let log = open(&scratch.log());
    assert!(matches!(Log::open(Options::at(&scratch.log())), Err(OpenFault::Held { .. })));
    let path = scratch.log();
    let waiting = std::thread::spawn(move || {
        let options = Options { lock_wait_max: Duration::from_secs(20), ..Options::at(&path) };
        Log::open(options).map(|_| ())
    });
    drop(log);
    waiting.join().unwrap().unwrap();
}

#[test]
fn a_torn_last_line_is_cut_off_at_every_length_and_the_chain_goes_on() {
    let scratch = Scratch::new();
    let log = open(&scratch.log());
    for _ in 0..3 {
        record(&log, "a", 1).unwrap();
    }
    drop(log);
    let whole = std::fs::read(scratch.log()).unwrap();
    let next = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    let keys = std::fs::read(scratch.path("audit.log.keys")).unwrap();
    for torn in (next..whole.len()).step_by(97) {
        // What a power cut leaves: the seal that was being written is not whole, its key is not erased.
        std::fs::write(scratch.log(), &whole[..next]).unwrap();
        std::fs::write(scratch.path("audit.log.keys"), &keys).unwrap();
        let before = std::fs::read(scratch.log()).unwrap();
        std::fs::write(scratch.log(), &whole[..torn]).unwrap();
        match Log::open(Options { seal_on_close: false, ..Options::at(&scratch.log()) }) {
            // The key of the seal was erased when the log was closed: a log that lost it is refused.
            Err(fault) => assert!(matches!(fault, OpenFault::KeyLost { .. })),
            Ok(_) => panic!("the seal was cut off, and its key is gone"),
        }
        assert_eq!(std::fs::read(scratch.log()).unwrap(), before);
    }

    let path = scratch.path("open.log");
    let log = Log::open(Options { seal_on_close: false, ..Options::at(&path) }).unwrap().0;
    for _ in 0..3 {
        record(&log, "a", 1).unwrap();
    }
    drop(log);
    let whole = std::fs::read(&path).unwrap();
    let next = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for torn in (next..whole.len()).step_by(13).chain([whole.len() - 1]) {
        std::fs::write(&path, &whole[..torn]).unwrap();
        assert!(verify(&path, None).unwrap().ok, "a torn tail is explained, not accused");
        let (log, opened) = Log::open(Options { seal_on_close: false, ..Options::at(&path) }).unwrap();
        assert_eq!(opened.cut_bytes, (torn - next) as u64);
        assert_eq!(record(&log, "a", 1).unwrap(), 3);
        drop(log);
        assert_eq!(proven(&path).records, 4);
    }
}

#[test]
fn a_changed_open_segment_is_not_gone_on_with() {
    let scratch = Scratch::new();
    let log = Log::open(Options { seal_on_close: false, ..Options::at(&scratch.log()) }).unwrap().0;
    for _ in 0..5 {
        record(&log, "prod/orders/db", 1).unwrap();
    }
    drop(log);
    let text = std::fs::read_to_string(scratch.log()).unwrap();
    std::fs::write(scratch.log(), text.replacen("orders/db", "orders/xx", 1)).unwrap();
    assert!(matches!(Log::open(Options::at(&scratch.log())), Err(OpenFault::Damaged { .. })));
}

#[test]
fn rotation_keeps_the_chain_and_removal_waits_for_a_checkpoint_and_keeps_the_root() {
    let scratch = Scratch::new();
    let path = scratch.log();
    let options = Options { max_bytes: Some(120_000), ..Options::at(&path) };
    let (log, opened) = Log::open(options.clone()).unwrap();
    let root = opened.new_chain.unwrap();
    let fill = |log: &Log| {
        for _ in 0..5 {
            for _ in 0..120 {
                record(log, "prod/orders/db", 7).unwrap();
            }
            log.rotate().unwrap();
        }
    };
    fill(&log);
    assert_eq!(files::rotated_numbers(&path).unwrap(), [1, 2, 3, 4, 5], "nothing was handed off yet");
    assert!(verify(&path, Some(&root)).unwrap().ok);
    let checkpoint: Checkpoint = log.checkpoint().unwrap().to_string().parse().unwrap();
    assert!(!files::rotated_numbers(&path).unwrap().contains(&1), "the oldest was removed");
    fill(&log);
    log.checkpoint().unwrap();
    drop(log);
    let (log, opened) = Log::open(options).unwrap();
    assert_eq!(opened.root, Some(root));
    drop(log);
    let verdict = verify_with(&path, Some(&root), Some(&checkpoint)).unwrap();
    assert!(verdict.ok && verdict.root_pinned && verdict.first.unwrap() > 0, "{verdict:?}");
    // Without the kept seals nothing leads from the root to what is there.
    let seals = scratch.path("audit.log.seals");
    let kept = std::fs::read_to_string(&seals).unwrap();
    std::fs::write(&seals, kept.replacen("\"next_key\":\"", "\"next_key\":\"0", 1)).unwrap();
    assert!(!verify(&path, Some(&root)).unwrap().ok);
    std::fs::remove_file(&seals).unwrap();
    assert!(!verify(&path, None).unwrap().ok);
}

#[test]
fn a_file_is_rotated_by_size_beside_the_recording() {
    let scratch = Scratch::new();
    let log = Log::open(Options { segment_bytes: 50_000, ..Options::at(&scratch.log()) }).unwrap().0;
    for _ in 0..10 {
        for _ in 0..200 {
            record(&log, "a", 1).unwrap();
        }
        log.settle();
    }
    drop(log);
    assert!(files::rotated_numbers(&scratch.log()).unwrap().len() >= 5);
    proven(&scratch.log());
}

#[test]
fn a_rotation_interrupted_at_any_step_neither_loses_a_record_nor_raises_an_alarm() {
    let scratch = Scratch::new();
    let path = scratch.log();
    for step in 0..3 {
        let log = open(&path);
        record(&log, "a", 1).unwrap();
        drop(log);
        let before = lines(&path);
        let number = files::rotated_numbers(&path).unwrap().last().map_or(1, |last| last + 1);
        if step >= 1 {
            std::fs::write(files::coming_path(&path), b"{\"seq\":").unwrap();
        }
        if step >= 2 {
            std::fs::hard_link(&path, files::rotated_path(&path, number)).unwrap();
        }
        proven(&path);
        let log = open(&path);
        assert_eq!(lines(&path), before);
        log.rotate().unwrap();
        record(&log, "a", 1).unwrap();
        drop(log);
        proven(&path);
        assert!(!files::coming_path(&path).exists());
    }
}

#[test]
fn rotating_a_deleted_log_saves_its_records_and_goes_on() {
    let scratch = Scratch::new();
    let log = open(&scratch.log());
    for _ in 0..10 {
        record(&log, "a", 1).unwrap();
    }
    std::fs::remove_file(scratch.log()).unwrap();
    assert_eq!(record(&log, "a", 1), Err(NotRecorded::Missing));
    log.rotate().unwrap();
    record(&log, "a", 1).unwrap();
    std::fs::write(scratch.log(), b"").unwrap();
    assert_eq!(record(&log, "a", 1), Err(NotRecorded::Changed));
    log.rotate().unwrap();
    record(&log, "a", 1).unwrap();
    drop(log);
    let verdict = verify(&scratch.log(), None).unwrap();
    let fault = verdict.fault.unwrap();
    assert!(
        fault.what.starts_with("records 11 to 12 are missing here"),
        "{fault:?}: the first was saved, the second was cut"
    );
}

#[test]
fn a_missing_file_starts_a_new_chain_and_old_parts_beside_it_are_named() {
    let scratch = Scratch::new();
    let (log, first) = Log::open(Options::at(&scratch.log())).unwrap();
    drop(log);
    std::fs::remove_file(scratch.log()).unwrap();
    let (log, second) = Log::open(Options::at(&scratch.log())).unwrap();
    assert!(second.new_chain.is_some() && second.new_chain != first.new_chain);
    log.rotate().unwrap();
    drop(log);
    proven(&scratch.log());
    std::fs::remove_file(scratch.log()).unwrap();
    drop(open(&scratch.log()));
    assert!(!verify(&scratch.log(), None).unwrap().ok);
}

#[test]
fn the_key_file_of_another_time_is_refused() {
    let scratch = Scratch::new();
    let log = open(&scratch.log());
    for _ in 0..1_100 {
        record(&log, "a", 1).unwrap();
    }
    drop(log);
    std::fs::write(scratch.path("audit.log.keys"), b"").unwrap();
    assert!(matches!(Log::open(Options::at(&scratch.log())), Err(OpenFault::KeyLost { .. })));
}

#[test]
fn a_segment_is_sealed_by_age_only_if_it_has_records() {
    let scratch = Scratch::new();
    let options = Options { segment_age_max: Duration::ZERO, ..Options::at(&scratch.log()) };
    let log = Log::open(options).unwrap().0;
    record(&log, "a", 1).unwrap();
    log.settle();
    let sealed = lines(&scratch.log());
    assert_eq!(log.state().unsealed, Some(0));
    log.settle();
    log.settle();
    assert_eq!(lines(&scratch.log()), sealed);
}

#[test]
fn refused_opens_past_their_ration_are_counted_and_the_sum_is_exact() {
    let scratch = Scratch::new();
    let limits = RefusalLimits { single_burst: 10.0, single_per_second: 0.0, ..RefusalLimits::default() };
    let log = Log::open(Options { refusals: limits, ..Options::at(&scratch.log()) }).unwrap().0;
    let who = Who { uid: 7, pid: Some(1), ..Who::default() };
    let denied =
        Entry { secret: Some("prod/x"), who: Some(&who), ..Entry::new(Operation::Open, Outcome::Denied) };
    let alone = (0..500).filter(|_| log.record_refusal(&denied).unwrap().is_some()).count();
    assert_eq!(alone, 10);
    // A log that cannot be written keeps the counts.
    std::fs::rename(scratch.log(), scratch.path("aside")).unwrap();
    for _ in 0..5 {
        log.refused(&denied);
        log.flush_refusals();
    }
    std::fs::rename(scratch.path("aside"), scratch.log()).unwrap();
    log.flush_refusals();
    let filter = Filter { outcome: Some(Outcome::Denied), ..Filter::default() };
    let mut sum = 0;
    for line in query(&scratch.log(), &filter).unwrap() {
        let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        sum += line.get("count").map_or(1, |count| count.as_u64().unwrap());
    }
    assert_eq!(sum, 505);
}

#[test]
fn refusals_leave_the_last_tenth_of_the_space_alone() {
    let tmpfs = Tmpfs::new("size=1m,mode=0700");
    let path = tmpfs.path("audit.log");
    let log = open(&path);
    std::fs::write(tmpfs.path("ballast"), vec![0; 950_000]).unwrap();
    log.settle();
    let before = std::fs::metadata(&path).unwrap().len();
    let who = Who { uid: 7, ..Who::default() };
    let denied = Entry { who: Some(&who), ..Entry::new(Operation::Open, Outcome::Denied) };
    for _ in 0..1_000 {
        assert!(log.record_refusal(&denied).unwrap().is_none());
        log.refused(&Entry::new(Operation::Stat, Outcome::Hidden));
    }
    log.flush_refusals();
    log.settle();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), before);
    record(&log, "a", 1).unwrap();
    std::fs::remove_file(tmpfs.path("ballast")).unwrap();
    log.settle();
    log.flush_refusals();
    assert_eq!(log.state().refusals_waiting, 0);
}

#[test]
fn in_power_safe_many_recorders_share_the_disk() {
    let scratch = Scratch::new();
    let options = Options {
        durability: Durability::PowerSafe,
        wait_max: Duration::from_secs(20),
        ..Options::at(&scratch.log())
    };
    let log = Arc::new(Log::open(options).unwrap().0);
    let recorders: Vec<_> = (0..8)
        .map(|_| {
            let log = Arc::clone(&log);
            std::thread::spawn(move || (0..50).for_each(|_| assert!(record(&log, "a", 1).is_ok())))
        })
        .collect();
    recorders.into_iter().for_each(|recorder| recorder.join().unwrap());
    assert_eq!(log.state().next_seq, Some(401));
    drop(Arc::into_inner(log).unwrap());
    proven(&scratch.log());
}
