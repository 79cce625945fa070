//! What goes wrong with TLS: files that the operator has to mend, and handshakes that clients fail.

use std::{fmt, io, path::PathBuf, time::Duration, time::SystemTime};

use thiserror::Error;

/// Certificates, keys or authorities cannot be used. The operator has to act.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The file is not there, or may not be read.
    #[error("{part} {}: cannot be read", file.display())]
    Read {
        /// What the file is for.
        part: Part,
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path names a folder, a pipe or a device.
    #[error("{part} {}: expected a regular file", file.display())]
    NotAFile {
        /// What the file is for.
        part: Part,
        /// The file.
        file: PathBuf,
    },
    /// No PEM file is that large.
    #[error("{part} {}: larger than the maximum of {max} bytes", file.display())]
    TooLarge {
        /// What the file is for.
        part: Part,
        /// The file.
        file: PathBuf,
        /// The most bytes that are read.
        max: u64,
    },
    /// A section of the file is broken; the file may be half written.
    #[error("{part} {}: not well-formed PEM: {problem}", file.display())]
    Malformed {
        /// What the file is for.
        part: Part,
        /// The file.
        file: PathBuf,
        /// What is broken. Never the file's own text: it may be a key.
        problem: &'static str,
    },
    /// The file holds no certificate.
    #[error(
        "{part} {}: no certificate found in the file, expected PEM with \"BEGIN CERTIFICATE\"",
        file.display()
    )]
    NoCertificate {
        /// What the file is for.
        part: Part,
        /// The file.
        file: PathBuf,
    },
    /// The file holds no private key.
    #[error(
        "key {}: no private key found in the file, expected PEM with \"BEGIN PRIVATE KEY\", \
         \"BEGIN RSA PRIVATE KEY\" or \"BEGIN EC PRIVATE KEY\"",
        file.display()
    )]
    NoKey {
        /// The file.
        file: PathBuf,
    },
    /// The key needs a passphrase.
    #[error("key {}: encrypted with a passphrase, expected a key without one", file.display())]
    EncryptedKey {
        /// The file.
        file: PathBuf,
    },
    /// The certificate cannot be parsed, or is of a kind that TLS clients refuse.
    #[error("{part} {}: not a usable X.509 certificate: {problem}", file.display())]
    BadCertificate {
        /// What the file is for.
        part: Part,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The key's algorithm or size is not supported, or it cannot be parsed.
    #[error(
        "key {}: not a usable private key, expected RSA of 2048 bits or more, ECDSA or Ed25519",
        file.display()
    )]
    BadKey {
        /// The file.
        file: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// Key and certificate are not a pair.
    #[error("key {} does not belong to certificate {}", key.display(), certificate.display())]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The certificate has ended.
    #[error("certificate {}: expired on {}", file.display(), date(*at))]
    Expired {
        /// The file.
        file: PathBuf,
        /// Its last moment.
        at: SystemTime,
    },
    /// The certificate has not begun.
    #[error("certificate {}: valid only from {} on", file.display(), date(*at))]
    NotYetValid {
        /// The file.
        file: PathBuf,
        /// Its first moment.
        at: SystemTime,
    },
    /// Client certificates are demanded with nothing to check them against.
    #[error("client_certificate is required, but client_ca names no file with authorities")]
    NoClientAuthorities,
    /// No authorities to check servers against.
    #[error("no certificate authorities found on this system ({problem}); name a file with some")]
    NoSystemAuthorities {
        /// What the look-up said.
        problem: String,
    },
    /// The disk did not answer.
    #[error("the files could not be read within {}", humantime::format_duration(*limit))]
    Slow {
        /// How long it was waited.
        limit: Duration,
    },
    /// Reading was cut off, as when the process ends.
    #[error("reading the files was cut off")]
    CutOff,
    /// rustls refuses the settings.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
    /// A self-signed certificate cannot be made for these names.
    #[error("no self-signed certificate can be made for these names")]
    Generate(#[source] rcgen::Error),
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A certificate and its chain.
    Certificate,
    /// A private key.
    Key,
    /// Authorities that peers are checked against.
    Authorities,
}

/// A client did not get through the TLS handshake.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// It took longer than it may.
    #[error("the TLS handshake took longer than {}", humantime::format_duration(*limit))]
    Timeout {
        /// How long it may take.
        limit: Duration,
    },
    /// The client broke off, spoke something else, or offered nothing that is taken here.
    #[error("the TLS handshake failed")]
    Failed(#[source] io::Error),
}

impl AcceptError {
    /// The word in metrics and logs.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "timeout",
            Self::Failed(_) => "failed",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "certificate",
            Self::Key => "key",
            Self::Authorities => "authorities",
        })
    }
}

/// As `2026-11-21T05:41:28Z`.
fn date(at: SystemTime) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(at)
}
