//! The shape of a signed token (RFC 7515 section 7.1, compact): three parts, a strict header, claims
//! that are not looked at until the signature is checked.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::{Denied, Token, json};

/// A token whose signature is not checked yet.
pub(super) struct Jws<'a> {
    /// What is signed: header, dot, claims.
    pub(super) message: &'a [u8],
    /// The signature, base64url.
    pub(super) signature: &'a str,
    /// The algorithm that the token says it was signed with.
    pub(super) algorithm: Algorithm,
    /// Which key the token says it was signed with.
    pub(super) kid: Option<String>,
    /// What the token says it is for.
    typ: Option<String>,
    /// The claims as they came.
    payload: &'a str,
}

impl<'a> Jws<'a> {
    /// Takes `token` apart.
    ///
    /// # Errors
    /// When it has another shape than a signed token, or asks for what we do not know.
    pub(super) fn parse(token: &'a Token) -> Result<Self, Denied> {
        let text = token.as_str();
        if text.len() > Token::MAX {
            return Err(Denied::TOO_LARGE);
        }
        let (message, signature) = text.rsplit_once('.').ok_or(Denied::MALFORMED)?;
        let (header, payload) = message.split_once('.').ok_or(Denied::MALFORMED)?;
        if payload.contains('.') {
            return Err(Denied::MALFORMED);
        }
        let header = part(header)?;
        let algorithm = algorithm(&header)?;
        if signature.is_empty() || URL_SAFE_NO_PAD.decode(signature).is_err() {
            return Err(Denied::MALFORMED);
        }
        let kid = text_member(&header, "kid")?;
        let typ = text_member(&header, "typ")?;
        // A token in a token (RFC 7519 section 5.2) says who made the inner one, not who is here.
        if text_member(&header, "cty")?.is_some_and(|cty| is_media_type(&cty, "jwt")) {
            return Err(Denied::TYPE);
        }
        Ok(Self { message: message.as_bytes(), signature, algorithm, kid, typ, payload })
    }

    /// Whether the header's `typ` is `expected`.
    pub(super) fn is_of_type(&self, expected: &str) -> bool {
        self.typ.as_deref().is_some_and(|typ| is_media_type(typ, expected))
    }

    /// The claims; to be believed only when the signature is genuine.
    ///
    /// # Errors
    /// When they are not one strict JSON object.
    pub(super) fn claims(&self) -> Result<Map<String, Value>, Denied> {
        part(self.payload)
    }
}

fn part(encoded: &str) -> Result<Map<String, Value>, Denied> {
    let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| Denied::MALFORMED)?;
    json::object(&bytes).ok_or(Denied::MALFORMED)
}

fn algorithm(header: &Map<String, Value>) -> Result<Algorithm, Denied> {
    // RFC 7515 section 4.1.11: whoever does not know a critical extension must refuse; we know none.
    // `b64` (RFC 7797) changes what is signed, and is no less critical when `crit` is left out.
    if header.contains_key("crit") || header.get("b64").is_some_and(|b64| *b64 != Value::Bool(true))
    {
        return Err(Denied::CRITICAL);
    }
    let name = text_member(header, "alg")?.ok_or(Denied::MALFORMED)?;
    // `none` in any spelling is not a name that this knows.
    name.parse().map_err(|_| Denied::ALGORITHM)
}

fn text_member(header: &Map<String, Value>, name: &str) -> Result<Option<String>, Denied> {
    match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Denied::MALFORMED),
    }
}

/// Media types compare in any case, and `application/` may be left out (RFC 7515 section 4.1.9).
fn is_media_type(found: &str, expected: &str) -> bool {
    let bare = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.strip_prefix("application/").map_or(name.clone(), str::to_owned)
    };
    bare(found) == bare(expected)
}
