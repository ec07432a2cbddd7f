#![forbid(unsafe_code)]
//! Micro-benchmarks and baselines: what the router's parts cost, and what the roads not taken would cost.
