//! Listening sockets, and what every accepted socket gets.
//!
//! TCP listeners exist once a shard, with SO_REUSEPORT, so that the kernel spreads connection set-up; a Unix socket has
//! one listener, on the first shard. Either way the accepting shard hands the connection to the shard with the fewest.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::config::ListenAddress;
use crate::connection::Peer;

/// Connections that the kernel keeps for us between two turns: after a restart all clients come within two seconds.
const BACKLOG: i32 = 4_096;

/// Why a listener could not be had. Nothing was started; the caller exits.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("{address} is in use: another process listens there")]
    InUse { address: String },
    #[error("cannot listen on {address}: {error}")]
    Failed { address: String, error: io::Error },
    #[error("{path} exists and is not a socket")]
    NotASocket { path: PathBuf },
}

/// Sockets bound to one address, one for each shard that accepts there. They do not listen yet: a client that reaches a
/// router which cannot serve it is lost for ever (dataplane 1.7).
pub struct Bound {
    pub address: ListenAddress,
    pub sockets: Vec<Socket>,
    /// To be kept for as long as the address is served.
    pub file: Option<SocketFile>,
}

/// The file of a Unix listener. Dropping it removes the file, unless another router has put its own in its place since:
/// that one may start as soon as ours has stopped listening, which is long before our last link has ended.
pub struct SocketFile {
    path: PathBuf,
    made: Option<Made>,
}

/// What tells a socket file from a later one: inode numbers are used again.
#[derive(PartialEq, Eq)]
struct Made {
    device: u64,
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Made {
    fn of(path: &Path) -> Option<Made> {
        let found = std::fs::symlink_metadata(path).ok()?;
        Some(Made {
            device: found.dev(),
            inode: found.ino(),
            seconds: found.mtime(),
            nanoseconds: found.mtime_nsec(),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.made.is_some() && Made::of(&self.path) == self.made {
            // It may be gone by now, which is as well.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Bound {
    /// - `shards`: how many sockets to bind if the address is TCP.
    pub fn new(address: &ListenAddress, shards: u16) -> Result<Bound, ListenError> {
        match address {
            ListenAddress::Tcp(address) => tcp(*address, shards),
            ListenAddress::Unix(path) => unix(path),
        }
    }

    pub fn listen(&self) -> Result<(), ListenError> {
        for socket in &self.sockets {
            socket
                .listen(BACKLOG)
                .map_err(|error| failed(&self.address, error))?;
        }
        Ok(())
    }
}

fn failed(address: &ListenAddress, error: io::Error) -> ListenError {
    match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse {
            address: address.to_string(),
        },
        _ => ListenError::Failed {
            address: address.to_string(),
            error,
        },
    }
}

fn tcp(address: SocketAddr, shards: u16) -> Result<Bound, ListenError> {
    let fail = |error| failed(&ListenAddress::Tcp(address), error);
    // With SO_REUSEPORT two routers would share a port without a word. A socket without it cannot be bound where another
    // listens. It must not listen itself: who connected to it would be lost for ever (dataplane 1.7).
    let probe = tcp_socket(address, false).map_err(fail)?;
    let address = probe
        .local_addr()
        .map_err(fail)?
        .as_socket()
        .unwrap_or(address);
    drop(probe);
    let sockets = (0..shards)
        .map(|_| tcp_socket(address, true))
        .collect::<io::Result<_>>()
        .map_err(fail)?;
    Ok(Bound {
        address: ListenAddress::Tcp(address),
        sockets,
        file: None,
    })
}

fn tcp_socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

fn unix(path: &Path) -> Result<Bound, ListenError> {
    let address = ListenAddress::Unix(path.to_owned());
    let fail = |error| failed(&address, error);
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(ListenError::NotASocket {
                path: path.to_owned(),
            });
        }
        // A socket file outlives its process. Only one that nobody answers on is ours to remove.
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(ListenError::InUse {
                address: address.to_string(),
            });
        }
        std::fs::remove_file(path).map_err(fail)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(fail)?;
    socket
        .bind(&SockAddr::unix(path).map_err(fail)?)
        .map_err(fail)?;
    let file = SocketFile {
        path: path.to_owned(),
        made: Made::of(path),
    };
    Ok(Bound {
        address,
        sockets: vec![socket],
        file: Some(file),
    })
}

/// Sets an accepted socket up and finds out whose it is. A client that has gone already shows when it is read.
pub fn prepare(socket: &OwnedFd) -> Peer {
    let socket = SockRef::from(socket);
    match socket
        .peer_addr()
        .ok()
        .and_then(|address| address.as_socket())
    {
        Some(address) => {
            // Small messages must not wait for the acknowledgement of earlier ones (dataplane 1.5).
            let _ = socket.set_tcp_nodelay(true);
            Peer::Tcp(address)
        }
        None => Peer::Unix,
    }
}
