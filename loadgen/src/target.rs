//! Where the measured node is, and the way there.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::link::{Link, Material, Opening};
use crate::nats::NatsLink;
use crate::slim::SlimLink;
use crate::tcp::TcpLink;

/// How long one TCP connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest host and port, in bytes: the length prefix of a header value is then one byte.
const AUTHORITY_BYTES_MAX: usize = 120;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Clear text over TCP.
    Tcp {
        authority: String,
    },
    Unix {
        path: PathBuf,
    },
    /// Clear text over TCP to a NATS server.
    Nats {
        authority: String,
    },
    /// Plain bytes to the `tcp-relay` of `slim-bench`.
    TcpRelay {
        authority: String,
    },
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TargetError {
    #[error(
        "`{scheme}://` is not supported; slim://HOST:PORT, HOST:PORT, unix:///PATH, nats://HOST:PORT and tcp://HOST:PORT are"
    )]
    Scheme { scheme: String },
    #[error(
        "slim://HOST:PORT, HOST:PORT, unix:///PATH, nats://HOST:PORT or tcp://HOST:PORT is expected"
    )]
    Shape,
    #[error("the address is longer than {AUTHORITY_BYTES_MAX} bytes")]
    Long,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let mut protocol = Protocol::Slim;
        let authority = match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => {
                return Ok(Self::Unix { path: path.into() });
            }
            Some(("slim" | "http", rest)) => rest.trim_end_matches('/'),
            Some(("nats", rest)) => {
                protocol = Protocol::Nats;
                rest.trim_end_matches('/')
            }
            Some(("tcp", rest)) => {
                protocol = Protocol::TcpRelay;
                rest.trim_end_matches('/')
            }
            Some(("unix", _)) => return Err(TargetError::Shape),
            Some((scheme, _)) => {
                let scheme = scheme.chars().take(32).collect();
                return Err(TargetError::Scheme { scheme });
            }
            None => text,
        };
        match authority.rsplit_once(':') {
            _ if authority.len() > AUTHORITY_BYTES_MAX => Err(TargetError::Long),
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                let authority = authority.to_owned();
                Ok(match protocol {
                    Protocol::Slim => Self::Tcp { authority },
                    Protocol::Nats => Self::Nats { authority },
                    Protocol::TcpRelay => Self::TcpRelay { authority },
                })
            }
            _ => Err(TargetError::Shape),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { authority } => write!(f, "slim://{authority}"),
            Self::Unix { path } => write!(f, "unix://{}", path.display()),
            Self::Nats { authority } => write!(f, "nats://{authority}"),
            Self::TcpRelay { authority } => write!(f, "tcp://{authority}"),
        }
    }
}

/// What is spoken at a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Slim,
    Nats,
    TcpRelay,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Slim => "slim",
            Self::Nats => "nats",
            Self::TcpRelay => "tcp",
        }
    }
}

/// A target whose name has been looked up, once for all connections.
#[derive(Clone, Debug)]
pub struct Resolved {
    target: Target,
    address: Address,
}

#[derive(Clone, Debug)]
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Target {
    pub fn resolve(&self) -> io::Result<Resolved> {
        let address = match self {
            Self::Tcp { authority } | Self::Nats { authority } | Self::TcpRelay { authority } => {
                let address = authority.to_socket_addrs()?.next();
                Address::Tcp(address.ok_or_else(|| io::Error::other("the host has no address"))?)
            }
            Self::Unix { path } => Address::Unix(path.clone()),
        };
        Ok(Resolved {
            target: self.clone(),
            address,
        })
    }

    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Tcp { .. } | Self::Unix { .. } => Protocol::Slim,
            Self::Nats { .. } => Protocol::Nats,
            Self::TcpRelay { .. } => Protocol::TcpRelay,
        }
    }
}

impl fmt::Display for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt(f)
    }
}

impl Resolved {
    /// A connected socket, ready to be given to a ring. TCP: without Nagle's delay, which would be measured as the server's.
    pub fn connect(&self) -> io::Result<OwnedFd> {
        match &self.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, CONNECT_TIMEOUT)?;
                stream.set_nodelay(true)?;
                Ok(stream.into())
            }
            Address::Unix(path) => Ok(UnixStream::connect(path)?.into()),
        }
    }

    /// The client's side of a connection, in the target's protocol. A new protocol has its line here.
    pub fn open(&self, opening: Opening, material: Material) -> Box<dyn Link> {
        match &self.target {
            // `:authority` of the request (dataplane 1.3).
            Target::Tcp { authority } => Box::new(SlimLink::open(authority, opening, material)),
            Target::Unix { .. } => Box::new(SlimLink::open("localhost", opening, material)),
            Target::Nats { .. } => Box::new(NatsLink::open(opening, material)),
            Target::TcpRelay { .. } => Box::new(TcpLink::open(&opening, material)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_with_and_without_a_scheme() {
        let tcp = |authority: &str| {
            Ok(Target::Tcp {
                authority: authority.to_owned(),
            })
        };
        assert_eq!("127.0.0.1:46357".parse(), tcp("127.0.0.1:46357"));
        assert_eq!("slim://host:1".parse(), tcp("host:1"));
        assert_eq!("http://[::1]:9/".parse(), tcp("[::1]:9"));
        let authority = "host:4222".to_owned();
        assert_eq!("nats://host:4222/".parse(), Ok(Target::Nats { authority }));
        let authority = "host:1".to_owned();
        assert_eq!("tcp://host:1".parse(), Ok(Target::TcpRelay { authority }));
        let path = PathBuf::from("/run/slim.sock");
        assert_eq!("unix:///run/slim.sock".parse(), Ok(Target::Unix { path }));
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_would_be() {
        for text in ["", "host", ":1", "host:x", "host:70000", "unix://relative"] {
            assert_eq!(text.parse::<Target>(), Err(TargetError::Shape), "{text}");
        }
        let scheme = "https".to_owned();
        assert_eq!(
            "https://a:1".parse::<Target>(),
            Err(TargetError::Scheme { scheme })
        );
        let long = format!("{}:1", "x".repeat(200));
        assert_eq!(long.parse::<Target>(), Err(TargetError::Long));
    }
}
