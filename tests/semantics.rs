//! Every paragraph of `docs/SEMANTICS.md` names the tests that prove it, every line of the errno contract in `docs/STORES.md`
//! too, and each of them exists.

use std::collections::BTreeSet;
use std::path::Path;

/// What a text lacks: paragraphs without proof, and proofs that are no tests.
fn lacks(text: &str, is_test: &dyn Fn(&str, &str) -> bool) -> Vec<String> {
    let blocks: Vec<&str> = text.split("\n\n").map(str::trim).filter(|block| !block.is_empty()).collect();
    // The first two are the title and what the page is.
    let promises = blocks.iter().skip(2).filter(|block| !block.starts_with('#'));
    let promises: Vec<&&str> = promises.collect();
    let mut lacks = Vec::new();
    for pair in promises.windows(2) {
        if !pair[0].starts_with("Shown by") && !pair[1].starts_with("Shown by") {
            lacks.push(format!("no proof stands below: {}", first_line(pair[0])));
        }
    }
    if promises.last().is_some_and(|last| !last.starts_with("Shown by")) {
        lacks.push("no proof stands below the last paragraph".to_owned());
    }
    for proof in promises.iter().filter(|block| block.starts_with("Shown by")) {
        let named: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            lacks.push(format!("names no test: {}", first_line(proof)));
        }
        for name in named {
            if !name.split_once('#').is_some_and(|(file, test)| is_test(file, test)) {
                lacks.push(format!("no such test: {name}"));
            }
        }
    }
    lacks
}

fn first_line(block: &str) -> &str {
    block.lines().next().unwrap_or_default()
}

/// Whether `file` of this project has a test of that name that is run.
fn exists(file: &str, test: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Ok(text) = std::fs::read_to_string(root.join(file)) else { return false };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let signatures = [format!("fn {test}("), format!("async fn {test}(")];
    let Some(at) = lines.iter().position(|line| signatures.iter().any(|one| line.starts_with(one.as_str())))
    else {
        return false;
    };
    let attributes: Vec<_> = lines[..at].iter().rev().take_while(|line| line.starts_with("#[")).collect();
    attributes.iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
        && !attributes.iter().any(|line| line.starts_with("#[ignore"))
}

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/SEMANTICS.md");
    std::fs::read_to_string(path).expect("docs/SEMANTICS.md")
}

#[test]
fn every_promise_names_tests_that_exist() {
    assert_eq!(lacks(&page(), &exists), Vec::<String>::new());
}

#[test]
fn every_line_of_the_errno_contract_of_stores_names_a_test_that_exists() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/STORES.md");
    let page = std::fs::read_to_string(path).expect("docs/STORES.md");
    let section = page.split("### What a reader sees").nth(1).expect("the section");
    let rows = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let rows: Vec<&str> = rows.take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        let proof = row.split('`').rev().nth(1).unwrap_or_default();
        assert!(proof.split_once('#').is_some_and(|(file, test)| exists(file, test)), "no such test: {row}");
    }
}

#[test]
fn every_test_at_the_boundary_is_named_by_a_promise() {
    let page = page();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boundary");
    let mut unnamed = BTreeSet::new();
    for entry in std::fs::read_dir(directory).expect("the tests").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
        for line in text.lines().filter_map(|line| line.strip_prefix("fn ")) {
            let test = line.split('(').next().unwrap_or_default();
            let file = format!("tests/boundary/{name}");
            if exists(&file, test) && !page.contains(&format!("`{file}#{test}`")) {
                unnamed.insert(format!("{file}#{test}"));
            }
        }
    }
    assert_eq!(unnamed, BTreeSet::new(), "a test proves something that no paragraph says");
}

#[test]
fn a_missing_proof_and_a_test_that_does_not_exist_are_found() {
    let is_test = |_: &str, test: &str| test == "real";
    let head = "# Title\n\nWhat it is.\n\n## Part\n\n";
    let sound = format!("{head}One.\n\nShown by `a.rs#real`\n\nTwo.\n\nShown by `a.rs#real`,\n`b.rs#real`\n");
    assert_eq!(lacks(&sound, &is_test), Vec::<String>::new());
    for (unsound, count) in [
        (format!("{head}One.\n\nTwo.\n\nShown by `a.rs#real`"), 1),
        (format!("{head}One."), 1),
        (format!("{head}One.\n\nShown by `a.rs#gone`"), 1),
        (format!("{head}One.\n\nShown by nothing"), 1),
        (format!("{head}One.\n\nShown by `real`"), 1),
    ] {
        assert_eq!(lacks(&unsound, &is_test).len(), count, "{unsound}");
    }
}
