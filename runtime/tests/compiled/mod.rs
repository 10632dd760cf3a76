//! The compiler from graph to executable, through Cranelift.

use std::sync::Arc;

use fuse_codegen::cranelift::compile_cpu;
use fuse_codegen::schedule::{ScheduleTarget, schedule};
use fuse_ir::device::DeviceModel;
use fuse_ir::{Graph, InputKind, Tensor};
use fuse_rewrite::{Mode, Options, optimize};
use fuse_runtime::{Code, Device, Executable};

/// Compiles a graph for the CPU.
pub fn compile(graph: &Graph, mode: Mode, device: &Device) -> Result<Executable, String> {
    compile_for(graph, &DeviceModel::cpu(), mode, device)
}

/// The same, with kernels chosen for another device.
pub fn compile_for(
    graph: &Graph,
    model: &DeviceModel,
    mode: Mode,
    device: &Device,
) -> Result<Executable, String> {
    let options = Options { mode, ..Options::default() };
    let kernels = optimize(graph, model, &options).map_err(|e| e.to_string())?.kernels;
    let functions = kernels
        .kernels()
        .into_iter()
        .map(|(kernel, _)| schedule(&kernels, kernel, ScheduleTarget::cpu()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("{e}\n{kernels}"))?;
    let code = Code::Host(Arc::new(compile_cpu(&functions).map_err(|e| e.to_string())?));
    Executable::new(graph, kernels, &functions, code, device).map_err(|e| e.to_string())
}

/// Binds the parameters among `values`, which stand in the order of the graph's inputs, and returns the others.
pub fn bind<'a>(executable: &mut Executable, values: &'a [Tensor]) -> Result<Vec<&'a Tensor>, String> {
    let mut parameters = Vec::new();
    let mut inputs = Vec::new();
    for (input, value) in executable.graph().inputs().iter().zip(values) {
        match input.kind {
            InputKind::Parameter => parameters.push((input.name.clone(), value.clone())),
            InputKind::Input => inputs.push(value),
        }
    }
    executable.bind(parameters).map_err(|e| e.to_string())?;
    Ok(inputs)
}
