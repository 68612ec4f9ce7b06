//! The arrows between the modules of the crate, and between the modules of `session`: a module imports only modules of
//! earlier rows of [`ARROWS`] and [`SESSION_ARROWS`].

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::docs::files;

/// Each module of the crate's root with its imported modules, from the bottom up. A module stands for its children.
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
    ("tier", &["error", "id", "node_clock", "sync", "throttle", "time", "value", "version"]),
    ("store", &["error", "sync", "throttle", "tier", "time", "value"]),
    ("cross_site", &["cookie", "error", "throttle", "time"]),
    ("config", &["cookie", "cross_site", "id", "record", "tier", "time", "value"]),
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
    ("writeback", &["cross_site", "error", "live", "node", "record", "session", "sessions", "time", "value"]),
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
    ("testing", &["error", "id", "session", "sessions", "tier", "time", "value", "version"]),
];

/// Each module of `session` with its imported modules of `session`, from the bottom up.
const SESSION_ARROWS: &[(&str, &[&str])] = &[
    ("shared", &[]),
    ("cookie_out", &["shared"]),
    ("cookie_size", &["cookie_out", "shared"]),
    ("load", &["shared"]),
    ("follow", &["shared"]),
    ("loader", &["load", "shared"]),
    ("read", &["shared"]),
    ("explain", &["read", "shared"]),
    ("relay", &["load", "shared"]),
    ("commit", &["shared"]),
    ("batch", &["commit", "read", "shared"]),
    ("replace", &["commit", "load", "shared"]),
    ("lifecycle", &["commit", "replace", "shared"]),
    ("end", &["commit", "lifecycle", "load", "replace", "shared"]),
    ("sign_in_plan", &["commit", "lifecycle", "load", "replace", "shared"]),
    ("relay_in", &["commit", "end", "lifecycle", "load", "relay", "replace", "shared", "sign_in_plan"]),
    ("relay_out", &["commit", "cookie_out", "relay", "replace", "shared", "sign_in_plan"]),
    ("sign_in", &["lifecycle", "relay", "relay_out", "sign_in_plan"]),
    ("life", &["end", "lifecycle", "sign_in"]),
];

/// The crate paths in a module's file, in `use` declarations and elsewhere. Tests are left out.
fn imports_of(module: &[&str], text: &str) -> BTreeSet<String> {
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect();
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut found = BTreeSet::new();
    let mut rest = code;
    while let Some((before, after)) = rest.split_once("use ") {
        let is_statement = before.ends_with(['\n', ' ', ')']) || before.is_empty();
        match after.split_once(';') {
            Some((tree, after)) if is_statement && !tree.contains(['=', '"', '<']) => {
                // An alias becomes a part of its path.
                let tree = tree.replace(" as ", "::as::").replace(char::is_whitespace, "");
                found.extend(paths(&tree).iter().filter_map(|path| resolve(module, path)));
                rest = after;
            }
            _ => rest = after,
        }
    }
    for path in code.split("crate::").skip(1) {
        let end = path.find(|letter: char| !letter.is_alphanumeric() && !"_:".contains(letter)).unwrap_or(path.len());
        found.extend(Some(path[..end].trim_end_matches(':').to_owned()).filter(|path| !path.is_empty()));
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

/// The path from the crate's root for a path in a module.
fn resolve(module: &[&str], path: &str) -> Option<String> {
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
    Some(base.join("::"))
}

/// Whether a file holds tests alone.
fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests" || stem == "schedules")
}

/// Each module of a family with its imported modules of the family. A module stands for its children.
fn arrows(family: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in files("src", ".rs").into_iter().filter(|(path, _)| !is_test(path)) {
        let src = path.components().skip_while(|part| part.as_os_str() != "src").skip(1);
        let names: Vec<_> = src.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        let module: Vec<_> = names.iter().map(|name| name.trim_end_matches(".rs")).collect();
        let Some([member, ..]) = module.strip_prefix(family).filter(|rest| *rest != ["lib"]) else { continue };
        let imports = found.entry((*member).to_owned()).or_default();
        for path in imports_of(&module, &text) {
            let parts: Vec<_> = path.split("::").collect();
            if let Some([import, ..]) = parts.strip_prefix(family)
                && import != member
            {
                imports.insert((*import).to_owned());
            }
        }
    }
    let members: BTreeSet<_> = found.keys().cloned().collect();
    found.values_mut().for_each(|imports| imports.retain(|import| members.contains(import)));
    found
}

#[track_caller]
fn assert_arrows(family: &[&str], table: &[(&str, &[&str])]) {
    let found = arrows(family);
    for (row, (module, imports)) in table.iter().enumerate() {
        let said: BTreeSet<_> = imports.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(found.get(*module), Some(&said), "`{module}` imports other modules than its row names");
        for import in *imports {
            let below = table[..row].iter().any(|(earlier, _)| earlier == import);
            assert!(below, "`{module}` imports `{import}`, which is not in an earlier row");
        }
    }
    assert_eq!(found.len(), table.len(), "the table has a row for each module");
}

/// Returns members of a family that import each other in a circle.
fn circle(mut arrows: BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    // Removes the members without imports from the others, until no member is left or each imports another.
    while let Some(lowest) = arrows.iter().find(|(_, imports)| imports.is_empty()).map(|(member, _)| member.clone()) {
        arrows.remove(&lowest);
        for imports in arrows.values_mut() {
            imports.remove(&lowest);
        }
    }
    arrows.into_keys().collect()
}

#[test]
fn sibling_modules_import_without_cycles() {
    let mut families = BTreeSet::new();
    for (path, _) in files("src", ".rs") {
        let src = path.parent().into_iter().flat_map(Path::components);
        let src = src.skip_while(|part| part.as_os_str() != "src").skip(1);
        families.insert(src.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect::<Vec<_>>());
    }
    assert!(families.len() > 10, "{families:?}");
    for family in families {
        let names: Vec<_> = family.iter().map(String::as_str).collect();
        assert_eq!(circle(arrows(&names)), [""; 0], "modules of {names:?} import each other in a circle");
    }
}

#[test]
fn module_imports_match_table() {
    assert_arrows(&[], ARROWS);
}

#[test]
fn session_imports_match_table() {
    assert_arrows(&["session"], SESSION_ARROWS);
}

#[test]
fn parser_finds_nested_imports() {
    let text =
        "use super::{a::X, b};\nuse crate::{\n    c::{self, D},\n    e as f,\n};\nfn f() { crate::g::h(self::i::J) }\n";
    let same = ["c::D", "c::self", "e::as::f", "g::h"];
    let found = |module: &[&str], own: &[&str]| {
        let expected = same.iter().chain(own).map(|path| (*path).to_owned()).collect();
        assert_eq!(imports_of(module, text), expected);
    };
    found(&["m", "n"], &["m::a::X", "m::b"]);
    found(&["m"], &["a::X", "b"]);
}
