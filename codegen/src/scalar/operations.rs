//! What computes one value.

use fuse_ir::{DType, Literal};

use super::walk::Values;
use super::{GpuOperation, GroupPlace, NARROW, ScalarBuilder, WIDE};
use crate::kernel_ir::{Conversion, Function, Operation, Type, ValueId};

/// An i64 scalar whose operands and result fit in 32 bits.
pub(super) fn operate_narrow<B: ScalarBuilder>(
    function: &Function,
    operation: &Operation,
    builder: &mut B,
    values: &Values<B>,
) -> B::Value {
    let operand = |builder: &mut B, id: &ValueId| values.narrow(function, builder, *id);
    match operation {
        Operation::Constant(literal) => {
            builder.constant(NARROW, Literal::from_i64(DType::I32, literal.as_i64()))
        }
        Operation::Unary(op, x) => {
            let x = operand(builder, x);
            builder.unary(*op, NARROW, x)
        }
        Operation::Binary(op, x, y) => {
            let are_natural = values.is_natural(*x) && values.is_natural(*y);
            let operands = [operand(builder, x), operand(builder, y)];
            builder.binary_of_indices(*op, are_natural, operands)
        }
        Operation::Select(condition, x, y) => {
            let (x, y) = (operand(builder, x), operand(builder, y));
            builder.select(NARROW, values.index(*condition), x, y)
        }
        // What i32 it was.
        Operation::Convert(_, x) => operand(builder, x),
        _ => {
            let wide = operate(function, WIDE, operation, builder, values);
            builder.convert(Conversion::IntToInt, WIDE, NARROW, wide)
        }
    }
}

pub(super) fn operate<B: ScalarBuilder>(
    function: &Function,
    ty: Type,
    operation: &Operation,
    builder: &mut B,
    values: &Values<B>,
) -> B::Value {
    let value = |builder: &mut B, id: &ValueId| values.get(builder, *id);
    match operation {
        Operation::Constant(literal) => builder.constant(ty, *literal),
        Operation::Symbol(position) => builder.symbol(*position as usize),
        Operation::WorkBegin => builder.work_begin(),
        Operation::WorkEnd => builder.work_end(),
        Operation::WorkItem => builder.work_item(),
        Operation::Block => builder.on_gpu(GpuOperation::Block),
        Operation::Blocks => builder.on_gpu(GpuOperation::Blocks),
        Operation::Thread => builder.on_gpu(GpuOperation::Thread),
        Operation::Load { buffer, index } => builder.load(ty, values.place(function, *buffer, *index)),
        Operation::Butterfly(x, distance) => {
            let x = value(builder, x);
            builder.on_gpu(GpuOperation::Butterfly(ty, x, *distance))
        }
        Operation::LoadShared { array, index } => {
            builder.on_gpu(GpuOperation::LoadShared(ty, values.shared_place(*array, *index)))
        }
        Operation::LoadMatrices { array, index, transposed } => {
            let place = values.shared_place(*array, *index);
            builder.on_gpu(GpuOperation::LoadMatrices(ty.lanes, place, *transposed))
        }
        Operation::MatrixFma { factors, left, right, sum } => {
            let fragments = [left, right, sum].map(|fragment| value(builder, fragment));
            builder.on_gpu(GpuOperation::MatrixFma(*factors, fragments))
        }
        Operation::GroupFma { factors, left, right, sum } => {
            let places = [left, right].map(|factor| GroupPlace {
                place: values.shared_place(factor.array, factor.index),
                transposed: factor.transposed,
            });
            let sum = value(builder, sum);
            builder.on_gpu(GpuOperation::GroupFma(*factors, places, ty, sum))
        }
        Operation::Pair(dtype, x, y) => {
            let pair = [x, y].map(|x| value(builder, x));
            builder.on_gpu(GpuOperation::Pair(*dtype, pair))
        }
        Operation::Tf32(x) => {
            let x = value(builder, x);
            builder.on_gpu(GpuOperation::Tf32(x))
        }
        Operation::Unary(op, x) => {
            let x = value(builder, x);
            builder.unary(*op, ty, x)
        }
        Operation::Binary(op, x, y) => {
            let (x, y) = (value(builder, x), value(builder, y));
            builder.binary(*op, ty, x, y)
        }
        Operation::Fma(x, y, z) => {
            let (x, y, z) = (value(builder, x), value(builder, y), value(builder, z));
            builder.fma(ty, x, y, z)
        }
        Operation::Compare(condition, x, y) if values.is_narrow(*x) && values.is_narrow(*y) => {
            builder.compare(*condition, NARROW, values.index(*x), values.index(*y))
        }
        Operation::Compare(condition, x, y) => {
            let ty = function.ty(*x);
            let (x, y) = (value(builder, x), value(builder, y));
            builder.compare(*condition, ty, x, y)
        }
        Operation::Select(condition, x, y) => {
            let (x, y) = (value(builder, x), value(builder, y));
            builder.select(ty, values.index(*condition), x, y)
        }
        Operation::Convert(Conversion::IntToInt, x) if ty == NARROW && values.is_narrow(*x) => {
            values.index(*x)
        }
        Operation::Convert(Conversion::IntToFloat, x) if values.is_narrow(*x) => {
            builder.convert(Conversion::IntToFloat, NARROW, ty, values.index(*x))
        }
        Operation::Convert(conversion, x) => {
            let from = function.ty(*x);
            let x = value(builder, x);
            builder.convert(*conversion, from, ty, x)
        }
        Operation::Splat(x) => {
            let x = value(builder, x);
            builder.splat(ty, x)
        }
        Operation::LaneIndex => builder.lane_index(ty),
        Operation::Extract(x, lane) => builder.extract(function.ty(*x), values.index(*x), *lane),
        Operation::Insert(vector, scalar, lane) => {
            let scalar = value(builder, scalar);
            builder.insert(ty, values.index(*vector), scalar, *lane)
        }
    }
}
