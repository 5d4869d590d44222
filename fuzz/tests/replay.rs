//! Every target over its corpus and seeded changes to it, with any toolchain. `FUZZ_SEED` is another seed;
//! `UPDATE_CORPUS=1` writes the corpus' beginnings anew.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what fails here is the test"
)]

mod seeds;

use linkerd_fuzz::{TARGETS, Target, corpus, mutate};
use std::{
    env, fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

/// Runs an input; one that fails is written down, to be looked at and kept.
fn run(target: Target, input: &[u8], what: &str) {
    if catch_unwind(|| (target.run)(input)).is_err() {
        let file = env::temp_dir().join(format!("fuzz-{}", target.name));
        fs::write(&file, input).unwrap();
        panic!("{what} fails {}; it is in {}", target.name, file.display());
    }
}

#[test]
fn docs_corpus_every_target_has_one() {
    if env::var_os("UPDATE_CORPUS").is_some() {
        for (target, name, bytes) in seeds::all() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("corpus")
                .join(target);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(name), bytes).unwrap();
        }
    }
    for target in TARGETS {
        assert!(!corpus(target.name).is_empty(), "{}", target.name);
        let program = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz_targets")
            .join(format!("{}.rs", target.name));
        assert!(program.exists(), "{}", program.display());
    }
}

/// The corpus, then changes to it.
fn replay(name: &str) {
    let target = TARGETS
        .into_iter()
        .find(|target| target.name == name)
        .unwrap();
    let corpus = corpus(name);
    for (file, input) in &corpus {
        run(target, input, &file.display().to_string());
    }
    let inputs: Vec<Vec<u8>> = corpus.into_iter().map(|(_, input)| input).collect();
    let seed = env::var("FUZZ_SEED").map_or(0x5eed, |seed| seed.parse().unwrap());
    let mut dice = mutate::Dice::new(seed);
    for round in 0..target.rounds {
        let input = mutate::mutated(&inputs, &mut dice);
        run(target, &input, &format!("change {round} of seed {seed}"));
    }
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        #[test]
        fn every_target_is_replayed() {
            let all: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(all, [$(stringify!($name)),*]);
        }
    };
}

replays! {
    detection client_hello transport_header dns_answer routes path inbound_policy outbound_policy destination certificate
    csr variables headers objects
}
