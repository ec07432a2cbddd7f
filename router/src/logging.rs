//! Log lines to standard error, written by a thread of their own.
//!
//! Whoever logs never waits for the terminal or the disk: a line goes into a bounded queue, and when that is full the
//! line is dropped and counted. Refuses to know what is logged.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::TracingConfig;

/// Lines that may wait for standard error. More are dropped: a log that nobody reads must not stop the router.
pub const LOG_QUEUE_LINES: usize = 8_192;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people; in colour on a terminal, unless NO_COLOR is set
    #[default]
    Human,
    /// One JSON object a line
    Json,
}

/// The least severe level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// The text is none of the five levels.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("trace, debug, info, warn or error is accepted")]
pub struct UnknownLevel;

impl FromStr for LogLevel {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        match text.to_ascii_lowercase().as_str() {
            "error" => Ok(Self::Error),
            "warn" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err(UnknownLevel),
        }
    }
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// What is logged: a level, or directives in RUST_LOG's form (`level`, `module=level`, with commas). Checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

/// The text is no list of directives. It came from a person: show it and ask again.
#[derive(Debug, thiserror::Error)]
pub enum LogFilterError {
    #[error(transparent)]
    Directive(#[from] tracing_subscriber::filter::ParseError),
    #[error("`{found}` is in no module's name, and spans are not matched")]
    Character { found: char },
}

impl LogFilter {
    pub fn level(level: LogLevel) -> Self {
        Self(LevelFilter::from(level).to_string())
    }

    /// Checks directives. Modules that they do not name are off unless one of them is a bare level.
    pub fn parse(directives: &str) -> Result<Self, LogFilterError> {
        // The parser is safe for levels and modules only. It counts characters and cuts at bytes, compiles a field's value
        // to an automaton that a hundred dots make huge, and trips over its own debug assertion. We have no spans.
        let is_refused = |c: &char| !c.is_ascii() || matches!(c, '[' | ']' | '{' | '}');
        if let Some(found) = directives.chars().find(is_refused) {
            return Err(LogFilterError::Character { found });
        }
        EnvFilter::builder().parse(directives)?;
        Ok(Self(directives.to_owned()))
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self::level(LogLevel::default())
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Logging cannot start: the process has a logger already. A mistake in the program, not in what it was told.
#[derive(Debug, thiserror::Error)]
#[error("logging was started before: {0}")]
pub struct LoggingError(Box<dyn std::error::Error + Send + Sync>);

/// Keeps the log going. Dropping it writes the lines that still wait, for at most about a second; so it must be
/// dropped before the process ends, which [`std::process::exit`] does not do.
pub struct LogGuard {
    dropped: ErrorCounter,
    _worker: WorkerGuard,
}

impl LogGuard {
    /// Lines dropped since the start because [`LOG_QUEUE_LINES`] were waiting.
    pub fn dropped_lines(&self) -> usize {
        self.dropped.dropped_lines()
    }
}

/// Sends every event of the process that the filter lets pass to standard error, from now on.
///
/// - Errors: [`LoggingError`] if it is called twice.
pub fn start(config: &TracingConfig) -> Result<LogGuard, LoggingError> {
    let (writer, worker) = NonBlockingBuilder::default()
        .buffered_lines_limit(LOG_QUEUE_LINES)
        .lossy(true)
        .thread_name("log")
        .finish(std::io::stderr());
    let dropped = writer.error_counter();
    let is_coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&config.filter.0))
        .with_writer(writer)
        .with_ansi(is_coloured)
        .with_thread_names(config.thread_names)
        .with_thread_ids(config.thread_ids);
    match config.format {
        LogFormat::Human => lines.try_init(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init(),
    }
    .map_err(LoggingError)?;
    Ok(LogGuard {
        dropped,
        _worker: worker,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_five_levels_are_read_in_any_case() {
        assert_eq!("info".parse(), Ok(LogLevel::Info));
        assert_eq!("WARN".parse(), Ok(LogLevel::Warn));
        for text in ["", "warning", "off", "3"] {
            assert_eq!(text.parse::<LogLevel>(), Err(UnknownLevel), "{text}");
        }
    }

    #[test]
    fn a_filter_is_a_level_or_directives_and_nothing_else() {
        assert_eq!(LogFilter::default().to_string(), "info");
        assert!(LogFilter::parse("warn,slim_router::egress=trace").is_ok());
        assert!(LogFilter::parse("slim_router=loud").is_err());
        for text in ["[é]", "module=é", "[span{field=1}]=trace", "a[span]", "a=}"] {
            assert!(LogFilter::parse(text).is_err(), "{text}");
        }
    }
}
