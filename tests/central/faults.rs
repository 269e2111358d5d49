//! Whatever comes instead of an answer, at a real mount: its errno within its deadline, what is known only within grace
//! and marked, listings at once, no token at another host, and fresh values as soon as the server is back.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{ALICE, Asker, Instance, Program, wait_until};
use crate::place::{ALL, SECRET, instance, login, policy};
use crate::servers::{Bao, Between, Certificates, Does, Impostor, Secured, free_port};

/// `limits.request_deadline`, and what starting a process on a busy machine adds.
const DEADLINE: Duration = Duration::from_millis(5_700);
/// How soon a read is fresh after the server is back.
const FRESH_WITHIN: Duration = Duration::from_secs(2);
/// The same where nothing is claimed of how soon.
const SOON: Duration = Duration::from_secs(6);
/// `limits.request_deadline` bounds every wait; a listing waits for nobody.
const LISTING_MS_MAX: u128 = 500;

/// An instance in front of a server, and how often it was looked at.
struct Site<'a> {
    bao: &'a mut Bao,
    instance: Instance,
    round: u32,
}

/// Fills the server and puts an instance in front of it, at `url`.
fn site<'a>(bao: &'a mut Bao, url: &str, more: &[(&'static str, toml::Value)]) -> Site<'a> {
    // Its grace is over almost at once.
    let brief = json!({"custom_metadata": {"credfs.grace": "300ms"}});
    bao.tell("POST", "secret/metadata/prod/brief", &brief);
    bao.tell("POST", "secret/data/prod/brief", &json!({"data": {"f": "brief"}}));
    for number in 0..12 {
        bao.tell("POST", &format!("secret/data/prod/cold{number}"), &json!({"data": {"f": "cold"}}));
    }
    let mut all = vec![("stores.central.fresh_for", "500ms".into())];
    all.extend(more.iter().cloned());
    let instance = instance(bao, &[url], &all);
    let alice = login(bao, &instance, "alice", ALL);
    instance.write_policy(&policy(&alice, &alice));
    instance.mount();
    Site { bao, instance, round: 0 }
}

impl Site<'_> {
    fn at(&self, name: &str) -> String {
        self.instance.path(&format!("central/prod/{name}"))
    }

    /// What is read (`read …`), or the name of the errno; and that it came in time.
    fn read(&self, name: &str) -> String {
        let begun = Instant::now();
        let told = Asker::uid(ALICE).read(&self.at(name));
        assert!(begun.elapsed() < DEADLINE, "{name}: {told} after {:?}", begun.elapsed());
        told
    }

    fn list(&self, case: &str) {
        let begun = Instant::now();
        let done = Asker::uid(ALICE).run(&["ls", "-R", &self.instance.mount_point()]);
        let took = begun.elapsed().as_millis();
        assert!(done.err.is_empty(), "{case}: {}", done.err);
        assert!(took < LISTING_MS_MAX, "{case}: a listing took {took} ms");
    }

    /// Before a fault: the value of this round is read, fresh.
    fn begin(&mut self) {
        self.round += 1;
        let value = format!("value {}", self.round);
        self.bao.tell("POST", SECRET, &json!({"data": {"password": value}}));
        let expected = format!("read {value}");
        wait_until("it is fresh", SOON, || self.read("db/password") == expected);
        assert_eq!(self.read("brief/f"), "read brief");
    }

    /// While it lasts: what is known is given and marked, within grace; the rest has its errno.
    fn suffer(&self, case: &str, errno: &str) {
        self.list(case);
        let cold = format!("cold{}/f", self.round);
        assert_eq!(self.read(&cold), errno, "{case}: cold");
        self.list(case);
        std::thread::sleep(Duration::from_millis(900));
        let value = format!("value {}", self.round);
        assert_eq!(self.read("db/password"), format!("read {value}"), "{case}: warm, within grace");
        let records = self.instance.records();
        let freshness = records.last("open", "released").text("freshness").to_owned();
        assert!(freshness.starts_with("stale"), "{case}: {freshness}");
        let words = ["getfattr", "--only-values", "-n", "user.credfs.freshness", &self.at("db/password")];
        let attribute = Asker::uid(ALICE).run(&words);
        assert!(attribute.text().starts_with("stale"), "{case}: {} {}", attribute.text(), attribute.err);
        assert_eq!(self.read("brief/f"), errno, "{case}: warm, beyond grace");
        assert_eq!(self.read(&cold), errno, "{case}: cold, and it stays so");
        let cold = format!("central/prod/cold{}", self.round);
        let given = records.iter().filter(|record| record.is("open", "released"));
        assert!(given.clone().count() > 0);
        assert!(given.clone().all(|record| record.text("secret") != cold), "{case}: it was invented");
        self.list(case);
    }

    /// After it: the first read is fresh within two seconds.
    fn recover(&self, case: &str) {
        let back = Instant::now();
        self.bao.tell("POST", SECRET, &json!({"data": {"password": "after it"}}));
        while self.read("db/password") != "read after it" {
            assert!(back.elapsed() < FRESH_WITHIN, "{case}: not fresh after {:?}", back.elapsed());
        }
        let took = back.elapsed();
        let records = self.instance.records();
        assert_eq!(records.last("open", "released").text("freshness"), "fresh", "{case}");
        assert_eq!(self.read(&format!("cold{}/f", self.round)), "read cold", "{case}");
        println!("{case}: fresh after {} ms", took.as_millis());
    }
}

#[test]
fn every_answer_that_is_none_has_its_errno_and_recovery_is_found_at_once() {
    let mut bao = Bao::dev();
    let between = Between::in_front_of(&bao.url);
    let trap = Between::in_front_of(&bao.url);
    let root = bao.root.clone();
    let mut site = site(&mut bao, &between.url(), &[]);
    let whole = |body: &str| Does::answer("200 OK", "Content-Type: application/json\r\n", body);
    let away = format!("Location: {}/v1/secret/data/prod/db\r\n", trap.url());
    let flood = [b"HTTP/1.1 200 OK\r\n\r\n{\"data\":\"".as_slice(), &[b'x'; 65_536]].concat();
    for (case, does) in [
        ("429", Does::answer("429 Too Many Requests", "Retry-After: 1\r\n", "{\"errors\":[\"slow down\"]}")),
        (
            "500 and half a body",
            Does::Say(
                b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 400\r\n\r\n{\"errors\":[\"x".to_vec(),
            ),
        ),
        ("a redirect to another host", Does::answer("307 Temporary Redirect", &away, "")),
        (
            "100 MB announced",
            Does::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n{\"data\":\"".to_vec()),
        ),
        ("more than 8 MiB, without end", Does::Flood(flood)),
        ("invalid JSON", whole("{\"data\":{\"data\":{\"password\":\"inven")),
        ("a black hole behind the connection", Does::Nothing),
    ] {
        site.begin();
        between.decide(move |_| does.clone());
        site.suffer(case, "ETIMEDOUT");
        between.decide(|_| Does::HandOn);
        site.recover(case);
    }
    assert_eq!(trap.seen(), [""; 0], "the other host was sent something");
    let asked = between.seen();
    let with_token = asked.iter().filter(|request| request.to_ascii_lowercase().contains("x-vault-token: "));
    assert!(with_token.count() > 20, "the other way round it is seen");
    assert!(asked.iter().all(|request| !request.contains(&root)));
}

/// A name of this machine, while it lasts.
struct HostName(String);

impl HostName {
    fn new() -> Self {
        let made = Self(format!("credfs-test-{}.invalid", std::process::id()));
        made.resolves(true);
        made
    }

    fn resolves(&self, resolves: bool) {
        let text = std::fs::read_to_string("/etc/hosts").expect("/etc/hosts");
        let mut lines: Vec<&str> = text.lines().filter(|line| !line.contains(&self.0)).collect();
        let ours = format!("127.0.0.1 {}", self.0);
        if resolves {
            lines.push(&ours);
        }
        // In place: in containers it is a mount.
        std::fs::write("/etc/hosts", lines.join("\n") + "\n").expect("/etc/hosts can be written");
    }
}

impl Drop for HostName {
    fn drop(&mut self) {
        self.resolves(false);
    }
}

#[test]
fn a_server_that_goes_in_any_way_has_its_errno_and_is_found_again_at_once() {
    let name = HostName::new();
    let certificates = Certificates::new();
    certificates.make("server", &format!("DNS:{},IP:127.0.0.1", name.0), "serverAuth");
    let strangers = Certificates::new();
    strangers.make("server", &format!("DNS:{},IP:127.0.0.1", name.0), "serverAuth");
    let port = free_port();
    let mut bao = Bao::configured(port, Some(&Secured { certificates: &certificates, shows: "server" }));
    bao.mount_kv("secret", "2");
    let ca = certificates.ca().display().to_string();
    let more = [("stores.central.ca_file", ca.into())];
    let mut site = site(&mut bao, &format!("https://{}:{port}", name.0), &more);

    site.begin();
    site.bao.tell("PUT", "sys/seal", &json!({}));
    site.suffer("sealed", "ENOKEY");
    site.bao.unseal();
    site.recover("sealed");

    site.begin();
    site.bao.kill();
    site.suffer("stopped", "ETIMEDOUT");
    site.bao.start_again();
    wait_until("it is known to be sealed", SOON, || site.read("brief/f") == "ENOKEY");
    site.bao.unseal();
    site.recover("stopped and restarted");

    site.begin();
    site.bao.signal("STOP");
    site.suffer("a black hole", "ETIMEDOUT");
    site.bao.signal("CONT");
    site.recover("a black hole");

    site.begin();
    site.bao.kill();
    {
        let impostor = Impostor::at(port, &strangers, "server");
        site.suffer("a certificate that nobody vouches for", "ETIMEDOUT");
        assert_eq!(impostor.was_told(), b"", "nothing was said to it");
    }
    site.bao.start_again();
    site.bao.unseal();
    site.recover("a certificate that nobody vouches for");

    // A name that goes while it is known: nobody notices.
    site.begin();
    name.resolves(false);
    assert_eq!(site.read(&format!("cold{}/f", site.round)), "read cold", "the last address is good");
    // Whoever starts without it waits for nothing.
    site.begin();
    std::thread::sleep(Duration::from_secs(2));
    let worker = site.instance.worker_pid();
    Program::of(&["kill", "-9", &worker.to_string()]).run().ok();
    site.suffer("a name that cannot be resolved", "ETIMEDOUT");
    name.resolves(true);
    site.recover("a name that cannot be resolved");
}

#[test]
fn what_the_server_or_credfs_took_away_is_never_given_from_memory() {
    let mut bao = Bao::dev();
    let url = bao.url.clone();
    let site = site(&mut bao, &url, &[]);
    for secret in ["deleted", "destroyed", "revoked"] {
        site.bao.tell("POST", &format!("secret/data/prod/{secret}"), &json!({"data": {"f": "value"}}));
        assert_eq!(site.read(&format!("{secret}/f")), "read value");
    }
    site.bao.tell("POST", "secret/delete/prod/deleted", &json!({"versions": [1]}));
    site.bao.tell("PUT", "secret/destroy/prod/destroyed", &json!({"versions": [1]}));
    site.instance.command(&["revoke", "central/prod/revoked", "--version", "1"]).ok();
    let expected = [("deleted/f", "ENOENT"), ("destroyed/f", "ENOENT"), ("revoked/f", "EACCES")];
    for (name, errno) in expected {
        wait_until("it is gone", SOON, || site.read(name) == errno);
    }
    site.bao.kill();
    std::thread::sleep(Duration::from_secs(2));
    for (name, errno) in expected {
        assert_eq!(site.read(name), errno, "{name} in an outage");
    }
}
