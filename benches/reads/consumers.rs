//! What users of the reads feel: a Python program, memory after many reads, `who-read` and `put`.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::instance::{Instance, SECRETS};
use crate::judge::Verdict;
use crate::kernel;

const READS: usize = 100_000;
const RECORDS: usize = 1_000_000;

/// Half of the reads of each kind took less, in microseconds; taken in turn, a block each.
const SCRIPT: &str = r#"
import http.client, statistics, sys, time
path, port = sys.argv[1], int(sys.argv[2])
kept = http.client.HTTPConnection("127.0.0.1", port)
def by_file():
    with open(path, "rb") as file:
        return file.read()
def by_http():
    kept.request("GET", "/v1/bench")
    return kept.getresponse().read()
taken = {by_file: [], by_http: []}
for block in range(20):
    for way in (by_file, by_http) if block % 2 else (by_http, by_file):
        for _ in range(250):
            before = time.perf_counter_ns()
            assert len(way()) == 64
            taken[way].append(time.perf_counter_ns() - before)
print(statistics.median(taken[by_file]) / 1000, statistics.median(taken[by_http]) / 1000)
"#;

/// `open().read()` beside `http.client` with keep-alive.
pub(crate) fn python(file: &Path, port: u16, verdict: &mut Verdict) {
    let mut command = Command::new("/usr/bin/python3");
    let output = command.args(["-c", SCRIPT]).arg(file).arg(port.to_string()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let figures: Vec<f64> = text.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
    let shown = format!("{:.1} µs against {:.1} µs", figures[0], figures[1]);
    verdict.must("Python `open().read()` ≤ `http.client` keep-alive (p50)", figures[0] <= figures[1], shown);
}

/// Memory, `put`, and with `--full` `who-read`.
pub(crate) fn upkeep(plan: &Plan, instance: &Instance, verdict: &mut Verdict) {
    for read in 0..READS {
        std::fs::read(instance.by_unit(read % SECRETS)).unwrap();
    }
    let (resident_kib, together_kib) = kernel::memory_kib(instance.worker_pid(), instance.pid());
    let mb = |kib: u64| kib as f64 * 1024.0 / 1e6;
    let shown = format!(
        "{:.1} MB; all its processes, shared pages once: {:.1} MB",
        mb(resident_kib),
        mb(together_kib)
    );
    verdict.must("RSS ≤ 12 MB after 10^5 reads over 1,000 secrets", resident_kib * 1024 <= 12_000_000, shown);

    let put = median(20, || instance.put_takes());
    let fsync = median(20, || bare_fsync(instance.directory()));
    let shown = format!("{:.2} ms, one bare fsync {:.2} ms", ms(put), ms(fsync));
    // The rest is the start of a process and sealing.
    verdict.must("`put` ≤ two fsyncs + 10 ms", put <= fsync * 2 + Duration::from_millis(10), shown);
    if plan.full {
        who_read(instance, verdict);
    }
}

fn who_read(instance: &Instance, verdict: &mut Verdict) {
    for read in 0..RECORDS - READS {
        std::fs::read(instance.by_unit(read % SECRETS)).unwrap();
    }
    let (_, found) = instance.who_read_takes(7);
    let taken = median(5, || instance.who_read_takes(7).0);
    let shown = format!("{:.0} ms, {found} records found", ms(taken));
    verdict.must("`who-read` over 10^6 records ≤ 300 ms", taken <= Duration::from_millis(300), shown);
}

fn bare_fsync(directory: &Path) -> Duration {
    let path = directory.join("fsync-probe");
    let mut file = File::create(&path).unwrap();
    file.write_all(&[0; 4096]).unwrap();
    let started = Instant::now();
    file.sync_all().unwrap();
    let taken = started.elapsed();
    std::fs::remove_file(path).unwrap();
    taken
}

fn median(times: usize, mut measure: impl FnMut() -> Duration) -> Duration {
    let mut taken: Vec<_> = (0..times).map(|_| measure()).collect();
    taken.sort();
    taken[times / 2]
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
