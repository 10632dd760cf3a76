//! The closed op table: one row an op, everything else derived.
//!
//! Two tables, because elementwise ops reach further than the others. A [`ScalarOp`] is a function of
//! scalars; it appears in graphs (applied elementwise), in kernels' element expressions and in the lowering
//! of both, and it carries no payload. An [`Op`] is a node of the tensor graph: an elementwise op, or one of
//! the few structural ops with attributes. Nothing lists ops a second time: enums, mnemonics, arities,
//! tracing methods, algebraic traits, tolerances and the generated documentation come from the rows below.

use crate::dtype::{DType, Literal};
use crate::expr::Dim;
use crate::graph::Scan;
use crate::types::Shape;

/// Which element types an elementwise op takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Domain {
    /// Floating-point types.
    Float,
    /// Floating-point and integer types.
    Numeric,
    /// Integers and bool.
    Bits,
    /// Every type.
    Any,
    /// The floating-point types that have an integer type of their width.
    Words,
    /// The integer types that have a floating-point type of their width.
    IntegerWords,
}

impl Domain {
    /// Whether the domain has `dtype`.
    pub fn contains(self, dtype: DType) -> bool {
        match self {
            Domain::Float => dtype.is_float(),
            Domain::Numeric => dtype != DType::Bool,
            Domain::Bits => !dtype.is_float(),
            Domain::Any => true,
            Domain::Words => matches!(dtype, DType::F32 | DType::F64),
            Domain::IntegerWords => matches!(dtype, DType::I32 | DType::I64),
        }
    }
}

/// How the element type of an elementwise result follows from the operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResultRule {
    /// All operands and the result have one type.
    Same,
    /// All operands have one type, the result is bool.
    Comparison,
    /// The first operand is bool, the others and the result have one type.
    Select,
    /// The result is the other of integer and float, of the operand's width.
    SameWidth,
}

impl ResultRule {
    /// The type of the result where the operands (of a select: the choices) have the type `dtype`.
    pub fn result(self, dtype: DType) -> DType {
        match (self, dtype) {
            (ResultRule::Same | ResultRule::Select, dtype) => dtype,
            (ResultRule::Comparison, _) => DType::Bool,
            (ResultRule::SameWidth, DType::F32) => DType::I32,
            (ResultRule::SameWidth, DType::F64) => DType::I64,
            (ResultRule::SameWidth, DType::I32) => DType::F32,
            (ResultRule::SameWidth, DType::I64) => DType::F64,
            // Outside of the domains of all ops with this rule.
            (ResultRule::SameWidth, DType::F16 | DType::Bf16 | DType::U8 | DType::Bool) => dtype,
        }
    }
}

/// An algebraic law that rules may rely on; stated for real numbers, so use under floats follows the float
/// policy of the rule that uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Law {
    /// `f(a, b) = f(b, a)`, exactly.
    Commutative,
    /// `f(f(a, b), c) = f(a, f(b, c))`; reassociates for floats.
    Associative,
    /// `f(f(x)) = x`, exactly.
    Involution,
    /// `f(f(x)) = f(x)`, exactly.
    Idempotent,
    /// `f(-x) = -f(x)`, exactly.
    Odd,
    /// `f(-x) = f(x)`, exactly.
    Even,
}

/// Calls a macro with every row of the elementwise table:
/// `{ Variant, method, (operands), Domain, ResultRule, [laws], tolerance in ULP of f32, "sentence" }`.
///
/// The tolerance bounds the error of any back end against the exact result in units in the last place of
/// the result's type; 0 means bit-exact.
#[macro_export]
macro_rules! scalar_op_table {
    ($($callback:tt)*) => {
        $($callback)* ! {
            { Neg, neg, (x), Numeric, Same, [Involution, Odd], 0.0, "The negation, `-x`; integers wrap." }
            { Abs, abs, (x), Numeric, Same, [Idempotent, Even], 0.0, "The absolute value; integers wrap." }
            { Sign, sign, (x), Numeric, Same, [Idempotent, Odd], 0.0, "-1, 0 or 1 by the sign; zeros keep theirs, NaN stays." }
            { Floor, floor, (x), Float, Same, [Idempotent], 0.0, "The largest integer not above `x`." }
            { Ceil, ceil, (x), Float, Same, [Idempotent], 0.0, "The smallest integer not below `x`." }
            { Round, round, (x), Float, Same, [Idempotent, Odd], 0.0, "The nearest integer, ties to even." }
            { Trunc, trunc, (x), Float, Same, [Idempotent, Odd], 0.0, "The integer part, towards zero." }
            { Sqrt, sqrt, (x), Float, Same, [], 0.5, "The square root, correctly rounded; NaN below zero." }
            { Rsqrt, rsqrt, (x), Float, Same, [], 1.5, "One over the square root." }
            { Reciprocal, reciprocal, (x), Float, Same, [], 0.5, "One over `x`, correctly rounded." }
            { Exp, exp, (x), Float, Same, [], 2.0, "e to the power `x`." }
            { Exp2, exp2, (x), Float, Same, [], 2.0, "2 to the power `x`." }
            { Expm1, expm1, (x), Float, Same, [], 3.0, "`exp(x) - 1` without cancellation near zero." }
            { Log, log, (x), Float, Same, [], 2.0, "The natural logarithm; NaN below zero, -inf at zero." }
            { Log2, log2, (x), Float, Same, [], 2.0, "The logarithm to base 2." }
            { Log1p, log1p, (x), Float, Same, [], 3.0, "`log(1 + x)` without cancellation near zero." }
            { Sin, sin, (x), Float, Same, [Odd], 2.0, "The sine of `x` radians." }
            { Cos, cos, (x), Float, Same, [Even], 2.0, "The cosine of `x` radians." }
            { Tanh, tanh, (x), Float, Same, [Odd], 2.0, "The hyperbolic tangent." }
            { Sigmoid, sigmoid, (x), Float, Same, [], 2.0, "The logistic function, `1 / (1 + exp(-x))`." }
            { Softplus, softplus, (x), Float, Same, [], 4.0, "`log(1 + exp(x))`, linear for large `x`." }
            { Erf, erf, (x), Float, Same, [Odd], 2.0, "The error function." }
            { Relu, relu, (x), Numeric, Same, [Idempotent], 0.0, "`max(x, 0)`; NaN stays." }
            { Not, not, (x), Bits, Same, [Involution], 0.0, "Logical negation of a bool, bitwise of an integer." }
            { IsNan, is_nan, (x), Float, Comparison, [], 0.0, "Whether `x` is NaN." }
            { ToBits, to_bits, (x), Words, SameWidth, [], 0.0, "The integer with the bits of `x`." }
            { FromBits, from_bits, (x), IntegerWords, SameWidth, [], 0.0, "The float with the bits of `x`." }
            { Add, add, (x, y), Numeric, Same, [Commutative, Associative], 0.5, "The sum; integers wrap." }
            { Sub, sub, (x, y), Numeric, Same, [], 0.5, "The difference; integers wrap." }
            { Mul, mul, (x, y), Numeric, Same, [Commutative, Associative], 0.5, "The product; integers wrap." }
            { Div, div, (x, y), Numeric, Same, [], 0.5, "The quotient; of integers truncated, and 0 where `y` is 0." }
            { Mod, modulo, (x, y), Numeric, Same, [], 0.0, "The remainder with the sign of `y`; of integers 0 where `y` is 0." }
            { Rem, rem, (x, y), Numeric, Same, [], 0.0, "The remainder with the sign of `x` (C's fmod); of integers 0 where `y` is 0." }
            { Pow, pow, (x, y), Float, Same, [], 8.0, "`x` to the power `y`; 1 where `y` is 0 or `x` is 1, also for NaN." }
            { Min, minimum, (x, y), Numeric, Same, [Commutative, Associative, Idempotent], 0.0, "The smaller; NaN if either is, and -0 below 0." }
            { Max, maximum, (x, y), Numeric, Same, [Commutative, Associative, Idempotent], 0.0, "The larger; NaN if either is, and 0 above -0." }
            { Eq, eq, (x, y), Any, Comparison, [Commutative], 0.0, "Whether `x` equals `y`; false for NaN." }
            { Ne, ne, (x, y), Any, Comparison, [Commutative], 0.0, "Whether `x` differs from `y`; true for NaN." }
            { Lt, lt, (x, y), Numeric, Comparison, [], 0.0, "Whether `x` is below `y`; false for NaN." }
            { Le, le, (x, y), Numeric, Comparison, [], 0.0, "Whether `x` is at most `y`; false for NaN." }
            { Gt, gt, (x, y), Numeric, Comparison, [], 0.0, "Whether `x` is above `y`; false for NaN." }
            { Ge, ge, (x, y), Numeric, Comparison, [], 0.0, "Whether `x` is at least `y`; false for NaN." }
            { And, and, (x, y), Bits, Same, [Commutative, Associative, Idempotent], 0.0, "Conjunction of bools, bitwise of integers." }
            { Or, or, (x, y), Bits, Same, [Commutative, Associative, Idempotent], 0.0, "Disjunction of bools, bitwise of integers." }
            { Xor, xor, (x, y), Bits, Same, [Commutative, Associative], 0.0, "Exclusive or of bools, bitwise of integers." }
            { Select, select, (condition, x, y), Any, Select, [], 0.0, "`x` where the condition holds, otherwise `y`." }
            { Clamp, clamp, (x, low, high), Numeric, Same, [], 0.0, "`min(max(x, low), high)`; NaN if any is." }
        }
    };
}

macro_rules! count {
    () => { 0 };
    ($head:ident $($tail:ident)*) => { 1 + count!($($tail)*) };
}

macro_rules! define_scalar_ops {
    ($({ $variant:ident, $method:ident, ($($operand:ident),*), $domain:ident, $rule:ident, [$($law:ident),*], $ulp:expr, $doc:literal })*) => {
        /// A function of scalars; applied elementwise in a graph.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum ScalarOp {
            $(#[doc = $doc] $variant,)*
        }

        impl ScalarOp {
            /// Every elementwise op, in table order.
            pub const ALL: &[ScalarOp] = &[$(ScalarOp::$variant),*];

            /// The name in text forms and of the tracing method.
            pub fn mnemonic(self) -> &'static str {
                match self { $(ScalarOp::$variant => stringify!($method),)* }
            }

            /// The number of operands.
            pub fn arity(self) -> usize {
                match self { $(ScalarOp::$variant => count!($($operand)*),)* }
            }

            /// The names of the operands.
            pub fn operands(self) -> &'static [&'static str] {
                match self { $(ScalarOp::$variant => &[$(stringify!($operand)),*],)* }
            }

            /// Which element types the op takes (beside the condition of a select).
            pub fn domain(self) -> Domain {
                match self { $(ScalarOp::$variant => Domain::$domain,)* }
            }

            /// How the result's element type follows from the operands'.
            pub fn result_rule(self) -> ResultRule {
                match self { $(ScalarOp::$variant => ResultRule::$rule,)* }
            }

            /// The algebraic laws that hold over the reals.
            pub fn laws(self) -> &'static [Law] {
                match self { $(ScalarOp::$variant => &[$(Law::$law),*],)* }
            }

            /// The bound on any back end's error, in units in the last place; 0 is bit-exact.
            pub fn tolerance_ulp(self) -> f64 {
                match self { $(ScalarOp::$variant => $ulp,)* }
            }

            /// What the op computes, in one sentence.
            pub fn doc(self) -> &'static str {
                match self { $(ScalarOp::$variant => $doc,)* }
            }
        }
    };
}

scalar_op_table!(define_scalar_ops);

impl ScalarOp {
    /// The op of that name.
    pub fn from_mnemonic(name: &str) -> Option<ScalarOp> {
        ScalarOp::ALL.iter().copied().find(|op| op.mnemonic() == name)
    }

    /// Whether `law` holds.
    pub fn has(self, law: Law) -> bool {
        self.laws().contains(&law)
    }
}

/// How a reduction combines elements.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ReduceOp {
    /// The sum; 0 of nothing. f16 and bf16 accumulate in f32.
    Sum,
    /// The product; 1 of nothing.
    Prod,
    /// The largest; NaN if any is; the type's least value (-inf) of nothing.
    Max,
    /// The smallest; NaN if any is; the type's greatest value (+inf) of nothing.
    Min,
    /// The index (i64) of the first largest element along one axis; a NaN counts as largest; 0 of nothing.
    ArgMax,
    /// The index (i64) of the first smallest element along one axis; a NaN counts as smallest; 0 of nothing.
    ArgMin,
}

impl ReduceOp {
    /// Every reduction.
    pub const ALL: [ReduceOp; 6] =
        [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min, ReduceOp::ArgMax, ReduceOp::ArgMin];

    /// The name in text forms.
    pub fn mnemonic(self) -> &'static str {
        match self {
            ReduceOp::Sum => "sum",
            ReduceOp::Prod => "prod",
            ReduceOp::Max => "max",
            ReduceOp::Min => "min",
            ReduceOp::ArgMax => "argmax",
            ReduceOp::ArgMin => "argmin",
        }
    }

    /// The reduction of that name.
    pub fn from_mnemonic(name: &str) -> Option<ReduceOp> {
        ReduceOp::ALL.into_iter().find(|op| op.mnemonic() == name)
    }

    /// Whether the result is an index rather than a value.
    pub fn is_arg(self) -> bool {
        matches!(self, ReduceOp::ArgMax | ReduceOp::ArgMin)
    }

    /// The result of reducing no elements of type `dtype` (an i64 index for the arg reductions).
    pub fn identity(self, dtype: DType) -> Literal {
        let extreme = |float: f64, int32: i64, int64: i64, byte: i64| match dtype {
            DType::F32 | DType::F64 | DType::F16 | DType::Bf16 => Literal::from_f64(dtype, float),
            DType::I32 => Literal::from_i64(dtype, int32),
            DType::I64 => Literal::from_i64(dtype, int64),
            DType::U8 | DType::Bool => Literal::from_i64(dtype, byte),
        };
        match self {
            ReduceOp::Sum => Literal::from_i64(dtype, 0),
            ReduceOp::Prod => Literal::from_i64(dtype, 1),
            ReduceOp::Max => extreme(f64::NEG_INFINITY, i64::from(i32::MIN), i64::MIN, 0),
            ReduceOp::Min => {
                let byte = if dtype == DType::Bool { 1 } else { 255 };
                extreme(f64::INFINITY, i64::from(i32::MAX), i64::MAX, byte)
            }
            ReduceOp::ArgMax | ReduceOp::ArgMin => Literal::from_i64(DType::I64, 0),
        }
    }
}

/// The group of an op, which decides how rewriting treats it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// No operands.
    Leaf,
    /// One result element from the operands' elements at the same point.
    Elementwise,
    /// Only moves elements: an index map (gather: a data-dependent one).
    Movement,
    /// Combines elements along axes.
    Reduce,
    /// A sum of products.
    Contract,
    /// Holds a body graph.
    Control,
}

/// The order in which a scan visits positions along the scanned axis.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Direction {
    /// From position 0 upwards.
    #[default]
    Forward,
    /// From the last position downwards; results keep their positions.
    Reverse,
}

/// One sliced axis: positions `start`, `start + step`, …, `length` of them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SliceAxis {
    /// The first position.
    pub start: Dim,
    /// The number of positions taken.
    pub length: Dim,
    /// The distance between positions, at least 1.
    pub step: i64,
}

macro_rules! define_ops {
    ($($(#[doc = $doc:literal])+ $variant:ident $({ $($(#[doc = $field_doc:literal])+ $field:ident : $ty:ty),* $(,)? })? $(($payload:ty))? ,
        $group:ident, $mnemonic:expr, $arity:expr;)*) => {
        /// A node of the tensor graph.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Op {
            $($(#[doc = $doc])+ $variant $({ $($(#[doc = $field_doc])+ $field: $ty),* })? $(($payload))?,)*
        }

        /// A row of the structural part of the table, for generated documentation.
        #[derive(Clone, Copy, Debug)]
        pub struct OpRow {
            /// The name of the enum variant.
            pub variant: &'static str,
            /// The name in text forms; for elementwise ops and reductions, the payload's.
            pub mnemonic: &'static str,
            /// The op's group.
            pub group: Group,
            /// What the op computes.
            pub doc: &'static str,
        }

        /// The structural rows, in table order.
        pub const OP_ROWS: &[OpRow] = &[$(OpRow {
            variant: stringify!($variant), mnemonic: $mnemonic, group: Group::$group, doc: concat!($($doc),+),
        }),*];

        impl Op {
            /// The op's group.
            pub fn group(&self) -> Group {
                match self { $(define_ops!(@pattern $variant $({ $($field),* })? $(($payload))?) => Group::$group,)* }
            }

            /// The name in text forms.
            // The rows of the payload-named ops stay in the match for the others' sake, shadowed by the arms above.
            #[allow(unreachable_patterns)]
            pub fn mnemonic(&self) -> &'static str {
                match self {
                    Op::Scalar(op) => op.mnemonic(),
                    Op::Reduce { op, .. } => op.mnemonic(),
                    $(define_ops!(@pattern $variant $({ $($field),* })? $(($payload))?) => $mnemonic,)*
                }
            }

            /// The number of operands where the op fixes it; `None` for concat and scan.
            #[allow(unreachable_patterns)]
            pub fn arity(&self) -> Option<usize> {
                match self {
                    Op::Scalar(op) => Some(op.arity()),
                    $(define_ops!(@pattern $variant $({ $($field),* })? $(($payload))?) => $arity,)*
                }
            }
        }
    };
    (@pattern $variant:ident { $($field:ident),* }) => { Op::$variant { .. } };
    (@pattern $variant:ident ($payload:ty)) => { Op::$variant(_) };
}

define_ops! {
    /// A scalar constant (rank 0).
    Constant { /// The value.
        value: Literal }, Leaf, "constant", Some(0);
    /// The coordinate along one axis, as an integer or float.
    Iota { /// The shape of the result.
        shape: Shape, /// The axis whose coordinate is taken.
        axis: usize, /// The element type of the result.
        dtype: DType }, Leaf, "iota", Some(0);
    /// A function of scalars at every point; all operands have one shape.
    Scalar(ScalarOp), Elementwise, "elementwise", None;
    /// Converts elements: to a float rounding to nearest even, to an integer truncating and saturating (NaN to
    /// 0), between integers wrapping, to bool as "differs from zero".
    Cast { /// The element type of the result.
        dtype: DType }, Elementwise, "cast", Some(1);
    /// The same elements in row-major order under another shape.
    Reshape { /// The shape of the result.
        shape: Shape }, Movement, "reshape", Some(1);
    /// Repeats elements: axis `i` of the operand becomes axis `axes[i]` of the result (ascending); an operand
    /// axis of size 1 is repeated, other result axes are new.
    Broadcast { /// The shape of the result.
        shape: Shape, /// Where each operand axis goes.
        axes: Vec<usize> }, Movement, "broadcast", Some(1);
    /// Permutes axes: axis `i` of the result is axis `permutation[i]` of the operand.
    Transpose { /// Which operand axis each result axis is.
        permutation: Vec<usize> }, Movement, "transpose", Some(1);
    /// Takes regularly spaced positions along every axis.
    Slice { /// One entry an axis.
        axes: Vec<SliceAxis> }, Movement, "slice", Some(1);
    /// Adds `low` positions before and `high` after each axis, filled with a constant.
    Pad { /// Positions before, one entry an axis.
        low: Vec<Dim>, /// Positions after, one entry an axis.
        high: Vec<Dim>, /// What the new positions hold.
        value: Literal }, Movement, "pad", Some(1);
    /// Joins operands along one axis.
    Concat { /// The axis.
        axis: usize }, Movement, "concat", None;
    /// Reverses the order along axes.
    Reverse { /// The axes, ascending.
        axes: Vec<usize> }, Movement, "reverse", Some(1);
    /// Picks rows along one axis of the first operand by the integers of the second, whose axes replace the
    /// gathered one; an index out of range is clamped into it, and a row of an empty table is zero.
    Gather { /// The axis of the first operand that is indexed.
        axis: usize }, Movement, "gather", Some(2);
    /// Combines elements along axes, which disappear.
    Reduce { /// How elements combine.
        op: ReduceOp, /// The axes, ascending.
        axes: Vec<usize> }, Reduce, "reduce", Some(1);
    /// The general dot product: sums products over paired axes. The result has the batch axes, then the other
    /// axes of the first operand, then those of the second. f16 and bf16 accumulate in f32.
    Contract { /// Pairs of axes kept once.
        batch: Vec<(usize, usize)>, /// Pairs of axes summed over.
        axes: Vec<(usize, usize)> }, Contract, "contract", Some(2);
    /// A loop over the leading axis with carried state; see [`Scan`].
    Scan(Box<Scan>), Control, "scan", None;
}
