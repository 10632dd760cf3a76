//! Operations composed of others. Those over f16 and bf16 compute in f32 and round the result once.

use std::f64::consts::FRAC_1_SQRT_2;

use fuse_ir::{Dim, ReduceOp};

use crate::error::Fault;
use crate::reduce::{AxesArgument, IntoAxes, reduced, require_float};
use crate::tensor::Tensor;

/// Runs `compute` in the accumulator type of `x`.
fn widened(x: &Tensor, compute: impl FnOnce(&Tensor) -> Result<Tensor, Fault>) -> Result<Tensor, Fault> {
    require_float(x)?;
    let wide = x.cast(x.dtype().accumulator());
    Ok(compute(&wide)?.cast(x.dtype()))
}

fn mean(x: &Tensor, axes: &[usize], keepdims: bool) -> Result<Tensor, Fault> {
    let count = axes.iter().fold(Dim::constant(1), |n, a| n * x.shape()[*a].clone());
    let count = x.trace().dim_tensor(x.dtype(), &count)?;
    Ok(reduced(x, ReduceOp::Sum, axes, keepdims)? / count)
}

fn variance(x: &Tensor, axes: &[usize], keepdims: bool) -> Result<Tensor, Fault> {
    let deviation = x - mean(x, axes, true)?;
    mean(&(&deviation * &deviation), axes, keepdims)
}

/// `x` less its maximum along `axis`, or less 0 where the maximum is infinite; and what was subtracted.
fn shifted(x: &Tensor, axis: usize) -> Result<(Tensor, Tensor), Fault> {
    let largest = reduced(x, ReduceOp::Max, &[axis], true)?;
    let shift = largest.abs().eq(f64::INFINITY).select(0.0, &largest);
    Ok((x - &shift, shift))
}

/// Operations composed of others.
impl Tensor {
    /// The mean over axes, which disappear; NaN of nothing.
    #[track_caller]
    pub fn mean(&self, axes: impl IntoAxes) -> Tensor {
        self.traced("mean", || {
            let axes = axes.positions(self.ty())?;
            widened(self, |x| mean(x, &axes, false))
        })
    }

    /// Like [`Tensor::mean`], with reduced axes kept as size 1.
    #[track_caller]
    pub fn mean_keepdims(&self, axes: impl IntoAxes) -> Tensor {
        self.traced("mean", || {
            let axes = axes.positions(self.ty())?;
            widened(self, |x| mean(x, &axes, true))
        })
    }

    /// The population variance over axes, which disappear: the mean squared deviation from the mean.
    #[track_caller]
    pub fn var(&self, axes: impl IntoAxes) -> Tensor {
        self.traced("var", || {
            let axes = axes.positions(self.ty())?;
            widened(self, |x| variance(x, &axes, false))
        })
    }

    /// Like [`Tensor::var`], with reduced axes kept as size 1.
    #[track_caller]
    pub fn var_keepdims(&self, axes: impl IntoAxes) -> Tensor {
        self.traced("var", || {
            let axes = axes.positions(self.ty())?;
            widened(self, |x| variance(x, &axes, true))
        })
    }

    /// `exp(x) / sum(exp(x))` along one axis, without overflow.
    #[track_caller]
    pub fn softmax(&self, axis: i64) -> Tensor {
        self.traced("softmax", || {
            let axis = crate::shape::axis_of(self.ty(), axis)?;
            widened(self, |x| {
                let power = (x - reduced(x, ReduceOp::Max, &[axis], true)?).exp();
                Ok(&power / reduced(&power, ReduceOp::Sum, &[axis], true)?)
            })
        })
    }

    /// The logarithm of [`Tensor::softmax`], without losing small probabilities.
    #[track_caller]
    pub fn log_softmax(&self, axis: i64) -> Tensor {
        self.traced("log_softmax", || {
            let axis = crate::shape::axis_of(self.ty(), axis)?;
            widened(self, |x| {
                let x = x - reduced(x, ReduceOp::Max, &[axis], true)?;
                let sum = reduced(&x.exp(), ReduceOp::Sum, &[axis], true)?;
                Ok(x - sum.log())
            })
        })
    }

    /// `log(sum(exp(x)))` along one axis, which disappears; -inf of nothing.
    #[track_caller]
    pub fn logsumexp(&self, axis: i64) -> Tensor {
        self.traced("logsumexp", || {
            let position = crate::shape::axis_of(self.ty(), axis)?;
            widened(self, |x| {
                let (x, shift) = shifted(x, position)?;
                let sum = reduced(&x.exp(), ReduceOp::Sum, &[position], true)?;
                Ok((sum.log() + shift).squeeze(position as i64))
            })
        })
    }

    /// `(x - mean) / sqrt(variance + epsilon)`, both over `axes`. [`nn::layer_norm`](crate::nn::layer_norm) has
    /// a gain and a bias too.
    #[track_caller]
    pub fn layer_norm(&self, axes: impl IntoAxes, epsilon: f64) -> Tensor {
        self.traced("layer_norm", || {
            let axes = axes.positions(self.ty())?;
            widened(self, |x| {
                let deviation = x - mean(x, &axes, true)?;
                let variance = mean(&(&deviation * &deviation), &axes, true)?;
                Ok(deviation * (variance + epsilon).rsqrt())
            })
        })
    }

    /// The Gaussian error linear unit in its exact form, `x/2 · (1 + erf(x/√2))`.
    #[track_caller]
    pub fn gelu(&self) -> Tensor {
        self.traced("gelu", || {
            require_float(self)?;
            Ok(self * 0.5 * ((self * FRAC_1_SQRT_2).erf() + 1.0))
        })
    }

    /// The sigmoid linear unit, `x · sigmoid(x)`.
    #[track_caller]
    pub fn silu(&self) -> Tensor {
        self.traced("silu", || {
            require_float(self)?;
            Ok(self * self.sigmoid())
        })
    }
}
