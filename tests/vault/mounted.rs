//! What is minted, through a real mount: units of the machine read it as files.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Bao, Between, Directory, Does, Postgres, Unit};

const CREDFS: &str = env!("CARGO_BIN_EXE_credfs");

/// An instance that serves.
struct Served {
    directory: Directory,
    daemon: Child,
}

fn run(command: &mut Command) -> (bool, String, String) {
    let done = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (done.status.success(), text(done.stdout), text(done.stderr))
}

#[track_caller]
fn soon(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Served {
    fn start(url: &str, token: &str, policy: &str) -> Self {
        Self::start_with(url, token, policy, &[])
    }

    /// With files of these names and contents beside the configuration.
    fn start_with(url: &str, token: &str, policy: &str, files: &[(&str, &str)]) -> Self {
        let directory = Directory::new();
        let config = directory.path().join("credfs.toml");
        let mount = directory.path().join("mnt");
        let arguments =
            ["init", "--config", config.to_str().unwrap(), "--mount-point", mount.to_str().unwrap()];
        let (is_done, _, err) = run(Command::new(CREDFS).args(arguments));
        assert!(is_done, "{err}");
        directory.file("token", token);
        files.iter().for_each(|(name, content)| drop(directory.file(name, content)));
        let mut text = std::fs::read_to_string(&config).unwrap();
        text.push_str(&format!(
            "\n[stores.central]\nkind = \"vault\"\nprefix = \"central\"\naddresses = [\"{url}\"]\n\
             [stores.central.login]\nmethod = \"token\"\ntoken_file = \"token\"\n\
             [stores.central.dynamic.\"db/orders\"]\nengine = \"database\"\nrole = \"orders\"\n\
             [stores.central.dynamic.\"db/each\"]\nengine = \"database\"\nrole = \"orders\"\nconsumer = \"process\"\n"
        ));
        directory.file("credfs.toml", &text);
        directory.file("policy.toml", policy);
        let daemon = Self::mount(&directory);
        let served = Self { directory, daemon };
        served.wait();
        served
    }

    fn mount(directory: &Directory) -> Child {
        let log =
            std::fs::File::options().append(true).create(true).open(directory.path().join("log")).unwrap();
        Command::new(CREDFS)
            .args(["--config", directory.path().join("credfs.toml").to_str().unwrap(), "mount"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    #[track_caller]
    fn wait(&self) {
        soon(&format!("serving: {}", self.log()), || self.command(&["status"]).0);
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn command(&self, words: &[&str]) -> (bool, String, String) {
        let config = self.directory.path().join("credfs.toml");
        run(Command::new(CREDFS).args(["--config", config.to_str().unwrap()]).args(words))
    }

    fn json(&self, words: &[&str]) -> Value {
        let (_, out, err) = self.command(&[words, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("{words:?}: {out}{err}"))
    }

    fn path(&self, inner: &str) -> PathBuf {
        self.directory.path().join("mnt").join(inner)
    }

    /// What a process of the unit reads.
    #[track_caller]
    fn read(&self, unit: &Unit, inner: &str) -> String {
        let (is_done, out, err) = run(&mut unit.shell(&format!("cat {}", self.path(inner).display())));
        assert!(is_done, "{inner}: {err}\n{}", self.log());
        out
    }

    fn pair(&self, unit: &Unit) -> (String, String) {
        (self.read(unit, "central/db/orders/username"), self.read(unit, "central/db/orders/password"))
    }

    fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.directory.path().join("audit.log")).unwrap();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn count(&self, op: &str, outcome: &str) -> usize {
        self.records().iter().filter(|record| record["op"] == op && record["outcome"] == outcome).count()
    }

    fn end(&mut self) {
        let pid = self.daemon.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let begun = Instant::now();
        while self.daemon.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(15), "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        // Its guard takes the mount away.
        let begun = Instant::now();
        let mount = self.directory.path().join("mnt");
        let is_mounted = |at: &Path| {
            std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(at.to_str().unwrap())
        };
        while is_mounted(&mount) {
            if begun.elapsed() > Duration::from_secs(5) {
                let _ = Command::new("umount").arg("-l").arg(&mount).status();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn policy(units: &[&Unit]) -> String {
    let names: Vec<String> = units.iter().map(|unit| format!("{:?}", unit.name())).collect();
    format!(
        "[identities.orders]\nunit = [{}]\n[identities.looker]\nuser = [\"nobody\"]\n\
         [[grants]]\nto = [\"orders\"]\nread = [\"central/db/*\"]\n\
         [[grants]]\nto = [\"looker\"]\nlist = [\"central/**\"]\n\
         [views.\"app/password\"]\nsecret = \"central/db/orders\"\nfield = \"password\"\n\
         [views.\"app/nothing\"]\nsecret = \"central/db/orders\"\nfield = \"nothing\"\n",
        names.join(", ")
    )
}

#[test]
#[allow(clippy::too_many_lines, reason = "one story from the first look to the last lease")]
fn units_read_users_of_their_own_from_files_until_they_stop() {
    let (postgres, bao) = (Postgres::start(), Bao::dev());
    postgres.serve_through(&bao, "orders", "1h", "24h");
    let between = Between::in_front_of(&bao.url);
    let (mut one, mut other) = (Unit::running("one"), Unit::running("other"));
    let mut served = Served::start(&between.url(), &bao.root, &policy(&[&one, &other]));
    // Looking: by who may only list, and by who may read.
    let tree = served.path("central");
    let look = format!(
        "ls -laR {0}; find {0} -ls; stat {0}/db/orders/password; stat {0}/db/orders/nothing; \
         stat {0}/db/orders/versions/1/nothing {0}/db/orders/versions/99 {0}/db/nothing; stat {1}; getfattr -d -R {0}; \
         test -r {0}/db/orders/password; du -a {0}",
        tree.display(),
        served.path("app/password").display()
    );
    let (_, seen, _) = run(&mut one.shell(&look));
    assert!(seen.contains("password") && seen.contains("username") && seen.contains("current"), "{seen}");
    run(Command::new("setpriv").args(["--reuid", "nobody", "--clear-groups", "sh", "-c", &look]));
    assert_eq!((between.count("/creds/"), postgres.users().len()), (0, 0), "looking minted");
    let asked = || between.count("/db/orders") + between.count("/db/each");
    assert_eq!(asked(), 0, "looking asked the engine beside it");
    // Reading.
    let first = served.pair(&one);
    // Somebody has one by now, and the other only looks.
    let (_, seen, _) = run(&mut other.shell(&look));
    assert!(seen.contains("username") && postgres.users().len() == 1, "looking minted");
    let second = served.pair(&other);
    assert_ne!(first.0, second.0);
    assert_eq!(served.read(&one, "app/password"), first.1, "a view shows each what is his");
    assert_eq!(served.read(&other, "app/password"), second.1);
    let (_, _, said) = run(&mut one.shell(&format!("stat {}", served.path("app/nothing").display())));
    assert!(said.contains("No such file"), "a view of a field that is none: {said}");
    assert_eq!(asked(), 0, "reading asked the engine beside it");
    assert!(postgres.lets_in(&first.0, &first.1) && postgres.lets_in(&second.0, &second.1));
    assert_eq!(served.pair(&one), first, "shared by all reads of the unit");
    assert_eq!(between.count("/creds/"), 2);
    let size = run(&mut one.shell(&format!("stat -c %s {}/db/orders/password", tree.display()))).1;
    assert_eq!(size.trim(), first.1.len().to_string(), "exact once it is minted");
    // Nobody sees what is the other's: by no name.
    let numbers = |unit: &Unit| run(&mut unit.shell(&format!("ls {}/db/orders/versions", tree.display()))).1;
    assert!(numbers(&one) != numbers(&other) && numbers(&one).lines().count() == 1);
    let theirs = format!("cat {}/db/orders/versions/{}/password", tree.display(), numbers(&other).trim());
    assert!(!run(&mut one.shell(&theirs)).0);
    assert!(!run(Command::new("cat").arg(served.path("central/db/orders/password"))).0, "root has no grant");
    // One for each process.
    let each = format!("cat {0}/db/each/username; echo; cat {0}/db/each/username", tree.display());
    let (_, out, _) = run(&mut one.shell(&each));
    let both: Vec<&str> = out.lines().collect();
    assert!(both.len() == 2 && both[0] != both[1], "{out}");
    soon("the users of processes that ended are gone", || postgres.users().len() == 2);
    // A file that was opened before is handed to a child.
    let handed = format!("exec 3<{}/db/orders/password; cat <&3", tree.display());
    assert_eq!(run(&mut one.shell(&handed)).1, first.1);
    // And to another unit, which may read it too, though it is not shown that version.
    let moved = format!(
        "exec 3<{}/db/orders/password; echo $$ > {}; stat --cached=never -L -c %s /proc/self/fd/3; cat <&3",
        tree.display(),
        other.entrance().display()
    );
    assert_eq!(run(&mut one.shell(&moved)).1, format!("{}\n{}", first.1.len(), first.1));
    // What administrators are told.
    let status = served.json(&["status"]);
    let central =
        status["stores"].as_array().unwrap().iter().find(|store| store["name"] == "central").unwrap();
    assert_eq!(central["leases"]["central/db/orders"]["live"], 2, "{central}");
    let versions = served.json(&["versions", "central/db/orders"]);
    let rows = versions.as_array().unwrap();
    let row = rows.iter().find(|row| row["consumer"] == format!("unit {}", one.name())).unwrap();
    assert!(rows.len() == 2 && row["stages"][0] == "current" && row["expires"].is_string(), "{versions}");
    // A command ends it at once; the next open gets another.
    let number = row["version"].to_string();
    let (is_done, _, err) = served.command(&["revoke", "central/db/orders", "--version", &number]);
    assert!(is_done && !postgres.users().contains(&first.0), "{err}");
    let again = served.pair(&one);
    assert!(again.0 != first.0 && postgres.lets_in(&again.0, &again.1));
    // The worker is killed: its successor goes on with the same.
    let worker = served.json(&["status"])["worker_pid"].to_string();
    run(Command::new("kill").args(["-KILL", &worker]));
    soon("another worker serves", || {
        let (is_done, out, _) = served.command(&["status", "--json"]);
        let pid = serde_json::from_str::<Value>(&out).map(|status| status["worker_pid"].to_string());
        is_done && pid.is_ok_and(|pid| pid != worker)
    });
    assert_eq!((served.pair(&one), served.pair(&other)), (again.clone(), second.clone()));
    // A unit that stops loses its user.
    one.stop(false);
    soon("the user of a stopped unit is gone", || postgres.users() == [second.0.clone()]);
    // Everything is killed, and a unit stops while nobody serves.
    let _ = served.daemon.kill();
    let _ = served.daemon.wait();
    let worker = served.records().len();
    assert!(worker > 0);
    soon("nobody serves", || !served.command(&["status"]).0);
    assert_eq!(postgres.users().len(), 1);
    other.stop(true);
    served.daemon = Served::mount(&served.directory);
    served.wait();
    soon("what was left by the dead is ended at the next start", || postgres.users().is_empty());
    // A planned end leaves nothing.
    let third = Unit::running("third");
    served.directory.file("policy.toml", &policy(&[&third]));
    assert!(served.command(&["reload"]).0);
    let last = served.pair(&third);
    assert!(postgres.lets_in(&last.0, &last.1));
    served.end();
    assert!(postgres.users().is_empty(), "{}", served.log());
    // What is on record, and what is not.
    assert!(served.count("mint", "done") >= 5 && served.count("mint", "failed") == 0);
    let ended = served.records().into_iter().filter(|record| record["reason"] == "consumer_gone").count();
    assert!(ended >= 2 && served.records().iter().any(|record| record["reason"] == "shutdown"));
    let minted = served.records().into_iter().find(|record| record["op"] == "mint").unwrap();
    assert!(
        minted["request_id"].is_string()
            && minted["consumer"].is_string()
            && minted["secret"] == "central/db/orders"
    );
    let all = std::fs::read_to_string(served.directory.path().join("audit.log")).unwrap() + &served.log();
    for (_, password) in [&first, &second, &again, &last] {
        assert!(!all.contains(password.as_str()), "a password was written down");
    }
    let verified = served.command(&["audit", "verify"]);
    assert!(verified.0, "{}", verified.2);
}

/// The server's name for the token of a login, where there is one.
fn accessor(served: &Served, login: &str) -> Option<String> {
    let status = served.json(&["status"]);
    let central = status["stores"].as_array()?.iter().find(|store| store["name"] == "central")?.clone();
    let found = central["logins"].as_array()?.iter().find(|found| found["login"] == login)?.clone();
    found["accessor"].as_str().map(str::to_owned)
}

#[test]
#[allow(clippy::too_many_lines, reason = "one story of one login from its first use to its last end")]
fn an_identitys_login_is_ended_with_the_last_process_that_used_it() {
    let (postgres, bao) = (Postgres::start(), Bao::dev());
    postgres.serve_through(&bao, "orders", "1h", "24h");
    bao.policy(
        "reader",
        "path \"secret/data/*\" { capabilities = [\"read\"] }\n\
         path \"database/creds/orders\" { capabilities = [\"read\"] }\n\
         path \"sys/leases/*\" { capabilities = [\"update\"] }",
    );
    let put = |name: &str, value: &str| {
        bao.tell("POST", &format!("secret/data/app/{name}"), &json!({"data": {"f": value}}))
    };
    put("config", "kept");
    put("own", "kept");
    let between = Between::in_front_of(&bao.url);
    let (mut one, mut other, stays) = (Unit::running("one"), Unit::running("other"), Unit::running("stays"));
    let settings = || json!({"token_policies": "reader", "token_ttl": "1h"});
    let (orders, billing) = (bao.approle("orders", settings()), bao.approle("billing", settings()));
    let identity = |name: &str, units: &[&Unit], role_id: &str| {
        let units: Vec<&str> = units.iter().map(|unit| unit.name()).collect();
        format!(
            "[identities.{name}]\nunit = {units:?}\n[identities.{name}.login.central]\nmethod = \"approle\"\n\
             role_id = \"{role_id}\"\nsecret_id_file = \"{name}-id\"\n\
             [[grants]]\nto = [\"{name}\"]\nread = [\"central/app/*\", \"central/db/*\"]\n"
        )
    };
    let policy = identity("orders", &[&one, &other], &orders.0) + &identity("billing", &[&stays], &billing.0);
    let files = [("orders-id", orders.1.as_str()), ("billing-id", billing.1.as_str())];
    let served = Served::start_with(&between.url(), &bao.root, &policy, &files);
    let is_there = |accessor: &String| bao.accessors().contains(accessor);
    let logins = || between.count("auth/approle/login");
    for unit in [&one, &other, &stays] {
        assert_eq!(served.read(unit, "central/app/config/f"), "kept");
    }
    served.read(&one, "central/app/own/f");
    served.read(&one, "central/db/orders/password");
    let (first, of_billing) = (accessor(&served, "identity:orders"), accessor(&served, "identity:billing"));
    let (first, of_billing) = (first.unwrap(), of_billing.unwrap());
    assert!(logins() == 2 && first != of_billing && is_there(&first) && is_there(&of_billing));
    // The first who is gone loses what was minted for him, and leaves the login to the other, who only read.
    one.stop(true);
    soon("the user of the unit that stopped is gone", || postgres.users().is_empty());
    std::thread::sleep(Duration::from_secs(5));
    assert!(is_there(&first), "it is ended while somebody who used it lives");
    let pair = served.pair(&other);
    assert!(postgres.lets_in(&pair.0, &pair.1) && logins() == 2);
    // The last one takes it along.
    other.stop(true);
    soon("the login of those who are gone is ended", || !is_there(&first));
    assert!(postgres.users().is_empty() && is_there(&of_billing));
    assert_eq!(accessor(&served, "identity:orders"), None);
    let failed = served.records().into_iter().filter(|record| record["outcome"] == "failed").count();
    assert_eq!(failed, 0, "the lease was ended before the login that it hung on");
    // Nothing brings it back but somebody who reads: no poll, no listing, no look.
    put("own", "second");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!((logins(), accessor(&served, "identity:orders")), (2, None));
    // Whoever is the identity next logs in once.
    one.spawn_again();
    soon("the new value", || served.read(&one, "central/app/own/f") == "second");
    served.pair(&one);
    let second = accessor(&served, "identity:orders").unwrap();
    assert!(logins() == 3 && second != first && is_there(&second));
    // What hangs on it cannot be ended for a while: till then it is needed.
    let bad = || Does::answer("502 Bad Gateway", "", "");
    between.decide(move |line| if line.contains("leases/revoke") { bad() } else { Does::HandOn });
    one.stop(true);
    std::thread::sleep(Duration::from_secs(6));
    assert!(is_there(&second) && postgres.users().len() == 1, "it is ended before what hangs on it");
    // Then it cannot be ended itself: that is tried again.
    let ends = || between.count("revoke-self");
    let before = ends();
    between.decide(move |line| if line.contains("revoke-self") { bad() } else { Does::HandOn });
    soon("its end is tried", || ends() > before);
    assert!(postgres.users().is_empty() && is_there(&second));
    between.decide(|_| Does::HandOn);
    soon("it is ended later", || !is_there(&second));
    // What nothing hangs on is not left to a successor, who knows who used what.
    one.spawn_again();
    // What the identity was given a moment ago needs no login.
    soon("a login", || {
        served.read(&one, "central/app/own/f") == "second" && accessor(&served, "identity:orders").is_some()
    });
    let third = accessor(&served, "identity:orders").unwrap();
    let worker = served.json(&["status"])["worker_pid"].clone();
    run(Command::new("kill").args(["-TERM", &worker.to_string()]));
    soon("another worker serves", || {
        served.command(&["status"]).0 && served.json(&["status"])["worker_pid"] != worker
    });
    assert!(!is_there(&third) && !is_there(&of_billing), "left behind by a worker that ended");
    put("own", "third");
    soon("it is read ahead for who used it before", || accessor(&served, "identity:orders").is_some());
    let fourth = accessor(&served, "identity:orders").unwrap();
    assert_eq!(served.read(&one, "central/app/own/f"), "third");
    assert!(is_there(&fourth));
    drop(one);
    soon("its login is ended by the successor", || !is_there(&fourth));
}
