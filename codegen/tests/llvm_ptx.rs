//! The text of PTX, how a kernel is launched, and what is refused before LLVM sees it.
#![cfg(feature = "llvm")]

mod llvm_support;

use fuse_codegen::kernel_ir::{Function, Mapping};
use fuse_codegen::llvm::ptx::{llvm_ir, ptx};
use fuse_codegen::llvm::{Arch, Launch, LaunchError, LlvmError, PtxKernel, PtxOptions};
use fuse_ir::expr::{Dim, DimEnv};
use llvm_support::{cases, dims};

fn function(name: &str, block: u32) -> Function {
    let case = cases().into_iter().find(|case| case.name == name).expect("a case of that name");
    case.function(Mapping::Threads { block })
}

fn sm_90() -> PtxOptions {
    PtxOptions::new(Arch::Sm90)
}

#[test]
fn a_small_kernel_is_a_page_of_ptx() {
    let text = ptx(&[function("mul_add_f32", 128)], &sm_90()).expect("PTX");
    insta::assert_snapshot!(text);
}

#[test]
fn its_llvm_ir_has_buffers_that_do_not_overlap() {
    let text = llvm_ir(&[function("mul_add_f32", 128)], &sm_90()).expect("LLVM IR");
    insta::assert_snapshot!(text);
}

#[test]
fn one_module_has_an_entry_for_each_function() {
    let functions = [function("add_f32", 32), function("fma_f64", 256)];
    let text = ptx(&functions, &sm_90()).expect("PTX");
    for entry in [".entry add_f32(", ".entry fma_f64(", ".maxntid 32, 1, 1", ".maxntid 256, 1, 1"] {
        assert!(text.contains(entry), "no `{entry}` in\n{text}");
    }
}

#[test]
fn what_llvm_could_not_take_is_refused() {
    let refused = |function: Function| ptx(&[function], &sm_90()).expect_err("refused");
    assert!(matches!(refused(function("add_f32", 0)), LlvmError::BlockSize { block: 0, .. }));
    assert!(matches!(refused(function("add_f32", 1025)), LlvmError::BlockSize { block: 1025, .. }));
    let case = cases().into_iter().find(|case| case.name == "add_f32").expect("a case of that name");
    assert!(matches!(refused(case.function(Mapping::Range)), LlvmError::Mapping { .. }));
    let mut untyped = function("add_f32", 32);
    untyped.body.truncate(2);
    untyped.body.extend(function("add_f32", 32).body.split_off(3));
    assert!(matches!(refused(untyped), LlvmError::Invalid(_)));
    let named = |name: &str| Function { name: name.into(), ..function("add_f32", 32) };
    for name in ["", "1st", "a.b", "a b", "a\0b", "é", "_", "WARP_SZ"] {
        assert_eq!(refused(named(name)), LlvmError::Name(name.into()));
    }
}

#[test]
fn a_manifest_describes_parameters_and_geometry() {
    let kernel = PtxKernel::of(&function("widen_u8", 128)).expect("a kernel");
    insta::assert_snapshot!(serde_json::to_string_pretty(&kernel).expect("JSON"));
}

#[test]
fn the_grid_covers_the_work() {
    let kernel = PtxKernel::of(&function("add_f32", 128)).expect("a kernel");
    let blocks = |items| kernel.launch(&dims(items)).map(|launch| launch.grid[0]);
    assert_eq!([blocks(1), blocks(128), blocks(129)], [Ok(1), Ok(1), Ok(2)]);
    let launch = kernel.launch(&dims(1000)).expect("a launch");
    assert_eq!(launch, Launch { grid: [8, 1, 1], block: [128, 1, 1], shared_bytes: 0 });
    assert_eq!(kernel.symbol_values(&dims(1000)), Ok(vec![1000]));
}

#[test]
fn no_work_is_an_empty_launch() {
    let kernel = PtxKernel::of(&function("add_f32", 128)).expect("a kernel");
    assert!(kernel.launch(&dims(0)).expect("a launch").is_empty());
}

#[test]
fn a_launch_that_no_gpu_can_do_is_an_error() {
    let mut function = function("add_f32", 128);
    function.work = Dim::symbol("N") * Dim::symbol("N");
    let kernel = PtxKernel::of(&function).expect("a kernel");
    assert!(matches!(kernel.launch(&dims(1 << 20)), Err(LaunchError::Grid { .. })));
    assert!(matches!(kernel.launch(&dims(i64::MAX)), Err(LaunchError::Dimension { .. })));
    assert!(matches!(kernel.launch(&DimEnv::new()), Err(LaunchError::Dimension { .. })));
    function.work = Dim::symbol("N") - Dim::constant(1000);
    let kernel = PtxKernel::of(&function).expect("a kernel");
    assert!(matches!(kernel.launch(&dims(1)), Err(LaunchError::Grid { .. })));
}

/// What the entry of clusters says, and what the blocks of one do.
#[test]
fn clusters_are_in_the_entry_and_in_the_manifest() {
    let text = r#"function k clusters 8 of 64 {
  read p0 "x": f32 = b0
  shared s0 "x": f32 x 64
  work 8
  v0: i64 = thread
  v1: f32 = load p0[v0]
  v2: i64 = constant 7
  cluster_arrive
  cluster_wait
  store s0[v0] of v2 = v1
  cluster_arrive
  cluster_wait
}
"#;
    let function = fuse_codegen::text::parse(text).expect("parses");
    let kernel = PtxKernel::of(&function).expect("a kernel");
    assert_eq!((kernel.cluster, kernel.cooperative), (Some([8, 1, 1]), false));
    let text = ptx(std::slice::from_ref(&function), &sm_90()).expect("PTX");
    for part in [
        ".reqnctapercluster 8, 1, 1",
        "mapa.shared::cluster.u64",
        "st.shared::cluster.b32",
        "barrier.cluster.arrive.aligned;",
        "barrier.cluster.wait.aligned;",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    let older = ptx(&[function], &PtxOptions::new(Arch::Sm80));
    assert!(matches!(older, Err(LlvmError::Architecture { .. })), "{older:?}");
}
