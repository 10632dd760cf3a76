//! Matrix products.

use fuse_ir::{DType, Dim};

use super::super::call::Call;
use super::super::error::{Built, refuse};
use super::super::table::{Evaluation::Computes, OpRow, row};
use super::super::value::Value;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[
    row("MatMul", (1, 13), &[], Computes, mat_mul, ""),
    row("Gemm", (7, 13), &["alpha", "beta", "transA", "transB"], Computes, gemm, ""),
];

fn mat_mul(call: &Call<'_>) -> Built<Vec<Value>> {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    call.one(product(call, &a, &b)?)
}

/// NumPy's product, with the sizes that must agree checked.
pub(super) fn product(call: &Call<'_>, a: &Tensor, b: &Tensor) -> Built<Tensor> {
    if a.rank() == 0 || b.rank() == 0 {
        return refuse(format!(
            "a matrix product takes no scalars, but its operands are {} and {}",
            a.ty(),
            b.ty()
        ));
    }
    if a.dtype() != b.dtype() {
        return refuse(format!(
            "its operands are {} and {}; they must have one element type",
            a.ty(),
            b.ty()
        ));
    }
    let (rows, columns) = (a.shape(), b.shape());
    call.equal(&rows[rows.len() - 1], &columns[columns.len().saturating_sub(2)])?;
    let batch = |shape: &[Dim]| shape[..shape.len().saturating_sub(2)].to_vec();
    call.broadcast_shape(&[&batch(rows), &batch(columns)])?;
    Ok(a.matmul(b))
}

/// `alpha * A' * B' + beta * C`; of integers the factors are whole numbers, or the sum is computed in f64.
fn gemm(call: &Call<'_>) -> Built<Vec<Value>> {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    if a.rank() != 2 || b.rank() != 2 {
        return refuse(format!("its operands are {} and {}; matrices are needed", a.ty(), b.ty()));
    }
    let turned = |x: &Tensor, name: &str| -> Built<Tensor> {
        Ok(if call.attributes.flag(name, false)? { x.transpose(0, 1) } else { x.clone() })
    };
    let (a, b) = (turned(&a, "transA")?, turned(&b, "transB")?);
    let (alpha, beta) = (call.attributes.float_or("alpha", 1.0)?, call.attributes.float_or("beta", 1.0)?);
    let whole = alpha.fract() == 0.0 && beta.fract() == 0.0;
    let dtype = a.dtype();
    // What a factor other than 1 multiplies must not be rounded before.
    let wide = if dtype.is_float() || whole { dtype } else { DType::F64 };
    let scaled = |x: Tensor, factor: f64| if factor == 1.0 { x } else { &x * call.number(x.dtype(), factor) };
    let mut sum = scaled(product(call, &a.cast(wide), &b.cast(wide))?, alpha);
    if let Some(c) = call.optional_tensor(2)?.filter(|_| beta != 0.0) {
        let shape = call.broadcast_together(&[&sum, &c])?;
        if shape.len() != 2 {
            return refuse(format!("C is {}, which does not broadcast to {}", c.ty(), sum.ty()));
        }
        sum += scaled(c.cast(wide), beta);
    }
    call.one(sum.cast(dtype))
}
