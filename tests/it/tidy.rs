//! The house rules that no lint knows: who may import whom, how long a file is, how it begins.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The table of design section 2: a module imports only from rows below its own; on the last row each
/// may import those to its left.
const ROWS: &[&[&str]] = &[
    &["fuzzing"],
    &["cli"],
    &["server"],
    &["edge", "management", "admin", "bridge"],
    &["handshake"],
    &["passthrough"],
    &["connection"],
    &["cluster"],
    &["auth", "relay"],
    &["hub"],
    &["limits"],
    &["nats", "http_client"],
    &["tls", "task"],
    &["id", "close", "message", "config", "event", "metrics"],
];

const LONGEST_FILE: usize = 450;

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 50, "the sources were not found");
    found
}

/// The folder of `src` that a file belongs to.
fn module(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let mut parts = inside.components();
    let first = parts.next().unwrap().as_os_str().to_str().unwrap().to_owned();
    parts.next().map(|_| first)
}

/// The modules that a text names after `crate::`, groups in braces included.
fn named(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.collect::<Vec<_>>().join("\n");
    for (at, _) in code.match_indices("crate::") {
        let after = &code[at + "crate::".len()..];
        let list = match after.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap(),
            None => after,
        };
        let items = if after.starts_with('{') { list.split(',').collect() } else { vec![list] };
        for item in items {
            let name: String =
                item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                names.push(name);
            }
        }
    }
    names
}

#[test]
fn imports_point_one_way() {
    let mut place = HashMap::new();
    for (row, names) in ROWS.iter().enumerate() {
        for (column, name) in names.iter().enumerate() {
            place.insert(*name, (row, column));
        }
    }
    let ground = ROWS.len() - 1;
    let mut seen = 0;
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(own) = module(&path) else { continue };
        let (row, column) = *place.get(own.as_str()).unwrap_or_else(|| panic!("{own} has no row"));
        for name in named(&text).into_iter().filter(|name| *name != own) {
            let Some((to_row, to_column)) = place.get(name.as_str()).copied() else {
                panic!("{}: crate::{name} has no row", path.display());
            };
            seen += 1;
            let is_left = row == ground && to_row == ground && to_column < column;
            if to_row <= row && !is_left {
                wrong.push(format!("{}: {own} imports {name}", path.display()));
            }
        }
    }
    assert!(seen > 100, "the imports were not found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_module_of_the_house_has_a_place() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"));
    let text = text.unwrap();
    let declared: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let listed: Vec<&str> = ROWS.iter().flat_map(|row| row.iter().copied()).collect();
    assert_eq!(declared.len(), listed.len());
    assert!(declared.iter().all(|name| listed.contains(name)), "{declared:?}");
}

#[test]
fn every_file_says_what_it_is_and_is_one_idea() {
    for (path, text) in sources() {
        let name = path.display();
        assert!(text.starts_with("//! "), "{name} does not begin with what it does");
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "{name} has {lines} lines");
        for mark in ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!(", "#[ignore"] {
            assert!(!text.contains(mark), "{name} has a {mark}");
        }
    }
}

#[test]
fn no_folder_is_a_drawer_for_everything() {
    for (path, _) in sources() {
        for name in ["utils", "common", "helpers", "types", "misc"] {
            let stem = path.file_stem().unwrap() == name;
            let folder = path.components().any(|part| part.as_os_str() == name);
            assert!(!stem && !folder, "{}", path.display());
        }
        let beside = path.with_extension("").is_dir();
        assert!(!beside, "{} stands beside a folder of its name", path.display());
    }
}
