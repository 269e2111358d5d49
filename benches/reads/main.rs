//! What one read of a 64-byte secret costs, beside its baselines, in one interleaved run.
//!
//! An iteration is open, fstat, read and close of 64 bytes, or what stands for it with an HTTP agent. Targets are run
//! in turn, forwards and backwards, so that a noisy moment of the machine hits all of them; the ratios are the figures to
//! trust. Run as root: `cargo bench --bench reads -- [--assert] [--full] [--only-baselines] [--rounds N]`. It prints
//! Markdown; `--assert` ends with 1 where a promise is broken, `--full` adds who-read over a million records.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program to measure with"
)]

mod agent;
mod bare_fuse;
mod consumers;
mod instance;
mod judge;
mod kernel;
mod measure;
mod targets;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// What the command line asked for.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    assert: bool,
    full: bool,
    only_baselines: bool,
    rounds: usize,
    pinned: bool,
}

/// How long one target runs in one round.
const SLICE: Duration = Duration::from_millis(150);
const VALUE_BYTES: usize = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--serve-echo") => return targets::serve_echo(),
        Some("--serve-agent") => return agent::serve(),
        Some("--serve-bare-fuse") => {
            return bare_fuse::serve(Path::new(&arguments[1]), arguments[2].parse().unwrap());
        }
        _ => {}
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let rounds = arguments.iter().position(|argument| argument == "--rounds");
    let plan = Plan {
        assert: has("--assert"),
        full: has("--full"),
        only_baselines: has("--only-baselines"),
        rounds: rounds.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(11),
        pinned: has("--pinned"),
    };
    assert!(std::fs::read("/proc/self/loginuid").is_ok() && is_root(), "run as root: it mounts file systems");
    if !plan.pinned && !has("--free") {
        return both(&arguments);
    }
    run(&plan)
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

/// Everything twice: all processes on one CPU, where only the number of switches counts, and as the scheduler likes.
fn both(arguments: &[String]) -> ExitCode {
    let program = std::env::current_exe().unwrap();
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", "0"]).arg(&program).arg("--pinned").args(arguments);
    let mut free = Command::new(&program);
    free.arg("--free").args(arguments);
    let good = [pinned, free].map(|mut pass| pass.status().unwrap().success());
    if good == [true, true] { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A directory for one run; what is mounted in it is taken away with it.
pub(crate) struct Workplace(PathBuf);

impl Workplace {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("credfs-bench-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn directory(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        for entry in credfs::sys::mountinfo::mounts().unwrap().iter().rev() {
            if entry.mount_point.starts_with(&self.0) {
                Command::new("umount").arg("-l").arg(&entry.mount_point).status().unwrap();
            }
        }
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn run(plan: &Plan) -> ExitCode {
    let workplace = Workplace::new();
    let kernel = kernel::Tap::new(&workplace);
    let tmpfs = workplace.directory("tmpfs");
    assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&tmpfs).status().unwrap().success());
    std::fs::write(tmpfs.join("value"), [b'x'; VALUE_BYTES]).unwrap();
    let agent = agent::start();
    let bare = bare_fuse::start(&workplace.directory("bare"), 1);
    let two = bare_fuse::start(&workplace.directory("two"), 2);
    let mut targets = vec![
        targets::file("tmpfs", tmpfs.join("value"), None),
        targets::ping_pong(),
        targets::http("HTTP agent, keep-alive", agent.port, true, agent.server.pid()),
        targets::http("HTTP agent, fresh connection", agent.port, false, agent.server.pid()),
        targets::file("bare FUSE, one loop", bare.mount_point.join("dir/value"), Some(bare.server.pid())),
        targets::file("bare FUSE, two loops", two.mount_point.join("dir/value"), Some(two.server.pid())),
    ];
    let instance = if plan.only_baselines { None } else { Some(instance::start(&workplace)) };
    match &instance {
        Some(Ok(instance)) => {
            targets.push(targets::file("credfs, uid + unit", instance.by_unit(0), Some(instance.pid())));
            targets.push(targets::file("credfs, uid + unit + exe", instance.by_exe(), Some(instance.pid())));
        }
        Some(Err(why)) => eprintln!("credfs could not be measured: {why}"),
        None => {}
    }

    let rows = measure::interleaved(&targets, plan.rounds, SLICE, &kernel);
    println!("\n## {}\n", if plan.pinned { "All on one CPU" } else { "Unpinned" });
    print!("{}", measure::table(&rows));
    let mut verdict = judge::Verdict::default();
    judge::rows(plan, &rows, &mut verdict);
    if plan.pinned {
        return verdict.print(plan);
    }
    let file = match &instance {
        Some(Ok(instance)) => instance.by_unit(0),
        _ => bare.mount_point.join("dir/value"),
    };
    consumers::python(&file, agent.port, &mut verdict);
    match &instance {
        Some(Ok(instance)) => consumers::upkeep(plan, instance, &mut verdict),
        Some(Err(why)) => verdict.must("credfs serves", false, why.clone()),
        None => {}
    }
    verdict.print(plan)
}
