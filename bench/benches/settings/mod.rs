//! Short enough to be run often, long enough for a median.

use std::time::Duration;

use criterion::Criterion;

pub fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
}
