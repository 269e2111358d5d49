//! Servers of Debian's own, as units of their own, with their keys on the mount.

use std::time::Duration;

use crate::harness::{Machine, wait_until};

/// What they may read, each told by its unit.
pub(crate) const POLICY: &str = r#"
[identities.nginx]
unit = ["nginx.service"]
[identities.postgresql]
user = ["postgres"]
unit = ["postgresql@*.service"]
[identities.sshd]
unit = ["ssh.service"]
[[grants]]
to = ["nginx"]
read = ["prod/nginx"]
[[grants]]
to = ["postgresql"]
read = ["prod/postgresql"]
[[grants]]
to = ["sshd"]
read = ["prod/sshd"]
"#;

const SETTINGS: &str = r"
set -e
mkdir -p /srv/tls
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout /srv/tls/key -out /srv/tls/cert 2>/dev/null
ssh-keygen -q -t ed25519 -N '' -f /srv/host_key
credfs put prod/nginx key=@/srv/tls/key cert=@/srv/tls/cert
credfs put prod/postgresql key=@/srv/tls/key cert=@/srv/tls/cert
credfs put prod/sshd host_key=@/srv/host_key
rm /srv/tls/key /srv/host_key
cat >/etc/nginx/sites-enabled/default <<'END'
server { listen 127.0.0.1:443 ssl;
  ssl_certificate /run/credfs/prod/nginx/cert; ssl_certificate_key /run/credfs/prod/nginx/key;
  location / { return 200 served; } }
END
cd /etc/postgresql/*/main
cat >conf.d/credfs.conf <<'END'
ssl = on
ssl_cert_file = '/run/credfs/prod/postgresql/cert'
ssl_key_file = '/run/credfs/prod/postgresql/key'
fsync = off
END
echo 'hostssl all probe 127.0.0.1/32 trust' >pg_hba.conf
echo 'local all all peer' >>pg_hba.conf
printf '%s\n' 'HostKey /run/credfs/prod/sshd/host_key' 'ListenAddress 127.0.0.1' 'MaxStartups 100' >/etc/ssh/sshd_config
# From OpenSSH 9.8 on, who only asks for the key is punished for it.
mkdir -p /run/sshd
! sshd -t -f /dev/null -h /etc/ssh/ssh_host_ed25519_key -o PerSourcePenalties=no 2>/dev/null || echo 'PerSourcePenalties no' >>/etc/ssh/sshd_config
for unit in nginx postgresql@ ssh; do
    mkdir -p /etc/systemd/system/$unit.service.d
    printf '[Unit]\nWants=credfs.service\nAfter=credfs.service\n' >/etc/systemd/system/$unit.service.d/credfs.conf
done
systemctl daemon-reload
systemctl start nginx ssh postgresql
";

/// Starts the three, each `After=credfs.service`, and waits until they serve.
#[track_caller]
pub(crate) fn start(machine: &Machine) {
    let done = machine.sh(SETTINGS);
    assert_eq!(
        done.code,
        Some(0),
        "{}\n{}\n{}",
        done.text(),
        done.err,
        machine.sh("journalctl --no-pager -n 40").text()
    );
    wait_until("PostgreSQL accepts", Duration::from_secs(30), || {
        let made = machine.sh(
            "cd /; setpriv --reuid=postgres --regid=postgres --init-groups psql -c 'create role probe login'",
        );
        made.code == Some(0) || made.err.contains("already exists")
    });
}

/// Has the two that hold their keys read them again; sshd reads its own for every connection, and would close its port
/// for a moment.
#[track_caller]
pub(crate) fn reload(machine: &Machine) {
    machine.sh("systemctl reload nginx && systemctl reload postgresql").ok();
}

/// Somebody who asks the three without a pause.
pub(crate) struct Prober<'a>(&'a Machine);

impl<'a> Prober<'a> {
    #[track_caller]
    pub(crate) fn start(machine: &'a Machine) -> Self {
        machine.run(&["rm", "-f", "/tmp/probed"]).ok();
        machine
            .run(&[
                "systemd-run",
                "--quiet",
                "--collect",
                "--unit=probe",
                "-p",
                "KillMode=process",
                "/tools/probe",
                "/tmp/probed",
            ])
            .ok();
        Self(machine)
    }

    /// How often all three were asked; fails where one did not serve.
    #[track_caller]
    pub(crate) fn end(self) -> u64 {
        self.0.run(&["systemctl", "kill", "--kill-whom=main", "--signal=TERM", "probe"]).ok();
        wait_until("the prober ends", Duration::from_secs(30), || {
            self.0.run(&["test", "-e", "/tmp/probed"]).code == Some(0)
        });
        let said = self.0.run(&["cat", "/tmp/probed"]).ok().text();
        let failures: Vec<&str> = said.lines().filter(|line| !line.starts_with("done ")).collect();
        assert!(failures.is_empty(), "{failures:#?}");
        said.lines().find_map(|line| line.strip_prefix("done ")).unwrap().parse().unwrap()
    }
}
