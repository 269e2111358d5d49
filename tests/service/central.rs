//! Secrets of an OpenBao server under the units of the package: within the worker's sandbox, by README's own lines, with the
//! server's policies as `learn` prints them.

use std::time::Duration;

use crate::harness::{Done, Machine, wait_until};

const CONFIG: &str = r#"
[stores.central]
kind = "vault"
prefix = "central"
addresses = ["http://127.0.0.1:8200"]
[stores.central.login]
method = "approle"
role_id = "MACHINE"
secret_id_credential = "central-secret-id"
[stores.central.dynamic."tls/web"]
engine = "pki"
role = "web"
common_name = "web.internal"
"#;

const POLICY: &str = r#"
[identities.orders]
user = ["www-data"]
unit = ["orders.service"]
[identities.web]
unit = ["web.service"]
[identities.web.login.central]
method = "approle"
role_id = "WEB"
secret_id_file = "/etc/credfs/web-secret-id"
[[grants]]
to = ["orders"]
read = ["central/app/**"]
[[grants]]
to = ["web"]
read = ["central/tls/*"]
"#;

/// Reads its certificate again and again, and notes the first failure.
const SERVER: &str = "while :; do cat /run/credfs/central/tls/web/certificate >/tmp/web.new 2>/tmp/web.why \
                      && mv /tmp/web.new /tmp/web.pem || { cp /tmp/web.why /tmp/web.failed; }; sleep 0.1; done";

const SECOND: Duration = Duration::from_secs(1);

fn bao(machine: &Machine, words: &[&str]) -> Done {
    let program = machine.program(&[&["bao"], words].concat());
    program.env("BAO_ADDR", "http://127.0.0.1:8200").env("BAO_TOKEN", "root").env("HOME", "/root").run()
}

/// A machine with a server in it, which has an engine for certificates, a secret, and two roles.
fn served() -> Machine {
    let machine = Machine::installed();
    let server = "bao server -dev -dev-root-token-id=root -dev-listen-address=127.0.0.1:8200";
    machine.sh(&format!("systemd-run --quiet --unit=bao --setenv=HOME=/root {server}")).ok();
    wait_until("the server is there", 30 * SECOND, || bao(&machine, &["status"]).code == Some(0));
    for words in [
        "secrets enable pki",
        "write pki/root/generate/internal common_name=test ttl=24h",
        "write pki/roles/web allow_any_name=true generate_lease=true ttl=1h",
        "kv put secret/app/config password=hunter2",
        "auth enable approle",
        "write auth/approle/role/machine token_policies=machine token_ttl=1h",
        "write auth/approle/role/web token_policies=web token_ttl=1h",
    ] {
        bao(&machine, &words.split(' ').collect::<Vec<_>>()).ok();
    }
    machine
}

/// Configures the instance, and lets `learn` say what the server has to allow it.
fn configure(machine: &Machine) {
    let field = |path: &str, name: &str, more: &[&str]| {
        bao(machine, &[more, &[&format!("-field={name}"), path]].concat()).ok().text()
    };
    let role_id = |role: &str| field(&format!("auth/approle/role/{role}/role-id"), "role_id", &["read"]);
    let secret_id =
        |role: &str| field(&format!("auth/approle/role/{role}/secret-id"), "secret_id", &["write", "-f"]);
    machine.sh("install -d -m 700 /etc/credfs-credentials").ok();
    machine.sh(&format!("umask 77; printf %s {} >/etc/credfs-credentials/id", secret_id("machine"))).ok();
    machine.sh("mkdir -p /etc/systemd/system/credfs.service.d").ok();
    machine.write(
        "/etc/systemd/system/credfs.service.d/central.conf",
        "[Service]\nLoadCredential=central-secret-id:/etc/credfs-credentials/id\n",
    );
    let file = "/etc/credfs/web-secret-id";
    machine
        .sh(&format!("umask 77; printf %s {} >{file} && chown credfs:credfs {file}", secret_id("web")))
        .ok();
    let config = CONFIG.replace("MACHINE", &role_id("machine"));
    machine.program(&["bash", "-c", "cat >>/etc/credfs/credfs.toml"]).input(config).run().ok();
    machine.write("/etc/credfs/policy.toml", &POLICY.replace("WEB", &role_id("web")));
    machine.run(&["credfs", "check"]).ok();
    for (login, name) in [("machine", "machine"), ("identity:web", "web")] {
        let policy = machine.run(&["credfs", "learn", "--store", "central", "--login", login]).ok().text();
        let program = machine.program(&["bao", "policy", "write", name, "-"]).input(policy);
        program
            .env("BAO_ADDR", "http://127.0.0.1:8200")
            .env("BAO_TOKEN", "root")
            .env("HOME", "/root")
            .run()
            .ok();
    }
    machine.sh("systemctl daemon-reload && systemctl restart credfs").ok();
    machine.serves();
}

fn live_leases(machine: &Machine) -> u64 {
    let status = machine.run(&["credfs", "status", "--json"]).json();
    let stores = status["stores"].as_array().expect("stores").clone();
    let central = stores.into_iter().find(|store| store["name"] == "central").expect("it is there");
    central["leases"]["central/tls/web"]["live"].as_u64().unwrap_or(0)
}

fn leases_at_the_server(machine: &Machine) -> bool {
    bao(machine, &["list", "sys/leases/lookup/pki/issue/web"]).code == Some(0)
}

#[test]
fn a_confined_worker_reads_and_mints_at_a_server_and_ends_what_a_unit_leaves() {
    let machine = served();
    configure(&machine);
    let cat = |unit: &str, path: &str| machine.in_unit(unit, &["User=www-data"], &["cat", path]);
    assert_eq!(cat("orders", "/run/credfs/central/app/config/password").ok().text(), "hunter2");
    assert_ne!(cat("stranger", "/run/credfs/central/app/config/password").code, Some(0));
    machine.sh(&format!("systemd-run --quiet --unit=web bash -c '{SERVER}'")).ok();
    let has_certificate = || machine.sh("grep -q 'BEGIN CERTIFICATE' /tmp/web.pem").code == Some(0);
    wait_until("the unit has its certificate", 10 * SECOND, has_certificate);
    assert_eq!((live_leases(&machine), leases_at_the_server(&machine)), (1, true));
    let doctor = machine.run(&["credfs", "doctor"]).text();
    assert!(doctor.contains("web's login: by approle works"), "{doctor}");
    assert!(doctor.contains("systemd hands its credential to the unit alone"), "{doctor}");

    machine.run(&["systemctl", "restart", "credfs"]).ok();
    machine.serves();
    let worker = machine.main_pid("credfs").to_string();
    machine.run(&["kill", "-KILL", &worker]).ok();
    wait_until("another worker is there", 10 * SECOND, || {
        machine.main_pid("credfs").to_string() != worker && machine.run(&["credfs", "status"]).code == Some(0)
    });
    machine.sh("rm -f /tmp/web.pem").ok();
    wait_until("the unit reads on", 10 * SECOND, has_certificate);
    assert_ne!(machine.run(&["test", "-e", "/tmp/web.failed"]).code, Some(0), "a read failed");
    assert!(leases_at_the_server(&machine));

    machine.run(&["systemctl", "stop", "web"]).ok();
    wait_until("what was minted for it is ended", 10 * SECOND, || {
        live_leases(&machine) == 0 && !leases_at_the_server(&machine)
    });
    let said = machine.journal("credfs");
    assert!(!said.contains("ERROR") && !said.contains("panicked"), "{said}");
}
