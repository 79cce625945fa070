//! What a certificate says, for operators: `moorline check`, metrics and logs.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate, error::X509Error, extensions::GeneralName, prelude::FromDer,
    time::ASN1Time, x509::SubjectPublicKeyInfo,
};

use super::subject;

/// One certificate of the public door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The file it was read from.
    pub file: PathBuf,
    /// The subject's distinguished name (RFC 4514).
    pub subject: String,
    /// DNS names, IP addresses, e-mail addresses and URIs in the subject alternative name.
    pub names: Vec<String>,
    /// Its first moment; 1970 when it began earlier.
    pub not_before: SystemTime,
    /// Its last moment.
    pub not_after: SystemTime,
    /// As `ECDSA P-256`, `RSA 2048` or `Ed25519`.
    pub key_algorithm: String,
}

impl CertificateFacts {
    /// Parses `certificate`, which was read from `file`.
    pub(super) fn parse(certificate: &CertificateDer<'_>, file: &Path) -> Result<Self, X509Error> {
        let (_, parsed) = X509Certificate::from_der(certificate)?;
        let mut names = names(&parsed);
        names.extend(addresses(&parsed).map(|address| address.to_string()));
        Ok(Self {
            file: file.to_owned(),
            subject: subject::to_text(parsed.subject()),
            names,
            not_before: moment(parsed.validity().not_before),
            not_after: moment(parsed.validity().not_after),
            key_algorithm: key_algorithm(parsed.public_key()),
        })
    }

    /// Whole days from `now` until it ends; 0 or less once it has.
    #[must_use]
    pub fn days_left(&self, now: SystemTime) -> i64 {
        let days = |time: Duration| i64::try_from(time.as_secs() / 86_400).unwrap_or(i64::MAX);
        match self.not_after.duration_since(now) {
            Ok(left) => days(left),
            Err(past) => -days(past.duration()),
        }
    }
}

/// The DNS names, e-mail addresses and URIs of the subject alternative name, in its order.
pub(super) fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    alternatives(certificate)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
                Some((*name).to_owned())
            }
            _ => None,
        })
        .collect()
}

/// A certificate's date, moved into what can be printed: 1970 to 9999.
pub(super) fn moment(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0).min(LAST))
}

fn addresses(certificate: &X509Certificate<'_>) -> impl Iterator<Item = IpAddr> {
    alternatives(certificate).filter_map(|name| match name {
        GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
            .ok(),
        _ => None,
    })
}

fn alternatives<'a>(
    certificate: &'a X509Certificate<'_>,
) -> impl Iterator<Item = &'a GeneralName<'a>> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    extension.map_or(&[][..], |extension| &extension.value.general_names).iter()
}

fn key_algorithm(key: &SubjectPublicKeyInfo<'_>) -> String {
    let oid = |oid: &x509_parser::asn1_rs::Oid<'_>| oid.to_id_string();
    let algorithm = oid(&key.algorithm.algorithm);
    match algorithm.as_str() {
        "1.2.840.113549.1.1.1" => {
            format!("RSA {}", key.parsed().map_or(0, |key| key.key_size()))
        }
        "1.2.840.10045.2.1" => {
            let curve = key.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
            match curve.as_ref().map(oid).as_deref() {
                Some("1.2.840.10045.3.1.7") => "ECDSA P-256".to_owned(),
                Some("1.3.132.0.34") => "ECDSA P-384".to_owned(),
                Some("1.3.132.0.35") => "ECDSA P-521".to_owned(),
                _ => "ECDSA".to_owned(),
            }
        }
        "1.3.101.112" => "Ed25519".to_owned(),
        _ => algorithm,
    }
}

/// The last second of the year 9999.
const LAST: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType, date_time_ymd};

    use super::*;

    fn facts(params: &CertificateParams, key: &KeyPair) -> CertificateFacts {
        let certificate = params.self_signed(key).unwrap();
        CertificateFacts::parse(certificate.der(), Path::new("/x/c.pem")).unwrap()
    }

    #[test]
    fn facts_are_what_the_certificate_says() {
        let names = ["a.example".to_owned(), "*.b.example".to_owned(), "::1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        let uri = "spiffe://trust/worker".try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
        params.not_before = date_time_ymd(1960, 1, 1);
        params.not_after = date_time_ymd(2030, 1, 11);
        let facts = facts(&params, &KeyPair::generate().unwrap());
        assert_eq!(facts.names, ["a.example", "*.b.example", "spiffe://trust/worker", "::1"]);
        assert_eq!(facts.key_algorithm, "ECDSA P-256");
        assert_eq!(facts.not_before, UNIX_EPOCH);
        assert_eq!(
            humantime::format_rfc3339_seconds(facts.not_after).to_string(),
            "2030-01-11T00:00:00Z"
        );
        assert_eq!(facts.days_left(moment_of(2030, 1, 1)), 10);
        assert_eq!(facts.days_left(moment_of(2030, 1, 14)), -3);
    }

    #[test]
    fn key_algorithms_are_named() {
        for (algorithm, name) in [
            (&rcgen::PKCS_ECDSA_P384_SHA384, "ECDSA P-384"),
            (&rcgen::PKCS_ED25519, "Ed25519"),
            (&rcgen::PKCS_RSA_SHA256, "RSA 2048"),
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(facts(&CertificateParams::default(), &key).key_algorithm, name);
        }
    }

    fn moment_of(year: i32, month: u8, day: u8) -> SystemTime {
        date_time_ymd(year, month, day).into()
    }
}
