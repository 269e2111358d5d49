//! From a bare Debian to a service, and back: installation, confinement, stop, removal, purge.

use std::time::{Duration, Instant};

use crate::harness::{Machine, Packages, wait_until};

const TREE: &str = "/run/credfs";

#[test]
fn a_clean_installation_serves_in_seconds_and_its_worker_is_confined() {
    let machine = Machine::boot();
    let begun = Instant::now();
    let done = machine.install(&Packages::built().first);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(done.text().contains("Audit fingerprint: "), "{}", done.text());
    machine.serves();
    machine.run(&["credfs", "check"]).ok();
    for unit in ["credfs", "credfs-keeper"] {
        assert_eq!(machine.property(unit, "ActiveState"), "active", "{unit}");
        assert_eq!(machine.property(unit, "UnitFileState"), "enabled", "{unit}");
        assert_eq!(machine.property(unit, "NRestarts"), "0", "{unit}:\n{}", machine.journal(unit));
    }
    the_worker_is_confined(&machine);
    the_mount_is_everyones(&machine);
    the_package_is_whole(&machine);
    machine.run(&["credfs", "doctor"]).ok();
    let said = machine.journal("credfs");
    assert!(!said.contains('\u{1b}') && !said.contains("WARN") && !said.contains("ERROR"), "{said}");
    // The journal dates every line itself.
    assert!(!said.lines().any(|line| line.contains("Z  INFO")), "{said}");
}

#[track_caller]
fn the_worker_is_confined(machine: &Machine) {
    let worker = machine.main_pid("credfs");
    let status = machine.run(&["cat", &format!("/proc/{worker}/status")]).ok().text();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(&format!("{name}:")));
        line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or_default().to_owned()
    };
    let uid = machine.run(&["id", "-u", "credfs"]).ok().text();
    assert_eq!(field("Uid"), uid);
    assert_eq!(field("CapEff"), "0000000000000000");
    assert_eq!(field("CapBnd"), "0000000000000000");
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");
    let node = machine.run(&["test", "-e", &format!("/proc/{worker}/root/dev/fuse")]);
    assert_eq!(node.code, Some(1), "the worker's root has a /dev/fuse");
    let peek = machine.in_unit("peek", &["User=credfs", "NoNewPrivileges=yes"], &["readlink", "/proc/1/exe"]);
    assert_ne!(peek.code, Some(0), "another user's executable is readable to its user: {}", peek.text());
    let keeper = machine.main_pid("credfs-keeper");
    assert_ne!(keeper, worker);
    assert_eq!(
        machine.property("credfs-keeper", "RestrictAddressFamilies"),
        "AF_UNIX",
        "the keeper has a network"
    );
    let namespace = |pid: u32| machine.run(&["readlink", &format!("/proc/{pid}/ns/mnt")]).ok().text();
    assert_eq!(namespace(keeper), namespace(1), "an option gave the keeper a mount namespace of its own");
    assert_ne!(namespace(worker), namespace(1));
}

#[track_caller]
fn the_mount_is_everyones(machine: &Machine) {
    assert_eq!(machine.kind_at(TREE).as_deref(), Some("fuse.credfs"));
    machine.policy("[[grants]]\nto = [\"everyone\"]\nread = [\"**\"]\n");
    machine.put("prod/db", "password", "hunter2");
    let read = format!("{TREE}/prod/db/password");
    for properties in [
        &["User=www-data"][..],
        &["User=www-data", "PrivateTmp=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateDevices=yes"],
        &["DynamicUser=yes"],
        &["User=www-data", "PrivateUsers=yes"],
        &["User=www-data", "PrivateMounts=yes", "MountFlags=slave"],
    ] {
        let done = machine.in_unit("reader", properties, &["cat", &read]);
        assert_eq!(done.text(), "hunter2", "{properties:?}: {}", done.err);
    }
}

#[track_caller]
fn the_package_is_whole(machine: &Machine) {
    for page in ["credfs", "credfs-put", "credfs-audit-verify", "mount.fuse.credfs"] {
        // minbase leaves manual pages out; what dpkg has unpacked is what counts.
        let listed = machine.sh(&format!("dpkg -L credfs | grep -q '/{page}\\.[18]\\.gz$'"));
        assert_eq!(listed.code, Some(0), "no page for {page}");
    }
    let verified = machine.run(&["dpkg", "--verify", "credfs"]).ok().text();
    // The policy was replaced above.
    assert!(verified.lines().all(|line| line.ends_with("/etc/credfs/policy.toml")), "{verified}");
    let owners = machine
        .run(&[
            "stat",
            "-c",
            "%U:%G %a %n",
            "/etc/credfs/credfs.toml",
            "/etc/credfs/policy.d",
            "/var/lib/credfs",
        ])
        .ok()
        .text();
    assert_eq!(
        owners,
        "root:root 644 /etc/credfs/credfs.toml\nroot:credfs 750 /etc/credfs/policy.d\ncredfs:credfs 700 /var/lib/credfs"
    );
}

#[test]
fn stopping_either_unit_unmounts_and_a_start_brings_it_back() {
    let machine = Machine::installed();
    machine.policy("[[grants]]\nto = [\"everyone\"]\nread = [\"**\"]\n");
    machine.put("prod/db", "password", "hunter2");
    for unit in ["credfs", "credfs-keeper"] {
        let busy = format!("exec 3<{TREE}/prod/db/password; exec sleep 60");
        machine.run(&["systemd-run", "--quiet", "--collect", "--unit=busy", "bash", "-c", &busy]).ok();
        wait_until("the file is open", Duration::from_secs(5), || {
            machine.sh("ls -l /proc/$(systemctl show -P MainPID busy)/fd").text().contains("prod/db")
        });
        let begun = Instant::now();
        machine.run(&["systemctl", "stop", unit]).ok();
        let took = begun.elapsed();
        assert_eq!(machine.kind_at(TREE), None, "stop {unit} returned before it was unmounted");
        assert!(took < Duration::from_secs(5), "stop {unit}: {took:?}");
        eprintln!("stop {unit} with a file held open: {took:?}");
        wait_until("both units have ended", Duration::from_secs(5), || {
            let states = machine.run(&["systemctl", "is-active", "credfs", "credfs-keeper"]).text();
            states.lines().all(|state| ["inactive", "failed"].contains(&state))
        });
        let said = machine.journal("credfs");
        assert!(!said.contains("not taken away in time"), "the worker waits for the unmount in vain: {said}");
        machine.run(&["systemctl", "stop", "busy"]).ok();
        machine.run(&["systemctl", "start", "credfs"]).ok();
        machine.serves();
        assert_eq!(machine.run(&["cat", &format!("{TREE}/prod/db/password")]).text(), "hunter2");
    }
}

#[test]
fn removal_unmounts_and_a_purge_leaves_the_store_and_its_user_alone() {
    let machine = Machine::installed();
    machine.put("prod/db", "password", "hunter2");
    machine.run(&["dpkg", "--remove", "credfs"]).ok();
    assert_eq!(machine.kind_at(TREE), None);
    assert_eq!(machine.sh("pgrep -x credfs").text(), "");
    assert_eq!(
        machine.run(&["test", "-e", "/etc/credfs/policy.toml"]).code,
        Some(0),
        "configuration outlives a removal"
    );
    machine.run(&["dpkg", "--purge", "credfs"]).ok();
    let left = machine.sh("find / -xdev -path /proc -prune -o -iname '*credfs*' -print | sort").text();
    let expected = [
        // The administrator's data, systemd's memory of a unit that was known, and the mount point.
        "/var/lib/credfs",
    ];
    let unexpected: Vec<&str> = left
        .lines()
        .filter(|path| {
            !path.starts_with("/debs") && !path.starts_with("/tools") && !path.starts_with("/run/")
        })
        .filter(|path| !expected.contains(path))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    assert_eq!(machine.run(&["stat", "-c", "%U %a", "/var/lib/credfs/store.db"]).ok().text(), "credfs 600");
    machine.install(&Packages::built().first);
    machine.serves();
    let kept = machine.run(&["credfs", "get", "prod/db", "password"]).ok();
    assert_eq!(kept.text(), "hunter2", "a new installation goes on with the store that was left");
}

#[test]
fn fstab_and_an_automount_bring_the_service_and_show_the_tree_elsewhere() {
    let machine = Machine::installed();
    machine.policy("[[grants]]\nto = [\"everyone\"]\nread = [\"**\"]\n");
    machine.put("prod/db", "password", "hunter2");
    machine.run(&["systemctl", "stop", "credfs"]).ok();
    machine
        .sh("mkdir -p /srv/one /srv/two; printf '%s\\n' \
        'credfs /srv/one fuse.credfs noauto,nofail,x-systemd.automount 0 0' \
        'credfs /srv/two fuse.credfs noauto 0 0' >>/etc/fstab; systemctl daemon-reload")
        .ok();
    machine.run(&["systemctl", "start", "srv-one.automount"]).ok();
    assert_eq!(machine.property("credfs", "ActiveState"), "inactive");
    let reader = machine.in_unit("reader", &["User=www-data"], &["cat", "/srv/one/prod/db/password"]);
    assert_eq!(reader.text(), "hunter2", "{}", reader.err);
    assert_eq!(machine.property("credfs", "ActiveState"), "active");
    machine.run(&["mount", "/srv/two"]).ok();
    assert_eq!(machine.run(&["cat", "/srv/two/prod/db/password"]).text(), "hunter2");
    assert_ne!(machine.run(&["touch", "/srv/two/prod/db/password"]).code, Some(0), "read-only there too");
    machine.sh("umount /srv/two; systemctl stop srv-one.automount credfs").ok();
    wait_until("the tree is unmounted", Duration::from_secs(5), || machine.kind_at(TREE).is_none());
    // An automount on the mount point of the service would wait for itself: it is refused at once.
    machine
        .sh("echo 'credfs /run/credfs fuse.credfs noauto,x-systemd.automount 0 0' >>/etc/fstab; \
             systemctl daemon-reload; systemctl start run-credfs.automount")
        .ok();
    let begun = Instant::now();
    assert_ne!(machine.run(&["ls", &format!("{TREE}/prod")]).code, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let said = machine.journal("run-credfs.mount");
    assert!(said.contains("name another directory"), "{said}");
}

#[test]
fn the_stores_key_may_be_a_credential_that_systemd_sealed_to_the_machine() {
    let machine = Machine::installed();
    machine.policy("[[grants]]\nto = [\"everyone\"]\nread = [\"**\"]\n");
    machine.put("prod/db", "password", "hunter2");
    // As docs/OPERATING.md has it; the drop-in is what `systemctl edit` writes.
    let steps = "set -eu
        systemd-creds setup
        mkdir -p -m 700 /etc/credstore.encrypted
        systemd-creds encrypt --name=store-key /var/lib/credfs/store.key /etc/credstore.encrypted/store-key
        mkdir /etc/systemd/system/credfs.service.d
        printf '[Service]\\nLoadCredentialEncrypted=store-key\\n' >/etc/systemd/system/credfs.service.d/key.conf
        systemctl daemon-reload
        sed -i 's|^key_file = .*|key_credential = \"store-key\"|' /etc/credfs/credfs.toml
        systemctl restart credfs && credfs status && shred -u /var/lib/credfs/store.key";
    machine.sh(steps).ok();
    let sealed = machine.sh("cat /etc/credstore.encrypted/store-key").ok().text();
    assert!(!sealed.is_empty());
    for _ in 0..2 {
        let reader =
            machine.in_unit("reader", &["User=www-data"], &["cat", &format!("{TREE}/prod/db/password")]);
        assert_eq!(reader.text(), "hunter2", "{}", reader.err);
        assert_eq!(machine.run(&["credfs", "get", "prod/db", "password"]).ok().text(), "hunter2");
        machine.put("prod/other", "password", "second");
        machine.run(&["systemctl", "restart", "credfs"]).ok();
        machine.serves();
    }
    machine.run(&["credfs", "doctor"]).ok();
    // Another service is not given it, and a copy of the disk does not open it.
    machine.run(&["systemctl", "stop", "credfs"]).ok();
    let without = machine.run(&["credfs", "get", "prod/db", "password"]);
    assert_ne!(without.code, Some(0));
    assert!(without.err.contains("credential"), "{}", without.err);
    machine.sh("rm /var/lib/systemd/credential.secret; systemctl start --no-block credfs").ok();
    wait_until("systemd refuses the key of another machine", Duration::from_secs(20), || {
        machine.property("credfs", "ExecMainStatus") == "243"
    });
}
