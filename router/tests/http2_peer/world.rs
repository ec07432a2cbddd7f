//! A router in this process, and what surrounds a test.

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use slim_proto::name::Name;
use slim_router::Router;
use slim_router::args::Args;
use slim_router::config::{Config, ListenAddress};
use slim_router::metrics::Snapshot;

use crate::client::Client;

/// For anything that must happen. Far more than it takes on a busy machine, so that reaching it is a failure.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Awaits what must happen.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {} s", DEADLINE.as_secs()),
    }
}

/// A router of one shard.
pub struct World {
    pub router: Router,
    socket_path: Option<PathBuf>,
}

impl World {
    pub fn new() -> World {
        World::listening_on(vec![any_port()], None)
    }

    /// A router that also listens on a Unix socket.
    pub fn with_unix_socket(test: &str) -> World {
        let path = std::env::temp_dir().join(format!("slim-{}-{test}.sock", std::process::id()));
        World::listening_on(
            vec![any_port(), ListenAddress::Unix(path.clone())],
            Some(path),
        )
    }

    fn listening_on(listen: Vec<ListenAddress>, socket_path: Option<PathBuf>) -> World {
        let args = Args {
            listen,
            shards: NonZeroU16::new(1),
            ..Args::default()
        };
        let config = Config::load(&args, &|_| None).expect("addresses are all it says");
        let router = Router::start(config).expect("io_uring and a free port");
        World {
            router,
            socket_path,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.router
            .addresses()
            .iter()
            .find_map(|address| match address {
                ListenAddress::Tcp(address) => Some(*address),
                ListenAddress::Unix(_) => None,
            })
            .expect("every world listens on TCP")
    }

    pub fn socket_path(&self) -> &PathBuf {
        self.socket_path.as_ref().expect("made by with_unix_socket")
    }

    pub fn counters(&self) -> Snapshot {
        self.router.counters()
    }

    /// Awaits a state of the counters. It is written by another thread, and nothing tells us: so this asks again and
    /// again, giving way in between.
    pub async fn until(&self, what: &str, reached: impl Fn(&Snapshot) -> bool) -> Snapshot {
        within(what, async {
            loop {
                let counters = self.counters();
                if reached(&counters) {
                    return counters;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

fn any_port() -> ListenAddress {
    ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// A publisher and a subscriber that have nothing to do with what a test does to the router, and must not notice it.
pub struct Bystanders {
    publisher: Client,
    subscriber: Client,
    sent: u64,
}

impl Bystanders {
    pub async fn new(world: &World) -> Bystanders {
        let mut subscriber = Client::connect(world).await;
        subscriber.subscribe(&bystander(), 1).await;
        Bystanders {
            publisher: Client::connect(world).await,
            subscriber,
            sent: 0,
        }
    }

    /// A message gets from one to the other.
    pub async fn hear_each_other(&mut self) {
        self.sent += 1;
        let payload = format!("bystander {}", self.sent);
        self.publisher
            .publish(&bystander(), payload.as_bytes())
            .await;
        assert_eq!(self.subscriber.payload().await, payload.as_bytes());
    }
}

fn bystander() -> Name {
    Name::new("org", "quiet", "bystander")
}
