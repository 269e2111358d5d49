//! How much memory it takes to hold what a server said. Only the figure of a release build counts:
//! `cargo build --release && CREDFS_TEST_FULL=1 CREDFS_TEST_PROGRAM=target/release/credfs cargo test --test central memory`.

use std::fmt::Write as _;

use serde_json::json;

use crate::harness::{Asker, is_full};
use crate::place::{ALL, instance, login};
use crate::servers::Bao;

const LOGINS: u32 = 10;
const SECRETS_EACH: u32 = 100;
const FIRST_UID: u32 = 24_100;
const RESIDENT_KB_MAX: u64 = 20 * 1024;

/// Reads each of them once.
const READ_ALL: &str = "
import sys
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    with open(f'{sys.argv[1]}/s{number}/f', 'rb') as file:
        assert len(file.read()) == 64
";

fn kilobytes(pid: u32, file: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("the key");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn a_thousand_cached_secrets_and_ten_logins_fit() {
    let (logins, each) = if is_full() { (LOGINS, SECRETS_EACH) } else { (3, 20) };
    let bao = Bao::dev();
    let value = |number: u32| format!("{number:064}");
    bao.tell_many(
        (0..logins * each)
            .map(|number| (format!("secret/data/prod/s{number}"), json!({"data": {"f": value(number)}}))),
    );
    let instance = instance(&bao, &[&bao.url], &[]);
    let (mut identities, mut names) = (String::new(), Vec::new());
    for number in 0..logins {
        let name = format!("unit{number}");
        let method = login(&bao, &instance, &name, ALL);
        let uid = FIRST_UID + number;
        writeln!(identities, "[identities.{name}]\nuid = {uid}\n[identities.{name}.login.central]\n{method}")
            .expect("written");
        names.push(name);
    }
    instance.write_policy(&format!("{identities}[[grants]]\nto = {names:?}\nread = [\"central/**\"]\n"));
    instance.mount();
    let root = instance.path("central/prod");
    for number in 0..logins {
        let (from, to) = ((number * each).to_string(), ((number + 1) * each).to_string());
        Asker::uid(FIRST_UID + number).python(READ_ALL, &[&root, &from, &to]);
    }
    let status = instance.command(&["status", "--json"]).ok().json();
    let stores = status["stores"].as_array().expect("stores");
    let central = stores.iter().find(|store| store["name"] == "central").expect("it is there");
    let held = central["logins"].as_array().expect("logins").len();
    assert!(held >= logins as usize, "{held} logins");
    let worker = instance.worker_pid();
    let resident = kilobytes(worker, "status", "VmRSS:");
    let own = kilobytes(worker, "smaps_rollup", "Pss:");
    println!(
        "{} secrets of {held} logins: the worker holds {resident} kB resident ({own} kB with shared pages shared out)",
        logins * each
    );
    if is_full() {
        assert!(resident <= RESIDENT_KB_MAX, "{resident} kB");
    }
}
