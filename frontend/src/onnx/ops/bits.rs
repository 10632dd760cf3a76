//! `BitCast`.

use fuse_ir::DType;

use super::super::call::Call;
use super::super::error::{Built, refuse};
use super::super::table::{Evaluation::Computes, OpRow, row};
use super::super::tensor::{element_type, type_name};
use super::super::value::Value;

pub(crate) const ROWS: &[OpRow] = &[row(
    "BitCast",
    (26, 26),
    &["to"],
    Computes,
    bit_cast,
    "between float and int32, double and int64, bool to uint8",
)];

fn bit_cast(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let number = i32::try_from(call.attributes.int_or("to", 0)?).unwrap_or(0);
    let Some(to) = element_type(number) else {
        return refuse(format!("the element type {} is not supported", type_name(number)));
    };
    match (x.dtype(), to) {
        (from, to) if from == to => call.one(x),
        (DType::F32, DType::I32) | (DType::F64, DType::I64) => call.one(x.to_bits()),
        (DType::I32, DType::F32) | (DType::I64, DType::F64) => call.one(x.from_bits()),
        // A bool is a byte of 0 or 1.
        (DType::Bool, DType::U8) => call.one(x.cast(DType::U8)),
        (from, to) => refuse(format!("the bits of {from} cannot be taken for {to}")),
    }
}
