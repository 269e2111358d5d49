//! The interleaved run, and the table that comes of it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::kernel::{self, Tap};
use crate::targets::Target;

/// Client threads that each target is measured with.
pub(crate) const THREADS: [usize; 2] = [1, 4];
/// Iterations over which requests and CPU time are counted.
const COUNTED: usize = 1000;

/// One target with one number of threads.
pub(crate) struct Row {
    /// The target's name.
    pub(crate) name: &'static str,
    /// Client threads.
    pub(crate) threads: usize,
    /// Half, 99 % and 99.9 % of the iterations took less, in microseconds.
    pub(crate) quantiles_us: [f64; 3],
    /// The median over all rounds of the mean time of an iteration against tmpfs's in the same round.
    pub(crate) to_tmpfs: f64,
    /// The same of the median time, against ping-pong.
    pub(crate) to_ping_pong: f64,
    /// Requests for each iteration, by kind, without RELEASE and FORGET, which nobody waits for.
    pub(crate) requests: BTreeMap<String, f64>,
    /// CPU time of the server for each iteration, in microseconds.
    pub(crate) server_us: Option<f64>,
}

impl Row {
    /// Round trips that an iteration waits for.
    pub(crate) fn round_trips(&self) -> f64 {
        self.requests.values().sum()
    }
}

struct Round {
    mean_ns: f64,
    median_ns: f64,
}

/// Runs every target in turn, forwards and then backwards, as many times as asked.
pub(crate) fn interleaved(targets: &[Target], rounds: usize, slice: Duration, tap: &Tap) -> Vec<Row> {
    let mut rows = Vec::new();
    for threads in THREADS {
        let mut samples: Vec<Vec<u32>> = targets.iter().map(|_| Vec::new()).collect();
        let mut series: Vec<Vec<Round>> = targets.iter().map(|_| Vec::new()).collect();
        for round in 0..rounds {
            let forwards = 0..targets.len();
            let order: Vec<_> = if round % 2 == 0 { forwards.collect() } else { forwards.rev().collect() };
            for at in order {
                let mut taken = one_slice(&targets[at], threads, slice);
                taken.sort_unstable();
                let mean_ns = taken.iter().map(|ns| f64::from(*ns)).sum::<f64>() / taken.len() as f64;
                series[at].push(Round { mean_ns, median_ns: quantile(&taken, 0.5) });
                samples[at].extend(taken);
            }
        }
        for (at, target) in targets.iter().enumerate() {
            samples[at].sort_unstable();
            let against = |other: usize, of: fn(&Round) -> f64| {
                median(series[at].iter().zip(&series[other]).map(|(one, two)| of(one) / of(two)).collect())
            };
            rows.push(Row {
                name: target.name,
                threads,
                quantiles_us: [0.5, 0.99, 0.999].map(|part| quantile(&samples[at], part) / 1000.0),
                to_tmpfs: against(0, |round| round.mean_ns),
                to_ping_pong: against(1, |round| round.median_ns),
                requests: requests(target, tap),
                server_us: target.server.map(|server| server_us(target, server)),
            });
        }
    }
    rows
}

fn one_slice(target: &Target, threads: usize, slice: Duration) -> Vec<u32> {
    let ready = Barrier::new(threads);
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..threads)
            .map(|_| {
                let mut iteration = target.client();
                let ready = &ready;
                scope.spawn(move || {
                    iteration();
                    ready.wait();
                    let mut taken = Vec::with_capacity(1 << 15);
                    let end = Instant::now() + slice;
                    let mut before = Instant::now();
                    while before < end {
                        iteration();
                        let after = Instant::now();
                        taken.push(u32::try_from((after - before).as_nanos()).unwrap_or(u32::MAX));
                        before = after;
                    }
                    taken
                })
            })
            .collect();
        for client in clients {
            all.extend(client.join().unwrap());
        }
    });
    all
}

fn requests(target: &Target, tap: &Tap) -> BTreeMap<String, f64> {
    let Some(path) = target.path.as_ref().filter(|_| target.server.is_some()) else { return BTreeMap::new() };
    let mut iteration = target.client();
    iteration();
    let counts = tap.requests(path, || (0..COUNTED).for_each(|_| iteration()));
    let waited_for = |kind: &String| !matches!(kind.as_str(), "RELEASE" | "FORGET" | "BATCH");
    let each = |(kind, count)| (kind, count as f64 / COUNTED as f64);
    counts.into_iter().filter(|(kind, _)| waited_for(kind)).map(each).collect()
}

fn server_us(target: &Target, server: u32) -> f64 {
    let mut iteration = target.client();
    iteration();
    let before = kernel::cpu_ns(server);
    (0..COUNTED).for_each(|_| iteration());
    (kernel::cpu_ns(server) - before) as f64 / COUNTED as f64 / 1000.0
}

fn quantile(sorted: &[u32], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((last * part).round() as usize).map_or(f64::NAN, |ns| f64::from(*ns))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// As Markdown.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| target | threads | p50 µs | p99 µs | p999 µs | × tmpfs (mean) | × ping-pong (p50) | requests | server CPU µs |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let [p50, p99, p999] = row.quantiles_us;
        let kinds: Vec<_> = row.requests.iter().map(|(kind, each)| format!("{kind} {each:.2}")).collect();
        let kinds = if kinds.is_empty() { "–".to_owned() } else { kinds.join(", ") };
        let server = row.server_us.map_or("–".to_owned(), |us| format!("{us:.1}"));
        let (name, threads) = (row.name, row.threads);
        let (tmpfs, ping_pong) = (row.to_tmpfs, row.to_ping_pong);
        writeln!(
            text,
            "| {name} | {threads} | {p50:.1} | {p99:.0} | {p999:.0} | {tmpfs:.1} | {ping_pong:.1} | {kinds} | {server} |"
        )
        .unwrap();
    }
    text
}
