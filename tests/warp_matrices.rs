//! Products of matrices that the threads of a warp hold together, with tensor cores and without, on the simulated GPU.
#![cfg(feature = "llvm")]

use fuse_codegen::kernel_ir::{Function, MatrixFactors};
use fuse_codegen::llvm::ptx::ptx;
use fuse_codegen::llvm::{Arch, PtxOptions};
use fuse_codegen::{text, verify};
use fuse_ir::{DType, Literal};
use fuse_runtime::sim::{Content, Launch, Memory, Module};

const ROWS: usize = 16;
const COLUMNS: usize = 8;

/// The factors, and how many of them lie along the summed axis.
const FACTORS: [(MatrixFactors, &str, usize); 3] =
    [(MatrixFactors::F16, "f16", 16), (MatrixFactors::Bf16, "bf16", 16), (MatrixFactors::Tf32, "tf32", 8)];

/// One warp whose threads load their fragments one behind the other.
fn product(name: &str) -> Function {
    let text = format!(
        "function product blocks 32 {{
  read p0 \"left\": i32 = b0
  read p1 \"right\": i32 = b1
  read p2 \"sums\": f32 = b2
  write p3 \"result\": f32 = b3
  work 1
  v0: i64 = thread
  v1: i64 = constant 4
  v2: i64 = constant 2
  v3: i64 = mul v0, v1
  v4: i64 = mul v0, v2
  v5: i32x4 = load p0[v3]
  v6: i32x2 = load p1[v4]
  v7: f32x4 = load p2[v3]
  v8: f32x4 = matrix_fma {name} v5, v6, v7
  store p3[v3] = v8
}}
"
    );
    let function = text::parse(&text).unwrap_or_else(|e| panic!("{e}"));
    verify::verify(&function).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(text::print(&function), text);
    function
}

/// Small numbers that every format holds.
fn number(row: usize, column: usize, seed: usize) -> f64 {
    ((row * 7 + column * 5 + seed) % 13) as f64 / 4.0 - 1.5
}

/// A word of neighbours along the summed axis, the first of which is given by its number.
fn word(factors: MatrixFactors, number: usize, value: &dyn Fn(usize) -> f64) -> u32 {
    let bits = |dtype, at| Literal::from_f64(dtype, value(at)).bits() as u32;
    let pair = |dtype| bits(dtype, 2 * number) | bits(dtype, 2 * number + 1) << 16;
    match factors {
        MatrixFactors::F16 => pair(DType::F16),
        MatrixFactors::Bf16 => pair(DType::Bf16),
        MatrixFactors::Tf32 => bits(DType::F32, number),
    }
}

/// The rows and columns of the sums of a thread.
fn places(thread: usize) -> [(usize, usize); 4] {
    let (r, c) = (thread / 4, 2 * (thread % 4));
    [(r, c), (r, c + 1), (r + 8, c), (r + 8, c + 1)]
}

fn run(factors: MatrixFactors, name: &str, arch: Arch) -> Vec<f32> {
    let text = ptx(&[product(name)], &PtxOptions::new(arch)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(text.contains("mma.sync"), arch.capability() >= 80, "{name} {arch}\n{text}");
    let a = |row, k| number(row, k, 1);
    let b = |k, column| number(k, column, 2);
    let (mut left, mut right, mut sums) = (Vec::new(), Vec::new(), Vec::new());
    for thread in 0..32 {
        let (r, c) = (thread / 4, thread % 4);
        for (row, number) in [(r, c), (r + 8, c), (r, c + 4), (r + 8, c + 4)] {
            left.extend(word(factors, number, &|k| a(row, k)).to_le_bytes());
        }
        for number in [c, c + 4] {
            right.extend(word(factors, number, &|k| b(k, r)).to_le_bytes());
        }
        for (row, column) in places(thread) {
            sums.extend((number(row, column, 3) as f32).to_le_bytes());
        }
    }
    let bytes = launch(&text, [&left, &right, &sums]);
    bytes.chunks(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}

/// Runs one warp of the kernel `product` with three inputs; returns the 16 bytes that each thread stores.
fn launch(text: &str, inputs: [&[u8]; 3]) -> Vec<u8> {
    let mut memory = Memory::new();
    let inputs = inputs.map(|bytes| memory.allocate_with("input", bytes, 16, Content::Constant));
    let out = memory.allocate("result", 32 * 16, 16, Content::Unwritten);
    let launch = Launch {
        kernel: "product",
        grid: [1, 1, 1],
        block: [32, 1, 1],
        shared_bytes: 512,
        arguments: &[inputs[0], inputs[1], inputs[2], out],
        threads: 1,
        cooperative: false,
        clusters: None,
    };
    let module = Module::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    module.launch(&memory, &launch).unwrap_or_else(|e| panic!("{e}"));
    let mut bytes = vec![0; 32 * 16];
    memory.read(out, &mut bytes);
    bytes
}

#[test]
fn a_warp_multiplies_its_matrices_on_every_architecture() {
    for (factors, name, depth) in FACTORS {
        for arch in [Arch::Sm75, Arch::Sm80, Arch::Sm90, Arch::Sm120] {
            let result = run(factors, name, arch);
            for thread in 0..32 {
                for ((row, column), got) in places(thread).into_iter().zip(&result[4 * thread..]) {
                    assert!(row < ROWS && column < COLUMNS);
                    let products = (0..depth).map(|k| number(row, k, 1) * number(k, column, 2));
                    let expected = number(row, column, 3) + products.sum::<f64>();
                    assert_eq!(f64::from(*got), expected, "{name} on {arch} at {row}, {column}");
                }
            }
        }
    }
}

/// Every thread copies 16 bytes to shared memory, some of them zeros, and loads its words of four matrices from there.
fn copies(load: &str) -> Function {
    let text = format!(
        "function product blocks 32 {{
  read p0 \"from\": f16 = b0
  read p1 \"limit\": i32 = b1
  read p2 \"unused\": f32 = b2
  write p3 \"result\": i32 = b3
  shared s0 \"lines\": i32 x 128
  work 1
  v0: i64 = thread
  v1: i64 = constant 8
  v2: i64 = constant 4
  v3: i64 = constant 0
  v4: i64 = mul v0, v1
  v5: i64 = mul v0, v2
  v6: i32 = load p1[v3]
  v7: i64 = convert int_to_int v6
  v8: bool = compare lt v0, v7
  copy s0[v5] = p0[v4], 16 if v8
  commit_copies
  await_copies 0
  barrier
  v9: i32x4 = {load} s0[v5]
  store p3[v5] = v9
}}
"
    );
    let function = text::parse(&text).unwrap_or_else(|e| panic!("{e}"));
    verify::verify(&function).unwrap_or_else(|e| panic!("{e}"));
    function
}

#[test]
fn what_is_copied_to_shared_memory_is_loaded_as_matrices_as_it_is_or_transposed() {
    // Half `h` of line `l` of matrix `m` is 100·m + 10·l + h. The copies end within the last matrix.
    let copied = 29;
    let half = |matrix: usize, line: usize, at: usize| {
        if 8 * matrix + line < copied { (100 * matrix + 10 * line + at) as u16 } else { 0 }
    };
    let all = (0..4u16).flat_map(|m| (0..8).flat_map(move |l| (0..8).map(move |h| (m, l, h))));
    let from: Vec<u8> = all.flat_map(|(m, l, h)| (100 * m + 10 * l + h).to_le_bytes()).collect();
    let limit = (copied as i32).to_le_bytes();
    for (load, transposed) in [("load_matrices", false), ("load_transposed", true)] {
        let function = copies(load);
        let text = ptx(std::slice::from_ref(&function), &PtxOptions::new(Arch::Sm80)).expect("PTX");
        let result = launch(&text, [&from, &limit, &[0; 4]]);
        for (thread, words) in result.chunks(16).enumerate() {
            for (matrix, word) in words.chunks(4).enumerate() {
                let (r, c) = (thread / 4, 2 * (thread % 4));
                let halves =
                    [0, 1].map(|i| if transposed { half(matrix, c + i, r) } else { half(matrix, r, c + i) });
                let got = [u16::from_le_bytes([word[0], word[1]]), u16::from_le_bytes([word[2], word[3]])];
                assert_eq!(got, halves, "{load}: matrix {matrix}, thread {thread}");
            }
        }
        let refused =
            ptx(&[function], &PtxOptions::new(Arch::Sm75)).expect_err("sm_75 has no such instructions");
        assert!(refused.to_string().contains("has instructions that sm_75 lacks"), "{refused}");
    }
}
