//! LLVM's machine code against the interpreter of Kernel IR, bit for bit.
#![cfg(feature = "llvm")]

mod llvm_support;

use fuse_codegen::kernel_ir::{Function, Mapping};
use fuse_codegen::kernel_ir_eval::evaluate_all;
use fuse_codegen::llvm::{LlvmError, LlvmHostModule, Optimization};
use llvm_support::random::Program;
use llvm_support::{BLOCK, Case, cases, dims, native};
use proptest::prelude::*;

/// Runs a function of the module over all its items and returns the output.
fn run(module: &LlvmHostModule, function: &Function, items: i64, buffers: &[Vec<u8>]) -> Vec<u8> {
    let index = module.index_of(&function.name).expect("a function of the module");
    native::run(buffers, items, |pointers, begin, end| {
        // SAFETY: the interpreter ran the function on buffers of these sizes without leaving them; nobody else
        // has the memory.
        unsafe { module.call(index, pointers, &[items], begin, end) }.expect("the arguments are right");
    })
}

fn agree(optimization: Optimization) {
    let cases = cases();
    let functions: Vec<_> = cases.iter().map(|case| case.function(Mapping::Range)).collect();
    let module = LlvmHostModule::compile(&functions, optimization).expect("every case compiles");
    let mut failures = Vec::new();
    for (case, function) in cases.iter().zip(&functions) {
        let (items, buffers) = case.data();
        let mut expected = buffers.clone();
        evaluate_all(function, &mut expected, &dims(items)).expect("every case evaluates");
        let expected = expected.pop().expect("the output");
        let actual = run(&module, function, items, &buffers);
        if let Some(at) = case.difference(&actual, &expected) {
            let size = case.output.size();
            let element = |bytes: &[u8]| format!("{:02x?}", &bytes[at * size..(at + 1) * size]);
            failures.push(format!(
                "{}: element {at}: {}, expected {}",
                case.name,
                element(&actual),
                element(&expected)
            ));
        }
    }
    assert!(failures.is_empty(), "{} of {} differ:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn unoptimised_code_agrees_with_the_interpreter_bit_for_bit() {
    agree(Optimization::None);
}

#[test]
fn optimised_code_agrees_with_the_interpreter_bit_for_bit() {
    agree(Optimization::Full);
}

#[test]
fn threads_and_ranges_mean_the_same() {
    for case in cases().iter().filter(|case| case.lanes <= 2) {
        let (items, mut ranged) = case.data();
        let mut threaded = ranged.clone();
        evaluate_all(&case.function(Mapping::Range), &mut ranged, &dims(items)).expect("ranges evaluate");
        let threads = case.function(Mapping::Threads { block: BLOCK });
        evaluate_all(&threads, &mut threaded, &dims(items)).expect("threads evaluate");
        assert_eq!(ranged, threaded, "{}", case.name);
    }
}

fn small() -> Case {
    cases().into_iter().find(|case| case.name == "add_f32").expect("a case of that name")
}

#[test]
fn a_function_for_gpu_threads_is_refused() {
    let function = small().function(Mapping::Threads { block: BLOCK });
    let error = LlvmHostModule::compile(&[function], Optimization::Full).expect_err("refused");
    assert!(matches!(error, LlvmError::Mapping { .. }), "{error}");
}

#[test]
fn two_functions_of_one_name_are_refused() {
    let function = small().function(Mapping::Range);
    let error = LlvmHostModule::compile(&[function.clone(), function], Optimization::Full).err();
    assert_eq!(error, Some(LlvmError::Name("add_f32".into())));
}

#[test]
fn a_call_with_other_arguments_does_not_run() {
    let module = LlvmHostModule::compile(&[small().function(Mapping::Range)], Optimization::None);
    let module = module.expect("the case compiles");
    // SAFETY: the number of arguments is wrong, so that nothing runs.
    let call = |index| unsafe { module.call(index, &[], &[1], 0, 1) }.expect_err("refused");
    assert!(matches!(call(0), LlvmError::Arguments { what: "buffers", expected: 3, given: 0, .. }));
    assert_eq!(call(1), LlvmError::NoFunction { index: 1, functions: 1 });
}

#[test]
fn modules_compile_and_run_on_several_threads_at_once() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let case = small();
                let function = case.function(Mapping::Range);
                let module = LlvmHostModule::compile(std::slice::from_ref(&function), Optimization::Full);
                let module = module.expect("the case compiles");
                let (items, mut buffers) = case.data();
                let actual = run(&module, &function, items, &buffers);
                evaluate_all(&function, &mut buffers, &dims(items)).expect("the case evaluates");
                assert_eq!(case.difference(&actual, &buffers[2]), None);
            });
        }
    });
}

#[test]
fn dumps_show_the_entry_and_the_cpu() {
    let functions = [small().function(Mapping::Range)];
    let ir = fuse_codegen::llvm::host::llvm_ir(&functions, Optimization::Full).expect("LLVM IR");
    assert!(ir.contains("define void @add_f32(ptr") && ir.contains("\"target-cpu\"="), "{ir}");
    let assembly = fuse_codegen::llvm::host::assembly(&functions, Optimization::Full).expect("assembly");
    assert!(assembly.contains("add_f32:"), "{assembly}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Single operations leave LLVM little to rewrite; long random ones do not.
    #[test]
    fn random_programs_agree_with_the_interpreter_bit_for_bit(
        program in any::<[u64; 48]>(),
        seed in any::<u64>(),
        lanes in prop::sample::select(vec![1u8, 4]),
    ) {
        let program = Program { choices: program.to_vec() };
        let case = program.case(lanes);
        let function = case.function(Mapping::Range);
        let (items, buffers) = program.data(&case, seed);
        let mut expected = buffers.clone();
        evaluate_all(&function, &mut expected, &dims(items)).expect("random programs evaluate");
        for optimization in [Optimization::None, Optimization::Full] {
            let module = LlvmHostModule::compile(std::slice::from_ref(&function), optimization);
            let actual = run(&module.expect("random programs compile"), &function, items, &buffers);
            prop_assert_eq!(case.difference(&actual, &expected[buffers.len() - 1]), None);
        }
    }
}
