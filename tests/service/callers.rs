//! Who asks, told by real units: the same user in two services, throw-away users, containers of systemd's own.

use std::time::Duration;

use crate::harness::{Machine, wait_until};

const SECRET: &str = "/run/credfs/prod/orders/db/password";

const POLICY: &str = r#"
[identities.orders]
user = ["app"]
unit = ["orders.service"]
[identities.boxed]
user = ["app"]
unit = ["boxed.service"]
[[grants]]
to = ["orders", "boxed"]
read = ["prod/orders/**"]
[[grants]]
to = ["everyone"]
read = ["shared/**"]
"#;

fn prepared() -> Machine {
    let machine = Machine::installed();
    machine.run(&["useradd", "--system", "app"]).ok();
    machine.policy(POLICY);
    machine.put("prod/orders/db", "password", "hunter2");
    machine.put("shared/motd", "text", "hello");
    machine
}

#[test]
fn of_two_services_of_one_user_only_the_one_granted_reads_and_the_log_names_both() {
    let machine = prepared();
    let granted = machine.in_unit("orders", &["User=app"], &["cat", SECRET]);
    assert_eq!(granted.text(), "hunter2", "{}", granted.err);
    let other = machine.in_unit("reports", &["User=app"], &["cat", SECRET]);
    assert!(other.err.contains("No such file"), "{}", other.err);
    let by_root = machine.in_unit("orders", &["User=root"], &["cat", SECRET]);
    assert!(by_root.err.contains("No such file"), "the unit alone is not enough: {}", by_root.err);
    let asker = machine.run(&["setpriv", "--reuid=app", "--regid=app", "--clear-groups", "cat", SECRET]);
    assert!(asker.err.contains("No such file"), "a process of no unit: {}", asker.err);
    let log = machine.run(&["credfs", "who-read", "prod/orders/db", "--json"]).ok().json();
    let readers: Vec<&str> =
        log.as_array().unwrap().iter().filter_map(|record| record["unit"].as_str()).collect();
    assert_eq!(readers, ["orders.service"]);
    // Refusals are counted for a while before they are written.
    wait_until("the refusal is recorded", Duration::from_secs(30), || {
        let refused = machine.run(&["credfs", "audit", "log", "--outcome", "hidden", "--json"]).ok();
        refused.text().contains("reports.service")
    });
}

#[test]
fn a_dynamic_user_a_private_user_namespace_and_a_pid_namespace_are_told_apart() {
    let machine = prepared();
    // A throw-away user is the unit's own: it is told by the unit.
    machine.policy("[identities.burst]\nunit = [\"burst.service\"]\n[[grants]]\nto = [\"burst\"]\nread = [\"prod/**\"]\n");
    let dynamic = machine.in_unit("burst", &["DynamicUser=yes"], &["cat", SECRET]);
    assert_eq!(dynamic.text(), "hunter2", "{}", dynamic.err);
    let elsewhere = machine.in_unit("other", &["DynamicUser=yes"], &["cat", SECRET]);
    assert!(elsewhere.err.contains("No such file"), "{}", elsewhere.err);
    machine.policy(POLICY);
    let private = machine.in_unit("orders", &["User=app", "PrivateUsers=yes"], &["cat", SECRET]);
    assert_eq!(private.text(), "hunter2", "{}", private.err);
    // A pid namespace below ours, with a /proc of its own, as a container has.
    let boxed =
        ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "setpriv", "--reuid=app", "--regid=app"];
    let words: Vec<&str> = boxed.into_iter().chain(["--clear-groups", "cat", SECRET]).collect();
    let contained = machine.in_unit("boxed", &[], &words);
    assert_eq!(contained.text(), "hunter2", "{}", contained.err);
    let wrong = machine.in_unit("unboxed", &[], &words);
    assert!(wrong.err.contains("No such file"), "{}", wrong.err);
}

#[test]
fn a_supplementary_group_and_the_user_at_the_control_socket_are_told() {
    let machine = prepared();
    machine.run(&["groupadd", "--system", "dba"]).ok();
    machine.policy(
        "[identities.dba]\ngroup = [\"dba\"]\n[identities.app]\nuser = [\"app\"]\n\
         [[grants]]\nto = [\"dba\"]\nread = [\"prod/**\"]\n[[grants]]\nto = [\"app\"]\nadmin = [\"shared/**\"]\n",
    );
    let member = machine.in_unit("reports", &["User=app", "SupplementaryGroups=dba"], &["cat", SECRET]);
    assert_eq!(member.text(), "hunter2", "{}", member.err);
    let other = machine.in_unit("reports", &["User=app"], &["cat", SECRET]);
    assert!(other.err.contains("No such file"), "{}", other.err);
    let put = ["sh", "-c", "printf bye | credfs put shared/motd text"];
    machine.in_unit("editor", &["User=app"], &put).ok();
    let stranger = machine.in_unit("editor", &["User=www-data"], &put);
    assert_ne!(stranger.code, Some(0), "{}", stranger.text());
}

#[test]
fn a_user_manager_cannot_pose_as_a_service_of_the_system() {
    let machine = prepared();
    machine.run(&["loginctl", "enable-linger", "app"]);
    // The same name of a unit, in the user's own slice.
    let words = [
        "systemd-run",
        "--quiet",
        "--collect",
        "--pipe",
        "--wait",
        "--slice=user.slice",
        "--unit=orders-app",
    ];
    let posing = machine.run(&[&words[..], &["-p", "User=app", "-p", "Delegate=yes", "bash", "-c",
        "mkdir -p /sys/fs/cgroup/$(cut -d: -f3 /proc/self/cgroup)/orders.service && \
         echo $$ >/sys/fs/cgroup/$(cut -d: -f3 /proc/self/cgroup)/orders.service/cgroup.procs; cat /run/credfs/prod/orders/db/password"]]
        .concat());
    assert!(
        posing.text().is_empty() && posing.err.contains("No such file"),
        "{} {}",
        posing.text(),
        posing.err
    );
}

#[test]
fn systemd_itself_can_take_a_credential_from_the_mount() {
    let machine = prepared();
    // systemd reads it before the service begins: as root, in the unit's cgroup already.
    let load = format!("LoadCredential=x:{SECRET}");
    let words = ["sh", "-c", "cat $CREDENTIALS_DIRECTORY/x"];
    let refused = machine.in_unit("orders", &["User=app", &load], &words);
    assert_ne!(refused.code, Some(0), "{}", refused.text());
    machine.policy(
        "[identities.loader]\nuid = 0\nunit = [\"orders.service\"]\n\
         [[grants]]\nto = [\"loader\"]\nread = [\"prod/orders/**\"]\n",
    );
    let loaded = machine.in_unit("orders", &["User=app", &load], &words);
    assert_eq!(loaded.text(), "hunter2", "{}\n{}", loaded.err, machine.journal("orders"));
    let other = machine.in_unit("reports", &["User=app", &load], &words);
    assert_ne!(other.code, Some(0), "{}", other.text());
    let log = machine.run(&["credfs", "who-read", "prod/orders/db", "--json"]).ok().json();
    let record = log.as_array().unwrap().last().unwrap();
    assert_eq!((&record["unit"], &record["uid"]), (&"orders.service".into(), &0.into()), "{record}");
}
