//! The content of the docs, and the width of their code. The tests compare the text of the docs, not the rendered page.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The widest line of code without a scroll bar on docs.rs and in a README.
const COLUMNS: usize = 88;

/// The files with this ending under a folder of the package, with their text. Folders of build output are left out.
pub(super) fn files(folder: &str, ending: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.to_str().unwrap().ends_with(ending) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// A page at the root of the package, with its text.
pub(super) fn page(name: &str) -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let text = fs::read_to_string(&path).unwrap();
    (path, text)
}

/// The text of a doc comment's line.
fn doc(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let text = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"))?;
    Some(text.strip_prefix(' ').unwrap_or(text))
}

/// The lines of code blocks, with their numbers. Lines that begin with `# ` are left out: rustdoc hides them.
fn code<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Vec<(usize, &'a str)> {
    let mut in_code = false;
    let mut found = Vec::new();
    for (number, line) in lines {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if in_code && !line.starts_with("# ") {
            found.push((number, line));
        }
    }
    found
}

#[test]
fn code_lines_fit_88_columns() {
    let rust = files("src", ".rs").into_iter().map(|(path, text)| {
        let lines = (1..).zip(text.lines()).filter_map(|(number, line)| Some((number, doc(line)?.to_owned())));
        (path, lines.collect::<Vec<_>>())
    });
    let pages = files("src", ".md").into_iter().chain(["README.md", "examples/README.md"].map(page));
    let pages = pages.map(|(path, text)| (path, (1..).zip(text.lines().map(str::to_owned)).collect()));
    let mut wide = Vec::new();
    for (path, lines) in rust.chain(pages) {
        for (number, line) in code(lines.iter().map(|(number, line)| (*number, line.as_str()))) {
            if line.chars().count() > COLUMNS {
                wide.push(format!("{}:{number}: {line}", path.display()));
            }
        }
    }
    assert!(wide.is_empty(), "{} lines of code are over {COLUMNS} columns:\n{}", wide.len(), wide.join("\n"));
}

/// The doc comment above a line.
fn doc_above(lines: &[&str], at: usize) -> String {
    let above = lines[..at].iter().rev().take_while(|line| {
        let line = line.trim_start();
        line.starts_with("///") || line.starts_with("#[") || line.starts_with("#![")
    });
    above.filter_map(|line| doc(line)).map(|line| format!("{line}\n")).collect()
}

/// The name of the public function in a line, if the function is async or returns a future.
fn waits<'a>(lines: &[&'a str], at: usize) -> Option<&'a str> {
    let line = lines[at].trim_start();
    let (is_async, rest) = match line.strip_prefix("pub async fn ") {
        Some(rest) => (true, rest),
        None => (false, line.strip_prefix("pub fn ").or_else(|| line.strip_prefix("pub const fn "))?),
    };
    let end = lines[at..].iter().position(|line| line.ends_with('{') || line.ends_with(';')).unwrap_or(0);
    let head = lines[at..=at + end].join(" ");
    let returned = head.split_once("->").map_or("", |(_, returned)| returned);
    let name = rest.split(['(', '<']).next()?;
    (is_async || returned.contains("Future<Output") || returned.contains("SignIn<")).then_some(name)
}

/// The name of the type for which an `impl` line implements `Future`.
fn future(line: &str) -> Option<&str> {
    let implemented = line.strip_prefix("impl")?;
    let (_, name) = implemented.split_once(" Future for ").or_else(|| implemented.split_once(" IntoFuture for "))?;
    name.split(['<', ' ']).next()
}

/// The line that declares a public type.
fn declaration(lines: &[&str], name: &str) -> Option<usize> {
    let declares = |line: &&str| {
        let declared = line.trim_start().strip_prefix("pub struct ");
        declared.is_some_and(|rest| rest.split(['<', '(', ' ', ';']).next() == Some(name))
    };
    lines.iter().position(declares)
}

/// The public futures of a file: each name with the lines above which the docs stand.
fn futures<'a>(lines: &[&'a str]) -> Vec<(&'a str, Vec<usize>)> {
    let at_line = |at: usize| {
        if let Some(name) = waits(lines, at) {
            return Some((name, vec![at]));
        }
        let name = future(lines[at])?;
        Some((name, vec![declaration(lines, name)?, at]))
    };
    (0..lines.len()).filter_map(at_line).collect()
}

#[test]
fn futures_document_cancel_safety() {
    let (mut told, mut silent) = (Vec::new(), Vec::new());
    for (path, text) in files("src", ".rs") {
        let lines: Vec<_> = text.lines().collect();
        for (name, places) in futures(&lines) {
            let tells = |at: &usize| doc_above(&lines, *at).lines().any(|line| line == "# Cancel safety");
            let list = if places.iter().any(tells) { &mut told } else { &mut silent };
            list.push(format!("{}:{}: {name}", path.display(), places[0] + 1));
        }
    }
    // A scan without results would pass.
    for name in ["load", "set", "renew", "sign_in", "closed", "next", "sweeper", "SignIn", "ResponseFuture"] {
        assert!(told.iter().chain(&silent).any(|place| place.ends_with(&format!(": {name}"))), "{name}: {told:?}");
    }
    assert!(silent.is_empty(), "no `# Cancel safety` in the docs of:\n{}", silent.join("\n"));
}

#[test]
fn first_program_has_under_40_lines() {
    let chapter = include_str!("../../../src/guide/first_steps.md");
    let (_, program) = chapter.split_once("```rust,no_run\n").unwrap();
    let (program, _) = program.split_once("```").unwrap();
    assert!(program.lines().count() < 40, "{}", program.lines().count());
}
