//! The fast tier computes what LLVM's does: Cranelift's machine code on the cases and programs of the LLVM tests,
//! against the interpreter, bit for bit.

mod llvm_support;

use fuse_codegen::cranelift::{CpuModule, Effort, compile_cpu_with};
use fuse_codegen::kernel_ir::{Function, Mapping};
use fuse_codegen::kernel_ir_eval::evaluate_all;
use llvm_support::random::Program;
use llvm_support::{Case, cases, dims, native};
use proptest::prelude::*;

fn run(module: &CpuModule, items: i64, buffers: &[Vec<u8>]) -> Vec<u8> {
    native::run(buffers, items, |pointers, begin, end| {
        // SAFETY: the interpreter ran the function on buffers of these sizes without leaving them; nobody else
        // has the memory.
        unsafe { module.call(0, pointers, &[items], begin, end) }.expect("the arguments are right");
    })
}

/// Whether Cranelift has registers for all values: scalars, and vectors of 128 bits.
fn fits(function: &Function) -> bool {
    function.types.iter().all(|ty| {
        use fuse_codegen::kernel_ir::LaneType::{Bool, F32, F64, I32, I64};
        match ty.lane {
            F32 | I32 => matches!(ty.lanes, 1 | 4),
            F64 | I64 => matches!(ty.lanes, 1 | 2),
            Bool => true,
        }
    })
}

fn compile(function: &Function, effort: Effort) -> CpuModule {
    compile_cpu_with(std::slice::from_ref(function), &[effort], 1)
        .unwrap_or_else(|e| panic!("{}: {e}", function.name))
}

fn difference(case: &Case, function: &Function, items: i64, buffers: Vec<Vec<u8>>) -> Option<usize> {
    let [quick, actual] =
        [Effort::Quick, Effort::Full].map(|effort| run(&compile(function, effort), items, &buffers));
    assert!(quick == actual, "{}", function.name);
    let mut expected = buffers;
    evaluate_all(function, &mut expected, &dims(items)).expect("the function evaluates");
    case.difference(&actual, &expected[expected.len() - 1])
}

#[test]
fn cranelift_agrees_with_the_interpreter_on_every_operation() {
    let mut compared = 0;
    for case in cases() {
        let function = case.function(Mapping::Range);
        if fits(&function) {
            let (items, buffers) = case.data();
            assert_eq!(difference(&case, &function, items, buffers), None, "{}", case.name);
            compared += 1;
        }
    }
    assert!(compared > 200, "only {compared} cases fit");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cranelift_agrees_with_the_interpreter_on_random_programs(
        program in any::<[u64; 48]>(),
        seed in any::<u64>(),
    ) {
        let program = Program { choices: program.to_vec() };
        let case = program.case(1);
        let function = case.function(Mapping::Range);
        let (items, buffers) = program.data(&case, seed);
        prop_assert_eq!(difference(&case, &function, items, buffers), None);
    }
}
