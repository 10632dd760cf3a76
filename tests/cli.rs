//! The `fuse` command as people meet it: results, messages, exit codes, and every command of the README.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const LSTM: &str = "tests/cases/run/peephole_cell.fuse";

/// A directory of its own for one test, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("fuse-cli-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a scratch directory can be made");
        Scratch(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        std::fs::write(self.0.join(name), contents).expect("a scratch file can be written");
        self.path(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn fuse(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fuse"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("fuse starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn succeeds(args: &[&str]) -> String {
    let output = fuse(args);
    assert!(output.status.success(), "fuse {args:?}: {}\n{}", output.status, stderr(&output));
    stdout(&output)
}

/// The command fails with this code, one line of explanation and no panic; returns the line.
fn fails(code: i32, args: &[&str]) -> String {
    let output = fuse(args);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "fuse {args:?}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    message
}

fn fails_in_one_line(code: i32, args: &[&str], parts: &[&str]) {
    let message = fails(code, args);
    assert_eq!(message.trim_end().lines().count(), 1, "fuse {args:?}: {message}");
    for part in parts {
        assert!(message.contains(part), "fuse {args:?}: no `{part}` in: {message}");
    }
}

/// A model in which a rule fires and a projection leaves the loop.
const EXPLAINED: &str = "graph decay(x: f32[T, B, 4], h: f32[B, 8], w: f32[4, 8]) -> (y: f32[T, B, 8]) {
  %f, %s = scan body over T carry (h0: f32[B, 8] = h) each (x0: f32[B, 4] = x) with (k: f32[4, 8] = w)
      -> (f32[B, 8], f32[T, B, 8])
  {
    %p = contract x0, k axes=[1:0]
    %t = tanh %p
    %n = neg %t
    %a = add h0, %n
    %r = sin %a
    next h1 = %r
    stack y = %r
  }
  return y = %s
}";

/// Which weights are stored in 16 bits and what that costs is said; the results go elsewhere.
#[test]
fn weights_in_16_bits_are_stated() {
    let scratch = Scratch::new("weights");
    let model = scratch.file(
        "recurrent.fuse",
        "graph recurrent(h: f32[B, 64], param w: f32[64, 64]) -> (y: f32[B, 64]) {
  %y = scan over 9 carry (h = h) with (w = w) {
    %p = contract h, w axes=[1:0]
    %t = tanh %p
    next h = %t
  }
  return y = %y
}",
    );
    let output = fuse(&["run", &model, "--dim", "B=1", "--weights-dtype", "bf16"]);
    let message = stderr(&output);
    assert!(output.status.success() && stdout(&output).contains("output"), "{message}");
    for part in ["stored as bf16: w;", "2^-8", "Σ|x||w|"] {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
    let output = fuse(&["run", LSTM, "--dim", "T=2", "--dim", "B=1", "--weights-dtype", "f16"]);
    assert!(stderr(&output).contains("no weight is stored as f16"), "{}", stderr(&output));
    let given = fuse(&["run", &model, "--dim", "B=1"]);
    assert!(given.status.success() && stderr(&given).is_empty(), "{}", stderr(&given));
    let outputs = scratch.path("outputs.npz");
    let sim =
        ["run", &model, "--dim", "B=1", "--weights-dtype", "f16", "--device", "sim", "--outputs", &outputs];
    fails_in_one_line(1, &sim, &["f16", "on the CPU only"]);
}

#[cfg(feature = "llvm")]
#[test]
fn the_precision_of_products_is_stated() {
    let scratch = Scratch::new("precision");
    let model = scratch.file(
        "product.fuse",
        "graph product(x: f32[80, 64], param w: f32[64, 96]) {
  %p = contract x, w axes=[1:0]
  return y = %p
}",
    );
    let explained = fuse(&["explain", &model, "--device", "cuda", "--precision", "tf32"]);
    let text = stdout(&explained);
    for part in ["factors rounded to tf32: product_main", "2^-11", "Σ|x||w|"] {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
    assert!(!stdout(&fuse(&["explain", &model, "--device", "cuda"])).contains("rounded"));
    let check = |precision: &str, more: &[&str]| {
        fuse(&[&["check", &model, "--device", "sim", "--precision", precision][..], more].concat())
    };
    let strict = check("f32", &[]);
    assert!(strict.status.success() && !stdout(&strict).contains("round"), "{}", stdout(&strict));
    for precision in ["tf32", "bf16", "f16"] {
        let rounded = check(precision, &[]);
        assert!(rounded.status.success(), "{precision}: {}{}", stdout(&rounded), stderr(&rounded));
        for part in [&format!("factors rounded to {precision}: "), "of what rounding may change"] {
            assert!(stdout(&rounded).contains(part), "no `{part}` in: {}", stdout(&rounded));
        }
        let report: serde_json::Value =
            serde_json::from_str(&stdout(&check(precision, &["--json"]))).expect("is JSON");
        let backend = &report["backends"][0];
        assert!(backend["max_abs_err"].as_f64().expect("a number") > 1e-4, "{precision} is f32: {backend}");
        // An estimate that is far above what happens would let anything pass.
        let share = backend["share"].as_f64().expect("a number");
        assert!((0.05..1.0).contains(&share), "{precision}: {backend}");
    }
    let run = fuse(&["run", &model, "--device", "sim", "--precision", "bf16"]);
    assert!(stderr(&run).contains("2^-8"), "{}", stderr(&run));
    let small = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/ptx/elman_network_sm_75.fuse");
    let run = fuse(&["run", small, "--dim", "T=2", "--dim", "B=1", "--device", "sim", "--precision", "f16"]);
    assert!(stderr(&run).contains("no factor is rounded to f16"), "{}", stderr(&run));
    fails_in_one_line(1, &["run", &model, "--precision", "tf32"], &["tf32", "on GPUs only"]);
    fails_in_one_line(1, &["explain", &model, "--precision", "tf32"], &["tf32", "on GPUs only"]);
}

/// The simulated GPU that takes code for its own architecture alone is there by name, where warp groups multiply.
#[cfg(feature = "llvm")]
#[test]
fn the_simulated_gpu_with_warp_groups_is_there_by_name() {
    let scratch = Scratch::new("groups");
    let text = "graph product(x: bf16[256, 256], w: bf16[256, 256]) {
  %p = contract x, w axes=[1:0]
  return y = %p
}";
    let model = scratch.file("product.fuse", text);
    let explained = succeeds(&["explain", &model, "--device", "sim:sm_90a"]);
    assert!(explained.contains("warp groups"), "{explained}");
    let explained = succeeds(&["explain", &model, "--device", "sim"]);
    assert!(!explained.contains("warp groups"), "{explained}");
    let check = succeeds(&["check", &model, "--device", "sim:sm_90a", "--atol", "0.1", "--rtol", "0.01"]);
    assert!(check.contains("sim:sm_90a, unfused") && check.contains("agrees"), "{check}");
    succeeds(&["run", &model, "--device", "sim:sm_90a"]);
}

/// The statistics of the simulated GPU name every kernel and count what it read.
#[cfg(feature = "llvm")]
#[test]
fn ptx_stats_count_what_each_kernel_does() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/ptx/elman_network_sm_75.fuse");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_fuse"))
        .args(["ptx", model, "--stats", "--dim", "T=6", "--dim", "B=3"])
        .output()
        .expect("fuse starts");
    let text = String::from_utf8_lossy(&output.stdout);
    // All six steps are one launch.
    let row = text.lines().find(|l| l.starts_with("steps_")).unwrap_or_default();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!((cells.get(1), cells.get(9)), (Some(&"1"), Some(&"18648")), "{text}");
}

/// Bytes read and written, and sectors of 32 bytes a request of a warp, of a model of one kernel at `B=8`.
#[cfg(feature = "llvm")]
fn traffic(scratch: &Scratch, text: &str) -> [String; 3] {
    let table = succeeds(&["ptx", &scratch.file("kernel.fuse", text), "--stats", "--dim", "B=8"]);
    let kernels: Vec<&str> = table.lines().skip(2).collect();
    let cells: Vec<&str> = kernels.first().unwrap_or(&"").split_whitespace().collect();
    assert!(kernels.len() == 1 && cells.len() > 12, "{table}");
    [9, 10, 12].map(|column| cells[column].to_owned())
}

/// A warp moves 32 times 16 bytes at once, which are 16 sectors, and no byte twice.
#[cfg(feature = "llvm")]
#[test]
fn pointwise_kernels_move_every_byte_once_and_16_at_once() {
    let scratch = Scratch::new("traffic");
    for (dtype, bytes) in [("f32", 4), ("f16", 2), ("bf16", 2), ("f64", 8), ("i64", 8), ("i32", 4), ("u8", 1)]
    {
        for columns in [512, 513] {
            let text = format!(
                "graph g(x: {dtype}[B, {columns}], y: {dtype}[B, {columns}]) {{
  %a = add x, y
  %z = mul %a, x
  return z = %z
}}"
            );
            let one = 8 * columns * bytes;
            let [read, written, sectors] = traffic(&scratch, &text);
            assert_eq!([read, written], [(2 * one).to_string(), one.to_string()], "{text}");
            // The last warp of rows of 513, which together are whole vectors, has threads with nothing to do.
            assert!(columns == 513 || sectors == "16.00", "{sectors} sectors a request\n{text}");
        }
    }
}

/// The maximum, the sum and the points of a row see the same loads.
#[cfg(feature = "llvm")]
#[test]
fn rows_that_registers_hold_are_read_once() {
    let scratch = Scratch::new("rows");
    for columns in [512, 2048, 16384] {
        let text = format!(
            "graph g(x: f32[B, {columns}]) {{
  %m = max x axes=[1]
  %mb = broadcast %m axes=[0] : f32[B, {columns}]
  %d = sub x, %mb
  %e = exp %d
  %s = sum %e axes=[1]
  %sb = broadcast %s axes=[0] : f32[B, {columns}]
  %z = div %e, %sb
  return z = %z
}}"
        );
        let bytes = (8 * columns * 4).to_string();
        assert_eq!(traffic(&scratch, &text), [bytes.clone(), bytes, "16.00".to_owned()], "{text}");
    }
}

#[test]
fn explain_says_what_was_fused_and_why_the_rest_was_not() {
    let scratch = Scratch::new("explain");
    let model = scratch.file("decay.fuse", EXPLAINED);
    let text = succeeds(&["explain", &model, "--dim", "T=7"]);
    let parts = ["T=7", "launches a run", "in the loop", "contract", "a state that the next step reads"];
    for part in parts.into_iter().chain(["add-neg", "all steps at once", "registers", "more time (modelled)"])
    {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
    let proof = succeeds(&["explain", &model, "--proof"]);
    assert!(proof.contains("(h0 + neg(tanh(…)))\n    = (h0 - tanh("), "{proof}");
    fails_in_one_line(2, &["explain", &model, "--dim", "Q=7"], &["Q"]);
}

/// Copies of weights are made once, and are no part of a run.
#[test]
fn explain_counts_what_is_done_when_weights_are_bound_apart() {
    let scratch = Scratch::new("explain-binding");
    let text = "graph product(x: f32[B, 64], param w: f32[64, 96]) -> (y: f32[B, 96]) {
  %p = contract x, w axes=[1:0]
  return y = %p
}";
    let model = scratch.file("product.fuse", text);
    let json = succeeds(&["explain", &model, "--dim", "B=20", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).expect("--json prints one object");
    assert_eq!(report["binding"]["kernels"], 1, "{json}");
    assert_eq!(report["after"]["kernels"], 1, "{json}");
    assert_eq!(report["kernels"].as_array().map(Vec::len), Some(2), "{json}");
    assert!(succeeds(&["explain", &model]).contains("once, when weights are bound: 1 kernels"));
}

/// A recurrent layer with a matrix of `hidden` by `hidden`.
fn tanh_layer(hidden: u32) -> String {
    format!(
        "graph layer(x: f32[T, B, {hidden}], h0: f32[B, {hidden}], param u: f32[{hidden}, {hidden}]) -> (y: f32[T, B, {hidden}]) {{
  %h, %y = scan over T carry (h = h0) each (x = x) with (u = u) {{
    %p = contract h, u axes=[1:0]
    %a = add %p, x
    %n = tanh %a
    next h = %n
    stack y = %n
  }}
  return y = %y
}}"
    )
}

/// Of the two states, units read one of each other and one of their own.
const CELL: &str = "graph cell(x: f32[T, B, 512], h0: f32[B, 512], c0: f32[B, 512], param u: f32[512, 512]) -> (h: f32[B, 512]) {
  %h, %c = scan over T carry (h = h0, c = c0) each (x = x) with (u = u) {
    %p = contract h, u axes=[1:0]
    %a = add %p, x
    %n = add %a, c
    %t = tanh %n
    next h = %t, c = %n
  }
  return h = %h
}";

#[test]
fn explain_says_how_the_sums_of_a_product_are_divided_and_what_other_forms_would_take() {
    let scratch = Scratch::new("explain-product");
    let text = "graph g(x: f32[16, 4096], param w: f32[512, 4096]) {
  %p = contract x, w axes=[1:1]
  return y = %p
}
";
    let model = scratch.file("product.fuse", text);
    let text = succeeds(&["explain", &model, "--device", "sm_90", "--precision", "tf32"]);
    assert!(
        text.contains("by tensor cores, each by a cluster of 8 blocks with a slice of the sum"),
        "{text}"
    );
    assert!(text.contains("; not sums split among the threads of blocks"), "{text}");
    let json = succeeds(&["explain", &model, "--device", "sm_80", "--json"]);
    assert!(json.contains("\"form\": \"sums split among the threads of blocks\""), "{json}");
    assert!(!succeeds(&["explain", &model]).contains("  product"), "a CPU has no blocks");
}

#[test]
fn explain_shows_where_the_weights_of_a_loop_lie_on_a_gpu() {
    let scratch = Scratch::new("explain-gpu");
    let (small, large) =
        (scratch.file("small.fuse", tanh_layer(512)), scratch.file("large.fuse", tanh_layer(8192)));
    let text = succeeds(&["explain", &small, "--device", "sm_90"]);
    assert!(text.contains("clusters of 8 blocks of 512 threads"), "{text}");
    assert!(text.contains("states are exchanged through the shared memory of a cluster"), "{text}");
    let text = succeeds(&["explain", &small, "--device", "sm_90", "--loops", "grid"]);
    assert!(text.contains("all steps in one launch: 132 blocks of 512 threads"), "{text}");
    assert!(text.contains("in shared memory from the first step on: u (1.0 MiB)"), "{text}");
    assert!(text.contains(" in memory, where blocks exchange it\n"), "{text}");
    let cell = scratch.file("cell.fuse", CELL);
    let text = succeeds(&["explain", &cell, "--device", "sm_90", "--loops", "grid"]);
    let states: Vec<&str> = text.lines().filter(|line| line.starts_with("  state ")).collect();
    assert_eq!(states.len(), 2, "{text}");
    for place in
        ["in memory, where blocks exchange it", "in the shared memory of the block that alone needs it"]
    {
        assert!(states.iter().any(|line| line.ends_with(place)), "{text}");
    }
    let text = succeeds(&["explain", &large, "--device", "sm_90"]);
    assert!(text.contains("read from memory at every step: u (256.0 MiB)"), "{text}");
    let step = |model: &str, device: &str, what: &str| {
        let json = succeeds(&["explain", model, "--device", device, "--json"]);
        let report: serde_json::Value = serde_json::from_str(&json).expect("--json prints one object");
        report["loops"][0]["step_us"][what].as_f64().unwrap_or_else(|| panic!("no {what}: {json}"))
    };
    // The state and the inputs remain to be moved, and the exchange.
    assert!(step(&small, "sm_90", "memory") < step(&small, "sm_90", "exchange"));
    // 256 MiB at 3 TB/s; an A100 has two thirds of that bandwidth.
    assert!((80.0..110.0).contains(&step(&large, "sm_90", "memory")));
    assert!(step(&large, "sm_80", "memory") > 1.4 * step(&large, "sm_90", "memory"));
    for model in [&small, &large] {
        assert!(step(model, "cuda", "modelled") >= step(model, "cuda", "exchange"));
        assert!(!succeeds(&["explain", model]).contains("all steps in one launch"), "a CPU has no blocks");
    }
    fails_in_one_line(2, &["explain", &small, "--device", "sm_12"], &["sm_12", "sm_75 to sm_121"]);
}

#[test]
fn explain_gives_machines_the_same_figures() {
    let scratch = Scratch::new("explain-json");
    let model = scratch.file("decay.fuse", EXPLAINED);
    let json = succeeds(&["explain", &model, "--dim", "T=7", "--dim", "B=2", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).expect("--json prints one object");
    assert!(report["search_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{json}");
    for side in ["before", "after"] {
        for figure in ["kernels", "launches", "bytes", "flops"] {
            assert!(report[side][figure].as_f64().is_some_and(|n| n > 0.0), "{side} {figure}: {json}");
        }
    }
    let launches = |side: &str| report[side]["launches"].as_f64().unwrap_or_default();
    assert!(launches("before") >= 2.0 * launches("after"), "{json}");
    let kernels = report["kernels"].as_array().expect("kernels are a list");
    assert_eq!(kernels.len() as u64, report["after"]["kernels"].as_u64().unwrap_or_default());
    let sum: f64 = kernels.iter().filter_map(|k| k["launches"].as_f64()).sum();
    assert_eq!(sum, launches("after"));
    let step = kernels.iter().find(|k| k["in_loop"] == true).expect("a kernel in the loop");
    assert_eq!(step["launches"].as_f64(), Some(7.0));
    assert!(step["ops"].as_array().is_some_and(|ops| ops.iter().any(|op| op == "sub")), "{json}");
    assert_eq!(step["rules"][0]["rule"], "add-neg", "{json}");
    let hoisted = kernels.iter().find(|k| k["hoisted"] == true).expect("the projection left the loop");
    assert!(hoisted["ops"].as_array().is_some_and(|ops| ops.iter().any(|op| op == "contract")), "{json}");
}

#[test]
fn run_writes_outputs_that_reading_gives_back() {
    let scratch = Scratch::new("run");
    let out = scratch.path("out.npz");
    succeeds(&["run", LSTM, "--dim", "T=3", "--dim", "B=2", "--outputs", &out]);
    let outputs = fuse::io::npz::read(Path::new(&out)).expect("the outputs can be read");
    assert_eq!(outputs["y"].shape(), [3, 2, 7]);
    assert_eq!(outputs["h"].shape(), [2, 7]);
    let again = scratch.path("again.npz");
    succeeds(&["run", LSTM, "--dim", "T=3", "--dim", "B=2", "--outputs", &again, "--rewrite", "off"]);
    for (name, tensor) in fuse::io::npz::read(Path::new(&again)).expect("the outputs can be read") {
        for (a, b) in tensor.to_f64().iter().zip(outputs[&name].to_f64()) {
            assert!((a - b).abs() < 1e-5, "`{name}`: {a} unfused, {b} fused");
        }
    }
}

#[test]
fn run_without_outputs_prints_a_summary() {
    let text = succeeds(&["run", LSTM, "--dim", "T=3", "--dim", "B=2", "--plan"]);
    assert!(text.contains("f32[3, 2, 7]") && text.contains("mean"), "{text}");
}

#[test]
fn an_empty_sequence_gives_the_initial_state() {
    let scratch = Scratch::new("empty");
    let out = scratch.path("out.npz");
    succeeds(&["run", LSTM, "--dim", "T=0", "--dim", "B=2", "--outputs", &out]);
    let outputs = fuse::io::npz::read(Path::new(&out)).expect("the outputs can be read");
    assert_eq!(outputs["y"].shape(), [0, 2, 7]);
    assert!(outputs["h"].to_f64().iter().any(|v| *v != 0.0), "the initial state is random, not zero");
}

/// The peak tier is compiled by a thread that the end of a process may overtake; more processes than cores make it do so.
#[test]
fn processes_that_end_after_one_run_end_well() {
    let deadline = Instant::now() + Duration::from_secs(120);
    for _ in 0..5 {
        let run = || {
            Command::new(env!("CARGO_BIN_EXE_fuse"))
                .args(["run", LSTM, "--dim", "T=3", "--dim", "B=2"])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .stdout(Stdio::null())
                .spawn()
                .expect("fuse starts")
        };
        let mut running: Vec<Child> = (0..6).map(|_| run()).collect();
        while let Some(mut process) = running.pop() {
            let status = loop {
                match process.try_wait().expect("its state can be asked for") {
                    Some(status) => break status,
                    None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                    None => {
                        running.iter_mut().chain([&mut process]).for_each(|p| drop(p.kill()));
                        panic!("a process does not end");
                    }
                }
            };
            assert!(status.success(), "{status}");
        }
    }
}

#[test]
fn check_reports_every_backend() {
    let text = succeeds(&["check", LSTM, "--dim", "T=5", "--dim", "B=2"]);
    assert!(text.contains("cpu, unfused") && text.contains("agrees"), "{text}");
    assert!(text.contains("cuda:0"), "{text}");
    let one = succeeds(&["check", LSTM, "--dim", "T=5", "--dim", "B=2", "--device", "cpu"]);
    assert!(one.contains("cpu") && !one.contains("sim"), "{one}");
    fails_in_one_line(
        2,
        &["check", LSTM, "--device", "gpu"],
        &["--device gpu", "cpu, sim, sim:sm_90a and cuda:0"],
    );
    let json = succeeds(&["check", LSTM, "--dim", "T=5", "--dim", "B=2", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(value["backends"][0]["verdict"], "agrees");
}

#[test]
fn bench_prints_the_promised_json() {
    let args = ["bench", LSTM, "--dim", "T=5", "--dim", "B=2", "--seconds", "0.05", "--json", "-"];
    let text = succeeds(&args);
    let line = text.lines().rfind(|l| l.starts_with('{')).expect("an object on a line");
    let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
    for key in ["first_ms", "median_ms", "min_ms", "peak_rss_mib", "kernels", "launches"] {
        assert!(value[key].as_f64().is_some_and(|v| v > 0.0), "{key} in {line}");
    }
    assert!(value["max_abs_err"].is_null(), "nothing was expected");
}

#[test]
fn bench_measures_the_error_against_expected_outputs() {
    let scratch = Scratch::new("expected");
    let out = scratch.path("out.npz");
    succeeds(&["run", LSTM, "--dim", "T=3", "--dim", "B=2", "--outputs", &out]);
    let dims = ["--dim", "T=3", "--dim", "B=2"];
    let bench = [
        &["bench", LSTM, "--expected", &out, "--tier", "fast", "--seconds", "0.05", "--json", "-"],
        &dims[..],
    ]
    .concat();
    let value: serde_json::Value = serde_json::from_str(&succeeds(&bench)).expect("JSON");
    assert_eq!(value["max_abs_err"], 0.0);
    let other_seed = [&bench[..], &["--seed", "5"]].concat();
    let value: serde_json::Value = serde_json::from_str(&succeeds(&other_seed)).expect("JSON");
    assert!(value["max_abs_err"].as_f64().is_some_and(|e| e > 1e-3), "{value}");
}

#[test]
fn bench_profiles_each_kernel() {
    let args = ["bench", LSTM, "--dim", "T=5", "--dim", "B=2", "--seconds", "0.05", "--profile"];
    let value: serde_json::Value =
        serde_json::from_str(&succeeds(&[&args[..], &["--json", "-"]].concat())).expect("JSON");
    let kernels = value["profile"].as_array().expect("a row a kernel");
    assert_eq!(kernels.len() as u64, value["kernels"].as_u64().expect("a number"));
    let launches: u64 = kernels.iter().filter_map(|k| k["launches"].as_u64()).sum();
    assert_eq!(launches, value["launches"].as_u64().expect("a number"));
    let step = kernels.iter().find(|k| k["launches"] == 5).expect("a kernel in the loop of 5 steps");
    let of_threads = |key: &str| step[key].as_array().expect("a time a thread").len();
    assert_eq!(of_threads("running_ms"), of_threads("waiting_ms"));
    assert!(step["running_ms"][0].as_f64().is_some_and(|ms| ms > 0.0), "{step}");
    let table = succeeds(&args);
    assert!(table.contains("launches  ms, by thread  waiting in it, ms"), "{table}");
    assert!(kernels.iter().all(|k| table.contains(k["kernel"].as_str().expect("a name"))), "{table}");
}

#[cfg(feature = "llvm")]
#[test]
fn both_tiers_can_be_dumped() {
    let dump = |stage, tier| succeeds(&["dump", LSTM, "--stage", stage, "--tier", tier]);
    for stage in ["kernels", "kernel-ir", "asm"] {
        assert_ne!(dump(stage, "fast"), dump(stage, "peak"), "--stage {stage}");
    }
    let code = dump("llvm", "peak");
    assert!(code.contains("target triple") && !code.contains("nvptx"), "LLVM IR for this CPU:\n{code}");
}

#[test]
fn every_stage_can_be_dumped() {
    let stages: &[(&str, &str)] = &[
        ("graph", "graph g("),
        ("dot", "digraph"),
        ("egraph", "sigmoid"),
        ("kernels", "kernels g {"),
        ("kernel-ir", "for"),
        ("clif", "function"),
        ("asm", "ret"),
        #[cfg(feature = "llvm")]
        ("llvm", "define"),
        #[cfg(feature = "llvm")]
        ("ptx", ".visible .entry"),
    ];
    for (stage, part) in stages {
        let text = succeeds(&["dump", LSTM, "--stage", stage]);
        assert!(text.contains(part), "--stage {stage} has no `{part}`:\n{text}");
    }
}

#[cfg(feature = "llvm")]
#[test]
fn ptx_writes_a_file_a_kernel_and_a_manifest() {
    let scratch = Scratch::new("ptx");
    succeeds(&["ptx", LSTM, "--arch", "sm_80", "-o", &scratch.path("out")]);
    let text = std::fs::read_to_string(scratch.path("out/manifest.json")).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let kernels = manifest["kernels"].as_array().expect("kernels");
    assert!(!kernels.is_empty());
    for kernel in kernels {
        let file = kernel["file"].as_str().expect("a file name");
        let ptx = std::fs::read_to_string(scratch.path(&format!("out/{file}"))).expect("a PTX file");
        let name = kernel["name"].as_str().expect("an entry");
        let entry = format!(".visible .entry {name}(");
        assert!(ptx.contains(&entry) && ptx.contains(".target sm_80"), "{file}");
        // What it was made of stands before it.
        assert!(ptx.contains(&format!("// {name}: ")) && ptx.contains(" fuses "), "{ptx}");
    }
    assert_eq!(
        manifest["launch_order"].as_array().map(|l| l.iter().any(|s| s["kind"] == "resident")),
        Some(true)
    );
    assert_eq!(manifest["index_bits"], 32);
    succeeds(&["ptx", LSTM, "--wide-indices", "-o", &scratch.path("wide")]);
    let text = std::fs::read_to_string(scratch.path("wide/manifest.json")).expect("a manifest");
    assert!(text.contains("\"index_bits\": 64"), "{text}");
}

#[test]
fn usage_errors_are_one_line_and_exit_code_2() {
    fails_in_one_line(2, &["run", LSTM, "--dim", "T=-1"], &["T=-1", "at least 0"]);
    fails_in_one_line(2, &["run", LSTM, "--dim", "T=abc"], &["T=abc", "not a whole number"]);
    fails_in_one_line(2, &["run", LSTM, "--dim", "T"], &["NAME=N"]);
    fails_in_one_line(2, &["run", LSTM, "--dim", "T=3", "--dim", "Q=1"], &["`Q`", "B, T"]);
    fails_in_one_line(2, &["run", LSTM, "--dim", "T=3"], &["`B`", "--dim B="]);
    fails_in_one_line(2, &["run", LSTM, "--device", "tpu"], &["tpu", "cpu"]);
    fails_in_one_line(2, &["run", LSTM, "--nonsense"], &["--nonsense"]);
    fails_in_one_line(2, &["dump", LSTM, "--stage", "soup"], &["soup"]);
    fails_in_one_line(2, &["run", LSTM, "--dim", "T=3", "--dim", "B=2", "--threads", "0"], &["--threads"]);
}

#[cfg(feature = "llvm")]
#[test]
fn an_unknown_architecture_lists_those_there_are() {
    fails_in_one_line(2, &["ptx", LSTM, "--arch", "sm_12"], &["sm_12", "sm_90"]);
}

#[test]
fn input_errors_are_one_line_and_exit_code_1() {
    let scratch = Scratch::new("input");
    fails_in_one_line(1, &["run", "no/such/file.fuse"], &["no/such/file.fuse"]);
    let junk = scratch.file("junk.npz", b"this is no archive");
    fails_in_one_line(1, &["run", LSTM, "--inputs", &junk], &["junk.npz", "not an .npz archive"]);
    let weights = scratch.file("junk.safetensors", [0xff; 32]);
    fails_in_one_line(
        1,
        &["run", LSTM, "--dim", "T=1", "--dim", "B=1", "--weights", &weights],
        &["junk.safetensors"],
    );
    let absurd = ["run", LSTM, "--dim", "T=100000000000", "--dim", "B=100000"];
    fails_in_one_line(1, &absurd, &["too large"]);
}

#[test]
fn a_missing_and_a_misshapen_input_are_named_with_what_was_expected() {
    let scratch = Scratch::new("shapes");
    let tensor = |shape: &[usize]| fuse::HostTensor::zeros(fuse::DType::F32, shape).expect("small");
    let (x, h) = (tensor(&[3, 2, 5]), tensor(&[2, 7]));
    let path = scratch.path("missing.npz");
    fuse::io::npz::write(Path::new(&path), [("x", &x), ("h", &h)]).expect("written");
    fails_in_one_line(1, &["run", LSTM, "--inputs", &path], &["`c`", "missing"]);
    let path = scratch.path("shape.npz");
    let c = tensor(&[9, 7]);
    fuse::io::npz::write(Path::new(&path), [("x", &x), ("h", &h), ("c", &c)]).expect("written");
    fails_in_one_line(1, &["run", LSTM, "--inputs", &path], &["`c`", "f32[9, 7]", "f32[B, 7]"]);
}

#[test]
fn a_malformed_model_gets_line_column_and_caret() {
    let scratch = Scratch::new("malformed");
    let model = scratch.file("bad.fuse", "graph g(x: f32[4]) {\n  %1 = tahn x\n  return y = %1\n}\n");
    let message = fails(1, &["run", &model]);
    assert!(message.contains(":2:8") && message.contains('^') && message.contains("tanh"), "{message}");
}

#[test]
fn help_teaches_by_example_and_completions_exist() {
    let help = succeeds(&["--help"]);
    assert!(help.contains("fuse run lstm.fuse") && help.contains("Exit codes"), "{help}");
    assert!(succeeds(&["completions", "bash"]).contains("_fuse"));
    assert!(succeeds(&["ops"]).contains("tanh"));
}

#[test]
fn inspect_says_what_a_model_holds() {
    let text = succeeds(&["inspect", LSTM, "--dim", "T=7"]);
    for part in
        ["f32[T, B, 5]", "dimensions  B, T", "parameters  2: 343 elements", "sigmoid", "T=7", "launches"]
    {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
    let json = succeeds(&["inspect", LSTM, "--dim", "T=7", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).expect("--json prints one object");
    assert_eq!(report["parameters"]["bytes"], 4 * 343, "{json}");
    assert_eq!(report["operators"]["scan"], 1, "{json}");
    let launches = |side: &str| report["run"][side]["launches"].as_f64().unwrap_or_default();
    assert!(launches("before") > launches("after") && launches("after") > 0.0, "{json}");
    fails_in_one_line(2, &["inspect", LSTM, "--dim", "Q=7"], &["Q", "B, T"]);
}

#[test]
fn every_command_that_takes_a_model_takes_an_onnx_file() {
    let model = "tests/interop/pytorch/cell-script.onnx";
    let dims = ["--dim", "time=5", "--dim", "batch=3"];
    let with_dims = |command: &'static str| [&[command, model][..], &dims].concat();
    assert!(succeeds(&with_dims("run")).contains("f32[5, 3, 8]"));
    assert!(succeeds(&with_dims("check")).contains("agrees"));
    assert!(succeeds(&[&with_dims("bench")[..], &["--seconds", "0.01"]].concat()).contains("median"));
    assert!(succeeds(&["dump", model, "--stage", "graph"]).contains("scan"));
    assert!(succeeds(&["explain", model]).contains("fused"));
    assert!(succeeds(&["inspect", model]).contains("f32[time, batch, 8]"));
    if cfg!(feature = "llvm") {
        assert!(succeeds(&["ptx", model]).contains(".entry"));
    }
}

#[test]
fn inspect_reads_onnx_files() {
    let json = succeeds(&["inspect", "tests/interop/pytorch/lstm-script.onnx", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).expect("--json prints one object");
    assert_eq!(report["operators"]["LSTM"], 2, "{json}");
    assert_eq!(report["onnx"]["opsets"]["ai.onnx"], 20, "{json}");
    assert!(report["onnx"]["producer"].as_str().is_some_and(|p| p.contains("pytorch")), "{json}");
    assert_eq!(report["inputs"][0]["type"], "float[time, batch, 6]", "{json}");
    assert_eq!(report["parameters"]["elements"], 2739, "{json}");
}

#[test]
fn inspect_shows_arrays_and_how_lengths_are_distributed() {
    let scratch = Scratch::new("arrays");
    let x = fuse::HostTensor::from_values(&[2, 2], &[f32::NAN, f32::INFINITY, 1.0, 3.0]).expect("small");
    let lengths = fuse::HostTensor::from_values(&[4], &[3i64, 5, 5, 5]).expect("small");
    let path = scratch.path("in.npz");
    fuse::io::npz::write(Path::new(&path), [("x", &x), ("lengths", &lengths)]).expect("written");
    let text = succeeds(&["inspect", &path]);
    for part in ["f32[2, 2]", "1.000000", "3.000000", "2.000000", "i64[4]", "3  #"] {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
    let json = succeeds(&["inspect", &path, "--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).expect("--json prints one object");
    assert_eq!((&report["arrays"][1]["nan"], &report["arrays"][1]["infinite"]), (&1.into(), &1.into()));
    assert_eq!(report["arrays"][0]["distribution"][2]["count"], 3, "{json}");
}

/// The bytes of a one-dimensional `.npy` file of f32.
fn npy(values: &[f32]) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({},), }}\n", values.len());
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.into_bytes());
    out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    out
}

#[test]
fn one_array_feeds_a_model_with_one_input() {
    let scratch = Scratch::new("npy");
    let model =
        scratch.file("neg.fuse", "graph g(x: f32[N]) -> (y: f32[N]) {\n  %1 = neg x\n  return y = %1\n}\n");
    let (inputs, out) = (scratch.file("x.npy", npy(&[1.0, -2.0])), scratch.path("out.npz"));
    succeeds(&["run", &model, "--inputs", &inputs, "--outputs", &out]);
    let outputs = fuse::io::npz::read(Path::new(&out)).expect("the outputs can be read");
    assert_eq!(outputs["y"].to_f64(), [-1.0, 2.0]);
    assert!(succeeds(&["inspect", &inputs]).contains("f32[2]"));
    fails_in_one_line(2, &["run", LSTM, "--inputs", &inputs], &["3 inputs", ".npz"]);
}

#[test]
fn the_onnx_operators_are_listed() {
    assert!(succeeds(&["onnx-ops"]).contains("linear_before_reset"));
    let list: serde_json::Value = serde_json::from_str(&succeeds(&["onnx-ops", "--json"])).expect("JSON");
    let lstm = list.as_array().and_then(|l| l.iter().find(|row| row["name"] == "LSTM")).expect("LSTM");
    assert_eq!((&lstm["family"], &lstm["versions"][1]), (&"recurrent".into(), &22.into()));
}

#[test]
fn the_machine_is_measured() {
    let json = succeeds(&["machine", "--seconds", "0.05", "--threads", "1", "--json", "-"]);
    let machine: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(machine["threads"], 1);
    assert!(machine["barrier_us"].as_f64().is_some_and(|v| v > 0.0), "{machine}");
    for (list, speed) in [("multiply_add", "all_threads_gflops"), ("read", "all_threads_gb_per_s")] {
        let rows = machine[list].as_array().expect("a list");
        assert!(!rows.is_empty() && rows.iter().all(|r| r[speed].as_f64() > Some(0.0)), "{machine}");
    }
    assert!(machine["product_in_l1"]["all_threads_gflops"].as_f64() > Some(0.0), "{machine}");
    let text = succeeds(&["machine", "--seconds", "0.05"]);
    assert!(
        ["multiply-adds, ", "products, ", "read, memory", "barrier"].iter().all(|row| text.contains(row)),
        "{text}"
    );
    fails_in_one_line(2, &["machine", "--threads", "0"], &["--threads 0", "at least one"]);
    fails_in_one_line(2, &["machine", "--seconds", "0"], &["--seconds 0"]);
}

/// Every line of the README's shell blocks that starts with `fuse` runs as written.
#[test]
fn the_commands_of_the_readme_work() {
    let readme = std::fs::read_to_string("README.md").expect("a README");
    let scratch = Scratch::new("readme");
    let graph = fuse::frontend::zoo::lstm_graph(64, 128).expect("the LSTM traces");
    scratch.file("lstm.fuse", graph.to_string());
    let mut count = 0;
    let mut in_block = false;
    for line in readme.lines() {
        if line.starts_with("```") {
            in_block = line == "```sh";
            continue;
        }
        if !in_block || !line.starts_with("fuse ") {
            continue;
        }
        if !cfg!(feature = "llvm") && line.contains("ptx") {
            continue;
        }
        let command = line.split('#').next().unwrap_or(line).trim();
        let output = Command::new(env!("CARGO_BIN_EXE_fuse"))
            .args(command.split_whitespace().skip(1))
            .current_dir(&scratch.0)
            .output()
            .expect("fuse starts");
        assert!(output.status.success(), "{command}: {}", stderr(&output));
        count += 1;
    }
    assert!(count >= 5, "the README shows only {count} commands");
}
