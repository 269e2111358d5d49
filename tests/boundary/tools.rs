//! Everyday tools on the mount: they find ordinary read-only files.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use crate::harness::{ALICE, Asker, BOB, CAROL, Filling, Instance, Setup};

/// Bytes of every value, so that nothing passes by being text.
fn awkward(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 256) as u8).collect()
}

fn with_values() -> (Instance, Vec<u8>) {
    let instance = Instance::start();
    let blob = awkward(70_001);
    instance.put("prod/db", &[("password", b"first\n"), ("blob", &blob), ("empty", b"")]);
    (instance, blob)
}

#[test]
fn cat_cp_dd_grep_tail_head_wc_and_tar_read_the_exact_bytes() {
    let (instance, blob) = with_values();
    let alice = Asker::uid(ALICE);
    let path = instance.path("prod/db/blob");
    assert_eq!(alice.run(&["cat", &path]).ok().out, blob);
    assert_eq!(alice.run(&["dd", "status=none", "bs=4097", &format!("if={path}")]).ok().out, blob);
    assert_eq!(alice.run(&["tail", "-c", "1001", &path]).ok().out, blob[blob.len() - 1001..]);
    assert_eq!(alice.run(&["head", "-c", "1001", &path]).ok().out, blob[..1001]);
    assert_eq!(alice.run(&["wc", "-c", &path]).ok().text(), format!("70001 {path}"));
    assert_eq!(alice.run(&["grep", "-c", "first", &instance.path("prod/db/password")]).ok().text(), "1");
    let home = instance.home_of(ALICE);
    alice.run(&["cp", "--preserve=all", &path, &home]).ok();
    assert_eq!(std::fs::read(format!("{home}/blob")).expect("a copy"), blob);
    let packed = alice.run(&["tar", "-C", &instance.path("prod/db"), "-cf", "-", "blob", "empty"]).ok();
    let unpacked = Asker::root().program(&["tar", "-xOf", "-", "blob"]).input(packed.out).run().ok();
    assert_eq!(unpacked.out, blob);
    assert_eq!(alice.run(&["cat", &instance.path("prod/db/empty")]).ok().out, b"");
}

#[test]
fn fstat_sized_reads_mmap_and_sendfile_give_the_whole_value() {
    let (instance, blob) = with_values();
    let script = "
import sys, os, mmap, hashlib, shutil, tempfile
path = sys.argv[1]
digests = []
fd = os.open(path, os.O_RDONLY)
size = os.fstat(fd).st_size
digests.append(os.read(fd, size))
for flags in (mmap.MAP_PRIVATE, mmap.MAP_SHARED):
    with mmap.mmap(fd, size, flags=flags, prot=mmap.PROT_READ) as mapped:
        digests.append(mapped[:])
with tempfile.TemporaryFile() as target:
    offset = 0
    while (sent := os.sendfile(target.fileno(), fd, offset, size)) > 0:
        offset += sent
    target.seek(0)
    digests.append(target.read())
with tempfile.TemporaryDirectory() as d:
    shutil.copyfile(path, d + '/copy')
    digests.append(open(d + '/copy', 'rb').read())
print(size, *{hashlib.sha256(digest).hexdigest() for digest in digests})
";
    let text = Asker::uid(ALICE).python(script, &[&instance.path("prod/db/blob")]);
    let expected = {
        use sha2::Digest as _;
        let digest = sha2::Sha256::digest(&blob);
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    assert_eq!(text, format!("70001 {expected}"));
}

#[test]
fn stat_says_regular_file_mode_0400_nlink_1_exact_size_and_the_asker_as_owner() {
    let (instance, _) = with_values();
    let shown = |asker: &Asker, field: &str| {
        asker
            .run(&["stat", "-c", "%F|%a|%h|%s|%u|%g", &instance.path(&format!("prod/db/{field}"))])
            .ok()
            .text()
    };
    for round in 0..3 {
        for uid in [ALICE, BOB] {
            let asker = Asker::uid(uid);
            assert_eq!(shown(&asker, "blob"), format!("regular file|400|1|70001|{uid}|0"), "round {round}");
            assert_eq!(shown(&asker, "password"), format!("regular file|400|1|6|{uid}|0"));
            assert_eq!(shown(&asker, "empty"), format!("regular empty file|400|1|0|{uid}|0"));
        }
    }
}

#[test]
fn two_users_alternating_never_see_each_others_ownership() {
    let (instance, _) = with_values();
    let script = "
import os, sys
wrong = 0
for _ in range(2000):
    fd = os.open(sys.argv[1], os.O_RDONLY)
    wrong += os.fstat(fd).st_uid != os.getuid()
    wrong += os.stat(sys.argv[1]).st_uid != os.getuid()
    os.close(fd)
print(wrong)
";
    instance.reload_policy("[[grants]]\nto = [\"everyone\"]\nread = [\"prod/**\"]\n");
    let path = instance.path("prod/db/password");
    std::thread::scope(|scope| {
        for uid in [ALICE, BOB, CAROL] {
            let path = &path;
            scope.spawn(move || assert_eq!(Asker::uid(uid).python(script, &[path]), "0"));
        }
    });
}

#[test]
fn the_tree_has_versions_and_links_and_lists_them_to_those_who_may_see_them() {
    let (instance, _) = with_values();
    instance.put("prod/db", &[("password", b"second, longer\n")]);
    let alice = Asker::uid(ALICE);
    let names = |path: &str| {
        let text = alice.run(&["ls", "-A", &instance.path(path)]).ok().text();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names(""), ["prod"]);
    assert_eq!(names("prod"), ["db"]);
    assert_eq!(names("prod/db"), ["blob", "current", "empty", "password", "previous", "versions"]);
    assert_eq!(names("prod/db/versions"), ["1", "2"]);
    assert_eq!(names("prod/db/versions/2"), ["blob", "empty", "password"]);
    let read = |path: &str| alice.run(&["cat", &instance.path(path)]).ok().text();
    assert_eq!(read("prod/db/password"), "second, longer");
    assert_eq!(read("prod/db/current/password"), "second, longer");
    assert_eq!(read("prod/db/previous/password"), "first");
    assert_eq!(read("prod/db/versions/1/password"), "first");
    let link = |name: &str| alice.run(&["readlink", &instance.path(&format!("prod/db/{name}"))]).ok().text();
    assert_eq!(link("current"), "versions/2");
    assert_eq!(link("previous"), "versions/1");
    let found = alice.run(&["find", &instance.mount_point(), "-type", "f"]).ok().text();
    assert_eq!(found.lines().count(), 9, "three stable paths, and three in each of two versions:\n{found}");
    let carol = Asker::uid(CAROL);
    assert_eq!(carol.run(&["ls", "-A", &instance.mount_point()]).ok().text(), "");
    carol.run(&["ls", &instance.path("prod")]).ended_with(2);
}

#[test]
fn hidden_is_enoent_and_visible_but_denied_is_eacces() {
    let (instance, _) = with_values();
    let path = instance.path("prod/db/password");
    assert_eq!(Asker::uid(ALICE).read(&path), "read first");
    assert_eq!(Asker::uid(BOB).read(&path), "EACCES");
    assert_eq!(Asker::uid(CAROL).read(&path), "ENOENT");
    assert_eq!(Asker::root().read(&path), "ENOENT", "root has no implicit grant through the mount");
    assert_eq!(Asker::uid(ALICE).read(&instance.path("prod/db/nothing")), "ENOENT");
}

/// Every way to ask that has an errno, as one user; prints `operation errno` a line.
const EVERY_OPERATION: &str = "
import os, sys, errno
path, directory, link = sys.argv[1:4]
def attempt(name, act):
    try:
        act()
        print(name, 'ok')
    except OSError as error:
        print(name, errno.errorcode[error.errno])
attempt('stat', lambda: os.stat(path))
attempt('lstat', lambda: os.lstat(path))
attempt('access', lambda: os.stat(path) if os.access(path, os.R_OK) else os.stat(path + '-not'))
attempt('open', lambda: os.close(os.open(path, os.O_RDONLY)))
attempt('open_path', lambda: os.close(os.open(path, os.O_PATH)))
attempt('opendir', lambda: os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY)))
attempt('listdir', lambda: os.listdir(directory))
attempt('readlink', lambda: os.readlink(link))
attempt('getxattr', lambda: os.getxattr(path, 'user.credfs.version'))
attempt('listxattr', lambda: os.listxattr(path))
attempt('statvfs', lambda: os.statvfs(path))
attempt('chdir', lambda: os.chdir(directory))
";

#[test]
fn what_may_not_be_listed_does_not_exist_for_any_operation() {
    let (instance, _) = with_values();
    let paths = ["prod/db/password", "prod/db", "prod/db/current"].map(|path| instance.path(path));
    let arguments = paths.each_ref().map(String::as_str);
    for round in 0..2 {
        let allowed = Asker::uid(ALICE).python(EVERY_OPERATION, &arguments);
        assert!(allowed.lines().all(|line| line.ends_with(" ok")), "round {round}:\n{allowed}");
        let hidden = Asker::uid(CAROL).python(EVERY_OPERATION, &arguments);
        assert_eq!(hidden.lines().count(), 12);
        assert!(hidden.lines().all(|line| line.ends_with(" ENOENT")), "round {round}:\n{hidden}");
    }
}

#[test]
fn writing_of_every_kind_is_erofs() {
    let (instance, _) = with_values();
    let script = "
import os, sys, errno
directory = sys.argv[1]
path = directory + '/password'
attempts = {
    'write': lambda: os.open(path, os.O_WRONLY),
    'append': lambda: os.open(path, os.O_RDWR | os.O_APPEND),
    'truncate': lambda: os.truncate(path, 0),
    'create': lambda: os.open(directory + '/new', os.O_WRONLY | os.O_CREAT),
    'mkdir': lambda: os.mkdir(directory + '/new'),
    'unlink': lambda: os.unlink(path),
    'rename': lambda: os.rename(path, directory + '/other'),
    'link': lambda: os.link(path, directory + '/other'),
    'symlink': lambda: os.symlink('x', directory + '/other'),
    'chmod': lambda: os.chmod(path, 0o777),
    'chown': lambda: os.chown(path, 1, 1),
    'utime': lambda: os.utime(path),
    'setxattr': lambda: os.setxattr(path, 'user.x', b'x'),
    'mknod': lambda: os.mkfifo(directory + '/fifo'),
}
for name, act in attempts.items():
    try:
        act()
        print(name, 'succeeded')
    except OSError as error:
        if error.errno != errno.EROFS:
            print(name, errno.errorcode[error.errno])
";
    for asker in [Asker::uid(ALICE), Asker::root()] {
        if asker.read(&instance.path("prod/db/password")).starts_with("read") {
            assert_eq!(asker.python(script, &[&instance.path("prod/db")]), "");
        }
    }
    let touch = Asker::root().run(&["touch", &instance.path("new")]);
    assert!(touch.err.contains("Read-only file system"), "{}", touch.err);
}

#[test]
fn the_public_mount_is_read_only_and_lets_nothing_be_run() {
    let instance = Instance::start();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let mount_point = instance.mount_point();
    let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(&mount_point)).expect("mounted");
    let options = line.split(' ').nth(5).expect("options");
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(options.split(',').any(|one| one == option), "{option} is missing in {options}");
    }
    let root = std::fs::metadata(&mount_point).expect("a root");
    assert_eq!((root.uid(), root.mode() & 0o7777), (0, 0o755));
}

#[test]
fn getfattr_shows_metadata_and_never_a_value() {
    let instance = Instance::start();
    let flags = ["--owner", "team-orders", "--impact", "high", "--rotate-every", "90d"];
    instance.put_with("prod/db", &[("password", b"canary-in-xattr")], &flags);
    let text = Asker::uid(ALICE).run(&["getfattr", "-d", &instance.path("prod/db/password")]).ok().text();
    for (name, value) in [
        ("version", "1"),
        ("stage", "current"),
        ("owner", "team-orders"),
        ("impact", "high"),
        ("freshness", "fresh"),
        ("store", "main"),
    ] {
        assert!(text.contains(&format!("user.credfs.{name}=\"{value}\"")), "{name} in:\n{text}");
    }
    for name in ["created", "rotate_by"] {
        assert!(text.contains(&format!("user.credfs.{name}=\"20")), "{name} in:\n{text}");
    }
    assert!(!text.contains("canary"), "{text}");
    assert_eq!(instance.records().released(), 0, "metadata is shown without a fetch");
}

#[test]
fn mtime_is_stable_and_moves_forward_on_a_swap_and_on_a_rollback() {
    let (instance, _) = with_values();
    let alice = Asker::uid(ALICE);
    let path = instance.path("prod/db/password");
    let mtime = || alice.run(&["stat", "-c", "%.Y", &path]).ok().text().parse::<f64>().expect("seconds");
    let first = mtime();
    assert_eq!(first.to_bits(), mtime().to_bits(), "the same between calls");
    instance.put("prod/db", &[("password", b"second")]);
    let second = mtime();
    assert!(second > first, "{second} after {first}");
    instance.command(&["rollback", "prod/db"]).ok();
    let third = mtime();
    assert_eq!(alice.read(&path), "read first");
    assert!(third > second, "a rollback moves forward: {third} after {second}");
    assert_eq!(third.to_bits(), mtime().to_bits());
}

#[test]
fn names_that_a_file_cannot_bear_are_percent_encoded() {
    let instance = Setup::default().initialised();
    let odd = ["100%", "tab\there", "line\nbreak", "a/b", "..", "current", "versions"];
    let encoded = ["100%25", "tab%09here", "line%0Abreak", "a%2Fb", "%2E.", "%63urrent", "%76ersions"];
    // The command line refuses such names; a store may hold them nevertheless.
    instance.fill_store(odd.iter().map(|name| Filling {
        secret: "prod/odd",
        field: name,
        value: name.as_bytes(),
    }));
    instance.mount();
    let alice = Asker::uid(ALICE);
    let names = alice.run(&["ls", "-A", &instance.path("prod/odd")]).ok().text();
    for (name, file) in odd.iter().zip(encoded) {
        assert!(names.lines().any(|line| line == file), "{file} in:\n{names}");
        let path = instance.path(&format!("prod/odd/{file}"));
        assert_eq!(alice.run(&["cat", &path]).ok().out, name.as_bytes(), "{file}");
    }
    assert_eq!(alice.run(&["readlink", &instance.path("prod/odd/current")]).ok().text(), "versions/7");
}

#[test]
fn where_a_child_and_a_field_share_a_name_the_child_keeps_it() {
    let instance = Instance::start();
    instance.put("prod/db", &[("replica", b"the field")]);
    instance.put("prod/db/replica", &[("password", b"the child's")]);
    let alice = Asker::uid(ALICE);
    assert_eq!(alice.read(&instance.path("prod/db/replica/password")), "read the child's");
    assert_eq!(alice.read(&instance.path("prod/db/%72eplica")), "read the field");
}

#[test]
fn a_view_has_its_own_owner_and_mode_and_gives_no_right() {
    let policy = "
[identities.alice]
uid = 24001
[identities.bob]
uid = 24002
[[grants]]
to = [\"alice\"]
read = [\"prod/**\"]
[views.\"web/server.pem\"]
secret = \"prod/tls\"
field = \"key\"
owner = \"root\"
group = \"www-data\"
mode = \"0440\"
";
    let instance = Setup::policy(policy).start();
    instance.put("prod/tls", &[("key", b"the key")]);
    let path = instance.path("web/server.pem");
    let alice = Asker::uid(ALICE);
    assert_eq!(alice.run(&["stat", "-c", "%U:%G %a %h %s", &path]).ok().text(), "root:www-data 440 1 7");
    assert_eq!(alice.read(&path), "read the key");
    assert_eq!(Asker::uid(BOB).read(&path), "ENOENT", "the name gives no right to what is behind it");
    let record = instance.records();
    assert_eq!(record.last("open", "released").file(), "prod/tls/key");
}

#[test]
fn df_and_find_across_the_machine_do_not_wait() {
    let (instance, _) = with_values();
    let begun = Instant::now();
    let frees = Asker::uid(ALICE).run(&["df", &instance.mount_point()]).ok();
    assert!(frees.text().contains(&instance.mount_point()), "{}", frees.text());
    let parent = instance.dir().display().to_string();
    let found = Asker::root().run(&["find", &parent, "-xdev"]).ok().text();
    assert!(!found.contains("prod"), "find -xdev stays outside:\n{found}");
    Asker::uid(ALICE).run(&["find", &instance.mount_point(), "-size", "+0"]).ok();
    Asker::uid(ALICE).run(&["du", "-s", &instance.mount_point()]).ok();
    assert!(begun.elapsed() < Duration::from_secs(2), "took {:?}", begun.elapsed());
    assert_eq!(instance.records().released(), 0, "metadata opens no value");
}

#[test]
fn values_of_every_size_come_back_and_one_too_large_is_refused_by_name() {
    let instance = Instance::start();
    let alice = Asker::uid(ALICE);
    for length in [0_usize, 1, 4095, 4096, 4097, 131_072, 131_073, 1_048_576] {
        let value = awkward(length);
        instance.put("prod/sized", &[("value", &value)]);
        let path = instance.path("prod/sized/value");
        assert_eq!(alice.run(&["stat", "-c", "%s", &path]).ok().text(), length.to_string());
        assert!(alice.run(&["cat", &path]).ok().out == value, "{length} bytes differ");
    }
    let refused = instance.command_with(&["put", "prod/sized", "value"], awkward(1_048_577));
    assert_ne!(refused.code, Some(0));
    assert!(refused.err.contains("1048576") || refused.err.contains("1 MiB"), "{}", refused.err);
    assert_eq!(alice.run(&["stat", "-c", "%s", &instance.path("prod/sized/value")]).ok().text(), "1048576");
}
