//! Leaves the commit of the build in `SLIM_LOADGEN_COMMIT`, for the record of every run.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rustc-env=SLIM_LOADGEN_COMMIT={}", commit());
    // The reflog moves with every commit and checkout, HEAD alone only with the branch. A path that is not there would
    // rebuild the crate every time.
    for moves in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", moves])
            && Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    // What is measured with, by source: an edit of it makes the build dirty.
    for source in [
        "build.rs",
        "Cargo.toml",
        "src",
        "../proto/src",
        "../router/ring/src",
    ] {
        println!("cargo::rerun-if-changed={source}");
    }
}

/// "unknown" without git, or outside of a checkout.
fn commit() -> String {
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    // Without the lock it leaves the index alone, which other git commands may hold now.
    match git(&[
        "--no-optional-locks",
        "status",
        "--porcelain",
        "--untracked-files=no",
    ]) {
        Some(changes) if changes.is_empty() => commit,
        _ => commit + "-dirty",
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
