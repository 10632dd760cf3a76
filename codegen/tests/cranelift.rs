//! The boundary of the fast CPU tier: what it refuses, what it checks, and the state of its memory.

use fuse_codegen::cranelift::{CodegenError, Effort, asm, clif, compile_cpu, compile_cpu_with};
use fuse_codegen::text::parse;

const DOUBLE: &str = "function double range {
  read p0 \"x\": f32 = b0
  write p1 \"y\": f32 = b1
  symbols N
  work N
  v0: i64 = work_begin
  v1: i64 = work_end
  for v2 = v0 to v1 step 1 {
    v3: f32 = load p0[v2]
    v4: f32 = add v3, v3
    store p1[v2] = v4
  }
}";

#[test]
fn a_call_computes_its_range_and_nothing_else() {
    let function = parse(DOUBLE).unwrap();
    let module = compile_cpu(&[function.clone(), function]).unwrap();
    assert_eq!(module.len(), 2);
    assert_eq!(module.index_of("double"), Some(0));
    assert_eq!(module.index_of("treble"), None);
    let mut x: Vec<f32> = (0..8).map(|i| i as f32).collect();
    let mut y = vec![-1f32; 8];
    let buffers = [x.as_mut_ptr().cast(), y.as_mut_ptr().cast()];
    // SAFETY: both buffers have the 8 elements that N says.
    unsafe { module.call(1, &buffers, &[8], 2, 5) }.unwrap();
    assert_eq!(y, [-1.0, -1.0, 4.0, 6.0, 8.0, -1.0, -1.0, -1.0]);
    // SAFETY: as above; an empty range touches nothing.
    unsafe { module.call(0, &buffers, &[8], 5, 5) }.unwrap();
    assert_eq!(y[5], -1.0);
}

#[test]
fn functions_keep_their_order_whichever_thread_and_effort_compiles_them() {
    // Of different sizes, so that the largest come first, and some twice.
    let factor = |i: usize| 2 + i * 7 % 20 * 5;
    let functions: Vec<_> = (0..30)
        .map(|i| {
            let sums: String =
                (1..factor(i)).map(|n| format!("v{}: f32 = add v{}, v3\n", n + 3, n + 2)).collect();
            let text = DOUBLE.replace("double", &format!("times_{i}"));
            let text = text.replace("v4: f32 = add v3, v3", &sums);
            parse(&text.replace("p1[v2] = v4", &format!("p1[v2] = v{}", factor(i) + 2))).unwrap()
        })
        .collect();
    assert!(functions.iter().map(|f| f.types.len()).sum::<usize>() > 1000, "worth some threads");
    let efforts: Vec<Effort> =
        (0..30).map(|i| if i % 3 == 0 { Effort::Quick } else { Effort::Full }).collect();
    for threads in [1, 2, 5] {
        let module = compile_cpu_with(&functions, &efforts, threads).unwrap();
        for (i, function) in functions.iter().enumerate() {
            assert_eq!(module.index_of(&function.name), Some(i));
            let (mut x, mut y) = (vec![1.5f32; 4], vec![0f32; 4]);
            let buffers = [x.as_mut_ptr().cast(), y.as_mut_ptr().cast()];
            // SAFETY: both buffers have the 4 elements that N says.
            unsafe { module.call(i, &buffers, &[4], 0, 4) }.unwrap();
            assert_eq!(y, [1.5 * factor(i) as f32; 4]);
        }
    }
}

#[test]
fn a_call_with_the_wrong_arguments_is_refused() {
    let module = compile_cpu(&[parse(DOUBLE).unwrap()]).unwrap();
    // SAFETY: none of these calls gets as far as running.
    let errors = unsafe {
        [
            module.call(1, &[], &[], 0, 0),
            module.call(0, &[std::ptr::null_mut()], &[8], 0, 0),
            module.call(0, &[std::ptr::null_mut(); 2], &[], 0, 0),
        ]
    };
    assert!(matches!(errors[0], Err(CodegenError::NoFunction { index: 1, functions: 1 })));
    assert!(matches!(
        &errors[1],
        Err(CodegenError::Arguments { what: "buffers", expected: 2, given: 1, .. })
    ));
    assert!(matches!(
        &errors[2],
        Err(CodegenError::Arguments { what: "symbols", expected: 1, given: 0, .. })
    ));
}

#[test]
fn what_it_cannot_run_is_an_error() {
    let gpu = parse("function f threads 32 {\n work 1\n}").unwrap();
    assert!(matches!(compile_cpu(&[gpu]), Err(CodegenError::Unsupported { .. })));
    let wide = parse("function f range {\n work 1\n v0: f32x8 = constant 1.0\n}").unwrap();
    let error = compile_cpu(&[wide]).unwrap_err().to_string();
    assert!(error.contains("f32x8 is not a vector of 128 bits"), "{error}");
    let invalid =
        parse("function f range {\n work 1\n v0: i64 = add v1, v1\n v1: i64 = constant 1\n}").unwrap();
    assert!(matches!(compile_cpu(&[invalid]), Err(CodegenError::Invalid(_))));
}

#[test]
fn a_module_without_functions_is_empty() {
    assert!(compile_cpu(&[]).unwrap().is_empty());
}

#[test]
fn dumps_show_the_code() {
    let function = parse(DOUBLE).unwrap();
    assert!(clif(&function).unwrap().contains("fadd"));
    assert!(!asm(&function).unwrap().is_empty());
}

#[test]
#[cfg(target_os = "linux")]
fn no_memory_is_writable_and_executable() {
    let _module = compile_cpu(&[parse(DOUBLE).unwrap()]).unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(maps.lines().all(|line| !line.contains("rwx")), "{maps}");
}

#[test]
fn modules_can_be_used_from_other_threads() {
    fn needs_send_and_sync<T: Send + Sync>(_: &T) {}
    let module = compile_cpu(&[parse(DOUBLE).unwrap()]).unwrap();
    needs_send_and_sync(&module);
    std::thread::spawn(move || drop(module)).join().unwrap();
}
