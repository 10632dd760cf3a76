//! Normalisations and dropout, against their definitions.

use super::*;

/// The mean and the population variance.
fn moments(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64)
}

fn ramp(count: usize) -> Vec<f64> {
    (0..count).map(|i| (i as f64 * 1.7).sin() * 3.0 + i as f64 / 8.0).collect()
}

#[test]
fn layers_return_their_statistics() {
    let x = ramp(8);
    let inputs = [f64s(&[2, 4], &x), f64s(&[4], &[1.0, 2.0, 3.0, 4.0]), f64s(&[4], &[0.5; 4])];
    let outputs = Model::new("LayerNormalization", 17).outputs(3).run(&inputs);
    let epsilon = f64::from(1e-5f32);
    for (row, values) in x.chunks(4).enumerate() {
        let (mean, variance) = moments(values);
        let inverse = 1.0 / (variance + epsilon).sqrt();
        let expected: Vec<f64> =
            values.iter().zip(1..).map(|(v, s)| (v - mean) * inverse * f64::from(s) + 0.5).collect();
        assert_close(&outputs[0].to_f64()[row * 4..][..4], &expected, 1e-12);
        assert_close(&outputs[1].to_f64()[row..][..1], &[mean], 1e-6);
        assert_close(&outputs[2].to_f64()[row..][..1], &[inverse], 1e-6);
    }
    assert_eq!(outputs[1].dtype(), DType::F32, "statistics have the stash type");
    assert_eq!(outputs[1].shape(), [2, 1]);
}

#[test]
fn the_result_of_an_rms_norm_has_the_type_of_the_scale() {
    let inputs = [narrow(DType::F16, &[1, 2], &[3.0, 4.0]), f32s(&[2], &[1.0, 1.0])];
    let outputs = Model::new("RMSNormalization", 23).float("epsilon", 0.0).run(&inputs);
    assert_eq!(outputs[0].dtype(), DType::F32);
    assert_close(&outputs[0].to_f64(), &[3.0 / 12.5f64.sqrt(), 4.0 / 12.5f64.sqrt()], 1e-6);
}

/// Scale and bias are for groups up to opset 20, for channels from 21 on.
#[test]
fn groups_are_scaled_by_version() {
    let x = ramp(8);
    let normalized: Vec<f64> = x
        .chunks(4)
        .flat_map(|group| {
            let (mean, variance) = moments(group);
            group.iter().map(move |v| (v - mean) / (variance + f64::from(1e-5f32)).sqrt())
        })
        .collect();
    let run = |opset: i64, scale: &[f64]| {
        let bias = vec![0.0; scale.len()];
        let inputs = [f64s(&[1, 4, 2], &x), f64s(&[scale.len()], scale), f64s(&[scale.len()], &bias)];
        Model::new("GroupNormalization", opset).int("num_groups", 2).values(&inputs)
    };
    let scaled = |by: fn(usize) -> f64| -> Vec<f64> {
        normalized.iter().enumerate().map(|(i, v)| v * by(i)).collect()
    };
    assert_close(&run(18, &[2.0, 3.0]), &scaled(|i| if i < 4 { 2.0 } else { 3.0 }), 1e-12);
    assert_close(&run(21, &[1.0, 2.0, 3.0, 4.0]), &scaled(|i| (i / 2 + 1) as f64), 1e-12);
}

#[test]
fn batches_move_the_running_statistics_in_training() {
    let x = ramp(6);
    let ones = f64s(&[1], &[1.0]);
    let inputs = [f64s(&[6, 1], &x), ones.clone(), f64s(&[1], &[0.0]), f64s(&[1], &[10.0]), ones];
    let outputs = Model::new("BatchNormalization", 15)
        .int("training_mode", 1)
        .float("momentum", 0.5)
        .outputs(3)
        .run(&inputs);
    let (mean, variance) = moments(&x);
    assert_close(&outputs[1].to_f64(), &[5.0 + mean / 2.0], 1e-12);
    assert_close(&outputs[2].to_f64(), &[0.5 + variance / 2.0], 1e-12);
    let expected: Vec<f64> = x.iter().map(|v| (v - mean) / (variance + f64::from(1e-5f32)).sqrt()).collect();
    assert_close(&outputs[0].to_f64(), &expected, 1e-12);
}

#[test]
fn responses_are_normalised_over_a_window_of_channels() {
    let x = ramp(5);
    let model =
        Model::new("LRN", 13).int("size", 4).float("alpha", 0.5).float("beta", 0.75).float("bias", 2.0);
    let expected: Vec<f64> = (0..5usize)
        .map(|c| {
            // One channel before, two after.
            let window = &x[c.saturating_sub(1)..(c + 3).min(5)];
            let sum: f64 = window.iter().map(|v| v * v).sum();
            x[c] / (2.0 + 0.5 / 4.0 * sum).powf(0.75)
        })
        .collect();
    assert_close(&model.values(&[f64s(&[1, 5], &x)]), &expected, 1e-13);
}

#[test]
fn what_is_zero_has_a_norm() {
    let x = f64s(&[2, 2], &[0.0, 0.0, -3.0, 4.0]);
    assert_close(
        &Model::new("LpNormalization", 22).values(std::slice::from_ref(&x)),
        &[0.0, 0.0, -0.6, 0.8],
        1e-15,
    );
    let first = Model::new("LpNormalization", 22).int("p", 1).values(&[x]);
    assert_close(&first, &[0.0, 0.0, -3.0 / 7.0, 4.0 / 7.0], 1e-15);
}

#[test]
fn dropout_changes_nothing_in_inference() {
    let x = f32s(&[2], &[1.0, -2.0]);
    let mask_type = |opset: i64| {
        let outputs = Model::new("Dropout", opset).outputs(2).run(std::slice::from_ref(&x));
        assert_eq!(outputs[0].to_f64(), [1.0, -2.0]);
        assert_eq!(outputs[1].literals().map(|v| v.as_i64()).collect::<Vec<_>>(), [1, 1]);
        outputs[1].dtype()
    };
    assert_eq!((mask_type(7), mask_type(10)), (DType::F32, DType::Bool));
    let training = Model::new("Dropout", 13).attempt(&[x, f32s(&[], &[0.5]), bools(&[], &[true])]);
    assert!(training.is_err_and(|e| e.contains("training mode")));
}
