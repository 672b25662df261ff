//! Where to listen, and who could reach it.

use super::ConfigError;
use super::value::{Value, quote};
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// An address as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `HOST:PORT`; an IPv6 address stands here without its brackets.
    Tcp {
        /// Name or address.
        host: String,
        /// Port; 0 for a free one.
        port: u16,
    },
    /// `unix:PATH`.
    Unix(PathBuf),
}

/// An address as it is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Bind the first of these that can be bound.
    Tcp {
        /// As it was written, for messages.
        listen: String,
        /// What the host name means; not empty.
        addresses: Vec<SocketAddr>,
    },
    /// A socket in the file system. Its file's permissions say who may connect.
    Unix(PathBuf),
}

impl Listen {
    /// Looks the host up. Blocks.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Unresolved`].
    pub fn resolve(&self) -> Result<Endpoint, ConfigError> {
        let (host, port) = match self {
            Self::Unix(path) => return Ok(Endpoint::Unix(path.clone())),
            Self::Tcp { host, port } => (host.as_str(), *port),
        };
        let listen = self.to_string();
        match (host, port).to_socket_addrs().map(Vec::from_iter) {
            Ok(addresses) if !addresses.is_empty() => Ok(Endpoint::Tcp { listen, addresses }),
            Ok(_) => Err(ConfigError::Unresolved { listen, source: None }),
            Err(source) => Err(ConfigError::Unresolved { listen, source: Some(source) }),
        }
    }
}

impl Endpoint {
    /// The listener and the address by which other machines can reach it, if they can.
    #[must_use]
    pub fn exposed(&self) -> Option<(String, SocketAddr)> {
        let Self::Tcp { listen, addresses } = self else {
            return None;
        };
        // `::ffff:127.0.0.1` is loopback and `::ffff:0.0.0.0` is every address, but neither says
        // so before it is reduced to the IPv4 address that it stands for.
        let outside = addresses.iter().find(|at| !at.ip().to_canonical().is_loopback())?;
        Some((listen.clone(), *outside))
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("\"{text}\" {why}");
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(wrong("names no path after unix:")),
                path => Ok(Self::Unix(PathBuf::from(path))),
            };
        }
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| wrong("is not HOST:PORT, [IPV6]:PORT or unix:PATH"))?;
        let port = port.parse().map_err(|_| wrong("has no port from 0 to 65535 at its end"))?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(|| wrong("has [ without ]"))?,
            None if host.contains(':') => {
                return Err(wrong("needs brackets around its IPv6 address: [::1]:7400"));
            }
            None => host,
        };
        if host.is_empty() {
            return Err(wrong("names no host; 0.0.0.0 stands for every address"));
        }
        Ok(Self::Tcp { host: host.to_owned(), port })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The option's value: an address, or a list of them.
#[derive(Clone, Debug)]
pub(super) struct Listens(Vec<Listen>);

impl Value for Listens {
    /// A list with commas.
    fn parse(text: &str) -> Result<Self, String> {
        text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().map(Self)
    }

    fn to_toml(&self) -> String {
        let items: Vec<String> = self.0.iter().map(|listen| quote(&listen.to_string())).collect();
        format!("[{}]", items.join(", "))
    }
}

impl From<Listens> for Vec<Listen> {
    fn from(listens: Listens) -> Self {
        listens.0
    }
}

impl From<Vec<Listen>> for Listens {
    fn from(listens: Vec<Listen>) -> Self {
        Self(listens)
    }
}

impl<'de> serde::Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl<'de> serde::Deserialize<'de> for Listens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMany).map(Self)
    }
}

struct OneOrMany;

impl<'de> Visitor<'de> for OneOrMany {
    type Value = Vec<Listen>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address or a list of addresses")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        text.parse().map(|listen| vec![listen]).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(listen) = items.next_element()? {
            all.push(listen);
        }
        Ok(all)
    }
}
