//! A certificate made on the spot, for `moorline dev`. Nothing of it touches the disk.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};

use super::error::TlsError;

/// A certificate that vouches for itself, and its key.
#[derive(Clone)]
pub struct SelfSigned {
    /// The certificate in PEM; clients may also trust it as an authority.
    pub certificate_pem: String,
    /// The private key in PEM (PKCS#8).
    pub key_pem: String,
}

/// Longer than a laptop runs `dev` without a restart, and short enough that a trusted one does not stay
/// a risk.
const LIFE: Duration = Duration::from_secs(30 * 86_400);
/// Begins this much earlier, for clients in virtual machines with a late clock.
const SKEW: Duration = Duration::from_secs(3600);

/// Makes an ECDSA P-256 certificate for `names`, which are DNS names or IP addresses, valid for 30
/// days from now.
///
/// # Errors
/// When a name cannot be in a certificate.
pub fn self_signed(names: &[&str]) -> Result<SelfSigned, TlsError> {
    make(names).map_err(TlsError::Generate)
}

fn make(names: &[&str]) -> Result<SelfSigned, rcgen::Error> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let now = SystemTime::now();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "moorline dev");
    params.not_before = (now - SKEW).into();
    params.not_after = (now + LIFE).into();
    // No authority: whoever trusts it trusts these names and cannot be led to trust others.
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.self_signed(&key)?;
    Ok(SelfSigned { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

impl fmt::Debug for SelfSigned {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelfSigned")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_fits_no_certificate_is_refused() {
        assert!(matches!(self_signed(&["b\u{fc}cher"]), Err(TlsError::Generate(_))));
    }

    #[test]
    fn debug_does_not_print_the_key() {
        let made = self_signed(&["localhost"]).unwrap();
        assert!(!format!("{made:?}").contains("PRIVATE KEY"));
    }
}
