//! Activation functions.

use fuse_ir::DType;

use super::super::call::Call;
use super::super::error::{Built, refuse};
use super::super::table::{Evaluation::Computes, OpRow, row};
use super::super::value::Value;
use super::elementwise::{float_unary, require_float, unary, widened};
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[
    row("Celu", (12, 28), &["alpha"], Computes, |c| with_alpha(c, 1.0, celu), ""),
    row("Clip", (6, 13), &["min", "max"], Computes, clip, ""),
    row("Elu", (6, 22), &["alpha"], Computes, |c| with_alpha(c, 1.0, elu), ""),
    row("Gelu", (20, 20), &["approximate"], Computes, gelu, ""),
    row("HardSigmoid", (6, 22), &["alpha", "beta"], Computes, hard_sigmoid_of, ""),
    row("HardSwish", (14, 22), &[], Computes, |c| float_unary(c, hard_swish), ""),
    row("LeakyRelu", (6, 16), &["alpha"], Computes, |c| with_alpha(c, 0.01, leaky_relu), ""),
    row("Mish", (18, 22), &[], Computes, |c| float_unary(c, |x| x * x.softplus().tanh()), ""),
    row("PRelu", (7, 16), &[], Computes, prelu, ""),
    row("Relu", (6, 14), &[], Computes, |c| unary(c, Tensor::relu), ""),
    row("Selu", (6, 22), &["alpha", "gamma"], Computes, selu, ""),
    row("Shrink", (9, 9), &["bias", "lambd"], Computes, shrink, "integers are computed in f64"),
    row("Sigmoid", (6, 13), &[], Computes, |c| unary(c, Tensor::sigmoid), ""),
    row("Softplus", (1, 22), &[], Computes, |c| unary(c, Tensor::softplus), ""),
    row("Softsign", (1, 22), &[], Computes, |c| float_unary(c, softsign), ""),
    row("Swish", (24, 24), &["alpha"], Computes, |c| with_alpha(c, 1.0, swish), ""),
    row("SwiGLU", (28, 28), &["alpha"], Computes, swiglu, ""),
    row("ThresholdedRelu", (10, 22), &["alpha"], Computes, |c| with_alpha(c, 1.0, thresholded_relu), ""),
];

/// The defaults of HardSigmoid, f32 in the file.
const HARD_SIGMOID: (f32, f32) = (0.2, 0.5);
/// The defaults of Selu.
const SELU: (f32, f32) = (1.673_263_2, 1.050_701);

/// An activation function with its parameters filled in.
pub(crate) type Activation = Box<dyn Fn(&Tensor) -> Tensor>;

/// An activation of a recurrent operator by its name, in any case; `None` where ONNX has none of that name.
/// Parameters that are not given have the defaults of the operator of the same name; of `Affine` and `ScaledTanh`,
/// which are no operators any more, `alpha` is 1 and `beta` is 0 and 1, as in ONNX Runtime.
pub(in crate::onnx) fn by_name(name: &str, alpha: Option<f64>, beta: Option<f64>) -> Option<Activation> {
    let alpha_or = |default: f32| alpha.unwrap_or(f64::from(default));
    let beta_or = |default: f32| beta.unwrap_or(f64::from(default));
    Some(match name.to_ascii_lowercase().as_str() {
        "relu" => Box::new(Tensor::relu),
        "tanh" => Box::new(Tensor::tanh),
        "sigmoid" => Box::new(Tensor::sigmoid),
        "softplus" => Box::new(Tensor::softplus),
        "softsign" => composed(softsign),
        "affine" => {
            let (alpha, beta) = (alpha_or(1.0), beta_or(0.0));
            composed(move |x| x * alpha + beta)
        }
        "scaledtanh" => {
            let (alpha, beta) = (alpha_or(1.0), beta_or(1.0));
            composed(move |x| (x * beta).tanh() * alpha)
        }
        "hardsigmoid" => {
            let (alpha, beta) = (alpha_or(HARD_SIGMOID.0), beta_or(HARD_SIGMOID.1));
            composed(move |x| hard_sigmoid(x, alpha, beta))
        }
        "leakyrelu" => with(alpha_or(0.01), leaky_relu),
        "thresholdedrelu" => with(alpha_or(1.0), thresholded_relu),
        "elu" => with(alpha_or(1.0), elu),
        _ => return None,
    })
}

/// A function composed of several ops, in f32 where the operand is f16 or bf16.
fn composed(function: impl Fn(&Tensor) -> Tensor + 'static) -> Activation {
    Box::new(move |x| widened(x, &function))
}

fn with(alpha: f64, function: fn(&Tensor, f64) -> Tensor) -> Activation {
    composed(move |x| function(x, alpha))
}

/// A function with the attribute `alpha`.
fn with_alpha(call: &Call<'_>, default: f32, function: fn(&Tensor, f64) -> Tensor) -> Built<Vec<Value>> {
    let alpha = call.attributes.float_or("alpha", default.into())?;
    float_unary(call, |x| function(x, alpha))
}

/// `max(0, x) + min(0, alpha (exp(x / alpha) - 1))`.
fn celu(x: &Tensor, alpha: f64) -> Tensor {
    x.relu() + ((x / alpha).expm1() * alpha).minimum(0.0)
}

/// `x` from 0 on, `alpha (exp(x) - 1)` below.
fn elu(x: &Tensor, alpha: f64) -> Tensor {
    x.ge(0.0).select(x, x.expm1() * alpha)
}

/// `alpha x + beta` between 0 and 1.
fn hard_sigmoid(x: &Tensor, alpha: f64, beta: f64) -> Tensor {
    (x * alpha + beta).clamp(0.0, 1.0)
}

/// `x` times a hard sigmoid of slope 1/6.
fn hard_swish(x: &Tensor) -> Tensor {
    x * hard_sigmoid(x, 1.0 / 6.0, 0.5)
}

/// `x` from 0 on, `alpha x` below.
fn leaky_relu(x: &Tensor, alpha: f64) -> Tensor {
    x.lt(0.0).select(x * alpha, x)
}

/// `x / (1 + |x|)`.
fn softsign(x: &Tensor) -> Tensor {
    x / (x.abs() + 1.0)
}

/// `x sigmoid(alpha x)`.
fn swish(x: &Tensor, alpha: f64) -> Tensor {
    x * (x * alpha).sigmoid()
}

/// `x` above `alpha`, 0 elsewhere, also for NaN.
fn thresholded_relu(x: &Tensor, alpha: f64) -> Tensor {
    x.gt(alpha).select(x, 0.0)
}

fn hard_sigmoid_of(call: &Call<'_>) -> Built<Vec<Value>> {
    let alpha = call.attributes.float_or("alpha", HARD_SIGMOID.0.into())?;
    let beta = call.attributes.float_or("beta", HARD_SIGMOID.1.into())?;
    float_unary(call, |x| hard_sigmoid(x, alpha, beta))
}

fn selu(call: &Call<'_>) -> Built<Vec<Value>> {
    let alpha = call.attributes.float_or("alpha", SELU.0.into())?;
    let gamma = call.attributes.float_or("gamma", SELU.1.into())?;
    float_unary(call, |x| x.gt(0.0).select(x, x.expm1() * alpha) * gamma)
}

fn gelu(call: &Call<'_>) -> Built<Vec<Value>> {
    match call.attributes.string_or("approximate", "none")? {
        "none" => float_unary(call, Tensor::gelu),
        "tanh" => float_unary(call, |x| {
            let inner = (x + x * x * x * 0.044715) * (2.0 / std::f64::consts::PI).sqrt();
            x * 0.5 * (inner.tanh() + 1.0)
        }),
        other => refuse(format!("the approximation `{other}` is not known; there are none and tanh")),
    }
}

fn swiglu(call: &Call<'_>) -> Built<Vec<Value>> {
    let (gate, value) = (call.tensor(0)?, call.tensor(1)?);
    let dtype = require_float(&gate)?;
    call.broadcast_together(&[&gate, &value])?;
    let alpha = call.attributes.float_or("alpha", 1.0)?;
    let wide = dtype.accumulator();
    call.one((swish(&gate.cast(wide), alpha) * value.cast(wide)).cast(dtype))
}

/// `x` from 0 on, `slope x` below; the slope broadcasts to `x`.
fn prelu(call: &Call<'_>) -> Built<Vec<Value>> {
    let (x, slope) = (call.tensor(0)?, call.tensor(1)?);
    if call.broadcast_together(&[&x, &slope])? != x.shape() {
        return refuse(format!("the slope {} does not broadcast to {}", slope.ty(), x.ty()));
    }
    let zero = call.number(x.dtype(), 0.0);
    call.one(x.lt(zero).select(&x * slope, &x))
}

/// `x` moved towards 0 by `bias` beyond `±lambd`, 0 between.
fn shrink(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let bias = call.attributes.float_or("bias", 0.0)?;
    let lambd = call.attributes.float_or("lambd", 0.5)?;
    let wide = if x.dtype().is_float() { x.dtype().accumulator() } else { DType::F64 };
    let wider = x.cast(wide);
    let above = wider.gt(lambd).select(&wider - bias, 0.0);
    call.one(wider.lt(-lambd).select(&wider + bias, above).cast(x.dtype()))
}

/// Bounds from attributes before opset 11, from inputs since; with a lower one above the upper one, the upper one
/// is the result.
fn clip(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let bound = |name: &str, i: usize| -> Built<Option<Tensor>> {
        let bound = match call.attributes.float(name)? {
            Some(value) => Some(call.number(x.dtype(), value)),
            None => call.optional_tensor(i)?,
        };
        match bound {
            Some(b) if b.rank() > 0 && b.ty().elements().is_one() => Ok(Some(b.reshape(Vec::<i64>::new()))),
            Some(b) if b.rank() > 0 => refuse(format!("the bound `{name}` is {}, no scalar", b.ty())),
            other => Ok(other),
        }
    };
    let (low, high) = (bound("min", 1)?, bound("max", 2)?);
    call.one(match (low, high) {
        (Some(low), Some(high)) => x.clamp(low, high),
        (Some(low), None) => x.maximum(low),
        (None, Some(high)) => x.minimum(high),
        (None, None) => x,
    })
}
