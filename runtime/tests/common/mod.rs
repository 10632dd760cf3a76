//! Runs kernels of PTX text on the simulated GPU, for tests. NVIDIA's assembler has to accept each of them, where it is
//! installed.

// Each test takes what it needs.
#![allow(dead_code)]

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use fuse_runtime::sim::{Content, Counters, Launch, Memory, Module, Problem, SimError};

/// A kernel with the parameters `in` and `out` (addresses in `%in` and `%out`), the thread in `%t`, and `%my`, the
/// address of the thread's word of the output.
pub fn kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n
        .visible .entry k(.param .u64 in, .param .u64 out) {{
        .reg .pred %p, %q; .reg .b32 %t, %r<16>; .reg .b64 %in, %out, %my, %x, %y; .reg .f32 %f<16>;
        .shared .align 16 .b8 s[4096];
        ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; mov.u32 %t, %tid.x;
        mul.wide.u32 %x, %t, 4; add.s64 %my, %out, %x;
        {body}
        ret; }}"
    )
}

/// Runs the kernel in `blocks` blocks of `threads` threads on words of the output.
pub fn run(body: &str, blocks: u32, threads: u32, input: &[u32]) -> Result<(Vec<u32>, Counters), SimError> {
    let module = module(&kernel(body));
    let mut memory = Memory::new();
    let bytes: Vec<u8> = input.iter().flat_map(|w| w.to_le_bytes()).collect();
    let given = memory.allocate_with("in", &bytes, 4, Content::Constant);
    let words = 64.max(threads as usize);
    let out = memory.allocate("out", 4 * words as u64, 4, Content::Unwritten);
    let launch = Launch {
        kernel: "k",
        grid: [blocks, 1, 1],
        block: [threads, 1, 1],
        shared_bytes: 0,
        arguments: &[given, out],
        threads: 1,
        cooperative: false,
        clusters: None,
    };
    let counters = module.launch(&memory, &launch)?;
    let mut bytes = vec![0; 4 * words];
    memory.read(out, &mut bytes);
    let words = bytes.chunks(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
    Ok((words, counters))
}

pub fn values(body: &str, threads: u32, input: &[u32]) -> Vec<u32> {
    let (words, _) = run(body, 1, threads, input).unwrap_or_else(|e| panic!("{body}: {e}"));
    words
}

/// The report of a kernel that does something wrong.
pub fn problem(body: &str, blocks: u32, threads: u32) -> (Problem, String) {
    match run(body, blocks, threads, &[1; 64]) {
        Err(SimError::Fault(fault)) => (fault.problem.clone(), fault.to_string()),
        other => panic!("{body}: expected a report, got {other:?}"),
    }
}

/// Reads PTX that the assembler accepts, too.
pub fn module(text: &str) -> Module {
    accepted(text);
    Module::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Refuses PTX that the assembler refuses, or of which it says that products of warp groups wait for each other.
pub fn accepted(text: &str) {
    static SEEN: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if !seen.get_or_insert_default().insert(text.to_string()) {
        return;
    }
    drop(seen);
    let Some(assembler) = assembler() else {
        println!("SKIPPED: no ptxas; PTX was simulated and not assembled");
        return;
    };
    let mut command = Command::new(&assembler);
    let target = text.split_once(".target ").and_then(|(_, rest)| rest.split_whitespace().next());
    let architecture = format!("-arch={}", target.expect("a target"));
    command
        .args([architecture.as_str(), "-o", "/dev/null", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", assembler.display()));
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("wgmma"), "{text}: {said}");
}

/// The assembler that `FUSE_PTXAS` names, or that `scripts/setup-ptxas.sh` fetched.
fn assembler() -> Option<PathBuf> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/ptxas/bin/ptxas");
    let named = std::env::var_os("FUSE_PTXAS").map(PathBuf::from);
    named.or(Some(fetched)).filter(|path| path.is_file())
}
