//! PEM files as read at one moment: everything about them is decided from these bytes, never from a
//! second look at the disk.

use std::{
    fmt::Display,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};

use super::error::{Part, TlsError};

/// The bytes of one PEM file. Has no `Debug`, because they may be a private key.
pub(super) struct PemFile {
    part: Part,
    file: PathBuf,
    text: Vec<u8>,
}

/// Larger than any bundle of authorities (the usual ones have 250 KiB).
const MAX: u64 = 4 * 1024 * 1024;

impl PemFile {
    /// Reads `file`. Blocks.
    ///
    /// # Errors
    /// When it cannot be read, is no regular file, or is too large.
    pub(super) fn read(part: Part, file: &Path) -> Result<Self, TlsError> {
        let failed = |source: io::Error| TlsError::Read { part, file: file.to_owned(), source };
        // Looked at before it is opened, because opening a pipe waits for a writer.
        if !std::fs::metadata(file).map_err(failed)?.is_file() {
            return Err(TlsError::NotAFile { part, file: file.to_owned() });
        }
        let mut text = Vec::new();
        File::open(file).map_err(failed)?.take(MAX + 1).read_to_end(&mut text).map_err(failed)?;
        if text.len() as u64 > MAX {
            return Err(TlsError::TooLarge { part, file: file.to_owned(), max: MAX });
        }
        Ok(Self { part, file: file.to_owned(), text })
    }

    /// PEM text that never was on disk.
    pub(super) fn in_memory(part: Part, text: &str) -> Self {
        Self { part, file: PathBuf::from("(in memory)"), text: text.as_bytes().to_vec() }
    }

    /// Where it was read.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// All certificates in it, in order; at least one.
    ///
    /// # Errors
    /// When there is none, or a section is broken.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let certificates = CertificateDer::pem_slice_iter(&self.text)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| self.malformed(&error))?;
        if certificates.is_empty() {
            return Err(TlsError::NoCertificate { part: self.part, file: self.file.clone() });
        }
        Ok(certificates)
    }

    /// The first private key in it.
    ///
    /// # Errors
    /// When there is none, or it is encrypted, or a section is broken.
    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.text).map_err(|error| match error {
            _ if self.is_encrypted() => TlsError::EncryptedKey { file: self.file.clone() },
            pem::Error::NoItemsFound => TlsError::NoKey { file: self.file.clone() },
            error => self.malformed(&error),
        })
    }

    /// An error about one of its certificates.
    pub(super) fn bad_certificate(&self, problem: &dyn Display) -> TlsError {
        TlsError::BadCertificate {
            part: self.part,
            file: self.file.clone(),
            problem: problem.to_string(),
        }
    }

    /// PKCS#8 says so in the section's name, PKCS#1 and SEC1 in a `Proc-Type` line (RFC 1421).
    fn is_encrypted(&self) -> bool {
        self.text.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED)
    }

    fn malformed(&self, error: &pem::Error) -> TlsError {
        // Worded here, because the library's words quote the file, and that may be a key.
        let problem = match error {
            pem::Error::MissingSectionEnd { .. } => "a section has no END line",
            pem::Error::IllegalSectionStart { .. } => "a BEGIN line is broken",
            pem::Error::Base64Decode(_) => "a section is not base64",
            _ => "it cannot be parsed",
        };
        TlsError::Malformed { part: self.part, file: self.file.clone(), problem }
    }
}

/// A digest over the contents of `files`, in order. Equal digests mean equal contents.
pub(super) fn digest<'a>(files: impl Iterator<Item = &'a PemFile>) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    for file in files {
        // The length keeps text from moving unseen between neighbours.
        context.update(&file.text.len().to_be_bytes());
        context.update(&file.text);
    }
    context.finish().as_ref().to_vec()
}

const ENCRYPTED: &[u8] = b"ENCRYPTED";

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> String {
        PemFile::in_memory(Part::Key, text).key().unwrap_err().to_string()
    }

    fn certificates(text: &str) -> String {
        PemFile::in_memory(Part::Certificate, text).certificates().unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_file_and_what_was_expected_and_never_quote_it() {
        assert_eq!(
            certificates("hello"),
            "certificate (in memory): no certificate found in the file, \
             expected PEM with \"BEGIN CERTIFICATE\""
        );
        assert_eq!(
            certificates("-----BEGIN CERTIFICATE-----\nAAAA\n"),
            "certificate (in memory): not well-formed PEM: a section has no END line"
        );
        assert!(key("").contains("no private key found in the file"));
        for text in [
            "-----BEGIN PRIVATE KEY-----\n*secret*\n-----END PRIVATE KEY-----\n",
            "-----BEGIN PRIVATE KEY secret\n",
            "-----BEGIN PRIVATE KEY-----\nsecret\n",
        ] {
            let said = key(text);
            assert!(said.contains("not well-formed PEM") && !said.contains("secret"), "{said}");
        }
        for text in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n",
        ] {
            assert!(key(text).contains("encrypted with a passphrase"), "{}", key(text));
        }
    }

    #[test]
    fn only_regular_files_of_sane_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let read = |file: &Path| PemFile::read(Part::Key, file).err().unwrap();
        assert!(matches!(read(folder.path()), TlsError::NotAFile { .. }));
        assert!(matches!(read(&folder.path().join("none")), TlsError::Read { .. }));
        let large = folder.path().join("large");
        File::create(&large).unwrap().set_len(MAX + 1).unwrap();
        assert!(matches!(read(&large), TlsError::TooLarge { .. }));
    }

    #[test]
    fn a_digest_sees_text_that_moves_between_files() {
        let of = |texts: [&str; 2]| {
            let files = texts.map(|text| PemFile::in_memory(Part::Key, text));
            digest(files.iter())
        };
        assert_eq!(of(["ab", "c"]), of(["ab", "c"]));
        assert_ne!(of(["ab", "c"]), of(["a", "bc"]));
    }
}
