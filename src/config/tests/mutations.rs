//! Whatever is written in a config, it is read or refused in one line: no panic, no flood.

use super::*;

const SOURCE: &str = "\
listeners:
  public:
    address: \"127.0.0.1:8443\"
    tls: {certificate: c.pem, key: k.pem, min_version: \"1.3\"}
    proxy_protocol: {trusted: [10.0.0.0/8, \"fd00::/8\"], timeout: 5s}
    forwarded: {header: x-forwarded-for, trusted: [192.0.2.1]}
nats: &n
  servers: [\"nats://a:4222\", 'tls://b']
  connections: 2
jwt:
  keys:
    - algorithms: [ES256]
      public_key: p.pem
routes:
  - path: /ws/{room}
    auth: jwt
    origins: [https://example.com]
    in_flight: 4
    max_message: 64KiB
    on_failure: {message: \"{outcome}\"}
limits: {max_connections: 100}
";

/// Reads it in every way, and checks the refusal's form.
fn survives(text: &str) {
    for format in [Format::Yaml, Format::Toml] {
        let parsed = Config::parse(text, format, "m", std::iter::empty());
        match parsed {
            Ok(config) => {
                assert_eq!(config.validate(), []);
                assert_eq!(yaml(&config.to_yaml()).as_ref(), Ok(&config), "{text}");
            }
            Err(error) => {
                let line = error.to_string();
                assert!(line.starts_with("m:"), "{line}");
                assert!(!line.chars().any(char::is_control), "{line:?}");
                assert!(line.chars().count() < 600, "{line}");
                for jargon in
                    ["untagged", "variant", "serde", "struct", "deserializ", "usize", "enum"]
                {
                    assert!(!line.contains(jargon), "{line}");
                }
                assert!(error.excerpt().is_none_or(|excerpt| excerpt.lines().count() == 2));
            }
        }
    }
    let variable = [("MOORLINE_ROUTES__0".to_owned(), text.to_owned())];
    if let Err(error) = Config::parse(SOURCE, Format::Yaml, "m", variable.into_iter()) {
        let line = error.to_string();
        assert!(line.starts_with("MOORLINE_ROUTES__0: ") || line.starts_with("m:"), "{line}");
    }
}

#[test]
fn the_source_is_valid() {
    yaml(SOURCE).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_character_dropped_or_swapped() {
    let characters: Vec<char> = SOURCE.chars().collect();
    for i in 0..characters.len() {
        let mut dropped = characters.clone();
        dropped.remove(i);
        survives(&dropped.iter().collect::<String>());
    }
    for (i, swap) in
        (0..characters.len()).zip("\0\t\n:[]{}&*!|>'\"%@`-? \u{7f}\u{2028}é".chars().cycle())
    {
        let mut swapped = characters.clone();
        swapped[i] = swap;
        survives(&swapped.iter().collect::<String>());
    }
}

#[test]
fn a_value_of_another_type() {
    let values = [
        "",
        "~",
        "null",
        "5",
        "-5",
        "1.5",
        ".nan",
        "true",
        "[]",
        "[[]]",
        "{}",
        "{a: 1}",
        "''",
        "\"\\0\"",
        "99999999999999999999999999",
        "1e400",
        "0x7fffffffffffffff",
        "2001-01-01",
        "|",
        "&a [*a]",
        "*n",
        "!!int x",
        "584542046090y",
        "18446744073709551615EiB",
        "9999999999999999999s",
        "/{*a}/{a}",
        "\u{1b}[0m",
    ];
    for (i, line) in SOURCE.lines().enumerate() {
        let Some((key, _)) = line.split_once(": ") else { continue };
        for value in values {
            let mut lines: Vec<_> = SOURCE.lines().map(str::to_owned).collect();
            lines[i] = format!("{key}: {value}");
            survives(&lines.join("\n"));
        }
    }
}

#[test]
fn a_line_moved_repeated_or_indented() {
    let lines: Vec<_> = SOURCE.lines().collect();
    for i in 0..lines.len() {
        for indent in ["", " ", "   ", "\t", "      "] {
            let mut moved = lines.clone();
            let line = format!("{indent}{}", lines[i].trim_start());
            moved[i] = &line;
            survives(&moved.join("\n"));
        }
        let mut twice = lines.clone();
        twice.insert(i, lines[i]);
        survives(&twice.join("\n"));
        survives(&lines[..i].join("\n"));
        survives(&lines[i..].join("\n"));
    }
}

#[test]
fn bombs_are_refused() {
    let mut aliases = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, before) in ('b'..='i').zip('a'..) {
        let list = vec![format!("*{before}"); 10].join(", ");
        aliases.push_str(&format!("{name}: &{name} [{list}]\n"));
    }
    let merges = "a: &a {x: 1}\n".to_owned() + &"b: {<<: *a}\n".repeat(5_000);
    let deep = "[".repeat(100_000);
    let deep_sections: String = (0..2_000).map(|n| " ".repeat(n) + "a:\n").collect();
    let flat = "a: [".to_owned() + &"x,".repeat(300_000) + "]";
    let table = "a.".repeat(400_000) + "a = 1";
    for text in [
        aliases,
        merges,
        deep.clone(),
        format!("a: {deep}"),
        format!("a = {deep}"),
        "{a: ".repeat(10_000),
        format!("[{}a]", "a.".repeat(400_000)),
        "a = ".to_owned() + &"{a = ".repeat(100_000),
        deep_sections,
        flat,
        "a = [".to_owned() + &"1,".repeat(500_000) + "]",
        table,
        "a".repeat(1 << 20),
        "\"".repeat(100_001),
        "- ".repeat(50_000),
        "? ".repeat(10_000),
    ] {
        survives(&text);
        assert!(yaml(&text).is_err());
    }
}
