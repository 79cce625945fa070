//! Certificates with their keys, and which one a client gets.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    Error, InconsistentKeys,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{error::TlsError, facts::CertificateFacts, pem::PemFile, provider};

/// A certificate chain, the key that belongs to it, and what the certificate says.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) facts: CertificateFacts,
}

/// Every identity of the public door, by name. Immutable: a reload makes a new one.
#[derive(Debug)]
pub(super) struct Identities {
    /// Served when no name fits, or the client names none.
    default: Arc<CertifiedKey>,
    /// By whole name, in lower case.
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows the `*.` of a wildcard, in lower case.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
}

/// How far an authority's clock may be ahead of ours.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

impl Identity {
    /// Parses both files and checks that they are a pair.
    ///
    /// # Errors
    /// When either cannot be used, or they do not belong together.
    pub(super) fn load(certificate: &PemFile, key: &PemFile) -> Result<Self, TlsError> {
        let chain = certificate.certificates()?;
        let first = chain.first().ok_or_else(|| certificate.bad_certificate(&"empty chain"))?;
        let facts = CertificateFacts::parse(first, certificate.file())
            .map_err(|error| certificate.bad_certificate(&error))?;
        let key_pair = provider()
            .key_provider
            .load_private_key(key.key()?)
            .map_err(|source| TlsError::BadKey { file: key.file().to_owned(), source })?;
        let certified = CertifiedKey::new(chain, key_pair);
        match certified.keys_match() {
            // Unknown: a key that does not tell its public half cannot be compared.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                return Err(TlsError::Mismatch {
                    key: key.file().to_owned(),
                    certificate: certificate.file().to_owned(),
                });
            }
            Err(error) => return Err(certificate.bad_certificate(&error)),
        }
        Ok(Self { certified: Arc::new(certified), facts })
    }

    /// Checks that it is valid at `now`. Only the first certificate counts: chains often carry an
    /// expired cross-signature that clients rightly pass over.
    ///
    /// # Errors
    /// When it has ended, or has not begun.
    pub(super) fn check_dates(&self, now: SystemTime) -> Result<(), TlsError> {
        let file = || self.facts.file.clone();
        if self.facts.not_after < now {
            return Err(TlsError::Expired { file: file(), at: self.facts.not_after });
        }
        if self.facts.not_before > now + CLOCK_SKEW {
            return Err(TlsError::NotYetValid { file: file(), at: self.facts.not_before });
        }
        Ok(())
    }
}

impl Identities {
    /// `first` is the default. Where two certificates have the same name, the earlier one is served.
    pub(super) fn new(first: &Identity, others: &[Identity]) -> Self {
        let mut identities = Self {
            default: Arc::clone(&first.certified),
            exact: HashMap::new(),
            wildcard: HashMap::new(),
        };
        for identity in std::iter::once(first).chain(others) {
            for name in &identity.facts.names {
                let name = name.to_ascii_lowercase();
                let (names, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut identities.wildcard, rest.to_owned()),
                    None => (&mut identities.exact, name),
                };
                names.entry(name).or_insert_with(|| Arc::clone(&identity.certified));
            }
        }
        identities
    }

    /// RFC 6125 section 6.4: names compare without case, and a wildcard stands for exactly one label.
    fn find(&self, name: &str) -> &Arc<CertifiedKey> {
        let name = name.to_ascii_lowercase();
        let by_wildcard = || {
            let (label, rest) = name.split_once('.')?;
            if label.is_empty() { None } else { self.wildcard.get(rest) }
        };
        self.exact.get(&name).or_else(by_wildcard).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(hello.server_name().map_or(&self.default, |name| self.find(name))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{Part, self_signed};

    fn identity(names: &[&str]) -> Identity {
        let made = self_signed(names).unwrap();
        let certificate = PemFile::in_memory(Part::Certificate, &made.certificate_pem);
        Identity::load(&certificate, &PemFile::in_memory(Part::Key, &made.key_pem)).unwrap()
    }

    #[test]
    fn a_name_finds_its_certificate_and_else_the_first() {
        let all = [
            identity(&["default.example"]),
            identity(&["chat.Example.com", "*.example.com"]),
            identity(&["api.example.com", "*.example.com"]),
        ];
        let identities = Identities::new(&all[0], &all[1..]);
        for (name, expected) in [
            ("default.example", 0),
            ("CHAT.example.com", 1),
            ("api.example.com", 2),
            ("other.EXAMPLE.com", 1),
            ("example.com", 0),
            (".example.com", 0),
            ("a.b.example.com", 0),
            ("unknown.test", 0),
            ("", 0),
        ] {
            assert!(Arc::ptr_eq(identities.find(name), &all[expected].certified), "{name}");
        }
    }

    #[test]
    fn dates_are_checked_with_room_for_skewed_clocks() {
        let mut identity = identity(&["a.example"]);
        let now = SystemTime::now();
        identity.check_dates(now).unwrap();
        identity.facts.not_before = now + Duration::from_secs(200);
        identity.check_dates(now).unwrap();
        identity.facts.not_before = now + Duration::from_secs(400);
        assert!(matches!(identity.check_dates(now), Err(TlsError::NotYetValid { .. })));
        identity.facts.not_after = SystemTime::UNIX_EPOCH;
        assert_eq!(
            identity.check_dates(now).unwrap_err().to_string(),
            "certificate (in memory): expired on 1970-01-01T00:00:00Z"
        );
    }
}
