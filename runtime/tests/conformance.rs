//! Every conformance case through the compiler and Cranelift, unfused and fused: one trial each.

mod compiled;

use fuse_ir::compare::compare;
use fuse_ir::conformance::{Case, cases};
use fuse_ir::expr::DimEnv;
use fuse_rewrite::Mode;
use fuse_runtime::{Device, DeviceOptions};
use libtest_mimic::{Arguments, Trial};

fn run(case: &Case, mode: Mode, device: &Device) -> Result<(), String> {
    let mut executable = compiled::compile(&case.graph, mode, device)?;
    let inputs = compiled::bind(&mut executable, &case.inputs)?;
    let outputs = executable.run(inputs.as_slice(), &DimEnv::new()).map_err(|e| e.to_string())?;
    if outputs.len() != case.expected.len() {
        return Err(format!("{} outputs, expected {}", outputs.len(), case.expected.len()));
    }
    for (i, (got, expected)) in outputs.iter().zip(&case.expected).enumerate() {
        compare(got, expected, case.tolerance)
            .map_err(|e| format!("output {i}: {e}\n{}", executable.kernels()))?;
    }
    Ok(())
}

fn main() {
    let arguments = Arguments::from_args();
    let options = DeviceOptions { threads: Some(2), ..DeviceOptions::default() };
    let device = Device::cpu(&options).expect("two threads start");
    let mut trials = Vec::new();
    for case in cases() {
        for (mode, name) in [(Mode::Off, "unfused"), (Mode::On, "fused")] {
            let (case, device) = (case.clone(), device.clone());
            let name = format!("{name}::{}", case.name);
            trials.push(Trial::test(name, move || run(&case, mode, &device).map_err(Into::into)));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}
