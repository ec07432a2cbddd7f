//! Every kept input through its target: what the fuzzer has covered stays covered, what it has found stays fixed.

use std::path::{Path, PathBuf};

use slim_fuzz::TARGETS;

/// Names the input that a target panicked on.
struct Running<'a>(&'a Path);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input is {}", self.0.display());
        }
    }
}

fn inputs(folder: &str, target: &str) -> Vec<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(folder)
        .join(target);
    let Ok(entries) = std::fs::read_dir(&path) else {
        return Vec::new();
    };
    let mut inputs: Vec<_> = entries
        .map(|entry| entry.expect("a folder that can be read").path())
        .collect();
    inputs.sort();
    inputs
}

fn replay(name: &str) {
    let (_, target) = TARGETS
        .iter()
        .find(|(target, _)| *target == name)
        .expect("a target");
    let corpus = inputs("corpus", name);
    assert!(!corpus.is_empty(), "no corpus of {name}");
    for path in corpus.iter().chain(&inputs("regressions", name)) {
        let input = std::fs::read(path).expect("an input that can be read");
        let _running = Running(path);
        target(&input);
    }
    target(&[]);
}

macro_rules! replays {
    ($($target:ident),*) => {$(
        #[test]
        fn $target() {
            replay(stringify!($target));
        }
    )*

        #[test]
        fn every_target_is_replayed() {
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($target)),*]);
        }
    };
}

mod the_corpus_holds_for {
    use super::*;

    replays!(
        frames,
        connection,
        header_block,
        grpc,
        route_header,
        link,
        config,
        name,
        routes
    );
}
