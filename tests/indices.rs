//! Indices of 32 bits on a GPU, and of 64 where dimensions need them.
#![cfg(feature = "llvm")]

use std::collections::BTreeMap;

use fuse::codegen::indices::{Range, suffice};
use fuse::codegen::kernel_ir::Function;
use fuse::codegen::llvm::ptxas::Ptxas;
use fuse::codegen::llvm::{Arch, PtxOptions, ptx};
use fuse::frontend::zoo::{Scale, benchmark};
use fuse::{
    CompileOptions, Compiled, DType, Device, DeviceOptions, DimEnv, HostTensor, ProductPrecision, Target,
};

fn compiled(text: &str) -> Compiled {
    let graph = fuse::ir::parse(text).unwrap_or_else(|e| panic!("{e}"));
    fuse::compile(&graph, &CompileOptions::new(Target::Cuda)).expect("compiles")
}

/// Whether indices of 32 bits do for all functions at these dimensions.
fn all_suffice(functions: &[Function], dims: &[(&str, i64)]) -> bool {
    let values: BTreeMap<&str, i64> = dims.iter().copied().collect();
    functions.iter().all(|f| suffice(f, &|s| values.get(s.name()).copied().map(Range::of)))
}

/// The largest number of rows that 32 bits do for.
fn most_rows(functions: &[Function]) -> i64 {
    let (mut enough, mut too_many) = (1, i64::from(u32::MAX));
    assert!(all_suffice(functions, &[("B", enough)]) && !all_suffice(functions, &[("B", too_many)]));
    while too_many - enough > 1 {
        let middle = enough.midpoint(too_many);
        if all_suffice(functions, &[("B", middle)]) { enough = middle } else { too_many = middle }
    }
    enough
}

#[test]
fn buffers_of_up_to_two_to_the_31_elements_have_indices_of_32_bits() {
    for (text, columns) in [
        ("graph g(x: f32[B, 1024]) { %y = tanh x\n return y = %y }", 1024),
        ("graph g(x: f32[B, 1000]) { %m = max x axes=[1]\n return y = %m }", 1000),
    ] {
        let most = most_rows(compiled(text).functions().expect("schedules")) * columns;
        // Threads behind the last element have numbers, too.
        assert!(((1 << 31) - (1 << 21)..=1 << 31).contains(&most), "{most} elements\n{text}");
    }
}

/// The first elements of `M·M - 1, M·M - 2, …`, which no buffer holds.
const COUNT_DOWN: &str = "graph g(x: u8[M]) {
  %i = iota axis=0 : i64[M*M]
  %r = reverse %i axes=[0]
  %s = slice %r start=[0] length=[3] step=[1]
  return y = %s
}";

#[test]
fn a_run_whose_indices_need_64_bits_has_them() {
    let device = Device::sim(&DeviceOptions::default()).expect("a simulated GPU");
    let model = compiled(COUNT_DOWN).load(&device).expect("loads");
    for m in [2i64, 46_340, 46_341, 50_000, 2] {
        let x = HostTensor::zeros(DType::U8, &[m as usize]).expect("a tensor");
        let got = model.run(&[&x], &DimEnv::new()).expect("runs");
        let expected: Vec<i64> = (1..=3).map(|i| m * m - i).collect();
        assert_eq!(got[0].to_values::<i64>().expect("i64"), expected, "M = {m}");
    }
}

/// Registers spilled by kernels of the benchmark's models, for every generation of GPUs.
fn spills(precision: ProductPrecision, archs: &[Arch]) -> Vec<String> {
    let Some(ptxas) = Ptxas::find() else {
        println!("SKIPPED: no ptxas; scripts/setup-ptxas.sh fetches it");
        return Vec::new();
    };
    let mut spills = Vec::new();
    for model in benchmark(Scale::Full).expect("traces") {
        let options = CompileOptions { precision, ..CompileOptions::new(Target::Cuda) };
        let compiled = fuse::compile(&model.graph, &options).expect("compiles");
        for arch in archs.iter().copied() {
            let functions = compiled.functions_for(arch.limits()).expect("schedules");
            let text = ptx::ptx(&functions, &PtxOptions::new(arch)).expect("PTX");
            for kernel in ptxas.assemble(&text, arch).expect("assembles") {
                if kernel.spill_stores + kernel.spill_loads > 0 {
                    spills.push(format!("{} for {arch}: {kernel:?}", model.graph.name()));
                }
            }
        }
    }
    spills
}

#[test]
fn no_kernel_of_the_benchmark_spills_registers() {
    let spills = spills(ProductPrecision::F32, &[Arch::Sm75, Arch::Sm80, Arch::Sm90, Arch::Sm120]);
    assert!(spills.is_empty(), "{}", spills.join("\n"));
}

#[test]
fn none_spills_where_tensor_cores_multiply_either() {
    for precision in [ProductPrecision::Tf32, ProductPrecision::Bf16] {
        let spills = spills(precision, &[Arch::Sm80, Arch::Sm90, Arch::Sm90a, Arch::Sm120]);
        assert!(spills.is_empty(), "{precision}:\n{}", spills.join("\n"));
    }
}
