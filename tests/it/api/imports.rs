//! The arrows between the modules of the crate: a module imports only modules of earlier rows of [`ARROWS`].

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::docs::files;

/// Each module of the crate's root with the modules that it imports, from the bottom up. A module stands for its children.
const ARROWS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("guide", &[]),
    ("id", &[]),
    ("sync", &[]),
    ("time", &[]),
    ("notify", &["sync"]),
    ("value", &["error"]),
    ("version", &["time"]),
    ("node_clock", &["time", "version"]),
    ("throttle", &["sync", "time", "value"]),
    ("record", &["error", "id", "node_clock", "time", "value", "version"]),
    ("cookie", &["error", "id", "record", "time", "value", "version"]),
    ("memory", &["error", "id", "node_clock", "notify", "record", "sync", "throttle", "time", "value", "version"]),
    ("tier", &["error", "id", "node_clock", "record", "throttle", "time", "value", "version"]),
    ("cross_site", &["cookie", "error", "throttle", "time"]),
    ("config", &["cookie", "id", "record", "tier", "time", "value"]),
    (
        "node",
        &[
            "config",
            "cookie",
            "cross_site",
            "error",
            "id",
            "memory",
            "node_clock",
            "notify",
            "record",
            "sync",
            "throttle",
            "tier",
            "time",
            "value",
            "version",
        ],
    ),
    (
        "session",
        &[
            "config",
            "cookie",
            "cross_site",
            "error",
            "id",
            "memory",
            "node",
            "node_clock",
            "notify",
            "record",
            "sync",
            "throttle",
            "tier",
            "time",
            "value",
            "version",
        ],
    ),
    ("frameworks", &["error", "session", "value"]),
    ("live", &["error", "node_clock", "notify", "record", "session", "time", "value", "version"]),
    ("require", &["error", "session", "tier", "value"]),
    (
        "sessions",
        &[
            "config",
            "cookie",
            "cross_site",
            "error",
            "id",
            "memory",
            "node",
            "node_clock",
            "notify",
            "record",
            "session",
            "tier",
            "time",
            "value",
        ],
    ),
    ("resolve", &["config", "cookie", "cross_site", "id", "session", "sessions"]),
    ("writeback", &["config", "cross_site", "error", "live", "session", "sessions", "throttle", "time", "value"]),
    (
        "inspector",
        &[
            "config",
            "cross_site",
            "live",
            "node",
            "record",
            "session",
            "sessions",
            "time",
            "value",
            "version",
            "writeback",
        ],
    ),
    ("testing", &["error", "id", "record", "resolve", "session", "sessions", "tier", "time", "value", "version"]),
];

/// The modules of the crate's root that a module's file names, in `use` declarations and in paths. Tests are left out.
fn imports(module: &[&str], text: &str) -> BTreeSet<String> {
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect();
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut found = BTreeSet::new();
    let mut rest = code;
    while let Some((before, after)) = rest.split_once("use ") {
        let is_statement = before.ends_with(['\n', ' ', ')']) || before.is_empty();
        match after.split_once(';') {
            Some((tree, after)) if is_statement && !tree.contains(['=', '"', '<']) => {
                let tree = tree.replace(char::is_whitespace, "");
                found.extend(paths(&tree).iter().filter_map(|path| root_of(module, path)));
                rest = after;
            }
            _ => rest = after,
        }
    }
    for path in code.split("crate::").skip(1) {
        let name = path.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next();
        found.extend(name.filter(|name| !name.is_empty()).map(str::to_owned));
    }
    found
}

/// The paths of a `use` tree without spaces.
fn paths(tree: &str) -> Vec<String> {
    let Some((prefix, group)) = tree.split_once('{') else { return vec![tree.to_owned()] };
    let group = group.strip_suffix('}').unwrap_or(group);
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for letter in group.chars() {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        match (letter, depth) {
            (',', 0) => parts.push(String::new()),
            _ => parts.last_mut().expect("there is a first part").push(letter),
        }
    }
    let inner = parts.iter().filter(|part| !part.is_empty()).flat_map(|part| paths(part));
    inner.map(|path| format!("{prefix}{path}")).collect()
}

/// The module of the crate's root that a path begins in, seen from a module.
fn root_of(module: &[&str], path: &str) -> Option<String> {
    let mut parts: Vec<_> = path.split("::").collect();
    let mut base = match parts.first() {
        Some(&"crate") => Vec::new(),
        Some(&("self" | "super")) => module.to_vec(),
        _ => return None,
    };
    while let Some(&("crate" | "self" | "super")) = parts.first() {
        if parts.remove(0) == "super" {
            base.pop();
        }
    }
    base.extend(parts);
    base.first().map(|first| (*first).to_owned())
}

/// Whether a file holds tests alone.
fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests" || stem == "schedules")
}

#[test]
fn modules_import_as_the_table_says() {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in files("src", ".rs").into_iter().filter(|(path, _)| !is_test(path)) {
        let src = path.components().skip_while(|part| part.as_os_str() != "src").skip(1);
        let names: Vec<_> = src.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        let module: Vec<_> = names.iter().map(|name| name.trim_end_matches(".rs")).collect();
        if module != ["lib"] {
            let imports = imports(&module, &text);
            found
                .entry(module[0].to_owned())
                .or_default()
                .extend(imports.into_iter().filter(|name| *name != module[0]));
        }
    }
    let table: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    for (module, imports) in &found {
        let allowed: BTreeSet<_> =
            table.get(module.as_str()).into_iter().flat_map(|names| names.iter()).copied().collect();
        let imports: BTreeSet<_> =
            imports.iter().map(String::as_str).filter(|name| found.contains_key(*name)).collect();
        assert_eq!(imports, allowed, "`{module}` imports other modules than its row of `ARROWS` names");
    }
    assert_eq!(found.len(), table.len(), "`ARROWS` has a row for each module");
}

#[test]
fn table_of_imports_has_no_circle() {
    for (row, (module, imports)) in ARROWS.iter().enumerate() {
        for import in *imports {
            let below = ARROWS[..row].iter().any(|(earlier, _)| earlier == import);
            assert!(below, "`{module}` imports `{import}`, which stands no lower");
        }
    }
}

#[test]
fn imports_are_found_in_trees_and_paths() {
    let text =
        "use super::{a::X, b};\nuse crate::{\n    c::{self, D},\n    e,\n};\nfn f() { crate::g::h(self::i::J) }\n";
    assert_eq!(imports(&["m", "n"], text), ["c", "e", "g", "m"].map(str::to_owned).into());
    assert_eq!(imports(&["m"], text), ["a", "b", "c", "e", "g"].map(str::to_owned).into());
}
