//! The machine never suffers: what is started ends, what is killed is replaced, what is wrong is said.

use std::io::Read;
use std::time::Duration;

use crate::harness::{ALICE, Asker, BOB, Instance, Kept, Program, Setup, wait_until};

fn started() -> Instance {
    let instance = Instance::start();
    instance.put("prod/db", &[("password", b"hunter2")]);
    instance
}

#[test]
fn sigterm_and_sigint_unmount_and_end_with_success() {
    let instance = started();
    for signal in ["TERM", "INT"] {
        assert!(instance.is_mounted());
        let status = instance.end_with(signal);
        assert!(status.success(), "{signal}: {status}");
        assert!(!instance.is_mounted(), "{signal}");
        instance.command(&["status"]).ended_with(1);
        instance.mount();
        assert_eq!(Asker::uid(ALICE).read(&instance.path("prod/db/password")), "read hunter2");
    }
    let records = instance.records();
    assert_eq!((records.all("start", "done").len(), records.all("stop", "done").len()), (3, 2));
}

#[test]
fn sigterm_ends_it_though_a_file_is_held_open() {
    let instance = started();
    let log = instance.dir().join("holder.out");
    let script = "import os, sys, time\nfd = os.open(sys.argv[1], os.O_RDONLY)\nprint('open', flush=True)\ntime.sleep(60)";
    let words = [crate::harness::PYTHON, "-I", "-c", script, &instance.path("prod/db/password")];
    let mut holder: Kept = Asker::uid(ALICE).program(&words).keep(&log);
    wait_until("the file is open", Duration::from_secs(5), || holder.output().contains("open"));
    let begun = std::time::Instant::now();
    assert!(instance.end_with("TERM").success());
    assert!(begun.elapsed() < Duration::from_secs(8), "took {:?}", begun.elapsed());
    assert!(!instance.is_mounted());
    assert!(holder.is_running(), "nobody is killed for it");
    holder.end();
}

#[test]
fn a_stale_mount_left_by_kill_9_is_replaced_at_the_next_start() {
    let instance = Setup::default().warnings_expected().start();
    instance.put("prod/db", &[("password", b"hunter2")]);
    let path = instance.path("prod/db/password");
    for _ in 0..3 {
        assert_eq!(Asker::uid(ALICE).read(&path), "read hunter2");
        let status = instance.end_with("KILL");
        assert!(!status.success());
        instance.command(&["status", "--json"]).ended_with(1);
        instance.mount();
        assert_eq!(Asker::uid(ALICE).read(&path), "read hunter2");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        assert_eq!(
            mounts.matches(&format!(" {} ", instance.mount_point())).count(),
            1,
            "replaced, not covered"
        );
    }
    let verdict = instance.command(&["audit", "verify", "--json"]).ok().json();
    assert_eq!(verdict["ok"], true, "{verdict}");
}

#[test]
fn a_second_instance_on_the_same_mount_point_is_refused_and_the_first_goes_on() {
    let instance = started();
    let second = instance.program(&["mount"]).limit(Duration::from_secs(10)).run();
    assert!([Some(1), Some(8)].contains(&second.code), "{:?} {}", second.code, second.err);
    assert!(second.err.contains("already") || second.err.contains("running"), "{}", second.err);
    assert_eq!(Asker::uid(ALICE).read(&instance.path("prod/db/password")), "read hunter2");
    let other = Setup::default().initialised();
    let mount_point = instance.mount_point();
    let config = other.config_path();
    let text = std::fs::read_to_string(&config).expect("a configuration");
    let line =
        text.lines().find(|line| line.trim_start().starts_with("mount_point")).expect("the key").to_owned();
    std::fs::write(&config, text.replace(&line, &format!("mount_point = \"{mount_point}\"")))
        .expect("written");
    let refused = other.program(&["mount"]).limit(Duration::from_secs(10)).run();
    assert!([Some(1), Some(8)].contains(&refused.code), "{:?} {}", refused.code, refused.err);
    assert_eq!(Asker::uid(ALICE).read(&instance.path("prod/db/password")), "read hunter2");
}

#[test]
fn status_tells_of_mount_stores_and_version() {
    let instance = started();
    let status = instance.command(&["status", "--json"]).ok().json();
    assert_eq!(status["mount_point"], instance.mount_point());
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["stores"][0]["name"], "main");
    assert!(status["worker_pid"].as_u64().is_some() && status["state"].is_string(), "{status}");
}

#[test]
fn every_fault_of_config_and_policy_is_named_with_file_and_line_at_once() {
    let instance = Setup::default().set("unknown_key", true).initialised();
    let config = std::fs::read_to_string(instance.config_path()).expect("the configuration");
    let at = 1 + config.lines().position(|line| line.starts_with("unknown_key")).expect("the key");
    instance.write_policy(
        "[identities.a]\nuid = 1\nuidd = 2\n[[grants]]\nto = [\"b\"]\nread = [\"prod/../x\"]\n",
    );
    let done = instance.command(&["check"]).ended_with(7);
    let said = format!("{}{}", done.text(), done.err);
    let policy = instance.configured_file("policy.paths").display().to_string();
    let config = instance.config_path();
    for place in
        [format!("{config}:{at}"), format!("{policy}:3"), format!("{policy}:5"), format!("{policy}:6")]
    {
        assert!(said.contains(&place), "{place} in:\n{said}");
    }
    instance.command(&["mount"]).ended_with(7);
    assert!(!instance.is_mounted());
}

#[test]
fn lax_owner_or_mode_is_refused_by_name() {
    use std::os::unix::fs::PermissionsExt as _;
    let instance = Setup::default().initialised();
    for key in ["policy.paths", "stores.main.key_file", "stores.main.path"] {
        let file = instance.configured_file(key);
        let mode = std::fs::metadata(&file).expect("it exists").permissions();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).expect("chmod");
        let done = instance.program(&["mount"]).limit(Duration::from_secs(10)).run().ended_with(7);
        assert!(done.err.contains(&file.display().to_string()), "{key}: {}", done.err);
        std::fs::set_permissions(&file, mode).expect("chmod");
    }
    instance.mount();
}

#[test]
fn a_faulty_policy_leaves_the_old_one_in_force() {
    let instance = Setup::default().warnings_expected().start();
    instance.put("prod/db", &[("password", b"hunter2")]);
    instance.write_policy("[[grants]]\nto = [\"nobody-defined\"]\nread = [\"**\"]\n");
    let done = instance.command(&["reload"]).ended_with(7);
    assert!(done.err.contains("nobody-defined") || done.err.contains(":2"), "{}", done.err);
    assert_eq!(Asker::uid(ALICE).read(&instance.path("prod/db/password")), "read hunter2");
}

#[test]
fn bad_names_and_values_on_the_command_line_are_refused_and_change_nothing() {
    let instance = started();
    let long = "x".repeat(300);
    for path in ["../etc", "prod/../x", "prod//x", "", "prod/line\nbreak", &long] {
        let done = instance.command_with(&["put", path, "field"], "value");
        assert!(matches!(done.code, Some(1 | 2)), "{path:?}: {:?} {}", done.code, done.err);
        assert!(!done.err.is_empty());
    }
    let in_argument = instance.command(&["put", "prod/db", "password=hunter3-in-argument"]).ended_with(2);
    assert!(
        in_argument.err.contains("FIELD=-") || in_argument.err.contains("standard input"),
        "{}",
        in_argument.err
    );
    assert!(!in_argument.err.contains("hunter3"), "the value is not repeated: {}", in_argument.err);
    assert_eq!(Asker::uid(ALICE).read(&instance.path("prod/db/password")), "read hunter2");
    instance.command(&["get", "prod/nothing", "x"]).ended_with(3);
    instance.command(&["no-such-verb"]).ended_with(2);
    let again = instance.command(&["init", "--mount-point", &instance.mount_point()]).ended_with(8);
    assert!(!again.err.is_empty());
}

/// Opens a file so often and holds it, says how far it came, and reads all of it through each at a word.
const HOLD: &str = "
import errno, os, resource, sys
path, count = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, count + 100))
held = []
try:
    for _ in range(count):
        held.append(os.open(path, os.O_RDONLY))
    refused = '-'
except OSError as error:
    refused = errno.errorcode[error.errno]
whole = sum(os.pread(fd, 100, 0) == b'hunter2' for fd in held)
print(len(held), refused, whole, flush=True)
";

#[test]
fn ten_thousand_open_files_are_all_served_and_those_past_the_limit_are_refused() {
    let instance = Setup::default().set("limits.handles_max", 10_000).start();
    instance.put("prod/db", &[("password", b"hunter2")]);
    let path = instance.path("prod/db/password");
    let hold = |count: &str| {
        let setup = format!("ulimit -n 20000 && exec {} -I -c \"$@\"", crate::harness::PYTHON);
        let words = ["/bin/sh", "-c", &setup, "sh", HOLD, &path, count];
        let limited = ["prlimit", "--nofile=20000:20000"].into_iter().chain(words).collect::<Vec<_>>();
        let mut all = limited;
        let uid = ["setpriv", "--reuid", "24001", "--regid", "24001", "--clear-groups"];
        all.splice(2..2, uid);
        Program::of(&all).limit(Duration::from_secs(120)).run().ok().text()
    };
    assert_eq!(hold("10000"), "10000 - 10000");
    wait_until("they are closed", Duration::from_secs(10), || {
        instance.command(&["status", "--json"]).ok().json()["open_files"] == 0
    });
    assert_eq!(hold("10050"), "10000 EAGAIN 10000", "over a limit is EAGAIN, and what is open goes on");
    let refused = instance.records();
    assert_eq!(refused.last("open", "over_limit").number("uid"), Some(u64::from(ALICE)));
    assert_eq!(Asker::uid(ALICE).read(&path), "read hunter2", "and afterwards there is room");
}

#[test]
fn a_daemon_with_few_descriptors_serves_more_callers_than_it_can_keep_and_recovers() {
    let instance = Setup::default().initialised();
    instance.put("prod/db", &[("password", b"hunter2")]);
    let config = instance.config_path();
    // Fewer than the callers below: for each thread that asks the daemon would like to keep a descriptor.
    let words = ["prlimit", "--nofile=64:64", env!("CARGO_BIN_EXE_credfs"), "--config", &config, "mount"];
    instance.serve_with(Program::of(&words).keep(&instance.dir().join("daemon.err")));
    let path = instance.path("prod/db/password");
    let script = "
import os, sys, threading
path, count = sys.argv[1], int(sys.argv[2])
barrier = threading.Barrier(count)
got = []
def act():
    for _ in range(5):
        barrier.wait()
        try:
            with open(path) as file:
                got.append(file.read())
        except OSError as error:
            got.append(str(error))
threads = [threading.Thread(target=act) for _ in range(count)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(got), sorted(set(got)))
";
    let text = Asker::uid(ALICE).python(script, &[&path, "200"]);
    assert_eq!(text, "1000 ['hunter2']", "who asks is found out for every one");
    assert_eq!(Asker::uid(BOB).read(&path), "EACCES");
    let records = instance.records();
    assert_eq!(records.released(), 1000);
    let with_process =
        records.all("open", "released").iter().filter(|record| record.number("pid").is_some()).count();
    assert_eq!(with_process, 1000, "each caller was identified");
    // Commands over the socket still find a descriptor, and the log can still be rotated.
    instance.put("prod/db", &[("password", b"hunter3")]);
    instance.command(&["audit", "rotate"]).ok();
    instance.command(&["reload"]).ok();
    assert_eq!(Asker::uid(ALICE).read(&path), "read hunter3");
    assert_eq!(instance.command(&["audit", "verify", "--json"]).ok().json()["ok"], true);
}

#[test]
fn an_ordinary_user_may_administer_nothing() {
    let instance = started();
    let (alice, bob) = (Asker::uid(ALICE), Asker::uid(BOB));
    for words in [
        &["put", "prod/db", "password"][..],
        &["rollback", "prod/db"],
        &["revoke", "prod/db", "--version", "1"],
        &["delete", "prod/db"],
        &["reload"],
        &["get", "prod/db", "password"],
        &["backup", "/tmp/credfs-test-backup-of-alice"],
    ] {
        let asker = if words[0] == "get" { &bob } else { &alice };
        let done = instance.program_as(asker, words).input("new").run();
        assert!(!matches!(done.code, Some(0 | 101) | None), "{words:?}: {:?} {}", done.code, done.text());
    }
    assert_eq!(alice.read(&instance.path("prod/db/password")), "read hunter2");
    assert_eq!(
        instance.command(&["versions", "prod/db", "--json"]).ok().json().as_array().map(Vec::len),
        Some(1)
    );
}

/// `credfs dev`, as `asker` in a mount namespace of its own; and where it mounted.
///
/// In that namespace /dev/fuse is open to everyone, as udev makes it where udev runs.
fn dev(asker: &Asker, instance: &Instance) -> (Kept, String) {
    let mount_point = instance.file("dev");
    std::fs::create_dir(&mount_point).expect("a mount point");
    std::os::unix::fs::chown(&mount_point, Some(asker.uid_number()), None).expect("its owner");
    let device = instance.file("fuse");
    let (fuse, open) =
        (Program::of(&["mknod", &device, "c", "10", "229"]), Program::of(&["chmod", "666", &device]));
    fuse.run().ok();
    open.run().ok();
    let enter = format!("mount --bind {device} /dev/fuse && exec \"$@\"");
    let mut words = ["unshare", "--mount", "sh", "-c", &enter, "sh"].map(str::to_owned).to_vec();
    words.extend(asker.words(&[env!("CARGO_BIN_EXE_credfs"), "dev", "--mount-point", &mount_point]));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut running = Program::of(&words).keep(&instance.dir().join("dev.out"));
    wait_until("dev mounts", Duration::from_secs(10), || {
        assert!(running.is_running(), "{}", running.output());
        is_mounted_for(&running, &mount_point) && running.output().contains("5  ")
    });
    (running, mount_point)
}

fn is_mounted_for(running: &Kept, mount_point: &str) -> bool {
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", running.pid())).unwrap_or_default();
    mounts.contains(&format!(" {mount_point} "))
}

/// What `asker` sees in the namespace of `running`.
fn within(running: &Kept, asker: &Asker, words: &[&str]) -> crate::harness::Done {
    let mut all = vec!["nsenter".to_owned(), format!("--mount=/proc/{}/ns/mnt", running.pid())];
    all.extend(asker.words(words));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    Program::of(&all).run()
}

fn first_sample(running: &Kept, asker: &Asker, mount_point: &str) -> String {
    let found = within(running, asker, &["find", mount_point, "-type", "f", "-size", "+0"]).ok().text();
    found.lines().next().expect("a sample").to_owned()
}

/// Ends it as Ctrl-C does; what it leaves behind among temporary files.
fn interrupted(mut running: Kept, before: &[String]) -> Vec<String> {
    running.signal("INT");
    let status = running.wait(Duration::from_secs(10)).expect("it ends");
    assert!(status.success(), "{status}\n{}", running.output());
    temporary_files().into_iter().filter(|file| !before.contains(file)).collect()
}

#[test]
fn dev_as_root_serves_every_user_and_leaves_nothing_behind() {
    let instance = Setup::default().initialised();
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let before = temporary_files();
    let (running, mount_point) = dev(&Asker::root(), &instance);
    for uid in [0, ALICE] {
        let asker = Asker::uid(uid);
        let sample = first_sample(&running, &asker, &mount_point);
        assert!(!within(&running, &asker, &["cat", &sample]).ok().out.is_empty(), "uid {uid}");
    }
    assert!(running.output().contains("cat "), "it prints what to try: {}", running.output());
    assert_eq!(interrupted(running, &before), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(&mount_point).map_or(0, Iterator::count), 0);
}

/// One throw-away instance at a time: each test looks for what its own has left behind.
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// What lies in the places where a throw-away instance could leave something, other tests' own aside.
fn temporary_files() -> Vec<String> {
    let mut found = Vec::new();
    for place in ["/tmp", "/run", "/dev/shm", "/var/tmp"] {
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            let path = entry.path().display().to_string();
            if path.contains("credfs") && !path.contains("credfs-test") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn dev_as_a_plain_user_serves_that_user_by_fusermount3() {
    // An account that exists on every Debian: fusermount3 asks for the name of the user.
    const WWW_DATA: u32 = 33;
    let instance = Setup::default().initialised();
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let before = temporary_files();
    let user = Asker::uid(WWW_DATA);
    let (running, mount_point) = dev(&user, &instance);
    let sample = first_sample(&running, &user, &mount_point);
    assert!(!within(&running, &user, &["cat", &sample]).ok().out.is_empty());
    use std::os::unix::fs::MetadataExt as _;
    let environment = std::fs::metadata(format!("/proc/{}/environ", running.pid())).expect("it runs");
    assert_eq!(
        environment.uid(),
        0,
        "not even he may look into it: what is not dumpable is root's (proc(5))"
    );
    for other in [Asker::uid(ALICE), Asker::root()] {
        assert_ne!(within(&running, &other, &["cat", &sample]).code, Some(0), "nobody else");
    }
    assert_eq!(interrupted(running, &before), Vec::<String>::new());
}

#[test]
fn the_daemon_is_not_dumpable_and_makes_no_core() {
    let instance = Setup::default().initialised();
    // Whatever it was started with.
    let config = instance.config_path();
    let words = ["prlimit", "--core=unlimited", env!("CARGO_BIN_EXE_credfs"), "--config", &config, "mount"];
    instance.serve_with(Program::of(&words).keep(&instance.dir().join("daemon.err")));
    let pid = instance.worker_pid();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("the line");
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let mut environ = Vec::new();
    std::fs::File::open(format!("/proc/{pid}/environ"))
        .and_then(|mut file| file.read_to_end(&mut environ))
        .expect("root may read it");
    let peek = format!("cat /proc/{pid}/maps /proc/{pid}/environ");
    let refused = Program::of(&[
        "setpriv",
        "--reuid",
        "24001",
        "--clear-groups",
        "--regid",
        "24001",
        "sh",
        "-c",
        &peek,
    ])
    .run();
    assert_ne!(refused.code, Some(0));
}
