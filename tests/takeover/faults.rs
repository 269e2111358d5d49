//! Mount points that are none, and keepers that find something else than they left.

use std::path::Path;
use std::time::Duration;

use credfs::fuse::Introduction;
use credfs::keeper::Session;
use credfs::sys::mount::MountHandle;

use crate::harness::{Instance, Kept, Program, Setup, Tmpfs, wait_until};
use crate::load;
use crate::pair::{POLICY, is_alive, setup, signal, worker_after};

fn mount_refused(instance: &Instance) -> String {
    let done = instance.program(&["mount"]).limit(Duration::from_secs(15)).run();
    assert!(matches!(done.code, Some(1 | 8)), "{:?} {}", done.code, done.err);
    done.err
}

#[test]
fn a_mount_point_that_is_no_empty_directory_is_refused_by_name() {
    let instance = setup().initialised();
    let mount_point = instance.mount_point();
    let place = Path::new(&mount_point);
    std::fs::write(place.join("file"), "x").unwrap();
    assert!(mount_refused(&instance).contains("not empty"));
    std::fs::remove_dir_all(place).unwrap();
    std::fs::write(place, "x").unwrap();
    assert!(mount_refused(&instance).contains("not a directory"));
    std::fs::remove_file(place).unwrap();
    instance.mount();
    assert!(instance.is_mounted(), "one that is missing is made");
}

#[test]
fn another_file_system_at_the_mount_point_is_left_alone() {
    let instance = Setup::policy(POLICY).initialised();
    let tmpfs = Tmpfs::mount("size=1m");
    std::fs::write(tmpfs.path().join("theirs"), "x").unwrap();
    let config = std::fs::read_to_string(instance.config_path()).unwrap();
    let line = config.lines().find(|line| line.starts_with("mount_point")).unwrap();
    let moved = format!("mount_point = \"{}\"", tmpfs.path().display());
    std::fs::write(instance.config_path(), config.replace(line, &moved)).unwrap();
    assert!(mount_refused(&instance).contains("tmpfs"));
    assert!(tmpfs.path().join("theirs").exists());
}

#[test]
fn an_aborted_connection_is_made_good_and_an_unmount_by_others_is_the_end() {
    let instance = setup().start();
    load::fill(&instance);
    let mount_point = instance.mount_point();
    let (_, minor) = numbers_of(&mount_point).unwrap();
    let worker = worker_after(&instance, None);
    credfs::sys::connection::abort(minor).unwrap();
    worker_after(&instance, Some(worker));
    wait_until("it serves again", Duration::from_secs(10), || {
        std::fs::read(instance.path("prod/app/key")).is_ok_and(|bytes| load::is_whole(&bytes))
    });
    Program::of(&["umount", "-l", &mount_point]).run().ok();
    wait_until("it ends", Duration::from_secs(10), || !is_alive(instance.daemon_pid()));
}

/// A keeper as systemd runs it: it is given the descriptors of the one before, and what it stores is kept. The script is
/// the service manager: it prints the name of every descriptor that it is given.
const MANAGER: &str = r#"
import array, fcntl, os, socket, subprocess, sys
kept, program, saved = {}, sys.argv[2:], sys.argv[1]
def sealed(content):
    memory = os.memfd_create("session", os.MFD_ALLOW_SEALING)
    os.write(memory, content)
    fcntl.fcntl(memory, 1033, 15)
    return memory
if saved.startswith("forged:"):
    kept = {"device": os.open("/dev/fuse", os.O_RDWR), "session": sealed(bytes.fromhex(saved[7:]))}
path = os.environ["MANAGER_SOCKET"]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(path)
notify.settimeout(0.05)
def start():
    if saved == "later" and "session" in kept:
        content = os.pread(kept["session"], 4096, 0)
        kept["session"] = sealed(content[:7] + bytes([content[7] + 1]) + content[8:] + b"more")
    names = list(kept)
    environment = dict(os.environ, NOTIFY_SOCKET=path)
    code = "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[1], sys.argv[1:])"
    environment.update(LISTEN_FDS=str(len(names)), LISTEN_FDNAMES=":".join(names))
    high = [fcntl.fcntl(kept[name], fcntl.F_DUPFD, 100) for name in names]
    def place():
        for at, number in enumerate(high):
            os.dup2(number, 3 + at)
    child = subprocess.Popen(["/usr/bin/python3", "-c", code, *program], env=environment, close_fds=False, preexec_fn=place)
    for number in high:
        os.close(number)
    print("started", child.pid, flush=True)
    return child
child = start()
while True:
    if child.poll() is not None:
        if child.returncode == 0:
            break
        print("ended", child.returncode, flush=True)
        import time; time.sleep(0.2)
        child = start()
    try:
        message, ancillary, _, _ = notify.recvmsg(4096, 1024)
    except TimeoutError:
        continue
    words = dict(line.split("=", 1) for line in message.decode().splitlines())
    for level, kind, data in ancillary:
        numbers = array.array("i"); numbers.frombytes(data)
        if words.get("FDSTORE") == "1":
            kept[words["FDNAME"]] = numbers[0]
            print("stored", words["FDNAME"], flush=True)
    if words.get("READY") == "1":
        print("ready", flush=True)
"#;

/// A keeper under the manager above, and a worker that comes to its socket.
struct Service {
    instance: Instance,
    manager: Kept,
    worker: Kept,
}

impl Service {
    fn start(saved: &str) -> Self {
        let instance = setup().initialised();
        load::fill(&instance);
        let manager = manage(&instance, saved);
        let worker = work(&instance);
        let service = Self { instance, manager, worker };
        service.wait_served();
        service
    }

    /// Kills the keeper and waits for the next, which is given what the manager kept.
    fn replace_keeper(&self) {
        let keeper = self.keeper_pid();
        signal(keeper, "KILL");
        wait_until("another keeper", Duration::from_secs(10), || self.keeper_pid() != keeper);
    }

    /// Waits for the end of the worker, whose mount is gone, and starts another.
    fn replace_worker(&mut self) {
        assert!(
            self.worker.wait(Duration::from_secs(10)).is_some(),
            "the worker of a mount that is gone ends"
        );
        self.worker = work(&self.instance);
        self.wait_served();
    }

    fn wait_served(&self) {
        wait_until("it serves", Duration::from_secs(20), || {
            self.instance.program(&["status"]).run().code == Some(0)
        });
    }

    fn keeper_pid(&self) -> u32 {
        let output = self.manager.output();
        let started = output.lines().filter_map(|line| line.strip_prefix("started ")).next_back().unwrap();
        started.parse().unwrap()
    }
}

/// Starts the manager of a keeper.
fn manage(instance: &Instance, saved: &str) -> Kept {
    let (socket, config) = (instance.file("worker.sock"), instance.config_path());
    let program = [env!("CARGO_BIN_EXE_credfs"), "keeper", "--config", &config, "--socket", &socket];
    let words = [&[crate::harness::PYTHON, "-I", "-c", MANAGER, saved][..], &program].concat();
    Program::of(&words)
        .env("MANAGER_SOCKET", instance.file("notify"))
        .keep(&instance.dir().join("manager.out"))
}

fn work(instance: &Instance) -> Kept {
    let socket = instance.file("worker.sock");
    instance.program(&["worker", "--keeper", &socket]).keep(&instance.dir().join("worker.out"))
}

/// The number of the mount at `path`, and its connection.
fn numbers_of(path: &str) -> Option<(u64, u32)> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(path))?;
    let mut words = line.split(' ');
    let id = words.next()?.parse().ok()?;
    Some((id, words.nth(1)?.split(':').nth(1)?.parse().ok()?))
}

impl Drop for Service {
    fn drop(&mut self) {
        let keeper = self.keeper_pid();
        signal(keeper, "TERM");
        let ended = self.manager.wait(Duration::from_secs(15));
        if ended.is_none() {
            self.manager.end();
        }
        if self.worker.wait(Duration::from_secs(5)).is_none() {
            self.worker.end();
        }
        if !std::thread::panicking() {
            assert!(ended.is_some() && !is_alive(keeper), "the keeper ends at SIGTERM");
            assert!(!self.instance.is_mounted());
        }
    }
}

#[test]
fn a_mount_and_its_handles_outlive_their_keeper_where_its_descriptors_are_kept() {
    let service = Service::start("nothing");
    let held = std::fs::File::open(service.instance.path("prod/app/key")).unwrap();
    let worker = service.worker.pid();
    for _ in 0..3 {
        let keeper = service.keeper_pid();
        signal(keeper, "KILL");
        // Served all the while: the worker has the device.
        assert!(load::is_whole(&std::fs::read(service.instance.path("prod/app/key")).unwrap()));
        wait_until("another keeper", Duration::from_secs(10), || service.keeper_pid() != keeper);
        service.wait_served();
        let mut bytes = vec![0; 64];
        let count = std::os::unix::fs::FileExt::read_at(&held, &mut bytes, 0).unwrap();
        assert!(load::is_whole(&bytes[..count]));
        wait_until("the worker has found it", Duration::from_secs(10), || {
            let status = service.instance.program(&["status", "--json"]).run();
            status.code == Some(0) && status.json()["keeper_pid"] == service.keeper_pid()
        });
    }
    assert!(is_alive(worker), "the same worker serves");
}

/// A saved session of the mount that is at `path` now.
fn session_of(path: &str) -> String {
    let (id, minor) = numbers_of(path).unwrap();
    let session = Session {
        introduction: Introduction::from_numbers((7, 41, u64::MAX)),
        handle: MountHandle { mount_point: path.into(), minor, id },
    };
    session.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_session_saved_by_a_later_version_gives_way_to_a_fresh_mount() {
    let mut service = Service::start("later");
    let path = service.instance.path("prod/app/key");
    let held = std::fs::File::open(&path).unwrap();
    let before = numbers_of(&service.instance.mount_point()).unwrap();
    service.replace_keeper();
    service.replace_worker();
    assert!(service.manager.output().contains("written by another version"), "{}", service.manager.output());
    assert_ne!(numbers_of(&service.instance.mount_point()).unwrap(), before, "a fresh mount");
    assert!(load::is_whole(&std::fs::read(&path).unwrap()));
    // Of the mount that is gone: an error and no hang.
    assert!(std::os::unix::fs::FileExt::read_at(&held, &mut [0; 64], 0).is_err());
}

#[test]
fn a_device_that_died_between_two_keepers_gives_way_to_a_fresh_mount() {
    let mut service = Service::start("nothing");
    let keeper = service.keeper_pid();
    signal(keeper, "STOP");
    let (_, minor) = numbers_of(&service.instance.mount_point()).unwrap();
    credfs::sys::connection::abort(minor).unwrap();
    service.replace_keeper();
    service.replace_worker();
    assert!(service.manager.output().contains("the kept mount is dead"), "{}", service.manager.output());
    assert!(load::is_whole(&std::fs::read(service.instance.path("prod/app/key")).unwrap()));
}

#[test]
fn a_saved_session_whose_device_is_dead_takes_no_mount_of_others_away() {
    let theirs = setup().start();
    load::fill(&theirs);
    // Numbers of mounts are used again: the session that was saved names, by chance, what is there now.
    let ours = setup().initialised();
    let config = std::fs::read_to_string(ours.config_path()).unwrap();
    let moved = config.replace(&ours.mount_point(), &theirs.mount_point());
    std::fs::write(ours.config_path(), moved).unwrap();
    let mut manager = manage(&ours, &format!("forged:{}", session_of(&theirs.mount_point())));
    wait_until("it is refused", Duration::from_secs(10), || manager.output().contains("already served"));
    manager.end();
    assert!(load::is_whole(&std::fs::read(theirs.path("prod/app/key")).unwrap()), "theirs is served on");
    assert!(is_alive(theirs.daemon_pid()));
}
