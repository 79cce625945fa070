//! Keys of every family, and configuration that cannot work.

use jsonwebtoken::Algorithm;

use super::*;
use crate::auth::forge::{self, ED, P384};

const CLAIMS: &str = r#"{"sub":"alice","exp":1800000060}"#;

fn one(key: JwtKey) -> Jwt {
    Jwt { keys: vec![key], ..Jwt::default() }
}

async fn user(config: &Jwt, text: &str) -> Result<String, Denied> {
    verify(&verifier(config), text).await.map(|identity| identity.user.as_str().to_owned())
}

#[tokio::test]
async fn every_algorithm_verifies_its_own_signature_only() {
    use JwtAlgorithm::*;
    let folder = tempfile::tempdir().unwrap();
    let secret = write(folder.path(), "secret", SECRET);
    let files = [(&RSA, "rsa"), (&P256, "ec"), (&P384, "ec3"), (&ED, "ed")]
        .map(|(signer, name)| write(folder.path(), name, signer.pair.public_key_pem()));
    let [rsa, p256, p384, ed] = files;
    for (named, path) in [
        (RS256, &rsa),
        (RS384, &rsa),
        (RS512, &rsa),
        (PS256, &rsa),
        (PS384, &rsa),
        (PS512, &rsa),
        (ES256, &p256),
        (ES384, &p384),
        (EdDSA, &ed),
        (HS256, &secret),
        (HS384, &secret),
        (HS512, &secret),
    ] {
        let algorithm = key::algorithm(named);
        let header = format!(r#"{{"alg":"{named:?}","typ":"JWT"}}"#);
        let text = match named {
            ES256 => P256.sign(&header, CLAIMS),
            ES384 => P384.sign(&header, CLAIMS),
            EdDSA => ED.sign(&header, CLAIMS),
            _ if named.is_symmetric() => forge::hmac(algorithm, SECRET, &header, CLAIMS),
            _ => RSA.sign_as(algorithm, &header, CLAIMS),
        };
        let key = match named.is_symmetric() {
            true => secret_key(None, path.clone(), &[named]),
            false => public_key(None, path.clone(), &[named]),
        };
        assert_eq!(user(&one(key), &text).await.as_deref(), Ok("alice"), "{named:?}");
        let other =
            secret_key(None, secret.clone(), if named == HS256 { &[HS384] } else { &[HS256] });
        assert_eq!(user(&one(other), &text).await, Err(Denied::ALGORITHM), "{named:?}");
        let (message, _) = text.rsplit_once('.').unwrap();
        let forged = format!("{message}.{}", "A".repeat(86));
        let key = match named.is_symmetric() {
            true => secret_key(None, path.clone(), &[named]),
            false => public_key(None, path.clone(), &[named]),
        };
        assert_eq!(user(&one(key), &forged).await, Err(Denied::SIGNATURE), "{named:?}");
    }
}

#[tokio::test]
async fn certificates_and_pkcs1_hold_public_keys_too() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let pem = certificate.self_signed(&P256.pair).unwrap().pem();
    let path = write(folder.path(), "ec.pem", format!("# comment\n{pem}"));
    let text = P256.sign(r#"{"alg":"ES256"}"#, CLAIMS);
    let key = public_key(Some("ec"), path, &[JwtAlgorithm::ES256]);
    assert_eq!(user(&one(key), &text).await.as_deref(), Ok("alice"));

    let body = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        RSA.pair.public_key_raw(),
    );
    let pem = format!("-----BEGIN RSA PUBLIC KEY-----\n{body}\n-----END RSA PUBLIC KEY-----\n");
    let path = write(folder.path(), "rsa.pem", pem);
    let text = RSA.sign(r#"{"alg":"RS256"}"#, CLAIMS);
    let key = public_key(None, path, &[JwtAlgorithm::RS256]);
    assert_eq!(user(&one(key), &text).await.as_deref(), Ok("alice"));
}

#[tokio::test]
async fn a_token_without_kid_is_tried_with_at_most_eight_keys() {
    let folder = tempfile::tempdir().unwrap();
    let right = write(folder.path(), "right", SECRET);
    let wrong = write(folder.path(), "wrong", SECRET.repeat(2));
    let text = forge::hmac(Algorithm::HS256, SECRET, r#"{"alg":"HS256"}"#, CLAIMS);
    for (before, expected) in [(7, Ok("alice".to_owned())), (8, Err(Denied::SIGNATURE))] {
        let wrong = secret_key(Some("k"), wrong.clone(), &[JwtAlgorithm::HS256]);
        let mut keys = vec![wrong; before];
        // Keys of other algorithms cost nothing.
        keys.insert(0, secret_key(None, right.clone(), &[JwtAlgorithm::HS384]));
        keys.push(secret_key(Some("x"), right.clone(), &[JwtAlgorithm::HS256]));
        let config = Jwt { keys, ..Jwt::default() };
        assert_eq!(user(&config, &text).await, expected, "{before}");
        let named = r#"{"alg":"HS256","kid":"x"}"#;
        let named = forge::hmac(Algorithm::HS256, SECRET, named, CLAIMS);
        assert_eq!(user(&config, &named).await.as_deref(), Ok("alice"));
    }
}

#[tokio::test]
async fn a_key_without_kid_fits_every_token_of_its_algorithm() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "hs", SECRET);
    let config = one(secret_key(None, path, &[JwtAlgorithm::HS256]));
    let header = r#"{"alg":"HS256","kid":"../../etc/passwd"}"#;
    let text = forge::hmac(Algorithm::HS256, SECRET, header, CLAIMS);
    assert_eq!(user(&config, &text).await.as_deref(), Ok("alice"));
    let forged = forge::hmac(Algorithm::HS256, b"another", header, CLAIMS);
    assert_eq!(user(&config, &forged).await, Err(Denied::SIGNATURE));
}

#[test]
fn a_bad_key_is_refused_by_its_place_in_the_configuration() {
    use JwtAlgorithm::*;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| write(folder.path(), name, content);
    let ec = file("ec.pem", P256.pair.public_key_pem().as_bytes());
    let rsa = file("rsa.pem", RSA.pair.public_key_pem().as_bytes());
    let private = file("private.pem", P256.pair.serialize_pem().as_bytes());
    let garbage = file("garbage", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
    let long = file("long", SECRET);
    let at = |path: &PathBuf| path.display().to_string();
    let missing = folder.path().join("missing");
    let both = JwtKey { public_key: Some(ec.clone()), ..secret_key(None, long.clone(), &[HS256]) };
    let neither = JwtKey { secret: None, ..secret_key(None, long.clone(), &[HS256]) };
    let cases = [
        (both, ": set either secret or public_key".to_owned()),
        (neither, ": set either secret or public_key".to_owned()),
        (
            secret_key(None, long.clone(), &[]),
            ".algorithms: name at least one algorithm".to_owned(),
        ),
        (
            secret_key(None, file("31", &SECRET[..31]), &[HS256]),
            ".secret: the secret has 31 bytes, HS256 needs at least 32".to_owned(),
        ),
        (
            secret_key(None, file("63", &SECRET[..63]), &[HS256, HS512]),
            ".secret: the secret has 63 bytes, HS512 needs at least 64".to_owned(),
        ),
        (
            secret_key(None, rsa.clone(), &[HS256]),
            ".secret: holds a PEM file, which is no shared secret: set public_key".to_owned(),
        ),
        (
            secret_key(None, long.clone(), &[RS256]),
            ".algorithms: RS256 does not work with a secret of 64 bytes".to_owned(),
        ),
        (
            public_key(None, rsa.clone(), &[RS256, HS256]),
            ".algorithms: HS256 does not work with RSA 2048".to_owned(),
        ),
        (
            public_key(None, rsa, &[ES256]),
            ".algorithms: ES256 does not work with RSA 2048".to_owned(),
        ),
        (
            public_key(None, ec.clone(), &[ES384]),
            ".algorithms: ES384 does not work with EC P-256".to_owned(),
        ),
        (
            public_key(None, private.clone(), &[ES256]),
            format!(".public_key: {}: holds a private key; give the public key only", at(&private)),
        ),
        (
            public_key(None, garbage.clone(), &[ES256]),
            format!(".public_key: {}: not a PEM public key or certificate", at(&garbage)),
        ),
        (
            public_key(None, long.clone(), &[ES256]),
            format!(".public_key: {}: not a PEM public key or certificate", at(&long)),
        ),
        (
            public_key(None, missing.clone(), &[ES256]),
            format!(".public_key: {}: No such file or directory (os error 2)", at(&missing)),
        ),
        (
            secret_key(None, missing.clone(), &[HS256]),
            format!(".secret: {}: No such file or directory (os error 2)", at(&missing)),
        ),
    ];
    for (bad, expected) in cases {
        let good = public_key(None, ec.clone(), &[ES256]);
        let config = Jwt { keys: vec![good, bad], ..Jwt::default() };
        let error = Verifier::new(&config, None, &Tasks::new()).unwrap_err();
        assert_eq!(error.to_string(), format!("jwt.keys[1]{expected}"));
    }
    let none = Verifier::new(&Jwt::default(), None, &Tasks::new()).unwrap_err();
    assert_eq!(none.to_string(), "jwt: no token can be checked: set jwt.keys or jwt.jwks");
}

#[tokio::test]
async fn a_reload_takes_all_of_the_new_files_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let verifier = verifier(&config);
    let claims = r#"{"sub":"alice","exp":1800000060,"iss":"issuer","aud":"edge"}"#;
    let header = r#"{"alg":"HS256","kid":"hs"}"#;
    let old = forge::hmac(Algorithm::HS256, SECRET, header, claims);
    let secret = SECRET.repeat(2);
    let new = forge::hmac(Algorithm::HS256, &secret, header, claims);

    write(folder.path(), "hs", &secret);
    write(folder.path(), "rsa.pem", "garbage");
    assert!(verifier.renewed(&config, None).is_err());
    assert!(verify(&verifier, &old).await.is_ok());
    assert_eq!(verify(&verifier, &new).await, Err(Denied::SIGNATURE));

    write(folder.path(), "rsa.pem", RSA.pair.public_key_pem());
    let renewed = verifier.renewed(&config, None).unwrap();
    assert!(verify(&renewed, &new).await.is_ok());
    assert_eq!(verify(&renewed, &old).await, Err(Denied::SIGNATURE));
}

#[tokio::test]
async fn a_minted_token_verifies_and_keys_describe_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let verifier = verifier(&config(folder.path()));
    let claims = serde_json::json!({"sub":"alice","exp":NOW + 60,"iss":"issuer","aud":"edge"});
    let claims = claims.as_object().unwrap();
    let text = mint(JwtAlgorithm::HS256, SECRET, Some("hs"), claims).unwrap();
    assert_eq!(verify(&verifier, &text).await.unwrap().claims, *claims);
    assert!(mint(JwtAlgorithm::ES256, SECRET, None, claims).is_err());
    let ours = Jwt { typ: Some("at+jwt".to_owned()), ..config(folder.path()) };
    let minter = Minter::new(&ours).unwrap().unwrap();
    let more = serde_json::json!({"groups": ["red"]}).as_object().unwrap().clone();
    let text = minter.mint("bob", Duration::from_secs(60), more).unwrap();
    let identity = Verifier::new(&ours, None, &Tasks::new()).unwrap().verify(&token(&text)).await;
    let identity = identity.unwrap();
    assert_eq!((identity.user.as_str(), identity.groups[0].as_str()), ("bob", "red"));
    assert!(!format!("{minter:?}").contains("0123456789abcdef"));
    let no_secret = Jwt { keys: Vec::new(), ..ours };
    assert!(Minter::new(&no_secret).unwrap().is_none());

    let shown: Vec<String> = verifier.describe().iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            r#"jwt.keys[0]: RSA 2048, kid "rsa", [RS256]"#,
            r#"jwt.keys[1]: EC P-256, kid "ec", [ES256]"#,
            r#"jwt.keys[2]: a secret of 64 bytes, kid "hs", [HS256]"#,
        ]
    );
    let printed = format!("{verifier:?}");
    assert!(!printed.contains("0123456789abcdef"), "{printed}");
    assert!(!printed.contains(&format!("{:?}", SECRET)), "{printed}");
}
