//! Files that try to crash, hang or exhaust a reader: each is refused with exit code 1 and one line that names it, in
//! little time and memory.
//!
//! `scripts/hostile-corpus.py` writes those of `tests/hostile/` (`make hostile`); larger ones, and what lies beside the
//! models, are made here. A process may have 256 MiB of memory of its own (RLIMIT_DATA, which does not count the code
//! of shared libraries) and a second of processor time; five seconds where it was built without optimisation.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};

const MEMORY_KIB: u64 = 256 << 10;
const CPU_SECONDS: u64 = if cfg!(debug_assertions) { 5 } else { 1 };
/// After which it hangs, however busy the machine is.
const TIME: Duration = Duration::from_secs(60);

/// The model that arrays are given to.
const MODEL: &str = "graph g(x: f32[4]) -> (y: f32[4]) {\n  %1 = neg x\n  return y = %1\n}\n";

/// A directory, removed at the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn main() {
    let dir = std::env::temp_dir().join(format!("fuse-hostile-{}", std::process::id()));
    let scratch = Scratch(dir.clone());
    let models = dir.join("models");
    prepare(&models).expect("the scratch directory can be filled");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&models).expect("readable").map(|e| e.expect("readable").path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "onnx" || e == "npz" || e == "npy"));
    files.sort();
    assert!(files.len() > 100, "only {} files", files.len());
    let model = Arc::new(models.join("model.fuse"));
    let trial = |file: PathBuf| {
        let model = model.clone();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Trial::test(name, move || is_refused(&file, &model))
    };
    let conclusion = libtest_mimic::run(&Arguments::from_args(), files.into_iter().map(trial).collect());
    drop(scratch);
    conclusion.exit();
}

/// Runs a model, or gives arrays to one.
fn is_refused(file: &Path, model: &Path) -> Result<(), Failed> {
    let name = file.display().to_string();
    let mut args = vec!["run".to_owned()];
    if name.ends_with(".onnx") {
        args.push(name.clone());
    } else {
        args.extend([model.display().to_string(), "--inputs".into(), name.clone()]);
    }
    // The shell sets the limits and becomes the command.
    let limits = format!("ulimit -d {MEMORY_KIB} && ulimit -t {CPU_SECONDS} && exec \"$0\" \"$@\"");
    let mut child = Command::new("sh")
        .args(["-c", &limits, env!("CARGO_BIN_EXE_fuse")])
        .args(&args)
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut pipe = child.stderr.take().ok_or("the standard error is a pipe")?;
    let reader = std::thread::spawn(move || {
        let mut message = Vec::new();
        pipe.read_to_end(&mut message).map(|_| message)
    });
    let code = wait(&mut child)?;
    let message = reader.join().map_err(|_| "the reader of the standard error panicked")??;
    let message = String::from_utf8(message).map_err(|_| "the message is no UTF-8")?;
    let fail = |what: &str| Err(Failed::from(format!("{what}: {message}")));
    match code {
        None => fail("it hangs"),
        Some(1) if message.contains("panicked") || message.contains("internal error") => fail("it panics"),
        Some(1) if message.trim_end().lines().count() != 1 && !message.contains("cannot be imported") => {
            fail("the message is not one line")
        }
        Some(1) if !message.lines().next().is_some_and(|l| l.contains(&name)) => {
            fail("the message does not name the file")
        }
        Some(1) if message.chars().any(|c| c.is_control() && c != '\n') => {
            fail("the message controls a terminal")
        }
        Some(1) => Ok(()),
        Some(code) => fail(&format!("exit code {code}")),
    }
}

/// The exit code; `None` where the process had to be stopped. A signal that ended it is an error.
fn wait(child: &mut Child) -> Result<Option<i32>, Failed> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return status.code().map(Some).ok_or_else(|| format!("it ends by {status}").into());
        }
        if start.elapsed() > TIME {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Fills a directory with the corpus, with what models point at, and with large files.
fn prepare(models: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(models.join("sub"))?;
    std::fs::write(models.join("model.fuse"), MODEL)?;
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile"))? {
        let path = entry?.path();
        std::fs::copy(&path, models.join(path.file_name().unwrap_or_default()))?;
    }
    for data in ["../data.bin", "data.bin", "sub/data.bin", "other.bin"] {
        std::fs::write(models.join(data), [0; 16])?;
    }
    std::os::unix::fs::symlink("data.bin", models.join("symlink.bin"))?;
    std::os::unix::fs::symlink("sub", models.join("linked"))?;
    std::fs::hard_link(models.join("other.bin"), models.join("hardlink.bin"))?;
    rustix::fs::mkfifoat(rustix::fs::CWD, models.join("pipe"), 0o600.into())?;
    rustix::fs::mkfifoat(rustix::fs::CWD, models.join("large_pipe.npz"), 0o600.into())?;
    rustix::fs::mkfifoat(rustix::fs::CWD, models.join("large_pipe.onnx"), 0o600.into())?;
    std::fs::create_dir(models.join("large_directory.onnx"))?;
    large_models(models)?;
    zip_bomb(&models.join("large_bomb.npz"))
}

/// A field of bytes in protobuf's wire format.
fn field(number: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = payload.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend(payload);
    out
}

/// Models whose decoded form is many times the file, and files with holes.
fn large_models(models: &Path) -> std::io::Result<()> {
    let graph = |name: &str, graph: Vec<u8>| std::fs::write(models.join(name), field(7, &graph));
    graph("large_nodes.onnx", field(1, &[]).repeat(4 << 20))?;
    graph("large_attributes.onnx", field(1, &field(5, &[]).repeat(4 << 20)))?;
    graph("large_initializers.onnx", field(5, &[]).repeat(4 << 20))?;
    graph(
        "large_dimensions.onnx",
        field(11, &field(2, &field(1, &field(2, &field(1, &[]).repeat(8 << 20))))),
    )?;
    graph("large_packed_integers.onnx", field(5, &field(7, &vec![0; 64 << 20])))?;
    graph("large_integers.onnx", field(5, &[7 << 3, 0].repeat(32 << 20)))?;
    graph("large_strings.onnx", field(1, &field(1, &[]).repeat(8 << 20)))?;
    let sparse = |name: &str, bytes: u64| std::fs::File::create(models.join(name))?.set_len(bytes);
    sparse("large_zeros.onnx", 1 << 30)?;
    sparse("large_beyond_the_limit.onnx", 1 << 40)?;
    sparse("huge.bin", 1 << 42)?;
    let data =
        |key: &str, value: &str| field(13, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat());
    let dims = [vec![1 << 3], vec![0x80, 0x80, 0x80, 0x80, 0x80, 0x20]].concat();
    let tensor =
        [dims, vec![2 << 3, 1], field(8, b"w"), data("location", "huge.bin"), vec![14 << 3, 1]].concat();
    let node = [field(1, b"w"), field(2, b"y"), field(4, b"Neg")].concat();
    let graph = [field(1, &node), field(5, &tensor), field(12, &field(1, b"y"))].concat();
    let opset = field(8, &[2 << 3, 17]);
    std::fs::write(models.join("large_external_hole.onnx"), [opset, field(7, &graph)].concat())
}

/// An array of 512 MiB of zeros in half a megabyte.
fn zip_bomb(path: &Path) -> std::io::Result<()> {
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    let mut archive = zip::ZipWriter::new(std::fs::File::create(path)?);
    archive.start_file("x.npy", options)?;
    let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({},), }}\n", 512u64 << 20);
    archive.write_all(b"\x93NUMPY\x01\x00")?;
    archive.write_all(&(header.len() as u16).to_le_bytes())?;
    archive.write_all(header.as_bytes())?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..512 {
        archive.write_all(&zeros)?;
    }
    archive.finish()?;
    Ok(())
}
