//! Networks by their addresses, as `10.0.0.0/8`: those from which an address that somebody else names
//! is believed.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::quoted;

/// An IPv4 or IPv6 network. Every address has one form here: an IPv4-mapped IPv6 address is IPv4, so
/// that no network is missed because of how a listener is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Network(IpNet);

impl Network {
    /// Whether the address is in the network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = parse(text).ok_or_else(|| {
            format!("expected a network such as 10.0.0.0/8 or fd00::/8, found {}", quoted(text))
        })?;
        // Either is more likely a slip than meant, and would trust more or less than it says.
        if network.addr() != network.network() {
            let network = network.trunc();
            return Err(format!("{} has bits after its prefix; write {network}", quoted(text)));
        }
        if network.addr().to_canonical() != network.addr() {
            return Err(format!(
                "expected IPv4 to be written as 10.0.0.0/8, found {}",
                quoted(text)
            ));
        }
        Ok(Self(network))
    }
}

/// A network, or one address. The standard library's parser takes no leading zeros, which are octal to
/// some readers.
fn parse(text: &str) -> Option<IpNet> {
    let Some((address, prefix)) = text.split_once('/') else {
        return text.parse::<IpAddr>().ok().map(IpNet::from);
    };
    let is_number = prefix.bytes().all(|byte| byte.is_ascii_digit());
    let prefix = prefix.parse().ok().filter(|_| is_number)?;
    IpNet::new(address.parse().ok()?, prefix).ok()
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn written_as_read_but_for_single_addresses() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(network(text).to_string(), shown);
        }
        for (text, said) in [
            ("", "expected a network"),
            ("10.0.0.0/33", "expected a network"),
            ("10.0.0/8", "expected a network"),
            ("10.0.0.0/8/8", "expected a network"),
            ("010.0.0.0/8", "expected a network"),
            ("10.0.0.0/+8", "expected a network"),
            ("fe80::%eth0/64", "expected a network"),
            ("example.com", "expected a network"),
            ("10.1.2.3/8", "`10.1.2.3/8` has bits after its prefix; write 10.0.0.0/8"),
            ("::ffff:10.0.0.0/104", "expected IPv4 to be written as 10.0.0.0/8"),
        ] {
            let error = text.parse::<Network>().unwrap_err();
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }

    #[test]
    fn an_address_has_one_form() {
        let contains = |net: &str, address: &str| network(net).contains(address.parse().unwrap());
        assert!(contains("10.0.0.0/8", "10.255.255.255"));
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(contains("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(contains("192.0.2.7", "192.0.2.7"));
        assert!(!contains("10.0.0.0/8", "11.0.0.0"));
        assert!(!contains("::/0", "10.0.0.1"), "IPv6 only");
        assert!(!contains("::/0", "::ffff:10.0.0.1"), "this is IPv4");
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
    }
}
