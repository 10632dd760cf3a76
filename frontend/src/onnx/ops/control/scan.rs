//! `Scan`, which is a scan of the trace.

use fuse_ir::Dim;

use super::super::super::call::Call;
use super::super::super::error::{Built, refuse};
use super::super::super::proto::GraphProto;
use super::super::super::value::Value;
use super::super::movement::with_axis_at;
use super::{MAX_UNROLLED, missing_carry, run, scanned};
use crate::ScanOptions;
use crate::tensor::Tensor;

/// What a `Scan` says of its inputs and outputs.
struct ScanForm<'a> {
    body: &'a GraphProto,
    states: usize,
    /// Whether inputs are read from their end, one entry a scanned input.
    reversed: Vec<bool>,
    /// Whether outputs are written from their end, one entry a scan output.
    prepended: Vec<bool>,
    /// The scanned axis of each scanned input.
    input_axes: Vec<i64>,
    /// The axis of each scan output along which steps are stacked.
    output_axes: Vec<i64>,
}

impl<'a> ScanForm<'a> {
    fn new(call: &Call<'a>, inputs: usize) -> Built<Self> {
        let body = call.attributes.graph("body")?;
        let scanned = usize::try_from(call.attributes.int_or("num_scan_inputs", 0)?).unwrap_or(0);
        let states = match inputs.checked_sub(scanned) {
            Some(states) if scanned > 0 => states,
            _ => return refuse(format!("{scanned} of its {inputs} inputs are scanned")),
        };
        let Some(outputs) = body.output.len().checked_sub(states) else {
            return refuse("its body returns fewer values than it has states");
        };
        let list = |name: &str, count: usize| -> Built<Vec<i64>> {
            let values = call.attributes.ints(name)?.map_or_else(|| vec![0; count], <[i64]>::to_vec);
            let right = values.len() == count;
            if right { Ok(values) } else { refuse(format!("attribute `{name}` needs {count} entries")) }
        };
        let flags = |values: Vec<i64>| values.iter().map(|v| *v != 0).collect();
        let old = call.opset < 9;
        Ok(ScanForm {
            body,
            states,
            reversed: flags(list(if old { "directions" } else { "scan_input_directions" }, scanned)?),
            prepended: flags(list("scan_output_directions", outputs)?),
            input_axes: list("scan_input_axes", scanned)?,
            output_axes: list("scan_output_axes", outputs)?,
        })
    }

    /// The results for values without a batch axis.
    fn run(&self, call: &Call<'_>, inputs: &[Value]) -> Built<Vec<Value>> {
        let (states, sequences) = inputs.split_at(self.states);
        // The loop runs in one direction; what is read in the other is turned round before.
        let reverse = self.reversed[0];
        let mut tensors: Vec<Tensor> = Vec::with_capacity(sequences.len());
        for ((value, axis), reversed) in sequences.iter().zip(&self.input_axes).zip(&self.reversed) {
            let x = call.importer.tensor(value)?;
            let x = with_axis_at(&x, call.axis(*axis, x.rank())?, 0);
            if let Some(first) = tensors.first() {
                call.equal(&first.dim(0), &x.dim(0))?;
            }
            tensors.push(if *reversed == reverse { x } else { x.reverse(0) });
        }
        let options = ScanOptions::new().reverse_if(reverse);
        let mut results = scanned(call, options, states, &tensors, |carry, slices| {
            let inputs: Vec<Value> = carry.iter().chain(slices).cloned().map(Value::from).collect();
            run(call, self.body, &inputs)
        })?;
        for ((value, axis), prepended) in
            results[self.states..].iter_mut().zip(&self.output_axes).zip(&self.prepended)
        {
            let y = call.importer.tensor(value)?;
            let y = if *prepended == reverse { y } else { y.reverse(0) };
            *value = with_axis_at(&y, 0, call.axis(*axis, y.rank())?).into();
        }
        Ok(results)
    }
}

pub(super) fn scan(call: &Call<'_>) -> Built<Vec<Value>> {
    let given = |values: &[Option<Value>]| -> Built<Vec<Value>> {
        values.iter().map(|v| v.clone().ok_or_else(missing_carry)).collect()
    };
    if call.opset >= 9 {
        return ScanForm::new(call, call.inputs.len())?.run(call, &given(&call.inputs)?);
    }
    if call.optional(0).is_some() {
        return refuse(
            "sequence lengths of a Scan of opset 8 are not supported; export with opset 9 or newer",
        );
    }
    let inputs = given(call.inputs.get(1..).unwrap_or_default())?;
    batched(call, &ScanForm::new(call, inputs.len())?, &inputs)
}

/// The form of opset 8, where every value has a leading batch axis: a scan for each entry of it.
fn batched(call: &Call<'_>, form: &ScanForm<'_>, inputs: &[Value]) -> Built<Vec<Value>> {
    let tensors = inputs.iter().map(|v| call.importer.tensor(v)).collect::<Built<Vec<_>>>()?;
    let batch = tensors[0].shape().first().and_then(Dim::as_constant);
    let Some(batch) = batch.filter(|b| (1..=MAX_UNROLLED).contains(b)) else {
        return refuse("a Scan of opset 8 needs a known batch size; export with opset 9 or newer");
    };
    let mut items: Vec<Vec<Tensor>> = Vec::new();
    for item in 0..batch {
        let own: Vec<Value> = tensors.iter().map(|t| t.at(0, item).into()).collect();
        let results = form.run(call, &own)?;
        items.push(results.iter().map(|v| call.importer.tensor(v)).collect::<Built<_>>()?);
    }
    let results = items[0].len();
    Ok((0..results).map(|k| crate::stack(items.iter().map(|item| &item[k]), 0).into()).collect())
}
