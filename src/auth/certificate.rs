//! Who a client certificate stands for. The listener has already checked it against its authorities;
//! here it only gets a name.

use crate::event::Certificate;
use crate::id::{NameError, UserId};

/// Why a certificate stands for nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Neither a subject alternative name nor a common name.
    #[error("the certificate has no name")]
    NoName,
    /// The name is not one that a user can have. The next name is not tried: who somebody is must not
    /// hang on how long another name is.
    #[error("the certificate's name is refused")]
    Name(#[source] NameError),
}

/// The user that `certificate` stands for: its first URI (a SPIFFE id, for one), else its first e-mail
/// address, else its first DNS name, else the subject's common name.
///
/// # Errors
/// When there is none of these, or the first is no name for a user.
pub fn user(certificate: &Certificate) -> Result<UserId, CertificateError> {
    let first = |wanted: fn(&str) -> bool| {
        certificate.names.iter().map(String::as_str).find(|name| wanted(name))
    };
    let name = first(is_uri)
        .or_else(|| first(|name| name.contains('@')))
        .or_else(|| first(|_| true))
        .or(certificate.common_name.as_deref())
        .ok_or(CertificateError::NoName)?;
    UserId::new(name).map_err(CertificateError::Name)
}

/// Whether it starts with a scheme (RFC 3986 section 3.1); DNS names have no colon, and the only
/// e-mail addresses with one start with a quote.
fn is_uri(name: &str) -> bool {
    name.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str], common: Option<&str>) -> Result<String, CertificateError> {
        let certificate = Certificate {
            subject: "CN=x".to_owned(),
            common_name: common.map(str::to_owned),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            fingerprint: String::new(),
        };
        user(&certificate).map(|user| user.as_str().to_owned())
    }

    #[test]
    fn the_most_specific_name_wins() {
        let all = ["a.example", "bob@example.com", "spiffe://example.com/bob", "urn:x:y"];
        assert_eq!(named(&all, Some("bob")).unwrap(), "spiffe://example.com/bob");
        assert_eq!(named(&["a.example", "bob@example.com"], None).unwrap(), "bob@example.com");
        assert_eq!(named(&["a.example", "b.example"], Some("bob")).unwrap(), "a.example");
        assert_eq!(named(&["a.example", "sip:bob@x"], None).unwrap(), "sip:bob@x");
        assert_eq!(named(&["\"a:b\"@x.example"], None).unwrap(), "\"a:b\"@x.example");
        assert_eq!(named(&[], Some("bob")).unwrap(), "bob");
    }

    #[test]
    fn a_certificate_without_a_fit_name_is_nobody() {
        assert_eq!(named(&[], None), Err(CertificateError::NoName));
        assert_eq!(named(&[], Some("")), Err(CertificateError::Name(NameError::Empty)));
        let refused = named(&["a\n.example"], Some("bob"));
        assert_eq!(refused, Err(CertificateError::Name(NameError::Control)));
    }
}
