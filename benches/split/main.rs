//! What it costs that keeper and worker are two processes: reads through the pair beside reads through one process that
//! mounts and serves with the same rooms, in one interleaved run. An iteration is open, fstat, read and close.
//!
//! Run as root: `cargo bench --bench split -- [--rounds N] [--assert] [--free]`. All processes share one CPU unless `--free`
//! says otherwise: unpinned, the scheduler puts daemon and client on one CPU or on two, which changes a read by a third and
//! has nothing to do with the split. `--assert` ends with 1 where a read through the pair costs more than 1.05 of one
//! through the single process, or wakes the keeper.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program to measure with"
)]

mod single;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const VALUE_BYTES: usize = 64;
/// How long one of the two runs in one round.
const SLICE: Duration = Duration::from_millis(150);
/// Reads over which wakes are counted.
const COUNTED: u32 = 20_000;
const RATIO_MAX: f64 = 1.05;
/// The keeper looks at its clock twice a second, and hears its worker as often: far below one wake in a thousand reads.
const KEEPER_WAKES_MAX: f64 = 0.001;
const POLICY: &str = "[[grants]]\nto = [\"everyone\"]\nread = [\"**\"]\n";

fn main() -> ExitCode {
    if let Some(code) = credfs::fuse::notifier::run_if_asked(std::env::args_os()) {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some("--serve-single") = arguments.first().map(String::as_str) {
        return single::serve(Path::new(&arguments[1]), Path::new(&arguments[2]));
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if !has("--free") && !has("--pinned") {
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", "0"]).arg(std::env::current_exe().unwrap()).arg("--pinned").args(&arguments);
        let is_good = pinned.status().unwrap().success();
        return if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let rounds = arguments.iter().position(|argument| argument == "--rounds");
    let rounds = rounds.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(61);
    let directory = std::env::temp_dir().join(format!("credfs-split-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let pair = Served::start(&directory.join("pair"), |config, _| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_credfs"));
        command.arg("mount").arg("--config").arg(config);
        command
    });
    let single = Served::start(&directory.join("single"), |config, mount_point| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--serve-single").arg(config).arg(mount_point);
        command
    });
    let is_good = measure(&pair, &single, rounds);
    drop((pair, single));
    std::fs::remove_dir_all(&directory).unwrap();
    if is_good || !has("--assert") { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn measure(pair: &Served, single: &Served, rounds: usize) -> bool {
    let (mut ratios, mut means) = (Vec::new(), [Vec::new(), Vec::new()]);
    for round in 0..rounds {
        let (mut of_pair, mut of_single) = (0.0, 0.0);
        // The second of two is not always the same.
        if round % 2 == 0 {
            of_pair = pair.mean_us();
            of_single = single.mean_us();
        } else {
            of_single += single.mean_us();
            of_pair += pair.mean_us();
        }
        ratios.push(of_pair / of_single);
        means[0].push(of_pair);
        means[1].push(of_single);
    }
    let ratio = median(&mut ratios);
    println!(
        "\n| | median of the mean µs | switches of context for each read: keeper | server |\n|---|---|---|---|"
    );
    let worker = children(pair.daemon.id()).into_iter().find(|pid| is_worker(*pid)).unwrap();
    let helpers: Vec<u32> = children(pair.daemon.id()).into_iter().filter(|pid| *pid != worker).collect();
    let keeper = [vec![pair.daemon.id()], helpers].concat();
    let (of_keeper, of_worker) = pair.switches(&keeper, worker);
    let (_, of_single) = single.switches(&[], single.daemon.id());
    println!("| keeper and worker | {:.2} | {of_keeper:.5} | {of_worker:.2} |", median(&mut means[0]));
    println!("| one process | {:.2} | – | {of_single:.2} |", median(&mut means[1]));
    println!("\nratio, median of {rounds} rounds: {ratio:.3} (to stay within {RATIO_MAX})");
    ratio <= RATIO_MAX && of_keeper <= KEEPER_WAKES_MAX
}

/// A mount with one secret.
struct Served {
    daemon: Child,
    file: PathBuf,
}

impl Served {
    fn start(directory: &Path, command: impl Fn(&Path, &Path) -> Command) -> Self {
        std::fs::create_dir(directory).unwrap();
        let (config, mount_point) = (directory.join("credfs.toml"), directory.join("mnt"));
        let mut init = credfs(&config);
        assert!(init.arg("init").arg("--mount-point").arg(&mount_point).output().unwrap().status.success());
        std::fs::write(directory.join("policy.toml"), POLICY).unwrap();
        let mut put =
            credfs(&config).args(["put", "bench/s", "value"]).stdin(Stdio::piped()).spawn().unwrap();
        put.stdin.take().unwrap().write_all(&[b'x'; VALUE_BYTES]).unwrap();
        assert!(put.wait().unwrap().success());
        let daemon = command(&config, &mount_point).stdin(Stdio::piped()).spawn().unwrap();
        let file = mount_point.join("bench/s/value");
        let until = Instant::now() + Duration::from_secs(20);
        while std::fs::read(&file).is_err() {
            assert!(Instant::now() < until, "{} is not served", file.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { daemon, file }
    }

    fn read(&self) {
        let mut buffer = [0_u8; VALUE_BYTES];
        let mut file = File::open(&self.file).unwrap();
        assert_eq!(file.metadata().unwrap().len(), VALUE_BYTES as u64);
        assert_eq!(file.read(&mut buffer).unwrap(), VALUE_BYTES);
    }

    fn mean_us(&self) -> f64 {
        self.read();
        let (begun, mut count) = (Instant::now(), 0);
        while begun.elapsed() < SLICE {
            self.read();
            count += 1;
        }
        begun.elapsed().as_secs_f64() * 1e6 / f64::from(count)
    }

    /// Switches of context for each read: of these processes together, and of the one that answers.
    fn switches(&self, keeper: &[u32], server: u32) -> (f64, f64) {
        let all = |pids: &[u32]| pids.iter().map(|pid| voluntary_switches(*pid)).sum::<u64>();
        let before = (all(keeper), all(&[server]));
        (0..COUNTED).for_each(|_| self.read());
        let each = |before: u64, after: u64| (after - before) as f64 / f64::from(COUNTED);
        (each(before.0, all(keeper)), each(before.1, all(&[server])))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        Command::new("kill").arg(self.daemon.id().to_string()).status().unwrap();
        self.daemon.wait().unwrap();
    }
}

fn credfs(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_credfs"));
    command.arg("--config").arg(config).stdout(Stdio::null());
    command
}

fn children(parent: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).unwrap().flatten();
    let lists = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

fn is_worker(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == b"worker"))
}

/// How many times the threads of a process have waited so far.
fn voluntary_switches(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks
        .filter_map(|task| {
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?
                .trim()
                .parse::<u64>()
                .ok()
        })
        .sum()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
