//! The echo server on glommio's own sockets, as its documentation has one write it.

use std::net::SocketAddr;
use std::sync::mpsc;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};

use super::KernelThread;

/// As large as a receive buffer of the ring's.
const BUFFER_BYTES: usize = 16_384;

/// Answers `connections` clients, a task for each, until the last one has hung up.
///
/// - `started`: gets the address, and the thread that serves.
pub async fn serve(connections: u32, started: mpsc::Sender<(SocketAddr, KernelThread)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    // Nobody waits any more if the measurement was given up.
    let _ = started.send((address, KernelThread::this()));
    let mut answering = Vec::new();
    for _ in 0..connections {
        let stream = listener.accept().await.expect("descriptors are left");
        stream.set_nodelay(true).expect("a connected socket");
        answering.push(glommio::spawn_local(answer(stream)));
    }
    for task in answering {
        task.await;
    }
}

async fn answer(mut stream: TcpStream) {
    let mut buffer = vec![0; BUFFER_BYTES];
    // The load closes its sockets with questions under way: an error is one of the ways in which it hangs up.
    while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}
