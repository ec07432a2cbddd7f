//! Where a listener listens, as text and as checked.

use super::section::shown;
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Bytes of a Unix socket's path: `sun_path` of `sockaddr_un` less its terminating zero.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// A checked address. Written `IP:port` or `unix:///path`, in the file and on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// Port 0: any free port.
    Tcp(SocketAddr),
    /// Absolute, at most 107 bytes, no zero byte.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether both cannot be listened on at once. Port 0 is another port each time.
    pub fn collides_with(&self, other: &Self) -> bool {
        self == other && !matches!(self, Self::Tcp(address) if address.port() == 0)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// Why a text is no address to listen on. Each says what to write instead.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    #[error(
        "`{given}` is not an address to listen on; write `IP:port`, such as 127.0.0.1:46357, or `unix:///path`"
    )]
    Malformed { given: String },
    #[error(
        "`{given}` has no IP address; write 127.0.0.1{given} for this machine only, or 0.0.0.0{given} for all"
    )]
    NoIp { given: String },
    #[error("`{given}` has no port; write {given}:46357")]
    NoPort { given: String },
    #[error(
        "`{host}` is a host name, and names are not looked up for listening; write the IP address, as IP:port"
    )]
    HostName { host: String },
    #[error("`{scheme}://`: an address to listen on has no scheme; write `{rest}`")]
    Scheme { scheme: String, rest: String },
    #[error("`{scheme}://`: WebSocket is not supported; write `IP:port` to serve gRPC")]
    WebSocket { scheme: String },
    /// dataplane 1.9: the trap that two slashes are.
    #[error(
        "`{given}`: the path must be absolute, so three slashes: `unix:///path`. With two, an existing client \
         dials another path than an existing node binds"
    )]
    UnixRelative { given: String },
    #[error("`{given}` names no file")]
    UnixNoFile { given: String },
    #[error("the path has {bytes} bytes; a Unix socket's path may have {UNIX_PATH_BYTES_MAX}")]
    UnixTooLong { bytes: usize },
    #[error("the path has a zero byte")]
    UnixZeroByte,
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(given: &str) -> Result<Self, AddressError> {
        if let Some(path) = given.strip_prefix("unix:") {
            return match path.strip_prefix("//") {
                Some(path) if path.starts_with('/') => unix(given, path),
                _ => Err(AddressError::UnixRelative {
                    given: given.to_owned(),
                }),
            };
        }
        if let Some((scheme, rest)) = given.split_once("://") {
            let (scheme, rest) = (shown(scheme), shown(rest));
            return Err(match scheme.as_str() {
                "ws" | "wss" => AddressError::WebSocket { scheme },
                _ => AddressError::Scheme { scheme, rest },
            });
        }
        given
            .parse()
            .map(Self::Tcp)
            .map_err(|_| why_not_ip_and_port(given))
    }
}

fn unix(given: &str, path: &str) -> Result<ListenAddress, AddressError> {
    let bytes = Path::new(path).as_os_str().as_bytes();
    if bytes.contains(&0) {
        return Err(AddressError::UnixZeroByte);
    }
    if bytes.len() > UNIX_PATH_BYTES_MAX {
        return Err(AddressError::UnixTooLong { bytes: bytes.len() });
    }
    if path.ends_with('/') || Path::new(path).file_name().is_none() {
        return Err(AddressError::UnixNoFile {
            given: given.to_owned(),
        });
    }
    Ok(ListenAddress::Unix(PathBuf::from(path)))
}

fn why_not_ip_and_port(text: &str) -> AddressError {
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    let given = shown(text);
    if text.parse::<std::net::IpAddr>().is_ok() {
        return AddressError::NoPort { given };
    }
    match text.rsplit_once(':') {
        Some(("", port)) if is_port(port) => AddressError::NoIp { given },
        Some((host, port)) if is_port(port) && is_host_name(host) => {
            AddressError::HostName { host: shown(host) }
        }
        _ => AddressError::Malformed { given },
    }
}

fn is_host_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_is_printed_as_it_is_written() {
        for text in [
            "127.0.0.1:46357",
            "0.0.0.0:0",
            "[::1]:46357",
            "unix:///run/node/dp.sock",
        ] {
            assert_eq!(
                text.parse::<ListenAddress>()
                    .map(|address| address.to_string()),
                Ok(text.to_owned())
            );
        }
    }

    #[test]
    fn what_is_no_address_is_told_why() {
        let why = |text: &str| text.parse::<ListenAddress>().unwrap_err();
        assert_eq!(
            why("localhost:46357"),
            AddressError::HostName {
                host: "localhost".into()
            }
        );
        assert_eq!(
            why(":46357"),
            AddressError::NoIp {
                given: ":46357".into()
            }
        );
        assert_eq!(
            why("127.0.0.1"),
            AddressError::NoPort {
                given: "127.0.0.1".into()
            }
        );
        assert_eq!(
            why("http://1.2.3.4:5"),
            AddressError::Scheme {
                scheme: "http".into(),
                rest: "1.2.3.4:5".into()
            }
        );
        assert_eq!(
            why("ws://1.2.3.4:5"),
            AddressError::WebSocket {
                scheme: "ws".into()
            }
        );
        assert_eq!(
            why("unix://a/b.sock"),
            AddressError::UnixRelative {
                given: "unix://a/b.sock".into()
            }
        );
        assert_eq!(
            why("unix:/a/b.sock"),
            AddressError::UnixRelative {
                given: "unix:/a/b.sock".into()
            }
        );
        assert_eq!(
            why("unix:///"),
            AddressError::UnixNoFile {
                given: "unix:///".into()
            }
        );
        assert_eq!(why("unix:///a\0b"), AddressError::UnixZeroByte);
        for text in ["", "46357", "1.2.3.4:70000", "1.2.3:5", "::1:x", "[::1]"] {
            assert!(
                matches!(
                    why(text),
                    AddressError::Malformed { .. } | AddressError::NoPort { .. }
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn a_unix_path_may_fill_the_kernels_room_and_no_more() {
        let path = |bytes: usize| format!("unix:///{}", "a".repeat(bytes - 1));
        assert!(path(UNIX_PATH_BYTES_MAX).parse::<ListenAddress>().is_ok());
        let too_long = AddressError::UnixTooLong {
            bytes: UNIX_PATH_BYTES_MAX + 1,
        };
        assert_eq!(
            path(UNIX_PATH_BYTES_MAX + 1).parse::<ListenAddress>(),
            Err(too_long)
        );
    }

    #[test]
    fn only_port_zero_may_be_listened_on_twice() {
        let address = |text: &str| text.parse::<ListenAddress>().expect("an address");
        assert!(address("127.0.0.1:1").collides_with(&address("127.0.0.1:1")));
        assert!(!address("127.0.0.1:0").collides_with(&address("127.0.0.1:0")));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(unix:/{0,4}|ws://|)\\PC{0,130}") {
            let _outcome = text.parse::<ListenAddress>();
        }
    }
}
