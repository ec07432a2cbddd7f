//! A client on the `h2` crate: HTTP/2 as existing clients speak it, by an implementation that is not ours.

use std::future::poll_fn;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};
use slim_proto::link::LinkMac;
use slim_proto::name::Name;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use crate::peer;
use crate::world::{World, within};

/// An HTTP/2 connection without a stream.
pub struct Http2 {
    requests: SendRequest<Bytes>,
    ping: PingPong,
    /// Ends with the connection.
    pub driver: JoinHandle<Result<(), h2::Error>>,
}

/// A negotiated link.
pub struct Client {
    pub http2: Http2,
    pub mac: LinkMac,
    pub speaker: Speaker,
    pub listener: Listener,
}

/// Our half of the stream.
pub struct Speaker(SendStream<Bytes>);

/// The router's half of the stream.
pub struct Listener {
    stream: RecvStream,
    /// DATA bytes not yet made into messages.
    received: Vec<u8>,
}

/// What existing clients announce (dataplane 1.3).
pub fn usual() -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(2_097_152)
        .initial_connection_window_size(5_242_880)
        .max_frame_size(16_384)
        .max_header_list_size(16_384);
    builder
}

impl Http2 {
    pub async fn connect(world: &World, builder: &Builder) -> Http2 {
        let socket = TcpStream::connect(world.address())
            .await
            .expect("the router listens");
        Http2::over(socket, builder).await
    }

    pub async fn connect_unix(world: &World, builder: &Builder) -> Http2 {
        let socket = UnixStream::connect(world.socket_path())
            .await
            .expect("the router listens");
        Http2::over(socket, builder).await
    }

    async fn over<S>(socket: S, builder: &Builder) -> Http2
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (requests, mut connection) = within("the handshake", builder.handshake(socket))
            .await
            .expect("the preface can be written");
        let ping = connection.ping_pong().expect("it is asked for once");
        Http2 {
            requests,
            ping,
            driver: tokio::spawn(connection),
        }
    }

    /// Sends a request head and awaits the head of its response.
    pub async fn request(
        &mut self,
        request: Request<()>,
    ) -> Result<(Response<RecvStream>, SendStream<Bytes>), h2::Error> {
        let mut requests = within("room for a stream", self.requests.clone().ready()).await?;
        let (response, sender) = requests.send_request(request, false)?;
        Ok((within("a response", response).await?, sender))
    }

    /// Opens the channel and negotiates. Nothing is sent on the stream before the response head has arrived.
    pub async fn open(mut self, link_id: &str) -> Client {
        let (response, sender) = self
            .request(open_channel())
            .await
            .expect("the channel opens");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert!(!response.headers().contains_key("grpc-encoding"));
        let mut speaker = Speaker(sender);
        let mut listener = Listener {
            stream: response.into_body(),
            received: Vec::new(),
        };
        let (dialing, request) = peer::dial(link_id);
        speaker.send(request).await;
        let reply = listener.message().await.expect("a reply");
        Client {
            http2: self,
            mac: peer::complete(dialing, &reply).expect("the router agrees on a key"),
            speaker,
            listener,
        }
    }

    /// Awaits the answer to a PING: everything sent before has been dealt with.
    pub async fn ping(&mut self) {
        within("a PING answered", self.ping.ping(Ping::opaque()))
            .await
            .expect("the connection is open");
    }
}

/// The request that opens a link.
pub fn open_channel() -> Request<()> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://router{}", peer::OPEN_CHANNEL))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("user-agent", "tonic/0.14.6")
        .body(())
        .expect("it is well-formed")
}

impl Client {
    pub async fn connect(world: &World) -> Client {
        Client::connect_with(world, &usual()).await
    }

    pub async fn connect_with(world: &World, builder: &Builder) -> Client {
        Http2::connect(world, builder).await.open("a-link").await
    }

    /// Subscribes and awaits the acknowledgement.
    pub async fn subscribe(&mut self, name: &Name, subscription_id: u64) {
        self.send(peer::subscribe(&self.mac, name, subscription_id))
            .await;
        let ack = self.message().await.expect("an acknowledgement");
        assert_eq!(peer::acknowledged(&ack), subscription_id);
    }

    pub async fn publish(&mut self, to: &Name, payload: &[u8]) {
        self.send(peer::publish(&self.mac, to, payload)).await;
    }

    /// Awaits that the router has dealt with everything published before: it deals with a link's messages in order, so the
    /// acknowledgement of a later subscribe proves it. (A PING of the crate would overtake the DATA.)
    pub async fn settled(&mut self) {
        self.subscribe(&Name::new("org", "ns", "settled"), 7).await;
    }

    pub async fn send(&mut self, data: Vec<u8>) {
        self.speaker.send(data).await;
    }

    pub async fn message(&mut self) -> Result<Vec<u8>, End> {
        self.listener.message().await
    }

    pub async fn payload(&mut self) -> Vec<u8> {
        self.listener.payload().await
    }

    /// The trailers that end the stream, with nothing before them.
    pub async fn trailers(&mut self) -> HeaderMap {
        match self.message().await {
            Err(End::Trailers(trailers)) => trailers,
            other => panic!("not trailers: {other:?}"),
        }
    }
}

impl Speaker {
    /// Sends DATA as far as the router's windows allow, and waits for them otherwise.
    pub async fn send(&mut self, data: Vec<u8>) {
        let mut data = Bytes::from(data);
        while !data.is_empty() {
            self.0.reserve_capacity(data.len());
            let capacity = within("send window", poll_fn(|cx| self.0.poll_capacity(cx)))
                .await
                .expect("the stream is open")
                .expect("the connection is open");
            let now = data.split_to(capacity.min(data.len()));
            self.0.send_data(now, false).expect("the stream is open");
        }
    }

    /// Ends our half of the stream.
    pub fn half_close(&mut self) {
        self.0
            .send_data(Bytes::new(), true)
            .expect("the stream is open");
    }

    pub fn reset(&mut self) {
        self.0.send_reset(h2::Reason::CANCEL);
    }
}

/// How a stream ended.
#[derive(Debug)]
pub enum End {
    Trailers(HeaderMap),
    // For the message of a failed test.
    #[allow(dead_code)]
    Error(h2::Error),
}

impl Listener {
    /// The payload of the next message, which must be a publish.
    pub async fn payload(&mut self) -> Vec<u8> {
        peer::payload(&self.message().await.expect("a publish"))
    }

    /// The next message, or how the stream ended instead.
    pub async fn message(&mut self) -> Result<Vec<u8>, End> {
        loop {
            if let Some(message) = peer::deframe(&mut self.received) {
                return Ok(message);
            }
            match within("DATA", self.stream.data()).await {
                Some(Ok(chunk)) => {
                    assert!(!chunk.is_empty(), "existing clients take 100 empty frames");
                    self.received.extend_from_slice(&chunk);
                    // Credit goes back before the message is whole: a window may be smaller than a message.
                    self.stream
                        .flow_control()
                        .release_capacity(chunk.len())
                        .expect("it was received");
                }
                Some(Err(error)) => return Err(End::Error(error)),
                None => {
                    assert!(self.received.is_empty(), "it ended within a message");
                    return match within("trailers", self.stream.trailers()).await {
                        Ok(trailers) => Err(End::Trailers(trailers.unwrap_or_default())),
                        Err(error) => Err(End::Error(error)),
                    };
                }
            }
        }
    }
}
