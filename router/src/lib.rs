#![forbid(unsafe_code)]

pub mod args;
pub mod config;
pub mod logging;

/// Placeholder of this branch; the pipeline takes its place.
pub struct Router;

/// Why the router did not start.
#[derive(Debug, thiserror::Error)]
#[error("this build has no router yet")]
pub struct StartError;

impl Router {
    /// Starts every shard and listener.
    pub fn start(_config: config::Config) -> Result<Self, StartError> {
        Err(StartError)
    }
}
