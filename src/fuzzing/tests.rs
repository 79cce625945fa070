//! The seeds, replayed: what was found once, and what is famous, is never found again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::stream::Manner;
use super::{METRICS, TARGETS, frames, head, management, token};
use crate::auth::Token;

fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn every_seed_keeps_its_promise() {
    for (name, target) in TARGETS {
        let seeds = files(&package().join("seeds").join(name));
        assert!(seeds.len() >= 10, "{name} has {} seeds", seeds.len());
        for seed in seeds {
            println!("{}", seed.display());
            target(&std::fs::read(&seed).unwrap());
        }
    }
    let metrics = String::from_utf8(METRICS.to_text()).unwrap();
    assert!(metrics.contains("moorline_panics_total 0\n"), "a caught panic is a bug as well");
}

#[test]
fn every_target_has_its_program_and_no_folder_is_left_over() {
    let names = TARGETS.map(|(name, _)| name.to_owned()).into();
    let stems = |folder: &str| -> BTreeSet<String> {
        let stem = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        files(&package().join(folder)).iter().map(stem).collect()
    };
    assert_eq!(stems("fuzz_targets"), names);
    assert_eq!(stems("seeds"), names);
}

/// A target that lets nothing in would keep every promise.
#[test]
fn the_good_seeds_come_all_the_way() {
    let seed = |name: &str| std::fs::read(package().join("seeds").join(name)).unwrap();
    for (name, status) in [
        ("good", Some(101)),
        ("connect-event", Some(101)),
        ("jwt-bearer", Some(101)),
        ("jwt-subprotocol", Some(101)),
        ("jwt-query", Some(101)),
        ("told-bad-token", Some(101)),
        ("jwt-bad", Some(401)),
        ("jwt-twice", Some(400)),
        ("certificate", Some(401)),
        ("65-headers", Some(431)),
        ("half-a-head", Some(408)),
    ] {
        let bytes = seed(&format!("head/{name}"));
        let silent = Manner { piece: 64, hangs_up: false };
        assert_eq!(head::answer(&bytes[1..], silent), status, "{name}");
    }
    for (name, frames) in
        [("hello-and-bye", 2), ("fragments-with-a-ping", 2), ("many-messages", 61), ("unmasked", 1)]
    {
        let bytes = seed(&format!("frames/{name}"));
        let silent = Manner { piece: 64, hangs_up: false };
        assert_eq!(frames::transcript(&bytes[1..], silent).len(), frames, "{name}");
    }
    for (name, statuses) in [
        ("send-to-user", &[202][..]),
        ("join-send-leave", &[200, 202, 204]),
        ("add-and-remove", &[200, 200]),
        ("who-is-there", &[200, 200, 200, 404]),
        ("close", &[204]),
        ("trace", &[200]),
        ("revoke-jti", &[200]),
        ("bad-names", &[400, 400, 400]),
        ("no-connection", &[404]),
    ] {
        let bytes = seed(&format!("management/{name}"));
        let silent = Manner { piece: 64, hangs_up: false };
        assert_eq!(management::answers(&bytes[1..], silent), statuses, "{name}");
    }
    for name in ["good-es256", "good-rs256", "good-eddsa-without-kid"] {
        let text = String::from_utf8(seed(&format!("token/{name}"))).unwrap();
        let token = Token::new(&text).unwrap();
        assert_eq!(token::verify(&token::VERIFIER, &token).unwrap().user.as_str(), "alice");
    }
}
