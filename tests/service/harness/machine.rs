//! A Debian system with systemd as its first process, booted in a container and gone with the test.
//!
//! It runs `systemd-nspawn` in mount, network and cgroup namespaces of its own: nothing is registered anywhere, no port of
//! the host is bound, and its /dev/fuse is its own node, whose mode the guest's udev rules may change.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{Done, Packages, Program, wait_until};

const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// How long one command in the machine may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// The host's own view of cgroups stays as it is: a hybrid host's hierarchy would boot the guest in a hybrid one.
const BOOT: &str = r#"
    umount -R -l /sys/fs/cgroup || true
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir -p /sys/fs/cgroup/$NAME
    echo $$ >/sys/fs/cgroup/$NAME/cgroup.procs
    ip link set lo up
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 exec systemd-nspawn --quiet --register=no --keep-unit --machine=$NAME \
        --directory=$ROOT --volatile=overlay --bind=$SCRATCH/fuse:/dev/fuse --bind=/dev/autofs --link-journal=no \
        --resolv-conf=off --timezone=off --bind-ro=$DEBS:/debs --bind-ro=$TOOLS:/tools --bind-ro=$BAO:/usr/local/bin/bao --capability=all \
        --system-call-filter="bpf @keyring perf_event_open" --boot
"#;

/// A machine that has booted.
pub(crate) struct Machine {
    name: String,
    scratch: PathBuf,
    container: Child,
    /// The guest's first process, by the host's number.
    init: u32,
}

impl Machine {
    /// Boots an empty Debian.
    #[track_caller]
    pub(crate) fn boot() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = root();
        let packages = Packages::built();
        let name = format!("credfs-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let scratch = PathBuf::from(format!("/tmp/{name}"));
        std::fs::create_dir(&scratch).expect("a fresh directory");
        let node = scratch.join("fuse");
        Program::of(&["mknod", "-m", "666", node.to_str().expect("UTF-8"), "c", "10", "229"]).run().ok();
        let console = std::fs::File::create(scratch.join("console")).expect("a file of ours");
        let container = Command::new("unshare")
            .args(["--mount", "--net", "--propagation", "private", "bash", "-euc", BOOT])
            .env("NAME", &name)
            .env("ROOT", root)
            .env("SCRATCH", &scratch)
            .env("DEBS", &packages.directory)
            .env("BAO", server())
            .env("TOOLS", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/service"))
            .stdin(Stdio::null())
            .stdout(console.try_clone().expect("a descriptor"))
            .stderr(console)
            .spawn()
            .expect("unshare: run tests/run, which installs what is missing");
        let mut machine = Self { name, scratch, container, init: 0 };
        wait_until("the machine has a first process", BOOT_LIMIT, || {
            assert!(machine.is_running(), "the machine ended: {}", machine.console());
            machine.init = machine.find_init().unwrap_or(0);
            machine.init != 0
        });
        wait_until("the machine is up", BOOT_LIMIT, || {
            let state = machine.run(&["systemctl", "is-system-running"]).text();
            // "degraded": a unit of Debian's has failed, which no test here is about.
            ["running", "degraded"].contains(&state.as_str())
        });
        machine
    }

    /// Boots a Debian and installs the package; it serves then.
    #[track_caller]
    pub(crate) fn installed() -> Self {
        let machine = Self::boot();
        machine.install(&Packages::built().first);
        machine.serves();
        machine
    }

    #[track_caller]
    pub(crate) fn install(&self, package: &str) -> Done {
        self.run(&["dpkg", "-i", &format!("/debs/{package}")]).ok()
    }

    /// Waits until the instance serves.
    #[track_caller]
    pub(crate) fn serves(&self) -> Duration {
        let begun = std::time::Instant::now();
        while self.run(&["credfs", "status"]).code != Some(0) {
            if begun.elapsed() > Duration::from_secs(20) {
                let said = self
                    .sh("systemctl status --no-pager -l credfs credfs-keeper; journalctl --no-pager -n 60");
                panic!("credfs does not serve:\n{}", said.text());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        begun.elapsed()
    }

    /// Runs a command in the machine, in no unit of it.
    #[track_caller]
    pub(crate) fn run(&self, words: &[&str]) -> Done {
        self.program(words).run()
    }

    pub(crate) fn program(&self, words: &[&str]) -> Program {
        let init = self.init.to_string();
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Program::of(&["nsenter", "-t", &init, "-a", "--wd=/", "--"])
            .args(words)
            .env("PATH", path)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .limit(COMMAND_LIMIT)
    }

    /// Runs a line of shell in the machine.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> Done {
        self.run(&["bash", "-uc", script])
    }

    /// Runs a command in a unit of its own, with these properties, and waits for its end.
    #[track_caller]
    pub(crate) fn in_unit(&self, unit: &str, properties: &[&str], words: &[&str]) -> Done {
        let unit = format!("--unit={unit}");
        let mut all =
            vec!["systemd-run", "--quiet", "--collect", "--pipe", "--wait", "--service-type=simple", &unit];
        for property in properties {
            all.extend(["-p", property]);
        }
        all.extend(words);
        self.run(&all)
    }

    /// Writes a file in the machine, readable by everyone.
    #[track_caller]
    pub(crate) fn write(&self, path: &str, text: &str) {
        self.program(&["bash", "-c", "cat >\"$1\"", "write", path]).input(text).run().ok();
    }

    /// Stores a version of a secret.
    #[track_caller]
    pub(crate) fn put(&self, secret: &str, field: &str, value: impl Into<Vec<u8>>) {
        self.program(&["credfs", "put", secret, field]).input(value).run().ok();
    }

    /// Replaces the policy and puts it in force.
    #[track_caller]
    pub(crate) fn policy(&self, text: &str) {
        self.write("/etc/credfs/policy.toml", text);
        self.run(&["systemctl", "reload", "credfs"]).ok();
    }

    /// A property of a unit.
    #[track_caller]
    pub(crate) fn property(&self, unit: &str, name: &str) -> String {
        self.run(&["systemctl", "show", "-P", name, unit]).ok().text()
    }

    /// The main process of a unit, as the guest numbers it.
    #[track_caller]
    pub(crate) fn main_pid(&self, unit: &str) -> u32 {
        self.property(unit, "MainPID").parse().expect("a number")
    }

    /// What is mounted at a path, by the mounts of the guest's first process.
    pub(crate) fn kind_at(&self, path: &str) -> Option<String> {
        let mounts = self.run(&["cat", "/proc/1/mountinfo"]).text();
        let line = mounts.lines().rev().find(|line| line.split(' ').nth(4) == Some(path))?;
        Some(line.split(" - ").nth(1)?.split(' ').next()?.to_owned())
    }

    pub(crate) fn journal(&self, unit: &str) -> String {
        self.run(&["journalctl", "--no-pager", "-o", "cat", "-u", unit]).text()
    }

    fn is_running(&mut self) -> bool {
        self.container.try_wait().is_ok_and(|ended| ended.is_none())
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.scratch.join("console")).unwrap_or_default()).into_owned()
    }

    /// The child of nspawn that has become systemd.
    fn find_init(&self) -> Option<u32> {
        let outer = self.container.id();
        let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "systemd")
        })
    }

    /// Where the host sees the machine's cgroup.
    fn cgroup(&self) -> Option<PathBuf> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let hierarchy = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?;
        Some(Path::new(hierarchy).join(&self.name))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.init != 0 {
            let said = self.sh(
                "journalctl --no-pager -n 120 -o short-monotonic; systemctl list-jobs --no-pager; ps axf -o pid,stat,wchan:20,args",
            );
            eprintln!("the machine said:\n{}", said.text());
        }
        // Killing nspawn alone would leave its children running.
        if let Some(cgroup) = self.cgroup() {
            drop(std::fs::write(cgroup.join("cgroup.kill"), "1"));
            drop(self.container.kill());
            drop(self.container.wait());
            for _ in 0..100 {
                let remove =
                    ["find", cgroup.to_str().unwrap_or("/nowhere"), "-depth", "-type", "d", "-delete"];
                drop(Command::new(remove[0]).args(&remove[1..]).stderr(Stdio::null()).status());
                if !cgroup.exists() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        drop(self.container.kill());
        drop(self.container.wait());
        drop(std::fs::remove_dir_all(&self.scratch));
    }
}

/// The OpenBao that machines have beside credfs.
fn server() -> &'static str {
    static SERVER: OnceLock<String> = OnceLock::new();
    SERVER.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vault/server");
        Program::new(script).limit(Duration::from_secs(1_200)).run().ok().text()
    })
}

/// The Debian system that all machines boot.
fn root() -> &'static str {
    static ROOT: OnceLock<String> = OnceLock::new();
    ROOT.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/service/root");
        let suite = std::env::var("CREDFS_TEST_SUITE").unwrap_or_else(|_| "bookworm".to_owned());
        Program::new(script).args([suite]).limit(Duration::from_secs(900)).run().ok().text()
    })
}
