//! A real credfs: the built program, `init`, `put` and `mount`, with a policy by uid and unit, and one rule that
//! also names an executable. This is the only file here that knows the command line and the formats.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{VALUE_BYTES, Workplace};

/// Secrets in the store.
pub(crate) const SECRETS: usize = 1000;
const READY_MAX: Duration = Duration::from_secs(10);
const UNIT: &str = "credfs-bench.service";

/// A serving instance.
pub(crate) struct Instance {
    config: PathBuf,
    mount_point: PathBuf,
    daemon: Child,
    _cgroup: Cgroup,
}

/// Makes and starts one, or says why that could not be.
pub(crate) fn start(workplace: &Workplace) -> Result<Instance, String> {
    let directory = workplace.directory("instance");
    let config = directory.join("credfs.toml");
    let mount_point = workplace.directory("credfs");
    let cgroup = Cgroup::enter()?;
    run(
        Command::new(program())
            .arg("init")
            .arg("--config")
            .arg(&config)
            .arg("--mount-point")
            .arg(&mount_point),
        b"",
    )?;
    write_policy(&config)?;
    for at in 0..SECRETS {
        put(&config, &format!("bench/s{at}"))?;
    }
    put(&config, "guarded/s0")?;
    let mut command = Command::new(program());
    command.arg("mount").arg("--config").arg(&config);
    let daemon =
        command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().map_err(|error| error.to_string())?;
    let instance = Instance { config, mount_point, daemon, _cgroup: cgroup };
    let started = Instant::now();
    while run(Command::new(program()).args(["status", "--config"]).arg(&instance.config), b"").is_err() {
        if started.elapsed() > READY_MAX {
            return Err("it did not become ready (credfs status)".to_owned());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::read(instance.by_unit(0)).map_err(|error| format!("reading the first secret: {error}"))?;
    std::fs::read(instance.by_exe()).map_err(|error| format!("reading the one guarded by exe: {error}"))?;
    Ok(instance)
}

fn program() -> &'static str {
    env!("CARGO_BIN_EXE_credfs")
}

fn run(command: &mut Command, input: &[u8]) -> Result<Vec<u8>, String> {
    let shown = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{shown}: {error}"))?;
    let mut stdin = child.stdin.take().unwrap();
    // Those that read nothing may have closed it.
    stdin.write_all(input).ok();
    drop(stdin);
    let output = child.wait_with_output().map_err(|error| format!("{shown}: {error}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!("{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

fn put(config: &Path, secret: &str) -> Result<(), String> {
    let mut command = Command::new(program());
    command.args(["put", secret, "value", "--config"]).arg(config);
    run(&mut command, &[b'x'; VALUE_BYTES]).map(drop)
}

/// Writes over the first policy file that the configuration names.
fn write_policy(config: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(config).map_err(|error| format!("{}: {error}", config.display()))?;
    let table: toml::Table = text.parse().map_err(|error| format!("{}: {error}", config.display()))?;
    let first = table.get("policy").and_then(|policy| policy.get("paths")?.get(0)?.as_str());
    let path = config.with_file_name("x").parent().unwrap().join(first.ok_or("init wrote no policy.paths")?);
    let this = std::env::current_exe().unwrap();
    let this = toml::Value::from(this.to_str().unwrap());
    let policy = format!(
        "[identities.bench]\nuid = [0]\nunit = [\"{UNIT}\"]\n\n\
         [identities.guarded]\nuid = [0]\nunit = [\"{UNIT}\"]\nexe = [{this}]\n\n\
         [[grants]]\nto = [\"bench\"]\nread = [\"bench/**\"]\n\n\
         [[grants]]\nto = [\"guarded\"]\nread = [\"guarded/**\"]\n\n\
         [[grants]]\nto = [\"everyone\"]\nlist = [\"bench/**\", \"guarded/**\"]\n"
    );
    // In place, so that owner and mode stay as `init` chose them.
    std::fs::write(&path, policy).map_err(|error| format!("{}: {error}", path.display()))
}

impl Instance {
    /// A secret that a rule by uid and unit grants.
    pub(crate) fn by_unit(&self, at: usize) -> PathBuf {
        self.mount_point.join(format!("bench/s{at}/value"))
    }

    /// The secret that a rule with an executable grants.
    pub(crate) fn by_exe(&self) -> PathBuf {
        self.mount_point.join("guarded/s0/value")
    }

    /// The process started here: the keeper, whose child the worker is.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// The process that answers the kernel, as `status` names it.
    pub(crate) fn worker_pid(&self) -> u32 {
        let mut command = Command::new(program());
        let status = run(command.args(["status", "--json", "--config"]).arg(&self.config), b"").unwrap();
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
        status["worker_pid"]
            .as_u64()
            .and_then(|pid| u32::try_from(pid).ok())
            .expect("status names the worker")
    }

    /// The directory that the store lies in.
    pub(crate) fn directory(&self) -> &Path {
        self.config.parent().unwrap()
    }

    /// How long `put` of a new version takes, as the caller sees it.
    pub(crate) fn put_takes(&self) -> Duration {
        let started = Instant::now();
        put(&self.config, "bench/s1").unwrap();
        started.elapsed()
    }

    /// How long `who-read` takes, and how many records it found.
    pub(crate) fn who_read_takes(&self, at: usize) -> (Duration, usize) {
        let started = Instant::now();
        let mut command = Command::new(program());
        command.args(["who-read", &format!("bench/s{at}"), "--json", "--config"]).arg(&self.config);
        let output = run(&mut command, b"").unwrap();
        let taken = started.elapsed();
        let records: Vec<serde_json::Value> = serde_json::from_slice(&output).unwrap();
        (taken, records.len())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let terminated = Command::new("kill").arg(self.pid().to_string()).status();
        if !terminated.is_ok_and(|status| status.success()) {
            self.daemon.kill().ok();
        }
        self.daemon.wait().ok();
    }
}

/// A unit's cgroup that this process, and so all its children, lives in for the run.
struct Cgroup {
    path: PathBuf,
    before: PathBuf,
}

impl Cgroup {
    fn enter() -> Result<Self, String> {
        let mounts = credfs::sys::mountinfo::mounts().map_err(|error| error.to_string())?;
        let root = mounts.into_iter().find(|entry| entry.kind == "cgroup2").ok_or("no cgroup2 is mounted")?;
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
        let path = root.mount_point.join("system.slice").join(UNIT);
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let cgroup = Self { path, before: root.mount_point.join(own) };
        enter(&cgroup.path).map_err(|error| format!("{}: {error}", cgroup.path.display()))?;
        Ok(cgroup)
    }
}

fn enter(cgroup: &Path) -> std::io::Result<()> {
    std::fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        enter(&self.before).ok();
        // It stays only where another run is in it.
        std::fs::remove_dir(&self.path).ok();
    }
}
