//! Where the measured node is, and the way there.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

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
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TargetError {
    #[error("`{scheme}://` is not supported; HOST:PORT, slim://HOST:PORT and unix:///PATH are")]
    Scheme { scheme: String },
    #[error("HOST:PORT, slim://HOST:PORT or unix:///PATH is expected")]
    Shape,
    #[error("the address is longer than {AUTHORITY_BYTES_MAX} bytes")]
    Long,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let authority = match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => {
                return Ok(Self::Unix { path: path.into() });
            }
            Some(("slim" | "http", rest)) => rest.trim_end_matches('/'),
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
                Ok(Self::Tcp {
                    authority: authority.to_owned(),
                })
            }
            _ => Err(TargetError::Shape),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { authority } => f.write_str(authority),
            Self::Unix { path } => write!(f, "unix://{}", path.display()),
        }
    }
}

/// A target whose name has been looked up, once for all connections.
#[derive(Clone, Debug)]
pub enum Resolved {
    Tcp {
        address: SocketAddr,
        authority: String,
    },
    Unix {
        path: PathBuf,
    },
}

impl Target {
    pub fn resolve(&self) -> io::Result<Resolved> {
        match self {
            Self::Tcp { authority } => {
                let address = authority.to_socket_addrs()?.next();
                let address = address.ok_or_else(|| io::Error::other("the host has no address"))?;
                Ok(Resolved::Tcp {
                    address,
                    authority: authority.clone(),
                })
            }
            Self::Unix { path } => Ok(Resolved::Unix { path: path.clone() }),
        }
    }
}

impl fmt::Display for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { authority, .. } => f.write_str(authority),
            Self::Unix { path } => write!(f, "unix://{}", path.display()),
        }
    }
}

impl Resolved {
    /// A connected socket, ready to be given to a ring. TCP: without Nagle's delay, which would be measured as the server's.
    pub fn connect(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp { address, .. } => {
                let stream = TcpStream::connect_timeout(address, CONNECT_TIMEOUT)?;
                stream.set_nodelay(true)?;
                Ok(stream.into())
            }
            Self::Unix { path } => Ok(UnixStream::connect(path)?.into()),
        }
    }

    /// `:authority` of the request (dataplane 1.3).
    pub fn authority(&self) -> &str {
        match self {
            Self::Tcp { authority, .. } => authority,
            Self::Unix { .. } => "localhost",
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
