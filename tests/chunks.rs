//! Recurrences in chunks of time, compiled for the CPU, against the interpreter; their PTX through the assembler.

use fuse::ir::compare::{Tolerance, compare};
use fuse::ir::interp::{Interpreter, Precision};
use fuse::rewrite::ChunkPolicy;
use fuse::{CompileOptions, Compiled, Device, DeviceOptions, DimEnv, Graph, Target};

const LENGTHS: [i64; 8] = [0, 1, 2, 5, 16, 64, 127, 1000];

/// All states and the last one of `h = a·h + b`; the factor of floats is a gate, so that states stay small.
fn states(dtype: &str, width: &str) -> Graph {
    let factor = if dtype.starts_with('f') { "sigmoid z" } else { "add z, z" };
    let text = format!(
        "graph g(x: {dtype}[T, B, {width}], z: {dtype}[T, B, {width}], h0: {dtype}[B, {width}]) {{
           %last, %y = scan over T carry (h = h0) each (x = x, z = z) {{
             %f = {factor}
             %k = mul %f, h
             %next = add %k, x
             next h = %next
             stack y = %next
           }}
           return y = %y, last = %last
         }}"
    );
    fuse::ir::parse(&text).unwrap_or_else(|e| panic!("{e}"))
}

fn compiled(graph: &Graph, target: Target) -> Compiled {
    let mut options = CompileOptions::new(target);
    options.rewrite.chunks = ChunkPolicy::Always;
    let compiled = fuse::compile(graph, &options).expect("compiles");
    assert_eq!(compiled.kernels.kernels().len(), 4, "{}", compiled.kernels);
    compiled
}

fn agrees(graph: &Graph, dims: &[&[(&str, i64)]]) {
    let tolerance = Tolerance { ulp: 8.0, absolute: 1e-5, relative: 1e-5 };
    for threads in [1, 2] {
        let options = DeviceOptions { threads: Some(threads), ..DeviceOptions::default() };
        let device = Device::cpu(&options).expect("a team of threads starts");
        let model = compiled(graph, Target::Cpu).load(&device).expect("loads");
        for dims in dims {
            for t in LENGTHS {
                let dims = dims.iter().fold(DimEnv::new().with("T", t), |env, (n, v)| env.with(n, *v));
                let values = fuse::random::values_for(graph, &dims, 3).expect("values");
                let (_, inputs) = fuse::random::by_kind(graph, &values);
                let expected = Interpreter::new(Precision::F64).with_dims(dims.clone()).run(graph, &values);
                let expected = expected.expect("a result");
                let got = model.run(&inputs, &dims).expect("runs");
                for (got, expected) in got.iter().zip(&expected) {
                    compare(got, expected, tolerance).unwrap_or_else(|e| panic!("{dims:?}: {e}\n{graph}"));
                }
            }
        }
    }
}

#[test]
fn compiled_chunks_agree_with_the_interpreter_at_every_length() {
    for dtype in ["f32", "f64", "i32", "i64"] {
        for width in ["1", "3", "40"] {
            agrees(&states(dtype, width), &[&[("B", 0)], &[("B", 1)], &[("B", 3)]]);
        }
        agrees(&states(dtype, "H"), &[&[("B", 1), ("H", 1)], &[("B", 1), ("H", 40)], &[("B", 2), ("H", 0)]]);
    }
}

#[cfg(feature = "llvm")]
#[test]
fn the_ptx_of_chunks_assembles() {
    use fuse::codegen::llvm::ptxas::Ptxas;
    use fuse::codegen::llvm::{Arch, PtxOptions, ptx::ptx};

    for dtype in ["f32", "f64", "i32", "i64"] {
        for arch in [Arch::Sm75, Arch::Sm90, Arch::Sm120] {
            let compiled = compiled(&states(dtype, "8"), Target::Cuda);
            let text = ptx(compiled.functions().expect("schedules"), &PtxOptions::new(arch)).expect("PTX");
            let Some(ptxas) = Ptxas::find() else {
                println!("SKIPPED: no ptxas; PTX for {arch} was emitted and not assembled");
                continue;
            };
            let kernels = ptxas.assemble(&text, arch).expect("assembles");
            assert_eq!(kernels.len(), 4);
            // Products of 64-bit integers take registers that sm_75 is short of.
            let spills = kernels.iter().any(|k| k.spill_loads + k.spill_stores > 0);
            assert!(!spills || dtype == "i64", "{dtype} {arch} {kernels:?}");
        }
    }
}
