//! Every fault of a file is told at once, with its line.

use std::time::Duration;

use super::*;

fn read(text: &str) -> Vec<Fault> {
    let faults = Faults::of(Path::new("/etc/credfs/x.toml"));
    let document = Document::parse(text, &faults);
    let root = document.root(&faults);
    let _read = root.required_text("mount_point", "/run/credfs");
    if let Some(limits) = root.section("limits") {
        let _read = limits.span("request_deadline", Duration::from_millis(1)..=Duration::from_secs(60));
        let _read = limits.integer("handles_max", 1..=100);
        let _read = limits.word("mood", &[("good", 1), ("bad", 2)]);
        limits.finish();
    }
    for (_, store) in root.named_sections("stores") {
        let _read = store.path("path");
        store.finish();
    }
    for grant in root.sections("grants") {
        let _read = grant.texts("to");
        let _read = grant.ids("uid");
        grant.finish();
    }
    root.finish();
    faults.into_vec()
}

#[test]
fn every_fault_of_a_file_is_reported_at_once_with_its_line() {
    let faults = read(
        "mount_pint = \"/x\"\n[limits]\nrequest_deadline = 5\nhandles_max = 1000\nmood = \"ugly\"\n\
         [stores.main]\npath = true\n[[grants]]\nto = [1]\nuid = [-1]\n[[grants]]\nt = []\n",
    );
    let lines: Vec<usize> = faults.iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [1, 1, 3, 4, 5, 7, 9, 10, 12], "{faults:#?}");
    assert!(faults.iter().all(|fault| !fault.remedy.is_empty()));
    let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert!(all.iter().any(|text| text.contains("did you mean \"mount_point\"")), "{all:#?}");
    assert!(all[2].starts_with("/etc/credfs/x.toml:3: "), "{all:#?}");
}

#[test]
fn syntax_errors_and_duplicates_are_faults_and_the_rest_is_checked_too() {
    let faults = read("mount_point = \"/x\"\nmount_point = \"/y\"\n[limits\nhandles_max = 0\n");
    assert!(faults.iter().any(|fault| fault.line == 2 && fault.message.contains("duplicate")), "{faults:#?}");
    assert!(faults.iter().any(|fault| fault.line == 3), "{faults:#?}");
}

#[test]
fn a_file_without_fault_has_none() {
    assert_eq!(read("mount_point = \"/x\"\n[limits]\nrequest_deadline = \"5s\"\n"), []);
}

#[test]
fn quoted_text_is_read_back_as_it_was() {
    for text in ["", "a\"b", "back\\slash", "new\nline\u{7f}\0", "ü–☃"] {
        let faults = Faults::of(Path::new("x"));
        let document = Document::parse(&format!("key = {}", quoted(text)), &faults);
        assert_eq!(document.root(&faults).text("key").unwrap().value, text);
        assert_eq!(faults.count(), 0);
    }
}

#[test]
fn deep_nesting_is_a_fault_and_no_overflow() {
    let faults = read(&format!("mount_point = {}", "[".repeat(200_000)));
    assert!(!faults.is_empty());
}
