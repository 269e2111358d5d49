//! A sink that does not come back, as a file of a stuck server does.
use super::log::Shared;
use super::sink::{FileSink, Found, Sink};
use std::time::{Duration, Instant};

use super::testing::{Scratch, record};
use super::*;
use parking_lot::{Condvar, Mutex};
use std::fs::File;
use std::io;
use std::sync::Arc;

#[derive(Default)]
struct Gate {
    is_shut: Mutex<bool>,
    changed: Condvar,
    reached: Condvar,
}

struct Stuck(FileSink, Arc<Gate>);

impl Sink for Stuck {
    fn look(&mut self) -> io::Result<Found> {
        self.0.look()
    }
    fn append(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut is_shut = self.1.is_shut.lock();
        self.1.reached.notify_all();
        while *is_shut {
            self.1.changed.wait(&mut is_shut);
        }
        self.0.append(line)
    }
    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.0.cut(bytes)
    }
    fn tail(&self, end: u64, count: usize) -> io::Result<Vec<u8>> {
        self.0.tail(end, count)
    }
    fn adopt(&mut self, bytes: u64, tail: &dyn Fn(&[u8]) -> bool, count: usize) -> io::Result<bool> {
        self.0.adopt(bytes, tail, count)
    }
    fn file(&self) -> Arc<File> {
        self.0.file()
    }
}

#[test]
fn a_sink_that_blocks_holds_up_one_caller_and_nobody_else() {
    let scratch = Scratch::new();
    let options = Options::at(&scratch.log());
    let mut ready = super::open::open(&options).unwrap();
    let file = crate::sys::file::open_existing(&scratch.log(), crate::sys::file::Access::Append).unwrap();
    let gate = Arc::new(Gate::default());
    let sink = FileSink::new(&scratch.log(), file).unwrap();
    ready.writer.sink = Box::new(Stuck(sink, Arc::clone(&gate)));
    let log = Log::start(Shared::new(options, ready.writer, ready.keys, None)).unwrap();
    let log = Arc::new(log);
    record(&log, "a", 1).unwrap();

    let mut is_shut = gate.is_shut.lock();
    *is_shut = true;
    let stuck = std::thread::spawn({
        let log = Arc::clone(&log);
        move || record(&log, "a", 1)
    });
    gate.reached.wait(&mut is_shut);
    drop(is_shut);
    let begun = Instant::now();
    assert_eq!(record(&log, "a", 1), Err(NotRecorded::Blocked));
    assert!(begun.elapsed() < Duration::from_millis(200), "the first waits a little: {:?}", begun.elapsed());
    while log.state().health != Health::Failing(NotRecorded::Blocked) {
        std::thread::yield_now();
    }
    let begun = Instant::now();
    for _ in 0..1_000 {
        assert_eq!(record(&log, "a", 1), Err(NotRecorded::Blocked));
    }
    assert!(begun.elapsed() < Duration::from_millis(200), "the others do not wait: {:?}", begun.elapsed());

    *gate.is_shut.lock() = false;
    gate.changed.notify_all();
    assert_eq!(stuck.join().unwrap(), Ok(2), "the write that ended late left its record");
    assert_eq!(record(&log, "a", 1).unwrap(), 3);
    assert_eq!(log.state().health, Health::Recording);
    drop(Arc::into_inner(log).unwrap());
    assert!(verify(&scratch.log(), None).unwrap().ok);
}
