//! Models that other programs made, against what they compute there. The scripts that made them stand beside the data
//! in `tests/interop/`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fuse::frontend::onnx::{ImportOptions, Imported, import_bytes, import_file};
use fuse::io::npz;
use fuse::ir::interp::{Precision, interpret};
use fuse::{CompileOptions, Device, DimEnv, HostTensor, Target};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(name)
}

/// Compiles and runs an imported model with its inputs out of `values`.
fn run(
    imported: &Imported,
    values: &BTreeMap<String, HostTensor>,
    options: &CompileOptions,
) -> Vec<HostTensor> {
    let device = Device::cpu(&Default::default()).unwrap();
    let mut model = fuse::compile(&imported.graph, options).unwrap().load(&device).unwrap();
    model.bind(imported.parameters.clone()).unwrap();
    let inputs = imported.graph.inputs().iter().filter(|i| !imported.parameters.contains_key(&i.name));
    let inputs: BTreeMap<String, HostTensor> =
        inputs.map(|i| (i.name.clone(), values[&i.name].clone())).collect();
    model.run(&inputs, &DimEnv::new()).unwrap()
}

/// The largest difference of two lists of numbers, infinite where one is NaN.
fn difference(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let each = got.iter().zip(expected).map(|(g, e)| if g.is_nan() { f64::INFINITY } else { (g - e).abs() });
    each.fold(0.0, f64::max)
}

/// The lengths of a case of `varlen.py`, from its name.
fn lengths(case: &str) -> [i32; 4] {
    match case.split('-').nth(1) {
        Some("mixed") => [5, 2, 0, 3],
        Some("full") => [5, 5, 5, 5],
        Some("short") => [1, 0, 0, 2],
        other => panic!("{other:?}"),
    }
}

/// The inputs of a case: weights of its directions, states in its layout, and NaN wherever a row of `x` has no step.
fn inputs_of(case: &str, data: &BTreeMap<String, HostTensor>) -> BTreeMap<String, HostTensor> {
    let op = case.split('-').next().unwrap();
    let directions = if case.contains("bidirectional") { 2 } else { 1 };
    let batch_first = case.contains("layout1");
    let lengths = lengths(case);
    let mut x = data["x"].to_values::<f32>().unwrap();
    for (i, value) in x.iter_mut().enumerate() {
        let (t, row) = (i / 12, i / 3 % 4);
        if t as i32 >= lengths[row] {
            *value = f32::NAN;
        }
    }
    let mut out = BTreeMap::new();
    let x = HostTensor::from_values(&[5, 4, 3], &x).unwrap();
    out.insert("x".to_owned(), if batch_first { swapped(&x) } else { x });
    out.insert("lengths".to_owned(), HostTensor::from_values(&[4], &lengths).unwrap());
    for (name, key) in
        [("w", format!("w.{op}")), ("r", format!("r.{op}")), ("b", format!("b.{op}")), ("p", "p".into())]
    {
        out.insert(name.to_owned(), leading(&data[&key], directions));
    }
    for name in ["h0", "c0"] {
        let state = leading(&data[name], directions);
        out.insert(name.to_owned(), if batch_first { swapped(&state) } else { state });
    }
    out
}

/// The first entries along the first axis.
fn leading(tensor: &HostTensor, count: usize) -> HostTensor {
    let each: usize = tensor.shape()[1..].iter().product();
    let values = tensor.to_values::<f32>().unwrap();
    let shape = [&[count], &tensor.shape()[1..]].concat();
    HostTensor::from_values(&shape, &values[..count * each]).unwrap()
}

/// The first two axes the other way round.
fn swapped(tensor: &HostTensor) -> HostTensor {
    let &[a, b, c] = tensor.shape() else { panic!("three axes") };
    let values = tensor.to_values::<f32>().unwrap();
    let at = |i: usize| values[(i / c % a * b + i / c / a) * c + i % c];
    HostTensor::from_values(&[b, a, c], &(0..a * b * c).map(at).collect::<Vec<_>>()).unwrap()
}

/// The cases of `varlen.py` of one operator; returns how many there are.
fn rows_never_see_their_padding(op: &str) -> usize {
    let mut count = 0;
    let data = npz::read(&data("varlen.npz")).unwrap();
    let names = String::from_utf8(data["names"].bytes().to_vec()).unwrap();
    let sizes =
        |key: &str| data[key].to_values::<i64>().unwrap().into_iter().map(|n| n as usize).collect::<Vec<_>>();
    let (mut models, mut expected) = (data["models"].bytes(), &data["expected"].to_f64()[..]);
    for ((case, model_size), size) in names.lines().zip(sizes("model_sizes")).zip(sizes("expected_sizes")) {
        let (model, y);
        (model, models) = models.split_at(model_size);
        (y, expected) = expected.split_at(size);
        if !case.starts_with(op) {
            continue;
        }
        count += 1;
        let imported =
            import_bytes(model, &ImportOptions::default()).unwrap_or_else(|e| panic!("{case}: {e}"));
        let inputs = inputs_of(case, &data);
        let compiled = run(&imported, &inputs, &CompileOptions::new(Target::Cpu));
        let ordered: Vec<HostTensor> =
            imported.graph.inputs().iter().map(|i| inputs[&i.name].clone()).collect();
        let interpreted = interpret(&imported.graph, &ordered, Precision::F64).unwrap();
        for outputs in [compiled, interpreted] {
            let got: Vec<f64> = outputs.iter().flat_map(HostTensor::to_f64).collect();
            let off = difference(&got, y);
            assert!(off < 1e-5, "{case}: off by {off}");
        }
    }
    assert!(models.is_empty() && expected.is_empty());
    count
}

#[test]
fn rows_of_an_lstm_never_see_their_padding() {
    assert_eq!(rows_never_see_their_padding("LSTM"), 144);
}

#[test]
fn rows_of_a_gru_never_see_their_padding() {
    assert_eq!(rows_never_see_their_padding("GRU"), 144);
}

#[test]
fn rows_of_an_rnn_never_see_their_padding() {
    assert_eq!(rows_never_see_their_padding("RNN"), 72);
}

/// A model that another program exported, against what that program computed at other lengths than those of the
/// export. `values` holds the inputs and what was computed.
fn agrees(model: &str, values: &str) -> Imported {
    let values = npz::read(&data(values)).unwrap();
    let imported =
        import_file(&data(model), &ImportOptions::default()).unwrap_or_else(|e| panic!("{model}: {e}"));
    assert_eq!(imported.compiled_in, [""; 0], "one import serves every length");
    for options in [CompileOptions::new(Target::Cpu), CompileOptions::unfused(Target::Cpu)] {
        let outputs = run(&imported, &values, &options);
        for (k, output) in outputs.iter().enumerate() {
            let expected = &values[&format!("expected.{k}")];
            assert_eq!(output.shape(), expected.shape());
            let off = difference(&output.to_f64(), &expected.to_f64());
            assert!(off < 1e-5, "{model}: output {k} is off by {off}");
        }
        assert!(!values.contains_key(&format!("expected.{}", outputs.len())));
    }
    imported
}

/// The model as both of PyTorch's exporters write it.
fn agrees_with_pytorch(model: &str) {
    for exporter in ["script", "export"] {
        agrees(&format!("pytorch/{model}-{exporter}.onnx"), &format!("pytorch/{model}.npz"));
    }
}

fn scans(imported: &Imported) -> usize {
    imported.graph.nodes().filter(|(_, n)| matches!(n.op, fuse::ir::Op::Scan(_))).count()
}

#[test]
fn an_lstm_stack_of_pytorch_runs_at_any_length() {
    agrees_with_pytorch("lstm");
}

#[test]
fn a_gru_of_pytorch_runs_at_any_length() {
    agrees_with_pytorch("gru");
}

#[test]
fn an_encoder_and_decoder_with_attention_runs_at_any_length() {
    agrees_with_pytorch("attention");
}

#[test]
fn a_cell_of_ones_own_in_a_loop_is_a_scan() {
    assert_eq!(scans(&agrees("pytorch/cell-script.onnx", "pytorch/cell.npz")), 1);
}

#[test]
fn a_loop_that_the_exporter_unrolled_runs() {
    assert_eq!(scans(&agrees("pytorch/cell-export.onnx", "pytorch/cell.npz")), 0);
}

#[test]
fn layers_of_keras_are_scans() {
    assert_eq!(scans(&agrees("tensorflow/keras.onnx", "tensorflow/keras.npz")), 2);
}

#[test]
fn a_while_loop_of_tensorflow_that_counts_its_steps_itself_is_a_scan() {
    assert_eq!(scans(&agrees("tensorflow/while.onnx", "tensorflow/while.npz")), 1);
}

#[test]
fn a_scan_of_jax_is_one() {
    assert_eq!(scans(&agrees("jax/scan.onnx", "jax/scan.npz")), 1);
}
