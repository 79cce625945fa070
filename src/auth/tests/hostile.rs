//! Tokens that must not verify, each with the exact reason.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;

use super::*;
use crate::auth::forge::{P384, Signer, hmac, unsigned};

const CLAIMS: &str = r#"{"sub":"alice","exp":1800000060,"iss":"issuer","aud":"edge"}"#;
const EC: &str = r#"{"alg":"ES256","kid":"ec"}"#;
const RS: &str = r#"{"alg":"RS256","kid":"rsa"}"#;

/// Genuine claims under a hostile header.
fn under(header: &str) -> String {
    P256.sign(header, CLAIMS)
}

/// A genuine signature over hostile claims.
fn saying(claims: &str) -> String {
    P256.sign(EC, claims)
}

/// Claims that fit but for one: another value, or none.
fn but(name: &str, value: impl Into<Option<&'static str>>) -> String {
    let good =
        [("sub", "\"alice\""), ("exp", "1800000060"), ("iss", "\"issuer\""), ("aud", "\"edge\"")];
    let kept = good.into_iter().filter(|(other, _)| *other != name);
    let changed = value.into().map(|value| (name, value));
    let members: Vec<String> =
        kept.chain(changed).map(|(name, value)| format!("\"{name}\":{value}")).collect();
    saying(&format!("{{{}}}", members.join(",")))
}

/// Every case must end in exactly its refusal, by a verifier that takes the good ones.
async fn refused(cases: Vec<(&str, String, Denied)>) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let verifier = verifier(&config(folder.path()));
    let good = [under(EC), RSA.sign(RS, CLAIMS), saying(CLAIMS), but("jti", "\"1\"")];
    for text in good {
        assert_eq!(verify(&verifier, &text).await.unwrap().user.as_str(), "alice");
    }
    let count = cases.len();
    for (name, text, expected) in cases {
        let found = verify(&verifier, &text).await.map(|identity| identity.claims);
        assert_eq!(found, Err(expected), "{name}");
        assert!(Denied::REASONS.contains(&expected.reason()), "{name}");
    }
    count
}

#[tokio::test]
async fn hostile_algorithms_are_refused() {
    let rsa_pem = RSA.pair.public_key_pem();
    let ec_pem = P256.pair.public_key_pem();
    let hs = |kid: &str| format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#);
    let by_secret = |secret: &[u8], header: &str| hmac(Algorithm::HS256, secret, header, CLAIMS);
    let mut cases = vec![
        (
            "HS256 by the RSA key's PEM",
            by_secret(rsa_pem.as_bytes(), &hs("rsa")),
            Denied::ALGORITHM,
        ),
        (
            "HS256 by the RSA key",
            by_secret(RSA.pair.public_key_raw(), &hs("rsa")),
            Denied::ALGORITHM,
        ),
        ("HS256 by the EC key's PEM", by_secret(ec_pem.as_bytes(), &hs("ec")), Denied::ALGORITHM),
        (
            "HS256 by a PEM, no kid",
            by_secret(ec_pem.as_bytes(), r#"{"alg":"HS256"}"#),
            Denied::SIGNATURE,
        ),
        ("HS256 by nothing", by_secret(b"", &hs("hs")), Denied::SIGNATURE),
        ("HS256 by another secret", by_secret(&[b'x'; 64], &hs("hs")), Denied::SIGNATURE),
        (
            "HS384 with a key for HS256",
            hmac(Algorithm::HS384, SECRET, r#"{"alg":"HS384","kid":"hs"}"#, CLAIMS),
            Denied::ALGORITHM,
        ),
        ("RS256 named, ES256 signed", under(RS), Denied::SIGNATURE),
        (
            "ES256 with the RSA key's kid",
            under(r#"{"alg":"ES256","kid":"rsa"}"#),
            Denied::ALGORITHM,
        ),
        (
            "RS256 with the EC key's kid",
            RSA.sign(r#"{"alg":"RS256","kid":"ec"}"#, CLAIMS),
            Denied::ALGORITHM,
        ),
        (
            "RS512 with a key for RS256",
            RSA.sign_as(Algorithm::RS512, r#"{"alg":"RS512","kid":"rsa"}"#, CLAIMS),
            Denied::ALGORITHM,
        ),
        ("PS256 signed, RS256 named", RSA.sign_as(Algorithm::PS256, RS, CLAIMS), Denied::SIGNATURE),
        (
            "ES384 with a key for ES256",
            P384.sign(r#"{"alg":"ES384","kid":"ec"}"#, CLAIMS),
            Denied::ALGORITHM,
        ),
    ];
    for none in [
        "none", "None", "NONE", "nOnE", "none ", "", "HS256 ", "hs256", "es256", "ES512", "ES256K",
        "A128KW", "dir",
    ] {
        let header = format!(r#"{{"alg":"{none}","kid":"ec"}}"#);
        cases.push(("an alg that is none of ours", under(&header), Denied::ALGORITHM));
    }
    let none = unsigned(r#"{"alg":"none"}"#, CLAIMS);
    cases.push(("alg none with a signature", format!("{none}.AA"), Denied::ALGORITHM));
    cases.push(("alg none without one", format!("{none}."), Denied::ALGORITHM));
    assert_eq!(refused(cases).await, 28);
}

#[tokio::test]
async fn hostile_keys_and_signatures_are_refused() {
    let stranger = Signer::p256();
    let genuine = under(EC);
    let (message, signature) = genuine.rsplit_once('.').unwrap();
    let cases = vec![
        ("signed by a stranger", stranger.sign(EC, CLAIMS), Denied::SIGNATURE),
        (
            "signed by a stranger, no kid",
            stranger.sign(r#"{"alg":"ES256"}"#, CLAIMS),
            Denied::SIGNATURE,
        ),
        ("a kid nobody knows", under(r#"{"alg":"ES256","kid":"x"}"#), Denied::UNKNOWN_KEY),
        ("an empty kid", under(r#"{"alg":"ES256","kid":""}"#), Denied::UNKNOWN_KEY),
        ("a path as kid", under(r#"{"alg":"ES256","kid":"../../dev/null"}"#), Denied::UNKNOWN_KEY),
        ("SQL as kid", under(r#"{"alg":"ES256","kid":"ec' OR '1'='1"}"#), Denied::UNKNOWN_KEY),
        ("NUL after the kid", under(r#"{"alg":"ES256","kid":"ec\u0000"}"#), Denied::UNKNOWN_KEY),
        ("a kid that is no text", under(r#"{"alg":"ES256","kid":["ec"]}"#), Denied::MALFORMED),
        ("a null kid", under(r#"{"alg":"ES256","kid":null}"#), Denied::MALFORMED),
        (
            "a stranger's jku",
            stranger.sign(r#"{"alg":"ES256","kid":"x","jku":"http://127.0.0.1:1/k"}"#, CLAIMS),
            Denied::UNKNOWN_KEY,
        ),
        (
            "a stranger's x5u",
            stranger.sign(r#"{"alg":"ES256","kid":"ec","x5u":"http://127.0.0.1:1/k"}"#, CLAIMS),
            Denied::SIGNATURE,
        ),
        (
            "a stranger's jwk",
            stranger.sign(&format!(r#"{{"alg":"ES256","jwk":{}}}"#, stranger.jwk("ec")), CLAIMS),
            Denied::SIGNATURE,
        ),
        (
            "a stranger's x5c",
            stranger.sign(r#"{"alg":"ES256","kid":"ec","x5c":["AAAA"]}"#, CLAIMS),
            Denied::SIGNATURE,
        ),
        ("a signature of zeros", format!("{message}.{}", "A".repeat(86)), Denied::SIGNATURE),
        ("a signature cut short", format!("{message}.{}", &signature[..84]), Denied::SIGNATURE),
        (
            "claims changed after signing",
            format!("{}.{signature}", unsigned(EC, &CLAIMS.replace("alice", "admin"))),
            Denied::SIGNATURE,
        ),
        (
            "header changed after signing",
            format!("{}.{signature}", unsigned(r#"{"kid":"ec","alg":"ES256"}"#, CLAIMS)),
            Denied::SIGNATURE,
        ),
    ];
    assert_eq!(refused(cases).await, 17);
}

#[tokio::test]
async fn hostile_shapes_and_headers_are_refused() {
    let genuine = under(EC);
    let [header, claims, signature] = *genuine.split('.').collect::<Vec<_>>() else { panic!() };
    let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let bad = Denied::MALFORMED;
    let cases = vec![
        ("no dot", "abc".to_owned(), bad),
        ("one dot", format!("{header}.{claims}"), bad),
        ("three dots", format!("{genuine}.{signature}"), bad),
        ("four dots, as encrypted", format!("{header}.a.b.c.{signature}"), bad),
        ("only dots", "..".to_owned(), bad),
        ("no header", format!(".{claims}.{signature}"), bad),
        ("no claims", format!("{header}..{signature}"), Denied::SIGNATURE),
        ("no signature", format!("{header}.{claims}."), bad),
        ("a padded signature", format!("{genuine}="), bad),
        ("standard base64", format!("{header}.{claims}.{}", "+/".repeat(43)), bad),
        ("bits left over in the signature", format!("{header}.{claims}.{}B", "A".repeat(85)), bad),
        ("a header that is no JSON", format!("{}.{claims}.{signature}", encoded(b"abc")), bad),
        ("a header that is a list", under("[]"), bad),
        ("a header in UTF-16", format!("{}.{claims}.{signature}", encoded(b"{\0}\0")), bad),
        ("a header with a byte order mark", under(&format!("\u{feff}{EC}")), bad),
        ("a header that goes on", under(&format!("{EC}{EC}")), bad),
        ("no alg", under(r#"{"kid":"ec"}"#), bad),
        ("a list of alg", under(r#"{"alg":["ES256"],"kid":"ec"}"#), bad),
        ("a null alg", under(r#"{"alg":null,"kid":"ec"}"#), bad),
        ("alg twice", under(r#"{"alg":"none","alg":"ES256","kid":"ec"}"#), bad),
        ("alg twice, escaped", under(r#"{"alg":"ES256","\u0061lg":"ES256","kid":"ec"}"#), bad),
        ("kid twice", under(r#"{"alg":"ES256","kid":"x","kid":"ec"}"#), bad),
        ("crit", under(r#"{"alg":"ES256","kid":"ec","crit":["exp"],"exp":1}"#), Denied::CRITICAL),
        ("empty crit", under(r#"{"alg":"ES256","kid":"ec","crit":[]}"#), Denied::CRITICAL),
        ("null crit", under(r#"{"alg":"ES256","kid":"ec","crit":null}"#), Denied::CRITICAL),
        (
            "crit b64",
            under(r#"{"alg":"ES256","kid":"ec","crit":["b64"],"b64":true}"#),
            Denied::CRITICAL,
        ),
        ("b64 false", under(r#"{"alg":"ES256","kid":"ec","b64":false}"#), Denied::CRITICAL),
        ("b64 as text", under(r#"{"alg":"ES256","kid":"ec","b64":"true"}"#), Denied::CRITICAL),
        ("cty JWT", under(r#"{"alg":"ES256","kid":"ec","cty":"JWT"}"#), Denied::TYPE),
        (
            "cty application/jwt",
            under(r#"{"alg":"ES256","kid":"ec","cty":"application/jwt"}"#),
            Denied::TYPE,
        ),
        ("a token in a token", saying(&genuine), bad),
        ("a typ that is no text", under(r#"{"alg":"ES256","kid":"ec","typ":1}"#), bad),
        (
            "deep",
            under(&format!(r#"{{"alg":"ES256","x":{}1{}}}"#, "[".repeat(200), "]".repeat(200))),
            bad,
        ),
        (
            "8 KiB and one",
            format!("{}{}", genuine, "A".repeat(8193 - genuine.len())),
            Denied::TOO_LARGE,
        ),
        ("64 KiB of dots", ".".repeat(65_536), Denied::TOO_LARGE),
    ];
    assert_eq!(refused(cases).await, 35);
    // Padding within a token ends its search already.
    assert_eq!(Token::new(&format!("{header}=.{claims}.{signature}")), None);
}

#[tokio::test]
async fn hostile_claims_are_refused_under_a_genuine_signature() {
    let long = format!("\"{}\"", "x".repeat(201));
    let (claims, bad) = (Denied::CLAIMS, Denied::MALFORMED);
    let cases = vec![
        ("no exp", but("exp", None), claims),
        ("null exp", but("exp", "null"), claims),
        ("exp as text", but("exp", "\"1800000060\""), claims),
        ("exp as a list", but("exp", "[1800000060]"), claims),
        ("exp as an object", but("exp", "{}"), claims),
        ("exp true", but("exp", "true"), claims),
        ("exp NaN", but("exp", "NaN"), bad),
        ("exp Infinity", but("exp", "Infinity"), bad),
        ("exp 1e400", but("exp", "1e400"), bad),
        ("exp 1e300", but("exp", "1e300"), claims),
        ("exp 2^64-1", but("exp", "18446744073709551615"), claims),
        ("exp 2^64", but("exp", "18446744073709551616"), claims),
        ("exp in milliseconds", but("exp", "1800000060000"), claims),
        ("exp negative", but("exp", "-1"), claims),
        ("exp minus 0.5", but("exp", "-0.5"), claims),
        ("exp zero", but("exp", "0"), Denied::EXPIRED),
        ("exp past", but("exp", "1799999995"), Denied::EXPIRED),
        ("exp past, float", but("exp", "1.799999994e9"), Denied::EXPIRED),
        ("exp twice", but("exp", "1800000060,\"exp\":1800000060"), bad),
        ("nbf to come", but("nbf", "1800000006"), Denied::NOT_YET_VALID),
        ("nbf to come, float", but("nbf", "1800000005.5"), Denied::NOT_YET_VALID),
        ("nbf null", but("nbf", "null"), claims),
        ("nbf as text", but("nbf", "\"1\""), claims),
        ("nbf beyond all clocks", but("nbf", "1e18"), claims),
        ("iat as text", but("iat", "\"1\""), claims),
        ("iat null", but("iat", "null"), claims),
        ("jti as number", but("jti", "1"), claims),
        ("no iss", but("iss", None), Denied::ISSUER),
        ("another iss", but("iss", "\"Issuer\""), Denied::ISSUER),
        ("a list of iss", but("iss", "[\"issuer\"]"), claims),
        ("null iss", but("iss", "null"), claims),
        ("iss twice", but("iss", "\"x\",\"iss\":\"issuer\""), bad),
        ("no aud", but("aud", None), Denied::AUDIENCE),
        ("another aud", but("aud", "\"edge.evil\""), Denied::AUDIENCE),
        ("other auds", but("aud", "[\"a\",\"b\"]"), Denied::AUDIENCE),
        ("no auds", but("aud", "[]"), Denied::AUDIENCE),
        ("nested auds", but("aud", "[[\"edge\"]]"), claims),
        ("auds with a number", but("aud", "[\"edge\",1]"), claims),
        ("null aud", but("aud", "null"), claims),
        ("aud as an object", but("aud", "{\"edge\":1}"), claims),
        ("no sub", but("sub", None), claims),
        ("sub as number", but("sub", "1"), claims),
        ("sub null", but("sub", "null"), claims),
        ("sub as a list", but("sub", "[\"alice\"]"), claims),
        ("an empty sub", but("sub", "\"\""), claims),
        ("CR LF in sub", but("sub", r#""a\r\nPUB x 0""#), claims),
        ("NUL in sub", but("sub", r#""alice\u0000""#), claims),
        ("a lone surrogate in sub", but("sub", r#""\ud800""#), bad),
        ("claims as a list", saying(&format!("[{CLAIMS}]")), bad),
        ("claims as null", saying("null"), bad),
        ("claims twice", saying(&format!("{CLAIMS}{CLAIMS}")), bad),
        ("a long sub", saying(&CLAIMS.replace("\"alice\"", &long)), claims),
        ("a member twice, deep", but("x", r#"[{"a":1,"a":2}]"#), bad),
    ];
    assert_eq!(refused(cases).await, 53);
}

#[tokio::test]
async fn a_token_made_for_another_use_is_refused_by_its_type() {
    let folder = tempfile::tempdir().unwrap();
    let config = Jwt { typ: Some("at+jwt".to_owned()), ..config(folder.path()) };
    let verifier = verifier(&config);
    let typed = |typ: &str| under(&format!(r#"{{"alg":"ES256","kid":"ec","typ":"{typ}"}}"#));
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt"] {
        assert!(verify(&verifier, &typed(typ)).await.is_ok(), "{typ}");
    }
    for typ in ["JWT", "", "at+jwt ", "application/JWT", "logout+jwt", "dpop+jwt"] {
        let found = verify(&verifier, &typed(typ)).await.map(|_| ());
        assert_eq!(found, Err(Denied::TYPE), "{typ}");
    }
    assert_eq!(verify(&verifier, &under(EC)).await.map(|_| ()), Err(Denied::TYPE));
}

proptest::proptest! {
    #[test]
    fn no_text_at_all_panics_or_gets_in(text in "[A-Za-z0-9._~+/-]{1,64}={0,2}") {
        let token = token(&text);
        assert!(jws::Jws::parse(&token).is_err());
    }

    #[test]
    fn any_header_is_taken_or_refused(header in "\\PC{0,40}") {
        let text = format!("{}.AA", unsigned(&header, "{}"));
        let _ = jws::Jws::parse(&token(&text)).map(|jws| jws.claims().map(|_| ()));
    }
}
