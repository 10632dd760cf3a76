//! The text form and the verifier of Kernel IR.

mod kernel_support;

use fuse_codegen::schedule::{ScheduleTarget, schedule};
use fuse_codegen::text::{parse, print};
use fuse_codegen::verify::verify;
use fuse_ir::kernel::Step;
use kernel_support::{Weights, lstm_step, s};
use proptest::prelude::*;

const SAMPLE: &str = r#"function "a name" threads 64 {
  read p0 "in \"quoted\"": f16 = b3
  write p1 "out": bool = b7
  symbols B, T, "odd name"
  work 4*B*floordiv(T + 2, 3) - min(B, max(T, "odd name")) + 1
  v0: i64 = work_item
  v1: i32 = load p0[v0]
  v2: i32 = constant -5
  v3: bool = compare lt v1, v2
  v4: f32 = constant nan
  v5: f32 = constant nan:0x7fc00001
  v6: f64 = constant -inf
  v7: f32x4 = constant -0.0
  v8: f64 = constant 1e-300
  v9: bool = constant true
  v10: i64 = constant -9223372036854775808
  v11: f32 = constant 1.1754944e-38
  v12: i64 = symbol 2
  v13: i32x4 = lane_index
  v14: f32x4 = splat v4
  v15: f32 = extract v14, 3
  v16: f32x4 = insert v14, v15, 2
  v17: f32x4 = fma v7, v14, v16
  v18: f32x4 = sqrt v17
  if v3 {
    for v19 = v0 to v12 step 3 carry (v20: f32 = v4 next v22 result v23, v21: i64 = v0 next v19 result v24) {
      v22: f32 = select v3, v20, v5
    }
    v25: i32 = convert bool_to_int v9
    store p1[v24] = v25
  }
}
"#;

#[test]
fn every_form_survives_printing_and_parsing() {
    let function = parse(SAMPLE).unwrap();
    verify(&function).unwrap();
    assert_eq!(print(&function), SAMPLE);
    assert_eq!(parse(&print(&function)), Ok(function));
}

const PRODUCT: &str = r#"function product range {
  read p0 "x": f32 = b0
  read p1 "w": f32 = b1
  write p2 "y": f32 = b2
  write p3 "z": f32 = b3
  symbols K
  work 1
  v0: i64 = constant 3
  v1: i64 = constant 48
  v2: i64 = constant 0
  v3: i64 = symbol 0
  v4: i64 = mul v1, v3
  product v0 rows p0[v2] step v3 sum v3 panels 48 by 48 1 step v1 (p1[v2] to p2[v2], p1[v4] to p3[v2])
}
"#;

#[test]
fn products_with_panels_survive_printing_and_parsing() {
    let function = parse(PRODUCT).unwrap();
    verify(&function).unwrap();
    assert_eq!(print(&function), PRODUCT);
    for (from, to, problem) in [
        ("range {", "threads 64 {", "only ranges have products with panels"),
        ("panels 48", "panels 0", "a product has at least one column"),
        ("by 48 1", "by 48 2", "contiguous"),
        ("by 48 1", "by 0 1", "contiguous"),
        ("\"w\": f32", "\"w\": f64", "p1"),
        ("to p3", "to p0", "p0"),
        ("sum v3", "sum v9", "v9"),
    ] {
        let error = verify(&parse(&PRODUCT.replacen(from, to, 1)).unwrap()).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn an_error_names_its_line_and_column() {
    let cases = [
        ("", "line 1, column 1: expected `function`"),
        ("function f range {\n  work N", "line 2, column 9: expected a value"),
        ("function f range {\n  work 1\n  v0: f33 = constant 1\n}", "line 3, column 7: `f33` is not a type"),
        (
            "function f range {\n  work 1\n  v0: f32 = sqare v0\n}",
            "line 3, column 13: `sqare` is not an operation",
        ),
        (
            "function f range {\n  work 1\n  v0: i32 = constant 3000000000\n}",
            "line 3, column 22: expected a constant",
        ),
        (
            "function f range {\n  work 1\n  v0: i64 = work_begin\n  v0: i64 = work_end\n}",
            "line 4, column 11: v0 is defined twice",
        ),
        ("function f range {\n  work 1\n  v7: i64 = work_begin\n}", "v0 is never defined"),
        ("function f range {\n  work 1\n  v4000000000: i64 = work_begin\n}", "numbered beyond"),
        ("function f range {\n  read p1 \"x\": f32 = b0\n  work 1\n}", "line 2, column 8: expected `p0`"),
        ("function f range {\n  read p0 \"x: f32 = b0\n  work 1\n}", "the string is not closed"),
        ("function f range { work 1 } trailing", "line 1, column 29: expected the end of the text"),
        ("function f range { work 1 § }", "line 1, column 27: unexpected character"),
    ];
    for (text, expected) in cases {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}\ngave: {error}\nnot: {expected}");
    }
}

#[test]
fn nesting_is_bounded() {
    let loops = "if v0 {\n".repeat(100_000);
    let text = format!("function f range {{\n work 1\n v0: bool = constant true\n{loops}");
    assert!(parse(&text).unwrap_err().message.contains("nested too deeply"));
    let expression = "floordiv(".repeat(100_000);
    assert!(parse(&format!("function f range {{ work {expression}")).unwrap_err().message.contains("nested"));
}

const RESIDENT: &str = r#"function steps resident 64 {
  read p0 "w": f32 = b0 multiple 16
  update p1 "h": f32 = b1
  update p2 "h_next": f32 = b2
  shared s0 "w": f32 x 256
  shared s1 "sums": i32 x 8
  symbols T
  work 4
  v0: i64 = block
  v1: i64 = blocks
  v2: i64 = thread
  v3: f32 = load p0[v2]
  store s0[v2] = v3
  barrier
  v4: i64 = constant 0
  v5: i64 = symbol 0
  for v6 = v4 to v5 step 1 exchange (p1 p2) {
    v7: f32x4 = load s0[v4]
    v8: f32 = extract v7, 1
    v9: f32 = butterfly v8, 16
    v10: f32 = load p1[v2]
    v11: f32 = fma v9, v10, v8
    store p2[v0] = v11
    grid_barrier
  }
}
"#;

#[test]
fn what_blocks_of_threads_do_round_trips() {
    let function = parse(RESIDENT).expect("parses");
    verify(&function).expect("is valid");
    assert_eq!(print(&function), RESIDENT);
    assert_eq!(function.shared_bytes(), 4 * (256 + 8));
}

/// What only blocks of threads may do, and how.
#[test]
fn the_verifier_rejects_what_blocks_of_threads_must_not_do() {
    let broken = |from: &str, to: &str| {
        let text = RESIDENT.replacen(from, to, 1);
        assert_ne!(text, RESIDENT, "{from}");
        verify(&parse(&text).expect("parses")).expect_err(to).to_string()
    };
    for (from, to, expected) in [
        ("resident 64", "resident 2000", "a block of 2000 threads"),
        ("resident 64", "threads 64", "shared arrays without blocks"),
        ("resident 64", "blocks 64", "`h` is read and written"),
        ("multiple 16", "multiple 12", "`w` has a multiple of 12 elements"),
        ("multiple 16", "multiple 32", "`w` has a multiple of 32 elements"),
        ("i32 x 8", "bool x 8", "`sums` is of bools"),
        ("store s0[v2]", "store s1[v2]", "s1 holds i32, not f32"),
        ("store s0[v2]", "store s2[v2]", "s2 does not exist"),
        ("butterfly v8, 16", "butterfly v8, 32", "not exchanged at a distance of 32"),
        ("(p1 p2)", "(p0 p2)", "p0 is exchanged and not both read and written"),
        ("\"h_next\": f32", "\"h_next\": i32", "hold different types"),
    ] {
        let message = broken(from, to);
        assert!(message.contains(expected), "{from} -> {to}: {message}");
    }
}

const CLUSTERS: &str = r#"function steps clusters 8 of 64 {
  update p0 "h": f32 = b0
  update p1 "h_next": f32 = b1
  shared s0 "h.image": f32 x 128
  work 8
  v0: i64 = thread
  v1: f32 = load p0[v0]
  v2: i64 = constant 7
  store s0[v0] = v1
  cluster_arrive
  cluster_wait
  store s0[v0] of v2 = v1
  cluster_arrive
  store p1[v0] = v1
  cluster_wait
}
"#;

#[test]
fn what_blocks_of_clusters_do_round_trips() {
    let function = parse(CLUSTERS).expect("parses");
    verify(&function).expect("is valid");
    assert_eq!(print(&function), CLUSTERS);
}

#[test]
fn the_verifier_rejects_what_clusters_do_not_do() {
    for (from, to, expected) in [
        ("clusters 8", "clusters 16", "a cluster of 16 blocks"),
        ("clusters 8", "clusters 6", "a cluster of 6 blocks"),
        ("of 64", "of 2000", "a block of 2000 threads"),
        ("clusters 8 of 64", "resident 64", "blocks are not in clusters"),
        ("constant 7", "constant 8", "a cluster of 8 blocks has no block 8"),
        ("of v2", "of v1", "v1 is f32, not i64"),
        ("store s0[v0] of", "store s1[v0] of", "s1 does not exist"),
        ("f32 x 128", "i32 x 128", "s0 holds i32, not f32"),
        ("  cluster_arrive\n", "  grid_barrier\n", "the blocks of a launch do not meet"),
    ] {
        let text = CLUSTERS.replacen(from, to, 1);
        assert_ne!(text, CLUSTERS, "{from}");
        let message = verify(&parse(&text).expect("parses")).expect_err(to).to_string();
        assert!(message.contains(expected), "{from} -> {to}: {message}");
    }
}

const MATRICES: &str = r#"function product blocks 32 {
  read p0 "left": bf16 = b0
  write p1 "result": f32 = b1
  shared s0 "factor": i32 x 128
  shared s1 "sums": f32 x 8
  work 1
  v0: i64 = constant 0
  v1: bool = constant true
  copy s0[v0] = p0[v0], 16 if v1
  commit_copies
  await_copies 0
  barrier
  v2: i32x4 = load_matrices s0[v0]
  v3: i32x2 = load_transposed s0[v0]
  v4: f32x4 = constant 0.0
  v5: f32x4 = matrix_fma tf32 v2, v3, v4
  v6: f32 = extract v5, 0
  v7: i32 = pair bf16 v6, v6
  v8: i32 = tf32 v6
  v9: i32 = add v7, v8
  store s0[v0] = v9
  store p1[v0] = v5
}
"#;

#[test]
fn what_tensor_cores_take_round_trips() {
    let function = parse(MATRICES).expect("parses");
    verify(&function).expect("is valid");
    assert_eq!(print(&function), MATRICES);
}

#[test]
fn the_verifier_rejects_what_tensor_cores_do_not_take() {
    for (from, to, expected) in [
        ("p0[v0], 16", "p0[v0], 2", "2 bytes are not copied at once"),
        ("= p0[v0], 16", "= p1[v0], 16", "p1 is not only read"),
        ("= p0[v0], 16", "= p2[v0], 16", "p2 does not exist"),
        ("copy s0", "copy s1", "s1 holds f32, not i32"),
        ("16 if v1", "16 if v0", "v0 is i64, not bool"),
        ("load_matrices s0", "load_matrices s1", "s1 holds f32, not i32"),
        ("v3: i32x2 = load_transposed", "v3: i32x8 = load_transposed", "i32x8 is not what matrices"),
        ("tf32 v2, v3", "tf32 v3, v2", "v3 is i32x2, not i32x4"),
        ("pair bf16 v6", "pair f32 v6", "does not hold two of f32"),
        ("tf32 v6", "tf32 v7", "v7 is i32, not f32"),
        ("v8: i32 = tf32", "v8: f32 = tf32", "the result is i32, not f32"),
    ] {
        let text = MATRICES.replacen(from, to, 1);
        assert_ne!(text, MATRICES, "{from}");
        let message = verify(&parse(&text).expect("parses")).expect_err(to).to_string();
        assert!(message.contains(expected), "{from} -> {to}: {message}");
    }
    // Four bytes of eight.
    let wide = MATRICES.replacen("\"left\": bf16", "\"left\": f64", 1).replacen("p0[v0], 16", "p0[v0], 4", 1);
    let message = verify(&parse(&wide).expect("parses")).expect_err("half an element").to_string();
    assert!(message.contains("4 bytes are no whole element of p0"), "{message}");
    for line in ["copy s0[v0] = p0[v0], 16 if v1", "commit_copies", "await_copies 0"] {
        let text = format!(
            "function f threads 32 {{\n read p0 \"x\": f32 = b0\n work 1\n v0: i64 = constant 0\n v1: bool = constant true\n {line}\n}}"
        );
        let message = verify(&parse(&text).expect("parses")).expect_err(line).to_string();
        assert!(message.contains("not mapped to blocks"), "{line}: {message}");
    }
}

const GROUPS: &str = r#"function product blocks 128 {
  write p0 "result": f32 = b0
  shared s0 "rows": i32 x 2048
  shared s1 "columns": i32 x 2048
  shared s2 "sums": f32 x 8
  shared s3 "others": i32 x 2048
  work 1
  v0: i64 = constant 0
  v1: f32x32 = constant 0.0
  v2: f32x32 = group_fma bf16 s0[v0], transposed s1[v0], v1
  v3: f32x32 = group_fma tf32 s0[v0], s1[v0], v2
  v4: f32 = extract v3, 0
  store p0[v0] = v4
}
"#;

#[test]
fn what_warp_groups_take_round_trips() {
    let function = parse(GROUPS).expect("parses");
    verify(&function).expect("is valid");
    assert_eq!(print(&function), GROUPS);
}

#[test]
fn the_verifier_rejects_what_warp_groups_do_not_take() {
    for (from, to, expected) in [
        ("blocks 128", "blocks 96", "blocks are not of whole warp groups"),
        ("blocks 128", "threads 128", "shared arrays without blocks"),
        ("transposed s1", "transposed s2", "s2 holds f32, not i32"),
        ("transposed s1", "transposed s3", "s3 does not begin at a multiple of 1024 bytes"),
        ("bf16 s0[v0]", "bf16 s4[v0]", "s4 does not exist"),
        ("tf32 s0", "tf32 transposed s0", "only factors of 16 bits are multiplied transposed"),
        ("s0[v0], transposed", "s0[v1], transposed", "v1 is f32x32, not i64"),
        ("v3: f32x32", "v3: f32x16", "v2 is f32x32, not f32x16"),
    ] {
        let text = GROUPS.replacen(from, to, 1);
        assert_ne!(text, GROUPS, "{from}");
        let message = verify(&parse(&text).expect("parses")).expect_err(to).to_string();
        assert!(message.contains(expected), "{from} -> {to}: {message}");
    }
    for (lanes, expected) in [
        ("f32x34", "f32x34 is not what a thread of a warp group has"),
        ("f32x132", "f32x132 is not what a thread of a warp group has"),
        ("i32x32", "i32x32 is not what a thread of a warp group has"),
        ("f32x16", "columns across the summed axis come 64 at a time"),
    ] {
        let text = GROUPS.replace("f32x32", lanes);
        let text = if lanes.starts_with('i') { text.replace("constant 0.0", "constant 0") } else { text };
        let message = verify(&parse(&text).expect("parses")).expect_err(lanes).to_string();
        assert!(message.contains(expected), "{lanes}: {message}");
    }
}

/// Breaks one invariant after the other.
#[test]
fn the_verifier_rejects_what_breaks_an_invariant() {
    let header =
        "function f range {\n  read p0 \"x\": f32 = b0\n  write p1 \"y\": f32 = b1\n  symbols N\n  work N\n";
    let cases = [
        ("v0: i64 = symbol 1", "no symbol number 1"),
        ("v0: i64 = work_item", "work is not mapped to threads"),
        ("v0: i32 = work_begin", "the result is i64, not i32"),
        ("v0: f32 = load p0[v1]\n v1: i64 = constant 0", "v1 is used before it is defined"),
        ("v0: i32 = constant 0\n v1: f32 = load p0[v0]", "v0 is i32, not i64"),
        ("v0: i64 = constant 0\n v1: i32 = load p0[v0]", "whose registers are f32, not i32"),
        ("v0: i64 = constant 0\n v1: f32 = load p1[v0]", "p1 is written, not read"),
        ("v0: i64 = constant 0\n v1: f32 = load p2[v0]", "p2 does not exist"),
        ("v0: i64 = constant 0\n v1: f32 = constant 1.0\n store p0[v0] = v1", "p0 is read, not written"),
        ("v0: f32 = constant 0.0\n v1: f64 = constant 1.0\n v2: f32 = add v0, v1", "v1 is f64, not f32"),
        ("v0: f32 = constant 0.0\n v1: f32 = shift_left v0, v0", "not a type of integers"),
        ("v0: i64 = constant 0\n v1: i64 = div v0, v0", "not a type of floats"),
        ("v0: i64 = constant 0\n v1: i64 = sqrt v0", "not a type of floats"),
        ("v0: bool = constant true\n v1: bool = add v0, v0", "no arithmetic"),
        ("v0: bool = constant true\n v1: bool = compare lt v0, v0", "no order"),
        ("v0: f32 = constant 0.0\n v1: f32 = not v0", "type of floats"),
        ("v0: f32 = constant 0.0\n v1: i64 = convert bitcast v0", "no such conversion"),
        ("v0: f32 = constant 0.0\n v1: i32x4 = convert bitcast v0", "different numbers of lanes"),
        ("v0: f32 = constant 0.0\n v1: f32 = extract v0, 0", "no lane 0 to take"),
        ("v0: f32x4 = constant 0.0\n v1: f32 = extract v0, 4", "no lane 4 to take"),
        ("v0: f32x4 = constant 0.0\n v1: f32x4 = splat v0", "v0 is f32x4, not f32"),
        ("v0: i64 = constant 0\n if v0 {\n }", "v0 is i64, not bool"),
        ("v0: i64 = constant 0\n for v1 = v0 to v0 step 0 {\n }", "a step of 0"),
        (
            "v0: bool = constant true\n if v0 {\n v1: i64 = constant 1\n }\n v2: i64 = add v1, v1",
            "used outside its block",
        ),
        (
            "v0: i64 = constant 0\n for v1 = v0 to v0 step 1 carry (v2: i64 = v0 next v4 result v3) {\n v4: f32 = constant 1.0\n }",
            "v4 is f32, not i64",
        ),
        (
            "v0: i64 = constant 0\n for v1 = v0 to v0 step 1 carry (v2: f32 = v0 next v2 result v3) {\n }",
            "v0 is i64, not f32",
        ),
        ("v0: f32x0 = constant 1.0", "has no lanes"),
    ];
    for (body, expected) in cases {
        let function = parse(&format!("{header}{body}\n}}")).unwrap_or_else(|e| panic!("{body}: {e}"));
        let error = verify(&function).unwrap_err().to_string();
        assert!(error.contains(expected), "{body}\ngave: {error}\nnot: {expected}");
    }
    let headers = [
        ("function f range {\n symbols N, B\n work 1\n}", "ascending"),
        ("function f range {\n work N\n}", "work depends on `N`"),
        ("function f threads 0 {\n work 1\n}", "a block of 0 threads"),
        ("function f threads 4096 {\n work 1\n}", "a block of 4096 threads"),
    ];
    for (text, expected) in headers {
        let error = verify(&parse(text).unwrap()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}\ngave: {error}\nnot: {expected}");
    }
}

fn scheduled() -> String {
    let graph = lstm_step(s("B"), 6, Weights::Rows);
    let Step::Kernel(kernel) = &graph.steps[0] else { panic!("one kernel") };
    print(&schedule(&graph, kernel, ScheduleTarget::cpu()).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a text is, parsing and verifying it end in a value or an error, and what parses prints back.
    #[test]
    fn damaged_texts_never_panic(
        which in any::<bool>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, "[ -~\n]{0,3}"), 1..6),
    ) {
        let mut text: Vec<char> = if which { SAMPLE.into() } else { scheduled() }.chars().collect();
        for (at, kind, insert) in edits {
            let at = at.index(text.len());
            match kind {
                0 => { text.remove(at); }
                1 => { text.splice(at..at, insert.chars()); }
                2 => { text.splice(at..=at, insert.chars()); }
                _ => { let end = (at + 20).min(text.len()); text.drain(at..end); }
            }
            if text.is_empty() {
                text.push(' ');
            }
        }
        let text: String = text.into_iter().collect();
        if let Ok(function) = parse(&text) {
            let _ = verify(&function);
            prop_assert_eq!(parse(&print(&function)), Ok(function));
        }
    }
}
