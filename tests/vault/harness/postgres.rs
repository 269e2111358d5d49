//! A real PostgreSQL server of a test's own: on loopback, with passwords, in a directory that goes with it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;

use super::bao::unguessable;
use super::{Bao, Directory, free_port};

/// One server. Its directory is its owner's, as PostgreSQL demands.
pub(crate) struct Postgres {
    directory: Directory,
    binaries: PathBuf,
    port: u16,
    password: String,
}

fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL: tests/run installs it");
    let mut all: Vec<PathBuf> = versions.map(|version| version.unwrap().path().join("bin")).collect();
    all.sort();
    all.pop().expect("PostgreSQL: tests/run installs it")
}

impl Postgres {
    pub(crate) fn start() -> Self {
        let directory = Directory::new();
        let owned = Command::new("chown").arg("postgres").arg(directory.path()).status().unwrap();
        assert!(owned.success(), "the package postgresql makes the user postgres");
        let password = unguessable();
        let file = directory.file("password", &password);
        assert!(Command::new("chown").arg("postgres").arg(&file).status().unwrap().success());
        let postgres = Self { directory, binaries: binaries(), port: free_port(), password };
        let data = postgres.data();
        postgres.run(
            "initdb",
            &[
                "-D",
                &data,
                "-A",
                "scram-sha-256",
                "--auth-local=trust",
                "-U",
                "postgres",
                "--no-sync",
                "--pwfile",
                file.to_str().unwrap(),
            ],
        );
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories={} -c fsync=off",
            postgres.port,
            postgres.directory.path().display()
        );
        let log = format!("{}/log", postgres.directory.path().display());
        postgres.run("pg_ctl", &["-D", &data, "-w", "-l", &log, "-o", &options, "start"]);
        postgres
    }

    fn data(&self) -> String {
        format!("{}/data", self.directory.path().display())
    }

    #[track_caller]
    fn run(&self, program: &str, arguments: &[&str]) {
        let done = Command::new("runuser")
            .args(["-u", "postgres", "--"])
            .arg(self.binaries.join(program))
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// What a query of the server's own user gives.
    #[track_caller]
    pub(crate) fn query(&self, query: &str) -> String {
        let asked = Command::new("psql")
            .args(["-h", self.directory.path().to_str().unwrap(), "-p", &self.port.to_string()])
            .args(["-U", "postgres", "-d", "postgres", "-AtXqc", query])
            .output()
            .unwrap();
        assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
        String::from_utf8(asked.stdout).unwrap().trim().to_owned()
    }

    /// The users that were minted, in order.
    pub(crate) fn users(&self) -> Vec<String> {
        let all = self.query("select rolname from pg_roles where rolname like 'v-%' order by 1");
        all.lines().map(str::to_owned).collect()
    }

    /// Whether somebody can log in over the network and ask something.
    pub(crate) fn lets_in(&self, user: &str, password: &str) -> bool {
        let asked = Command::new("psql")
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", user, "-d", "postgres", "-w"])
            .args(["-AtXqc", "select current_user"])
            .env("PGPASSWORD", password)
            .output()
            .unwrap();
        asked.status.success() && String::from_utf8_lossy(&asked.stdout).trim() == user
    }

    /// Has a server mint users of it at `database/creds/ROLE`.
    #[track_caller]
    pub(crate) fn serve_through(&self, bao: &Bao, role: &str, default_ttl: &str, max_ttl: &str) {
        if bao.ask("GET", "sys/mounts/database", None).0 != 200 {
            bao.tell("POST", "sys/mounts/database", &json!({"type": "database"}));
            bao.tell(
                "POST",
                "database/config/orders",
                &json!({
                    "plugin_name": "postgresql-database-plugin",
                    "allowed_roles": "*",
                    "connection_url": format!(
                        "postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/postgres?sslmode=disable", self.port
                    ),
                    "username": "postgres",
                    "password": self.password,
                }),
            );
        }
        bao.tell(
            "POST",
            &format!("database/roles/{role}"),
            &json!({
                "db_name": "orders",
                "creation_statements":
                    "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';",
                "default_ttl": default_ttl,
                "max_ttl": max_ttl,
            }),
        );
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let ended = Command::new("runuser")
            .args(["-u", "postgres", "--"])
            .arg(self.binaries.join("pg_ctl"))
            .args(["-D", &self.data(), "-m", "immediate", "-w", "stop"])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(
            std::thread::panicking() || ended.is_ok_and(|status| status.success()),
            "PostgreSQL was not ended"
        );
    }
}
