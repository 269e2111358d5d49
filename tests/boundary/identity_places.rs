//! Where a caller stands (unit, container, pid namespace) and which executable it runs.

use std::path::Path;

use crate::harness::{ALICE, Asker, BOB, Cgroup, Instance, PYTHON, Program, Setup, wait_until};

/// What a test's own unit is called, so that tests can run side by side.
fn unit(name: &str) -> String {
    format!("credfs-test-{}-{name}.service", std::process::id())
}

/// Alice may list; reading takes `condition` too.
fn policy(condition: &str) -> String {
    format!(
        "[identities.alice]\nuid = 24001\n\
         [identities.service]\nuid = 24001\n{condition}\n\
         [[grants]]\nto = [\"alice\"]\nlist = [\"prod/**\"]\n\
         [[grants]]\nto = [\"service\"]\nread = [\"prod/**\"]\n"
    )
}

fn start(condition: &str) -> Instance {
    let instance = Setup::policy(&policy(condition)).start();
    instance.put("prod/db", &[("password", b"hunter2\nsecond line\n")]);
    instance
}

/// Copies bash by another process: a descriptor that this one has open for writing would be inherited by whatever
/// another test starts just then, and a file that is open for writing cannot be run (ETXTBSY).
fn copy_bash(to: &str) {
    let copied = std::process::Command::new("cp").args(["/bin/bash", to]).status().expect("cp runs");
    assert!(copied.success(), "a copy");
}

#[test]
fn a_unit_is_taken_from_the_whole_cgroup_path() {
    let unit = unit("whole");
    let instance = start(&format!("unit = \"{unit}\""));
    let path = instance.path("prod/db/password");
    let in_cgroup = |at: &str| {
        let cgroup = Cgroup::make(at);
        Asker::uid(ALICE).in_cgroup(&cgroup).read(&path)
    };
    let user = "user.slice/user-24001.slice/user@24001.service";
    let good = "read hunter2\nsecond line";
    assert_eq!(in_cgroup(&format!("system.slice/{unit}")), good);
    assert_eq!(instance.records().last("open", "released").text("unit"), unit);
    assert_eq!(
        in_cgroup(&format!("system.slice/{unit}/worker")),
        good,
        "a cgroup that the unit made for itself"
    );
    for look_alike in [
        format!("{user}/app.slice/{unit}"),
        format!("{user}/{unit}"),
        format!("user.slice/user-24001.slice/session-1.scope/{unit}"),
        format!("system.slice/credfs-test-evil-{}.service/{unit}", std::process::id()),
        format!("system.slice/credfs-test-evil-{}.service/system.slice/{unit}", std::process::id()),
    ] {
        assert_eq!(in_cgroup(&look_alike), "EACCES", "{look_alike}");
        assert_eq!(instance.records().last("open", "denied").number("uid"), Some(u64::from(ALICE)));
    }
    assert_eq!(instance.records().released(), 2);
}

#[test]
fn a_move_to_another_cgroup_is_seen_by_the_next_open_and_read() {
    let (home, away) = (unit("home"), unit("away"));
    let instance = start(&format!("unit = \"{home}\""));
    let home = Cgroup::make(&format!("system.slice/{home}"));
    let away = Cgroup::make(&format!("system.slice/{away}"));
    let script = "
import os, sys, errno
path = sys.argv[1]
def attempt(act):
    try:
        return 'read ' + act().decode().split()[0]
    except OSError as error:
        return errno.errorcode[error.errno]
def opened():
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)
def move(procs):
    os.seteuid(0)
    with open(procs, 'w') as file:
        file.write('0')
    os.seteuid(24001)
os.setgroups([]); os.setresgid(24001, 24001, 24001)
move(sys.argv[3])
print(attempt(opened))
move(sys.argv[2])
fd = os.open(path, os.O_RDONLY)
print(attempt(lambda: os.pread(fd, 100, 0)))
move(sys.argv[3])
print(attempt(opened))
print(attempt(lambda: os.pread(fd, 100, 0)))
move(sys.argv[2])
print(attempt(opened))
print(attempt(lambda: os.pread(fd, 100, 0)))
";
    let text =
        Asker::root().python(script, &[&instance.path("prod/db/password"), &home.procs(), &away.procs()]);
    assert_eq!(text, "EACCES\nread hunter2\nEACCES\nEACCES\nread hunter2\nread hunter2");
    let records = instance.records();
    assert!(records.last("read", "denied").text("unit").contains("away"), "recorded where it stood");
    assert_eq!(records.released(), 2);
}

#[test]
fn a_reader_who_moved_to_another_unit_is_recorded_as_what_he_became() {
    let (home, other) = (unit("first"), unit("second"));
    let instance = start(&format!("unit = [\"{home}\", \"{other}\"]"));
    let home = Cgroup::make(&format!("system.slice/{home}"));
    let other_place = Cgroup::make(&format!("system.slice/{other}"));
    let script = "
import os, sys
path, first, second = sys.argv[1:]
def move(procs):
    os.seteuid(0)
    with open(procs, 'w') as file:
        file.write('0')
    os.seteuid(24001)
os.setgroups([]); os.setresgid(24001, 24001, 24001)
move(first)
fd = os.open(path, os.O_RDONLY)
os.pread(fd, 100, 0)
move(second)
print(os.pread(fd, 7, 0).decode(), os.pread(fd, 7, 0).decode())
";
    let path = instance.path("prod/db/password");
    assert_eq!(
        Asker::root().python(script, &[&path, &home.procs(), &other_place.procs()]),
        "hunter2 hunter2"
    );
    let records = instance.records();
    assert_eq!(records.released(), 1);
    let reads = records.all("read", "released");
    assert_eq!(reads.len(), 1, "once, by the same process from its new place: {reads:#?}");
    assert_eq!(reads[0].text("unit"), other);
}

#[test]
fn a_container_is_known_by_the_id_in_its_cgroup_path() {
    let id: String =
        (0..64).map(|at| char::from_digit((at * 7 + std::process::id()) % 16, 16).expect("hex")).collect();
    let other: String = id.chars().rev().collect();
    let instance = start(&format!("container = \"{}\"", &id[..12]));
    let path = instance.path("prod/db/password");
    let inside = |id: &str| {
        let cgroup = Cgroup::make(&format!("system.slice/docker-{id}.scope"));
        Asker::uid(ALICE).in_cgroup(&cgroup).read(&path)
    };
    assert_eq!(inside(&id), "read hunter2\nsecond line");
    assert_eq!(instance.records().last("open", "released").text("container"), id);
    assert_eq!(inside(&other), "EACCES");
}

/// A shell that reads files by itself, under a name and an inode of its own.
fn copy_of_bash(instance: &Instance, name: &str) -> String {
    let path = instance.file(name);
    copy_bash(&path);
    path
}

/// An instance whose rule names the executable `actor`.
fn start_with_actor(rule: &str) -> (Instance, String) {
    let instance = Setup::default().initialised();
    let actor = copy_of_bash(&instance, "orders");
    instance.write_policy(&policy(&rule.replace("ACTOR", &actor).replace("SHA256", &sha256_of(&actor))));
    instance.mount();
    instance.put("prod/db", &[("password", b"hunter2\nsecond line\n")]);
    (instance, actor)
}

fn sha256_of(path: &str) -> String {
    let text = Program::of(&["sha256sum", path]).run().ok().text();
    text.split(' ').next().expect("a digest").to_owned()
}

const READ_A_LINE: &str = "read -r line < \"$0\" && echo \"read $line\"";

#[track_caller]
fn reads(asker: &Asker, words: &[&str]) -> bool {
    let done = asker.run(words);
    let got = done.text().contains("read hunter2");
    let refused = done.err.contains("Permission denied") || done.err.contains("No such file");
    assert!(got != refused, "{}: {} {}", done.shown, done.text(), done.err);
    got
}

#[test]
fn an_executable_is_known_by_its_inode_and_not_by_its_text() {
    let (instance, actor) = start_with_actor("exe = \"ACTOR\"");
    let path = instance.path("prod/db/password");
    let alice = Asker::uid(ALICE);
    assert!(reads(&alice, &[&actor, "-c", READ_A_LINE, &path]));
    let records = instance.records();
    let record = records.last("open", "released");
    assert_eq!(record.text("exe"), actor);
    assert!(record.text("exe_id").contains(':'), "{record:?}");
    let copy = format!("{actor} (deleted)");
    copy_bash(&copy);
    assert!(!reads(&alice, &[&copy, "-c", READ_A_LINE, &path]), "the kernel's suffix as a name");
    assert!(!reads(&alice, &["/bin/bash", "-c", READ_A_LINE, &path]), "the same bytes elsewhere");
    assert!(
        !reads(&Asker::uid(BOB), &[&actor, "-c", READ_A_LINE, &path]),
        "the right program, the wrong user"
    );
}

#[test]
fn an_executable_bind_mounted_over_the_allowed_path_in_a_user_namespace_is_refused() {
    let (instance, actor) = start_with_actor("exe = \"ACTOR\"");
    let path = instance.path("prod/db/password");
    let alice = Asker::uid(ALICE);
    assert!(reads(&alice, &[&actor, "-c", READ_A_LINE, &path]));
    let inside = format!("readlink /proc/$$/exe; {READ_A_LINE}");
    let spoof = format!("mount --bind /bin/bash {actor} && exec {actor} -c '{inside}' {path}");
    let done = alice.run(&["unshare", "-Urm", "/bin/sh", "-c", &spoof]);
    assert_eq!(done.text(), actor, "the kernel's text says the allowed path");
    assert!(done.err.contains("Permission denied"), "{} {}", done.text(), done.err);
    assert!(!done.text().contains("hunter2"));
    let records = instance.records();
    assert_eq!(records.last("open", "denied").number("uid"), Some(u64::from(ALICE)));
}

#[test]
fn an_exec_after_an_allowed_read_is_decided_for_the_new_program() {
    let (instance, actor) = start_with_actor("exe = \"ACTOR\"");
    let path = instance.path("prod/db/password");
    let alice = Asker::uid(ALICE);
    let handed_on = "exec 3< \"$0\"; read -r line <&3; echo \"read $line\"; exec /bin/cat <&3";
    let done = alice.run(&[&actor, "-c", handed_on, &path]);
    assert_eq!(done.text(), "read hunter2", "cat got nothing: {}", done.err);
    assert!(done.err.contains("Permission denied"), "{}", done.err);
    let opened = "read -r line < \"$0\"; echo \"read $line\"; exec /bin/cat \"$0\"";
    let done = alice.run(&[&actor, "-c", opened, &path]);
    assert_eq!(done.text(), "read hunter2");
    assert!(done.err.contains("Permission denied"), "{}", done.err);
    let records = instance.records();
    let (read, open) = (records.last("read", "denied"), records.last("open", "denied"));
    assert!(read.0.get("opener").is_some(), "{read:?}");
    let before = records.last("open", "released");
    assert_eq!(open.number("pid"), before.number("pid"), "one process, two programs");
}

#[test]
fn an_exec_after_a_denied_read_is_decided_for_the_new_program() {
    let (instance, actor) = start_with_actor("exe = \"ACTOR\"");
    let path = instance.path("prod/db/password");
    let script = format!("read -r line < \"$0\"; exec {actor} -c '{READ_A_LINE}' \"$0\"");
    let done = Asker::uid(ALICE).run(&["/bin/bash", "-c", &script, &path]);
    assert!(done.err.contains("Permission denied"), "{}", done.err);
    assert_eq!(done.text(), "read hunter2");
    let records = instance.records();
    let (denied, released) = (records.last("open", "denied"), records.last("open", "released"));
    assert_eq!(denied.number("pid"), released.number("pid"));
}

/// Reads the first file as the program it is, then becomes bash and reads it twice more, while a process that shares its
/// memory lives on: that one is a thread's vfork(2), and says its number.
const EXEC_WITH_MEMORY_KEPT: &str = "
import ctypes, os, sys, threading, time
path, clone, vm, vfork, chld = sys.argv[1], 56, 0x100, 0x4000, 17
fd = os.open(path, os.O_RDONLY)
os.write(1, b'read ' + os.read(fd, 7) + b'\\n')
def share():
    if ctypes.CDLL(None).syscall(clone, vm | vfork | chld, 0, 0, 0, 0) == 0:
        os.write(1, b'keeper %d\\n' % os.getpid())
        os.closerange(0, 100)
        while True: time.sleep(1)
threading.Thread(target=share, daemon=True).start()
time.sleep(0.3)
script = 'exec 2>&1; read -r line < \"$0\"; sleep 1.2; read -r line < \"$0\" && echo late $line; read -r line <&9 && echo kept $line'
os.dup2(fd, 9)
os.execv('/bin/bash', ['bash', '-c', script, path])
";

#[test]
#[cfg(target_arch = "x86_64")]
fn an_exec_is_seen_within_a_second_where_somebody_keeps_the_memory_of_the_program_before() {
    let instance = Setup::default().initialised();
    let actor = instance.file("orders");
    Program::of(&["cp", "-L", PYTHON, &actor]).run().ok();
    instance.write_policy(&policy(&format!("exe = \"{actor}\"")));
    instance.mount();
    instance.put("prod/db", &[("password", b"hunter2\nsecond line\n")]);
    let path = instance.path("prod/db/password");
    let done = Asker::uid(ALICE).run(&[&actor, "-I", "-c", EXEC_WITH_MEMORY_KEPT, &path]);
    let text = done.text();
    let keeper = text.lines().find_map(|line| line.strip_prefix("keeper ")).expect("memory is shared");
    Program::of(&["kill", "-9", keeper]).run().ok();
    assert!(text.starts_with("read hunter2"), "{text} {}", done.err);
    assert_eq!(text.matches("Permission denied").count(), 2, "{text}");
    assert!(!text.contains("late") && !text.contains("kept"), "{text}");
}

#[test]
fn a_replaced_executable_is_refused_where_the_rule_names_a_digest() {
    let (instance, actor) = start_with_actor("exe = \"ACTOR\"\nsha256 = \"SHA256\"");
    let path = instance.path("prod/db/password");
    let alice = Asker::uid(ALICE);
    let expected = sha256_of(&actor);
    assert!(reads(&alice, &[&actor, "-c", READ_A_LINE, &path]));
    assert_eq!(instance.records().last("open", "released").text("exe_sha256"), expected);
    let other = instance.file("orders.new");
    let mut bytes = std::fs::read("/bin/bash").expect("bash");
    bytes.extend_from_slice(b"one more byte");
    copy_bash(&other);
    std::fs::write(&other, bytes).expect("another program");
    std::fs::rename(&other, &actor).expect("an upgrade");
    assert!(!reads(&alice, &[&actor, "-c", READ_A_LINE, &path]), "other bytes at the allowed path");
}

#[test]
fn a_process_that_runs_the_replaced_executable_goes_on_and_a_deleted_look_alike_does_not() {
    let (instance, actor) = start_with_actor("exe = \"ACTOR\"");
    let path = instance.path("prod/db/password");
    let go = instance.file("go");
    Program::of(&["mkfifo", "-m", "0666", &go]).run().ok();
    let waiting = format!("{READ_A_LINE}; read -r < {go}; {READ_A_LINE}");
    let log = instance.dir().join("old.out");
    let mut old = Asker::uid(ALICE).program(&[&actor, "-c", &waiting, &path]).keep(&log);
    let limit = std::time::Duration::from_secs(5);
    wait_until("the old program reads", limit, || old.output().contains("read hunter2"));
    let fresh = instance.file("orders.new");
    copy_bash(&fresh);
    std::fs::rename(&fresh, &actor).expect("an upgrade");
    assert!(reads(&Asker::uid(ALICE), &[&actor, "-c", READ_A_LINE, &path]), "the new program at the path");
    std::fs::write(&go, "go\n").expect("the old program waits");
    old.wait(limit).expect("it ends");
    assert_eq!(old.output(), "read hunter2\nread hunter2\n", "the upgrade cut nobody off");
    // Its path says "orders.gone (deleted)", and it never was at the allowed path.
    let gone = copy_of_bash(&instance, "orders.gone");
    assert!(!reads_after_removal(&instance, &gone));
}

/// A shell with so many bytes behind its own that reading all of them takes a while, and its digest.
fn large_bash(instance: &Instance, name: &str, bytes: u64) -> String {
    let path = copy_of_bash(instance, name);
    // No two alike.
    Program::of(&["/bin/sh", "-c", &format!("echo {name} >> {path} && truncate -s {bytes} {path}")])
        .run()
        .ok();
    path
}

/// Opens, reads and closes until the file `end` is there; the longest time that took, in milliseconds, and how often.
const LONGEST: &str = "
import os, sys, time
path, end = sys.argv[1], sys.argv[2]
longest, count = 0, 0
while not os.path.exists(end):
    begun = time.monotonic()
    with open(path, 'rb') as file:
        file.read()
    longest = max(longest, time.monotonic() - begun)
    count += 1
print(longest * 1000, count, flush=True)
";

#[test]
fn a_large_executable_known_by_digest_is_read_while_nobody_else_waits() {
    const BYTES: u64 = 120 << 20;
    let instance = Setup::default().warnings_expected().initialised();
    let large: Vec<String> = (0..6).map(|at| large_bash(&instance, &format!("large-{at}"), BYTES)).collect();
    let digest = sha256_of(&large[0]);
    let policy = format!(
        "[identities.bob]\nuid = 24002\n[identities.large]\nuid = 24001\nsha256 = \"{digest}\"\n\
         [[grants]]\nto = [\"bob\"]\nread = [\"bobs/**\"]\n\
         [[grants]]\nto = [\"large\"]\nread = [\"prod/**\"]\n"
    );
    instance.write_policy(&policy);
    instance.mount();
    instance.put("prod/db", &[("password", b"hunter2\n")]);
    instance.put("bobs/db", &[("password", b"hunter3\n")]);
    let end = instance.file("end");
    let words = [PYTHON, "-I", "-c", LONGEST, &instance.path("bobs/db/password"), &end];
    let mut other = Asker::uid(BOB).program(&words).keep(&instance.dir().join("other.out"));
    std::thread::sleep(std::time::Duration::from_millis(300));
    // All of them at once, each another file: the uid may have no more than its share read at a time.
    let path = instance.path("prod/db/password");
    let begun = std::time::Instant::now();
    let got: Vec<bool> = std::thread::scope(|scope| {
        let path = &path;
        let ask = |executable| {
            scope.spawn(move || reads(&Asker::uid(ALICE), &[executable, "-c", READ_A_LINE, path]))
        };
        let asking: Vec<_> = large.iter().map(|executable| ask(executable.as_str())).collect();
        asking.into_iter().map(|asking| asking.join().expect("an answer")).collect()
    });
    let took_ms = begun.elapsed().as_secs_f64() * 1000.0;
    std::fs::write(&end, "").expect("the end");
    other.wait(std::time::Duration::from_secs(10)).expect("it ends");
    let output = other.output();
    let words: Vec<f64> = output.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    println!(
        "six of 120 MiB in {took_ms:.0} ms; another reader waited {:.0} ms at most, of {} reads",
        words[0], words[1]
    );
    assert!(got[1..].iter().all(|got| !got), "other bytes: {got:?}");
    assert!(
        reads(&Asker::uid(ALICE), &[&large[0], "-c", READ_A_LINE, &path]),
        "the digest that the rule names"
    );
    assert_eq!(instance.records().last("open", "released").text("exe_sha256"), digest);
    assert!(took_ms > 200.0, "too fast to tell: {took_ms} ms");
    assert!(words[0] < 100.0, "another reader waited {} ms", words[0]);
}

/// Whether `executable`, removed before its first read, gets the value.
fn reads_after_removal(instance: &Instance, executable: &str) -> bool {
    let go = format!("{executable}.go");
    Program::of(&["mkfifo", "-m", "0666", &go]).run().ok();
    let log = instance.dir().join("removed.out");
    let script = format!("echo runs; read -r < {go}; {READ_A_LINE}");
    let words = [executable, "-c", &script, &instance.path("prod/db/password")];
    let mut running = Asker::uid(ALICE).program(&words).keep(&log);
    let limit = std::time::Duration::from_secs(5);
    wait_until("the program runs", limit, || running.output().contains("runs"));
    std::fs::remove_file(executable).expect("it can be removed");
    std::fs::write(&go, "go\n").expect("it waits");
    running.wait(limit).expect("it ends");
    let output = running.output();
    let got = output.contains("read hunter2");
    assert!(got != output.contains("Permission denied"), "{output}");
    got
}

#[test]
fn an_executable_removed_before_anyone_saw_it_at_its_path_is_refused() {
    let (instance, actor) = start_with_actor("exe = \"ACTOR\"");
    assert!(!reads_after_removal(&instance, &actor));
    assert_eq!(instance.records().last("open", "denied").number("uid"), Some(u64::from(ALICE)));
}

#[test]
fn a_rule_on_an_interpreter_alone_is_refused_by_check() {
    let instance = Setup::default().initialised();
    instance.write_policy(&format!(
        "[identities.script]\nexe = \"{PYTHON}\"\n[[grants]]\nto = [\"script\"]\nread = [\"prod/**\"]\n"
    ));
    let done = instance.command(&["check"]).ended_with(7);
    let said = format!("{}{}", done.text(), done.err);
    assert!(said.contains("interpreter") && said.contains("unit"), "{said}");
    let place = format!("{}:2", instance.configured_file("policy.paths").display());
    assert!(said.contains(&place), "file and line: {said}");
}

#[test]
fn a_caller_outside_the_daemons_pid_namespace_gets_no_more_than_its_uid_grants() {
    let policy = "[identities.by-uid]\nuid = 24001\n\
        [identities.by-exe]\nuid = 24001\nexe = \"/usr/bin/cat\"\n\
        [[grants]]\nto = [\"by-uid\"]\nread = [\"prod/**\"]\nlist = [\"exe/**\"]\n\
        [[grants]]\nto = [\"by-exe\"]\nread = [\"exe/**\"]\n";
    let instance = Setup::policy(policy).warnings_expected().initialised();
    instance.put("prod/db", &[("password", b"by uid")]);
    instance.put("exe/db", &[("password", b"by exe")]);
    let config = instance.config_path();
    let credfs = env!("CARGO_BIN_EXE_credfs");
    // The mount namespace is shared, so the mount is visible here; /proc is this namespace's.
    let words = ["unshare", "-p", "-f", "--kill-child=TERM", credfs, "--config", &config, "mount"];
    let daemon = Program::of(&words).keep(&instance.dir().join("daemon.err"));
    instance.serve_with(daemon);
    let alice = Asker::uid(ALICE);
    assert_eq!(alice.run(&["/usr/bin/cat", &instance.path("prod/db/password")]).ok().text(), "by uid");
    let refused = alice.run(&["/usr/bin/cat", &instance.path("exe/db/password")]);
    assert!(refused.err.contains("Permission denied"), "{} {}", refused.text(), refused.err);
    let records = instance.records();
    for record in [records.last("open", "released"), records.last("open", "denied")] {
        assert_eq!(record.number("uid"), Some(u64::from(ALICE)));
        assert!(record.0.get("pid").is_none(), "recorded as what it was, without a pid: {record:?}");
        assert!(record.0.get("exe").is_none() && record.0.get("unit").is_none(), "{record:?}");
    }
    end_namespace(&instance);
}

/// unshare passes no signal on: the daemon inside is ended by its pid in this namespace.
fn end_namespace(instance: &Instance) {
    let outer = instance.daemon_pid();
    let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).expect("children");
    let inner = children.split_whitespace().next().expect("the daemon in the namespace");
    assert!(Path::new(&format!("/proc/{inner}")).exists());
    Program::of(&["kill", "-s", "TERM", inner]).run().ok();
    wait_until("the mount is gone", std::time::Duration::from_secs(5), || !instance.is_mounted());
}
