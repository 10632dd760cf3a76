//! Products of matrices that the threads of a warp hold together, with tensor cores and without, on the simulated GPU.
#![cfg(feature = "llvm")]

use fuse_codegen::kernel_ir::Function;
use fuse_codegen::llvm::ptx::ptx;
use fuse_codegen::llvm::{Arch, PtxOptions};
use fuse_codegen::{text, verify};
use fuse_ir::{DType, Literal};
use fuse_runtime::sim::{Content, Launch, Memory, Module};

const ROWS: usize = 16;
const COLUMNS: usize = 8;
const DEPTH: usize = 16;

/// One warp whose threads load their fragments one behind the other.
fn product(dtype: DType) -> Function {
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
  v8: f32x4 = matrix_fma {dtype} v5, v6, v7
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

fn pair(dtype: DType, values: [f64; 2]) -> u32 {
    let [low, high] = values.map(|v| Literal::from_f64(dtype, v).bits() as u32);
    low | high << 16
}

/// The rows and columns of the sums of a thread.
fn places(thread: usize) -> [(usize, usize); 4] {
    let (r, c) = (thread / 4, 2 * (thread % 4));
    [(r, c), (r, c + 1), (r + 8, c), (r + 8, c + 1)]
}

fn run(dtype: DType, arch: Arch) -> Vec<f32> {
    let text = ptx(&[product(dtype)], &PtxOptions::new(arch)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(text.contains("mma.sync"), arch.capability() >= 80, "{dtype} {arch}\n{text}");
    let a = |row, k| number(row, k, 1);
    let b = |k, column| number(k, column, 2);
    let (mut left, mut right, mut sums) = (Vec::new(), Vec::new(), Vec::new());
    for thread in 0..32 {
        let (r, c) = (thread / 4, 2 * (thread % 4));
        for (row, k) in [(r, c), (r + 8, c), (r, c + 8), (r + 8, c + 8)] {
            left.extend(pair(dtype, [a(row, k), a(row, k + 1)]).to_le_bytes());
        }
        for k in [c, c + 8] {
            right.extend(pair(dtype, [b(k, r), b(k + 1, r)]).to_le_bytes());
        }
        for (row, column) in places(thread) {
            sums.extend((number(row, column, 3) as f32).to_le_bytes());
        }
    }
    let mut memory = Memory::new();
    let inputs = [("left", &left), ("right", &right), ("sums", &sums)]
        .map(|(name, bytes)| memory.allocate_with(name, bytes, 4, Content::Constant));
    let out = memory.allocate("result", 32 * 16, 4, Content::Unwritten);
    let launch = Launch {
        kernel: "product",
        grid: [1, 1, 1],
        block: [32, 1, 1],
        shared_bytes: 0,
        arguments: &[inputs[0], inputs[1], inputs[2], out],
        threads: 1,
        cooperative: false,
    };
    let module = Module::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    module.launch(&memory, &launch).unwrap_or_else(|e| panic!("{e}"));
    let mut bytes = vec![0; 32 * 16];
    memory.read(out, &mut bytes);
    bytes.chunks(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}

#[test]
fn a_warp_multiplies_its_matrices_on_every_architecture() {
    for dtype in [DType::F16, DType::Bf16] {
        for arch in [Arch::Sm75, Arch::Sm80, Arch::Sm90, Arch::Sm120] {
            let result = run(dtype, arch);
            for thread in 0..32 {
                for ((row, column), got) in places(thread).into_iter().zip(&result[4 * thread..]) {
                    assert!(row < ROWS && column < COLUMNS);
                    let products = (0..DEPTH).map(|k| number(row, k, 1) * number(k, column, 2));
                    let expected = number(row, column, 3) + products.sum::<f64>();
                    assert_eq!(f64::from(*got), expected, "{dtype} on {arch} at {row}, {column}");
                }
            }
        }
    }
}
