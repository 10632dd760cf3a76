//! Quotients and remainders of integers, of as much care as what is known of these asks for.

use crate::builder::FunctionBuilder;
use crate::kernel_ir::{BinaryOp, Condition, Conversion, LaneType, ValueId};

/// Floor division and modulo, both 0 for a zero divisor; no operand makes the machine's division trap.
pub(super) fn floor_division(
    b: &mut FunctionBuilder,
    x: ValueId,
    y: ValueId,
    nonnegative: bool,
) -> (ValueId, ValueId) {
    match b.as_integer(y) {
        Some(d) if d > 0 && d & (d - 1) == 0 => {
            // Arithmetic shifts and masks round down for negative numbers too.
            let mask = b.index(d - 1);
            (b.shift_right_arithmetic(x, i64::from(d.trailing_zeros())), b.and(x, mask))
        }
        Some(d) if d > 0 && nonnegative => truncating_division(b, x, y),
        _ => {
            let zero = b.compare_integer(Condition::Eq, y, 0);
            let minus = b.compare_integer(Condition::Eq, y, -1);
            let unsafe_divisor = b.or(zero, minus);
            let one = b.index(1);
            let safe = b.select(unsafe_divisor, one, y);
            let quotient = b.binary(BinaryOp::IntDiv, x, safe);
            let rest = remainder(b, x, safe, quotient);
            let nonzero = b.compare_integer(Condition::Ne, rest, 0);
            let signs = b.xor(rest, safe);
            let unequal = b.compare_integer(Condition::Lt, signs, 0);
            let adjust = b.and(nonzero, unequal);
            let wide = b.convert(Conversion::BoolToInt, adjust, LaneType::I32);
            let wide = b.convert(Conversion::ZeroExtend, wide, LaneType::I64);
            let floor = b.sub(quotient, wide);
            let negated = b.neg(x);
            let floor = b.select(minus, negated, floor);
            let nothing = b.index(0);
            let floor = b.select(zero, nothing, floor);
            let moved = b.add(rest, safe);
            let modulo = b.select(adjust, moved, rest);
            // Division by 1 in place of 0 and -1 leaves the remainder 0 that both are to have.
            (floor, modulo)
        }
    }
}

/// Quotient and remainder of a number that is not negative by a number of things; where there are none, no machine's
/// division traps, and nothing is made of the result.
pub(super) fn division_by_count(b: &mut FunctionBuilder, x: ValueId, count: ValueId) -> (ValueId, ValueId) {
    if b.as_integer(count).is_some() {
        return floor_division(b, x, count, true);
    }
    let one = b.index(1);
    let divisor = b.binary(BinaryOp::Max, count, one);
    truncating_division(b, x, divisor)
}

/// Quotient and remainder of a number that is not negative by one that is positive.
pub(super) fn truncating_division(b: &mut FunctionBuilder, x: ValueId, y: ValueId) -> (ValueId, ValueId) {
    let quotient = b.binary(BinaryOp::IntDiv, x, y);
    (quotient, remainder(b, x, y, quotient))
}

/// The remainder of a quotient: a product is cheaper than another division.
fn remainder(b: &mut FunctionBuilder, x: ValueId, y: ValueId, quotient: ValueId) -> ValueId {
    let multiple = b.mul(quotient, y);
    b.sub(x, multiple)
}
