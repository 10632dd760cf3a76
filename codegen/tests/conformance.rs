//! Every conformance case of the ops, one kernel an op and fused, through the schedules of both targets and
//! Cranelift.

mod kernel_support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use fuse_ir::DimEnv;
use fuse_ir::bind::bind_dims;
use fuse_ir::conformance::{Case, cases};
use fuse_ir::device::DeviceModel;
use fuse_ir::kernel::KernelGraph;
use fuse_rewrite::{Mode, Options, optimize};

fn kernels(case: &Case, mode: Mode) -> KernelGraph {
    let options = Options { mode, ..Options::default() };
    optimize(&case.graph, &DeviceModel::cpu(), &options).unwrap().kernels
}

fn conform(mode: Mode) {
    let mut failed = Vec::new();
    for case in cases() {
        let types: Vec<_> = case.inputs.iter().map(|t| (t.dtype(), t.shape())).collect();
        let dims = bind_dims(&case.graph, &types, &DimEnv::new()).unwrap();
        let run = || {
            let kernels = kernels(&case, mode);
            kernel_support::check_against(&kernels, &case.inputs, &dims, &case.expected, case.tolerance);
        };
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            failed.push(case.name);
        }
    }
    assert!(failed.is_empty(), "{} cases: {failed:#?}", failed.len());
}

#[test]
fn every_op_conforms_in_a_kernel_of_its_own() {
    conform(Mode::Off);
}

#[test]
fn every_op_conforms_fused() {
    conform(Mode::On);
}
