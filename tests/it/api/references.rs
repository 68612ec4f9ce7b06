//! References in both directions: a number such as G12 or R4 in a comment names an entry of the guide's chapter
//! `guarantees`, and each entry names existing tests.

use std::path::Path;

use super::docs::{files, page};

const GUARANTEES: &str = include_str!("../../../src/guide/guarantees.md");

/// The folders whose files may refer to an entry, with the endings of the file names.
const SOURCES: [(&str, &str); 10] = [
    ("src", ".rs"),
    ("src", ".js"),
    ("src", ".md"),
    ("tests", ".rs"),
    ("tests", ".mjs"),
    ("tests", ".md"),
    ("benches", ".rs"),
    ("benches", ".md"),
    ("examples", ".rs"),
    ("examples", ".md"),
];

const PAGES: [&str; 5] = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];

/// The entries of the chapter: the number, and the text up to the next heading.
fn entries() -> Vec<(&'static str, &'static str)> {
    let entry = |section: &'static str| {
        let (anchor, rest) = section.strip_prefix("<a id=\"")?.split_once("\"></a>")?;
        let (number, text) = rest.split_once(": ")?;
        (anchor == number.to_lowercase()).then_some((number, text))
    };
    let sections = GUARANTEES.split("\n## ").skip(1);
    let found = sections.map(|section| entry(section).ok_or_else(|| section.lines().next()));
    found.collect::<Result<_, _>>().expect("each heading has a number, and the number as its anchor")
}

/// Whether a word is the number of an entry, or the anchor in a link.
fn is_number(word: &str) -> bool {
    let number = word.strip_prefix(['G', 'R']).or_else(|| word.strip_prefix("#g")).or_else(|| word.strip_prefix("#r"));
    number.is_some_and(|number| matches!(number.len(), 1 | 2) && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[test]
fn references_name_existing_entries() {
    let entries = entries();
    let is_entry = |word: &str| {
        let number = word.trim_start_matches('#').to_uppercase();
        entries.iter().any(|(entry, _)| *entry == number)
    };
    let texts = SOURCES.into_iter().flat_map(|(folder, ending)| files(folder, ending)).chain(PAGES.map(page));
    let (mut resolved, mut unresolved) = (0, Vec::new());
    for (path, text) in texts {
        for (line, text) in (1..).zip(text.lines()) {
            let words = text.split(|letter: char| !letter.is_alphanumeric() && !matches!(letter, '_' | '#'));
            for word in words.filter(|word| is_number(word)) {
                if is_entry(word) {
                    resolved += 1;
                } else {
                    unresolved.push(format!("{}:{line}: {word}", path.display()));
                }
            }
        }
    }
    assert!(unresolved.is_empty(), "no entry of src/guide/guarantees.md has:\n{}", unresolved.join("\n"));
    assert!(resolved > entries.len(), "a scan that finds nothing would pass");
}

#[test]
fn guarantees_name_existing_tests() {
    let sources = ["src", "tests"].map(|folder| files(folder, ".rs")).concat();
    let mut missing = Vec::new();
    for (number, text) in entries() {
        let (_, tests) = text.split_once("*Tests:* ").unwrap_or_else(|| panic!("{number} names no test"));
        let mut place = Path::new(env!("CARGO_MANIFEST_DIR")).to_owned();
        // The test reads code spans alone: a file or a folder, then the names of tests there.
        for span in tests.split("\n\n").next().unwrap_or(tests).split('`').skip(1).step_by(2) {
            if span.contains('/') || span == "src" {
                place = Path::new(env!("CARGO_MANIFEST_DIR")).join(span);
            } else {
                let function = format!("fn {span}(");
                if !sources.iter().any(|(path, text)| path.starts_with(&place) && text.contains(&function)) {
                    missing.push(format!("{number}: {span} in {}", place.display()));
                }
            }
        }
    }
    assert!(missing.is_empty(), "src/guide/guarantees.md names tests that do not exist:\n{}", missing.join("\n"));
}
