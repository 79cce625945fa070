//! Distinguished names as text by RFC 4514: last part first, so `CN=...` leads. Bytes that a
//! certificate's maker chose never pass for structure, nor for a line of a log.

use std::fmt::Write;

use x509_parser::{
    asn1_rs::ToDer,
    x509::{AttributeTypeAndValue, X509Name},
};

/// `name` as text.
pub(super) fn to_text(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+"))
        .collect();
    parts.reverse();
    parts.join(",")
}

/// The first common name, when it is text.
pub(super) fn common_name(name: &X509Name<'_>) -> Option<String> {
    name.iter_common_name().next()?.as_str().ok().map(str::to_owned)
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let known = NAMES.iter().find(|(known, _)| *known == oid);
    match (known, attribute.as_str()) {
        (Some((_, name)), Ok(value)) => format!("{name}={}", escaped(value)),
        // RFC 4514 section 2.4: an unnamed type has its value in BER, as hex after a `#`.
        (known, _) => {
            let name = known.map_or(oid.as_str(), |(_, name)| name);
            let der = attribute.attr_value().to_der_vec().unwrap_or_default();
            format!("{name}=#{}", hex(&der))
        }
    }
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (at, char) in value.chars().enumerate() {
        match char {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', char]),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            '#' if at == 0 => text.push_str("\\#"),
            char if char.is_control() => {
                for byte in char.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(text, "\\{byte:02x}");
                }
            }
            char => text.push(char),
        }
    }
    text
}

/// The short names of RFC 4514 section 3.
const NAMES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
    use x509_parser::{certificate::X509Certificate, prelude::FromDer};

    use super::*;

    fn text_of(parts: &[(DnType, &str)]) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let (_, parsed) = X509Certificate::from_der(certificate.der()).unwrap();
        to_text(parsed.subject())
    }

    #[test]
    fn the_last_part_comes_first_and_structure_is_escaped() {
        let text = text_of(&[
            (DnType::CountryName, "DE"),
            (DnType::OrganizationName, "Acme, Inc. + Sons"),
            (DnType::CommonName, "# a\nb "),
        ]);
        assert_eq!(text, "CN=\\# a\\0ab\\ ,O=Acme\\, Inc. \\+ Sons,C=DE");
    }

    #[test]
    fn an_unnamed_type_is_its_number_with_a_value_in_hex() {
        let serial = DnType::from_oid(&[2, 5, 4, 5]);
        assert_eq!(text_of(&[(serial, "7")]), "2.5.4.5=#0c0137");
    }
}
