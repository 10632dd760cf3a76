//! The dimensions of a call: what its inputs say of them, and what follows for its outputs.

use std::sync::Arc;

use fuse_ir::bind::{bind_given_dims, concrete_shape};
use fuse_ir::expr::DimEnv;
use fuse_ir::{DType, InputKind, Tensor};

use super::choice::Form;
use super::{Executable, Parameter, lock};
use crate::arguments::Arguments;
use crate::block::OutOfMemory;
use crate::cpu::Spread;
use crate::error::RunError;
use crate::plan::MemoryPlan;
use crate::version::{Instance, Version};

/// Plans kept for dimensions seen before.
const PLANS_KEPT: usize = 64;
/// Allocations from here on are tried before they are made, since a failing one would end the process.
const PROBED_BYTES: usize = 1 << 20;

impl Executable {
    /// The inputs by position of the graph's inputs, with `None` for parameters, all of which are bound.
    pub(super) fn arrange<'a>(&self, arguments: Arguments<'a>) -> Result<Vec<Option<&'a Tensor>>, RunError> {
        let inputs = self.graph.inputs();
        let mut given: Vec<Option<&Tensor>> = vec![None; inputs.len()];
        match arguments {
            Arguments::Named(named) => {
                for (name, tensor) in named {
                    let position = self.position(name, InputKind::Input)?;
                    if given[position].replace(tensor).is_some() {
                        return Err(RunError::Duplicate { kind: "input", name: name.to_string() });
                    }
                }
            }
            Arguments::Ordered(ordered) => {
                let names = self.names(InputKind::Input);
                if names.len() != ordered.len() {
                    return Err(RunError::Count {
                        expected: names.len(),
                        names: names.join(", "),
                        got: ordered.len(),
                    });
                }
                let positions = (0..inputs.len()).filter(|i| inputs[*i].kind == InputKind::Input);
                for (position, tensor) in positions.zip(ordered) {
                    given[position] = Some(tensor);
                }
            }
        }
        let absent = |i: &usize| given[*i].is_none() && self.parameters[*i].is_none();
        match (0..inputs.len()).find(absent) {
            Some(position) => Err(self.missing(position)),
            None => Ok(given),
        }
    }

    /// Element type and extents of every input that is there: bound, or given for this call.
    pub(super) fn shapes<'a>(&'a self, given: &[Option<&'a Tensor>]) -> Vec<Option<(DType, &'a [usize])>> {
        let shape = |(i, parameter): (usize, &'a Option<Parameter>)| match parameter {
            Some(p) => Some((p.dtype, p.shape.as_slice())),
            None => given.get(i).copied().flatten().map(|t| (t.dtype(), t.shape())),
        };
        self.parameters.iter().enumerate().map(shape).collect()
    }

    /// The instance of a call, remembered from an earlier one where there was one with the same shapes.
    pub(super) fn instance(
        &self,
        version: &Version,
        form: &Form,
        given: &[Option<&Tensor>],
        dims: &DimEnv,
    ) -> Result<Arc<Instance>, RunError> {
        let shapes = self.shapes(given);
        let mut key = Vec::with_capacity(shapes.len() * 4);
        for shape in &shapes {
            match shape {
                Some((dtype, extents)) => {
                    key.extend([*dtype as usize, extents.len()]);
                    key.extend(*extents);
                }
                None => key.push(usize::MAX),
            }
        }
        let key = (key, dims.clone());
        if let Some(instance) = lock(&version.instances).known.get(&key) {
            return Ok(instance.clone());
        }
        let instance = Arc::new(self.resolve(version, form, &shapes, dims)?);
        let mut instances = lock(&version.instances);
        if instances.order.len() >= PLANS_KEPT
            && let Some(oldest) = instances.order.pop_front()
        {
            instances.known.remove(&oldest);
        }
        if instances.known.insert(key.clone(), instance.clone()).is_none() {
            instances.order.push_back(key);
        }
        Ok(instance)
    }

    pub(super) fn resolve(
        &self,
        version: &Version,
        form: &Form,
        shapes: &[Option<(DType, &[usize])>],
        dims: &DimEnv,
    ) -> Result<Instance, RunError> {
        let dims = bind_given_dims(&self.graph, shapes, dims)?;
        let inputs = self.graph.inputs();
        let is_weight = |i: usize| inputs.get(i).is_none_or(|input| input.kind == InputKind::Parameter);
        let mut plan = MemoryPlan::with_weights(&version.kernels, &dims, is_weight)?;
        plan.kept_bytes = self.kept_bytes();
        plan.check_limit(self.device.memory_limit())?;
        #[cfg(debug_assertions)]
        if let Err(conflict) = crate::plan_checker::check(&version.kernels, &plan) {
            panic!("the memory plan is wrong: {conflict}\n{plan}");
        }
        let quantities = version.program.quantities(&dims)?;
        let spread = Spread::over(self.device.threads(), &quantities);
        let has_wide_indices = form.wide.as_ref().is_some_and(|w| w.is_needed(&version.program, &dims));
        let output = |o: &fuse_ir::graph::Output| {
            let ty = self.graph.ty(o.value);
            Ok((ty.dtype, concrete_shape(&ty.shape, &dims)?))
        };
        let outputs = self.graph.outputs().iter().map(output).collect::<Result<_, RunError>>()?;
        Ok(Instance { plan: Arc::new(plan), quantities, spread, has_wide_indices, outputs })
    }

    /// Gives every output its type, keeping the memory of those that have it to themselves.
    pub(super) fn shape_outputs(
        &self,
        instance: &Instance,
        outputs: &mut Vec<Tensor>,
    ) -> Result<(), RunError> {
        outputs.truncate(instance.outputs.len());
        for (i, (dtype, shape)) in instance.outputs.iter().enumerate() {
            match outputs.get(i) {
                Some(tensor)
                    if tensor.dtype() == *dtype
                        && tensor.shape() == shape.as_slice()
                        && !tensor.is_shared() => {}
                Some(_) => outputs[i] = self.new_output(i, *dtype, shape)?,
                None => outputs.push(self.new_output(i, *dtype, shape)?),
            }
        }
        Ok(())
    }

    pub(super) fn new_output(&self, at: usize, dtype: DType, shape: &[usize]) -> Result<Tensor, RunError> {
        let too_large = || RunError::OutputTooLarge {
            name: self.graph.outputs()[at].name.clone(),
            dtype,
            shape: shape.to_vec(),
        };
        let bytes = fuse_ir::tensor::checked_byte_size(dtype, shape).ok_or_else(too_large)?;
        if bytes >= PROBED_BYTES && Vec::<u8>::new().try_reserve_exact(bytes).is_err() {
            return Err(OutOfMemory(bytes as u64).into());
        }
        Tensor::zeros(dtype, shape).map_err(|_| too_large())
    }
}
