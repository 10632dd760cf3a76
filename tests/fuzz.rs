//! The fuzz targets without cargo-fuzz: each corpus as it is, then mutations of it for a while.
//!
//! `FUSE_FUZZ_SECONDS` says how long each target is fuzzed (1), `FUSE_FUZZ_SEED` from which seed (0). The input that is
//! being tried lies in a file, so that one which ends the process is found there. `scripts/soak.sh` runs this for hours.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The longest that one input may take, in a build without optimisation on a busy machine.
const SLOW: Duration = Duration::from_secs(10);
/// Longer inputs are cut.
const MAX_BYTES: usize = 64 << 10;

/// Where inputs come from, beside `fuzz/corpus/TARGET`: directories, and the extension of files there.
const SOURCES: [(&str, &[&str], &str); 3] = [
    ("onnx", &["tests/hostile", "tests/interop/pytorch"], "onnx"),
    ("text", &["tests/cases/run", "tests/cases/graph", "tests/cases/error"], "fuse"),
    ("npz", &["tests/hostile"], "npz"),
];

fn number(variable: &str, ordinary: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(ordinary)
}

#[test]
fn onnx() {
    fuzz("onnx");
}

#[test]
fn text() {
    fuzz("text");
}

#[test]
fn npz() {
    fuzz("npz");
}

fn fuzz(target: &str) {
    // What takes more ends the process.
    let memory = rustix::process::Rlimit { current: Some(2 << 30), maximum: None };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Data, memory);
    let (_, body) = fuse::fuzzing::TARGETS.into_iter().find(|(name, _)| *name == target).expect("a target");
    let corpus = corpus(target);
    assert!(corpus.len() >= 5, "`{target}` has only {} inputs", corpus.len());
    for input in &corpus {
        try_input(target, body, input);
    }
    let mut random = ChaCha8Rng::seed_from_u64(number("FUSE_FUZZ_SEED", 0));
    let end = Instant::now() + Duration::from_secs(number("FUSE_FUZZ_SECONDS", 1));
    let mut count = 0u64;
    while Instant::now() < end {
        let input = mutated(&corpus, &mut random);
        try_input(target, body, &input);
        count += 1;
    }
    println!("{target}: {count} inputs");
}

/// The inputs to start from, in a fixed order.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut add = |dir: PathBuf, extension: Option<&str>| {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.expect("a readable directory").path();
            if path.is_file() && extension.is_none_or(|e| path.extension().is_some_and(|x| x == e)) {
                files.push(path);
            }
        }
    };
    add(root.join("fuzz/corpus").join(target), None);
    let (_, directories, extension) =
        SOURCES.into_iter().find(|(name, ..)| *name == target).expect("a target");
    for directory in directories {
        add(root.join(directory), Some(extension));
    }
    files.sort();
    files.iter().map(|f| std::fs::read(f).expect("a readable file")).collect()
}

/// Runs the target on an input, which is kept in a file if that fails.
fn try_input(target: &str, body: fn(&[u8]), input: &[u8]) {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}"));
    std::fs::write(&file, input).expect("the input can be kept");
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| body(input)));
    let taken = start.elapsed();
    assert!(result.is_ok(), "the input in {} breaks `{target}`", file.display());
    assert!(taken < SLOW, "the input in {} takes `{target}` {taken:?}", file.display());
}

/// An input of the corpus after a few changes, half of which keep its length and so most of its structure.
fn mutated(corpus: &[Vec<u8>], random: &mut ChaCha8Rng) -> Vec<u8> {
    let pick = |random: &mut ChaCha8Rng| &corpus[random.random_range(0..corpus.len())];
    let mut input = pick(random).clone();
    for _ in 0..1 << random.random_range(0..4u32) {
        if random.random_bool(0.5) {
            overwrite(&mut input, random);
        } else {
            rearrange(&mut input, pick(random), random);
        }
    }
    input.truncate(MAX_BYTES);
    input
}

/// Numbers at the edges of what they count.
const NUMBERS: [&str; 8] = ["0", "1", "-1", "64", "4096", "1099511627776", "9223372036854775807", "1e999"];

/// Changes that keep the length.
fn overwrite(input: &mut [u8], random: &mut ChaCha8Rng) {
    if input.is_empty() {
        return;
    }
    let at = random.random_range(0..input.len());
    let end = (at + random.random_range(1..=10)).min(input.len());
    match random.random_range(0..6) {
        0 => input[at] ^= 1 << random.random_range(0..8u32),
        1 => input[at] = random.random(),
        2 => input[at] = input[at].wrapping_add(1),
        3 => input[at] = input[at].wrapping_sub(1),
        // The largest integer of variable width that fits.
        4 => {
            input[at..end].fill(0xff);
            input[end - 1] = 0x7f;
        }
        _ => random.fill_bytes(&mut input[at..end]),
    }
}

/// Changes that move what follows.
fn rearrange(input: &mut Vec<u8>, other: &[u8], random: &mut ChaCha8Rng) {
    let range = |bytes: &[u8], random: &mut ChaCha8Rng| {
        let from = random.random_range(0..=bytes.len());
        from..(from + random.random_range(0..64)).min(bytes.len())
    };
    let at = random.random_range(0..=input.len());
    match random.random_range(0..5) {
        0 => drop(input.drain(range(input, random))),
        1 => {
            let copy = input[range(input, random)].to_vec();
            input.splice(at..at, copy);
        }
        2 => {
            let copy = other[range(other, random)].to_vec();
            input.splice(at..at, copy);
        }
        3 => {
            let number = NUMBERS[random.random_range(0..NUMBERS.len())];
            // In place of the digits that stand there, if any do.
            let digits = input[at..].iter().take_while(|b| b.is_ascii_digit()).count();
            input.splice(at..at + digits, number.bytes());
        }
        _ => input.truncate(at),
    }
}
