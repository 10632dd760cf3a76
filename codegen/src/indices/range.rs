//! The least and the greatest value of an integer.

use fuse_ir::expr::{Atom, Expr, Symbol};

use crate::kernel_ir::{BinaryOp, Condition, LaneType};

/// An integer is not below `low` and not above `high`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// The least value.
    pub low: i64,
    /// The greatest value.
    pub high: i64,
}

impl Range {
    /// Any 64-bit integer.
    pub const ALL: Range = Range { low: i64::MIN, high: i64::MAX };

    /// One value.
    pub fn of(value: i64) -> Range {
        Range { low: value, high: value }
    }

    /// `0, 1, …`, so many; 0 where there are none.
    pub fn count(count: i64) -> Range {
        Range { low: 0, high: count.saturating_sub(1).max(0) }
    }

    /// What a register holds of which nothing else is known.
    pub fn of_lane(lane: LaneType) -> Range {
        match lane {
            LaneType::I32 => Range { low: i64::from(i32::MIN), high: i64::from(i32::MAX) },
            LaneType::Bool => Range { low: 0, high: 1 },
            LaneType::I64 | LaneType::F32 | LaneType::F64 => Range::ALL,
        }
    }

    /// Everything, where one end is no 64-bit integer: then arithmetic wraps.
    fn wide(low: i128, high: i128) -> Range {
        match (i64::try_from(low), i64::try_from(high)) {
            (Ok(low), Ok(high)) => Range { low, high },
            _ => Range::ALL,
        }
    }

    /// From the least to the greatest of some values.
    fn over(values: impl IntoIterator<Item = i128>) -> Range {
        let ends = values.into_iter().fold(None, |ends: Option<(i128, i128)>, value| {
            Some(ends.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
        });
        ends.map_or(Range::ALL, |(low, high)| Range::wide(low, high))
    }

    fn ends(self) -> [i128; 2] {
        [i128::from(self.low), i128::from(self.high)]
    }

    /// Whether all of it are 32-bit integers.
    pub fn fits(self) -> bool {
        let lane = Range::of_lane(LaneType::I32);
        lane.low <= self.low && self.high <= lane.high
    }

    /// Whether a comparison holds: 1 where it does for all, 0 where it does for none.
    pub fn compared(self, condition: Condition, other: Range) -> Range {
        let known = match condition {
            Condition::Lt if self.high < other.low => Some(true),
            Condition::Lt if self.low >= other.high => Some(false),
            Condition::Le if self.high <= other.low => Some(true),
            Condition::Le if self.low > other.high => Some(false),
            Condition::Gt => return other.compared(Condition::Lt, self),
            Condition::Ge => return other.compared(Condition::Le, self),
            Condition::Eq | Condition::Ne if self.high < other.low || other.high < self.low => {
                Some(condition == Condition::Ne)
            }
            Condition::Eq | Condition::Ne if self.low == self.high && self == other => {
                Some(condition == Condition::Eq)
            }
            Condition::Lt | Condition::Le | Condition::Eq | Condition::Ne => None,
        };
        known.map_or(Range::of_lane(LaneType::Bool), |holds| Range::of(i64::from(holds)))
    }

    /// All of both.
    pub fn union(self, other: Range) -> Range {
        Range { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// Of each of one with each of the other.
    fn combine(self, other: Range, f: impl Fn(i128, i128) -> i128) -> Range {
        Range::over(self.ends().into_iter().flat_map(|x| other.ends().map(|y| f(x, y))))
    }

    /// A sum.
    pub fn plus(self, other: Range) -> Range {
        self.combine(other, |x, y| x + y)
    }

    /// A product.
    pub fn times(self, other: Range) -> Range {
        self.combine(other, |x, y| x * y)
    }

    /// The other one as a divisor, which is at least 1; `None` where there is none, and nothing is divided.
    fn divisor(self) -> Option<Range> {
        (self.low >= 0 && self.high > 0).then(|| Range { low: self.low.max(1), high: self.high })
    }

    /// What an operation gives; everything where that is not known.
    pub fn binary(op: BinaryOp, x: Range, y: Range) -> Range {
        match op {
            BinaryOp::Add => x.plus(y),
            BinaryOp::Sub => x.combine(y, |x, y| x - y),
            BinaryOp::Mul => x.times(y),
            BinaryOp::Min => Range { low: x.low.min(y.low), high: x.high.min(y.high) },
            BinaryOp::Max => Range { low: x.low.max(y.low), high: x.high.max(y.high) },
            // Of nothing and by zero nothing is divided.
            BinaryOp::IntDiv | BinaryOp::IntRem if y == Range::of(0) => y,
            BinaryOp::IntDiv => y.divisor().map_or(Range::ALL, |y| x.combine(y, |x, y| x / y)),
            BinaryOp::IntRem => match y.divisor() {
                Some(y) if x.low >= 0 => Range { low: 0, high: x.high.min(y.high - 1) },
                Some(y) => Range { low: 1 - y.high, high: y.high - 1 },
                None => Range::ALL,
            },
            // One that is not negative clears the sign, and has no more bits than it has.
            BinaryOp::And if x.low >= 0 && y.low >= 0 => Range { low: 0, high: x.high.min(y.high) },
            BinaryOp::And if y.low >= 0 => Range { low: 0, high: y.high },
            BinaryOp::And if x.low >= 0 => Range { low: 0, high: x.high },
            BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => bits(x, y),
            BinaryOp::ShiftLeft if is_distance(y) => x.combine(y, |x, y| x << y),
            BinaryOp::ShiftRightArithmetic if is_distance(y) => x.combine(y, |x, y| x >> y),
            BinaryOp::ShiftRightLogical if is_distance(y) && x.low >= 0 => x.combine(y, |x, y| x >> y),
            BinaryOp::ShiftLeft
            | BinaryOp::ShiftRightArithmetic
            | BinaryOp::ShiftRightLogical
            | BinaryOp::Div => Range::ALL,
        }
    }
}

/// Whether the distance of a shift is the same modulo 32 and modulo 64.
pub(super) fn is_distance(y: Range) -> bool {
    y.low >= 0 && y.high < 32
}

/// What bitwise operations give of numbers of so many bits.
fn bits(x: Range, y: Range) -> Range {
    let of = |end: i64| if end < 0 { !end } else { end };
    let most = [x.low, x.high, y.low, y.high].map(of).into_iter().fold(0, i64::max);
    let ones = u64::MAX.checked_shr((most as u64).leading_zeros()).unwrap_or(0) as i64;
    Range { low: if x.low >= 0 && y.low >= 0 { 0 } else { -1 - ones }, high: ones }
}

/// What an expression gives where each symbol is in a range; everything where one has none, or there are axes.
pub fn of_expression(e: &Expr, symbol: &impl Fn(&Symbol) -> Option<Range>) -> Range {
    e.terms().fold(Range::of(0), |sum, (atoms, factor)| {
        let product = atoms.iter().fold(Range::of(factor), |p, atom| p.times(of_atom(atom, symbol)));
        sum.plus(product)
    })
}

fn of_atom(atom: &Atom, symbol: &impl Fn(&Symbol) -> Option<Range>) -> Range {
    let of = |e: &Expr| of_expression(e, symbol);
    match atom {
        Atom::Axis(_) => Range::ALL,
        Atom::Symbol(s) => symbol(s).unwrap_or(Range::ALL),
        Atom::Min(x, y) => Range::binary(BinaryOp::Min, of(x), of(y)),
        Atom::Max(x, y) => Range::binary(BinaryOp::Max, of(x), of(y)),
        // By zero it is 0.
        Atom::FloorDiv(x, y) => match of(y).divisor() {
            Some(y) => of(x).combine(y, |x, y| x.div_euclid(y)).union(Range::of(0)),
            None => Range::ALL,
        },
        Atom::Mod(_, y) => match of(y).divisor() {
            Some(y) => Range { low: 0, high: y.high - 1 },
            None => Range::ALL,
        },
    }
}
