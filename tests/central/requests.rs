//! What a machine asks of the server: how many requests while fifty of a thousand secrets are in use, and after a restart.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{ALICE, Asker, Instance, Program, repetitions};
use crate::place::{ALL, instance, policy};
use crate::servers::{Bao, Between};

const SECRETS: u32 = 1_000;
const IN_USE: u32 = 50;
/// What `requests_per_minute_max` is unless told otherwise.
const PER_MINUTE_MAX: usize = 450;

/// What `fresh_for` is unless told otherwise.
const FRESH_FOR_S: u64 = 10;

/// Each of fifty secrets once in two seconds, until it is ended; a refusal ends it with an error.
const CONSUMERS: &str = "
import sys, time
root, count, failed = sys.argv[1], int(sys.argv[2]), {}
print('begun', flush=True)
end = time.time() + float(sys.argv[3])
while time.time() < end:
    begun = time.time()
    for number in range(count):
        try:
            with open(f'{root}/s{number}/f', 'rb') as file:
                assert file.read() == b'value %d' % number
        except OSError as error:
            failed[error.errno] = failed.get(error.errno, 0) + 1
        time.sleep(max(0, 2 / count - 0.001))
print(failed)
";

/// A role whose tokens live for `life`, so that an hour of renewals fits into it; as `place::login` otherwise.
fn short_login(bao: &Bao, instance: &Instance, name: &str, life: &str) -> String {
    bao.policy(name, ALL);
    let settings = json!({"token_policies": [name], "token_ttl": life});
    let (role_id, secret_id) = bao.approle(name, settings);
    let file = instance.file(&format!("{name}.secret-id"));
    std::fs::write(&file, secret_id).expect("written");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("private");
    format!("method = \"approle\"\nrole_id = \"{role_id}\"\nsecret_id_file = \"{file}\"\n")
}

/// What the server was sent since `from`, by kind.
fn kinds(between: &Between, from: usize) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for request in &between.seen()[from..] {
        let line = request.lines().next().unwrap_or("");
        let kind = match line {
            _ if line.contains("/data/") => "values",
            _ if line.contains("list=true") || line.starts_with("LIST") => "listings",
            _ if line.contains("/metadata/") => "metadata",
            _ if line.contains("/login") => "logins",
            _ if line.contains("renew-self") => "renewals",
            _ if line.contains("/sys/health") => "probes",
            _ => "other",
        };
        *kinds.entry(kind).or_insert(0) += 1;
    }
    kinds
}

fn per_minute_of(requests: usize, span: Duration) -> usize {
    (requests as f64 * 60.0 / span.as_secs_f64()) as usize
}

fn sum(kinds: &BTreeMap<&'static str, usize>) -> usize {
    kinds.values().sum()
}

#[test]
fn fifty_of_a_thousand_secrets_in_use_stay_within_the_budget_and_a_restart_is_no_stampede() {
    let bao = Bao::dev();
    let one = |number: u32| {
        (format!("secret/data/prod/s{number}"), json!({"data": {"f": format!("value {number}")}}))
    };
    bao.tell_many((0..SECRETS).map(one));
    let between = Between::in_front_of(&bao.url);
    // An hour in a minute: names are listed every 5 s instead of every 5 min, tokens live a minute and not an hour.
    let more = [("stores.central.list_every", "5s".into()), ("stores.central.in_use_for", "1m".into())];
    let instance = instance(&bao, &[&between.url()], &more);
    let alice = short_login(&bao, &instance, "alice", "1m");
    instance.write_policy(&policy(&alice, &alice));
    instance.mount();
    let seconds = repetitions(20, 120);
    let (all, count) = ((seconds + 45).to_string(), IN_USE.to_string());
    let root = instance.path("central/prod");
    let log = instance.dir().join("consumers.out");
    let words = ["/usr/bin/python3", "-I", "-c", CONSUMERS, &root, &count, &all];
    let mut consumers = Asker::uid(ALICE).program(&words).keep(&log);

    std::thread::sleep(Duration::from_secs(10));
    println!("the first 10 s, all of it cold: {:?}", kinds(&between, 0));
    let from = between.seen().len();
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs(seconds));
    let steady = kinds(&between, from);
    let per_minute = per_minute_of(sum(&steady), begun.elapsed());
    println!("{per_minute} requests a minute ({steady:?} in {seconds} s)");
    // A reader is given what was vouched for within `fresh_for`; so a secret that is read all the time is read again by
    // the first open after it. Nothing else is sent for readers, and what nobody waits for has its budget.
    let values = steady.get("values").copied().unwrap_or(0);
    let for_readers = IN_USE as usize * (seconds.div_ceil(FRESH_FOR_S) as usize + 1);
    assert!(values <= for_readers, "{values} reads of values: {steady:?}");
    let unasked = per_minute_of(sum(&steady) - values, begun.elapsed());
    assert!(unasked <= PER_MINUTE_MAX * 11 / 10, "{unasked} a minute that nobody waits for: {steady:?}");

    let from = between.seen().len();
    let worker = instance.worker_pid();
    Program::of(&["kill", "-9", &worker.to_string()]).run().ok();
    std::thread::sleep(Duration::from_secs(10));
    let after = kinds(&between, from);
    println!("the first 10 s after the worker was killed: {} ({after:?})", sum(&after));
    // Each value in use is asked for once, what is due is polled, and a login for each who reads.
    let fair = 2 * IN_USE as usize + PER_MINUTE_MAX / 6 + 20;
    assert!(sum(&after) <= fair, "{} requests: {after:?}", sum(&after));

    let from = between.seen().len();
    instance.end_with("TERM");
    instance.mount();
    std::thread::sleep(Duration::from_secs(10));
    let after = kinds(&between, from);
    println!("the first 10 s after credfs was restarted: {} ({after:?})", sum(&after));
    assert!(sum(&after) <= fair, "{} requests: {after:?}", sum(&after));
    assert!(after.get("values").copied().unwrap_or(0) <= IN_USE as usize, "{after:?}");
    consumers.wait(Duration::from_secs(60)).expect("it ends");
    println!("refused meanwhile: {}", consumers.output());
}
