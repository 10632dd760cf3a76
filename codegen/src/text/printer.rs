//! Printing.

use std::fmt::{self, Write};

use fuse_ir::expr::{Atom, Expr};

use crate::kernel_ir::{
    Access, BinaryOp, Condition, Conversion, Function, GroupFactor, Mapping, MatrixFactors, Operation,
    ParameterId, SharedId, Statement, Type, UnaryOp, ValueId,
};

/// The spelling of a closed set of operations, for both directions.
pub(crate) trait Names: Sized + Copy + PartialEq + 'static {
    /// Every member with its name.
    const NAMES: &'static [(Self, &'static str)];

    /// The name.
    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(x, _)| *x == self).map_or("?", |(_, name)| name)
    }

    /// The member of that name.
    fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, n)| *n == name).map(|(x, _)| *x)
    }
}

impl Names for UnaryOp {
    const NAMES: &'static [(Self, &'static str)] = &[
        (UnaryOp::Neg, "neg"),
        (UnaryOp::Abs, "abs"),
        (UnaryOp::Sqrt, "sqrt"),
        (UnaryOp::Floor, "floor"),
        (UnaryOp::Ceil, "ceil"),
        (UnaryOp::Trunc, "trunc"),
        (UnaryOp::Nearest, "nearest"),
        (UnaryOp::Not, "not"),
    ];
}

impl Names for BinaryOp {
    const NAMES: &'static [(Self, &'static str)] = &[
        (BinaryOp::Add, "add"),
        (BinaryOp::Sub, "sub"),
        (BinaryOp::Mul, "mul"),
        (BinaryOp::Div, "div"),
        (BinaryOp::Min, "min"),
        (BinaryOp::Max, "max"),
        (BinaryOp::IntDiv, "int_div"),
        (BinaryOp::IntRem, "int_rem"),
        (BinaryOp::And, "and"),
        (BinaryOp::Or, "or"),
        (BinaryOp::Xor, "xor"),
        (BinaryOp::ShiftLeft, "shift_left"),
        (BinaryOp::ShiftRightLogical, "shift_right_logical"),
        (BinaryOp::ShiftRightArithmetic, "shift_right_arithmetic"),
    ];
}

impl Names for Condition {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Condition::Eq, "eq"),
        (Condition::Ne, "ne"),
        (Condition::Lt, "lt"),
        (Condition::Le, "le"),
        (Condition::Gt, "gt"),
        (Condition::Ge, "ge"),
    ];
}

impl Names for MatrixFactors {
    const NAMES: &'static [(Self, &'static str)] =
        &[(MatrixFactors::F16, "f16"), (MatrixFactors::Bf16, "bf16"), (MatrixFactors::Tf32, "tf32")];
}

impl Names for Conversion {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Conversion::FloatToFloat, "float_to_float"),
        (Conversion::IntToFloat, "int_to_float"),
        (Conversion::FloatToInt, "float_to_int"),
        (Conversion::IntToInt, "int_to_int"),
        (Conversion::ZeroExtend, "zero_extend"),
        (Conversion::Bitcast, "bitcast"),
        (Conversion::BoolToInt, "bool_to_int"),
        (Conversion::HalfToFloat, "half_to_float"),
    ];
}

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl fmt::Display for ParameterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

impl fmt::Display for SharedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.lane.name())?;
        if self.lanes != 1 { write!(f, "x{}", self.lanes) } else { Ok(()) }
    }
}

impl fmt::Display for GroupFactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transposed = if self.transposed { "transposed " } else { "" };
        write!(f, "{transposed}{}[{}]", self.array, self.index)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::Constant(literal) => write!(f, "constant {literal}"),
            Operation::Symbol(position) => write!(f, "symbol {position}"),
            Operation::WorkBegin => f.write_str("work_begin"),
            Operation::WorkEnd => f.write_str("work_end"),
            Operation::WorkItem => f.write_str("work_item"),
            Operation::Block => f.write_str("block"),
            Operation::Blocks => f.write_str("blocks"),
            Operation::Thread => f.write_str("thread"),
            Operation::Load { buffer, index } => write!(f, "load {buffer}[{index}]"),
            Operation::LoadShared { array, index } => write!(f, "load {array}[{index}]"),
            Operation::LoadMatrices { array, index, transposed } => {
                let name = if *transposed { "load_transposed" } else { "load_matrices" };
                write!(f, "{name} {array}[{index}]")
            }
            Operation::MatrixFma { factors, left, right, sum } => {
                write!(f, "matrix_fma {} {left}, {right}, {sum}", factors.name())
            }
            Operation::GroupFma { factors, left, right, sum } => {
                write!(f, "group_fma {} {left}, {right}, {sum}", factors.name())
            }
            Operation::Pair(dtype, x, y) => write!(f, "pair {dtype} {x}, {y}"),
            Operation::Tf32(x) => write!(f, "tf32 {x}"),
            Operation::Butterfly(x, distance) => write!(f, "butterfly {x}, {distance}"),
            Operation::Unary(op, x) => write!(f, "{} {x}", op.name()),
            Operation::Binary(op, x, y) => write!(f, "{} {x}, {y}", op.name()),
            Operation::Fma(x, y, z) => write!(f, "fma {x}, {y}, {z}"),
            Operation::Compare(condition, x, y) => write!(f, "compare {} {x}, {y}", condition.name()),
            Operation::Select(c, x, y) => write!(f, "select {c}, {x}, {y}"),
            Operation::Convert(conversion, x) => write!(f, "convert {} {x}", conversion.name()),
            Operation::Splat(x) => write!(f, "splat {x}"),
            Operation::LaneIndex => f.write_str("lane_index"),
            Operation::Extract(x, lane) => write!(f, "extract {x}, {lane}"),
            Operation::Insert(x, y, lane) => write!(f, "insert {x}, {y}, {lane}"),
        }
    }
}

/// A name that the lexer reads as one word, or a quoted string.
fn word(name: &str) -> String {
    let mut characters = name.chars();
    let plain = characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    if plain { name.to_owned() } else { format!("{name:?}") }
}

/// As [`Expr`] displays itself, with names quoted that are not plain words.
fn expression(e: &Expr) -> String {
    let (constants, factored): (Vec<_>, Vec<_>) = e.terms().partition(|(factors, _)| factors.is_empty());
    let mut out = String::new();
    for (factors, coefficient) in factored.into_iter().chain(constants) {
        let sign = match (out.is_empty(), coefficient < 0) {
            (true, false) => "",
            (true, true) => "-",
            (false, false) => " + ",
            (false, true) => " - ",
        };
        let magnitude = coefficient.unsigned_abs();
        let number = (magnitude != 1 || factors.is_empty()).then(|| magnitude.to_string());
        let product: Vec<_> = number.into_iter().chain(factors.iter().map(atom)).collect();
        let _ = write!(out, "{sign}{}", product.join("*"));
    }
    if out.is_empty() { "0".into() } else { out }
}

fn atom(atom: &Atom) -> String {
    let call = |name: &str, a: &Expr, b: &Expr| format!("{name}({}, {})", expression(a), expression(b));
    match atom {
        Atom::Axis(axis) => axis.to_string(),
        Atom::Symbol(symbol) => word(symbol.name()),
        Atom::FloorDiv(a, b) => call("floordiv", a, b),
        Atom::Mod(a, b) => call("mod", a, b),
        Atom::Min(a, b) => call("min", a, b),
        Atom::Max(a, b) => call("max", a, b),
    }
}

fn ty(function: &Function, value: ValueId) -> String {
    function.types.get(value.0 as usize).map_or_else(|| "?".into(), |t| t.to_string())
}

/// The first line of a statement, without its body.
pub(crate) fn statement_head(function: &Function, statement: &Statement) -> String {
    match statement {
        Statement::Let { value, operation } => format!("{value}: {} = {operation}", ty(function, *value)),
        Statement::Store { buffer, index, value } => format!("store {buffer}[{index}] = {value}"),
        Statement::StoreShared { array, index, value } => format!("store {array}[{index}] = {value}"),
        Statement::StartCopy { array, to, buffer, from, bytes, inside } => {
            format!("copy {array}[{to}] = {buffer}[{from}], {bytes} if {inside}")
        }
        Statement::CommitCopies => "commit_copies".into(),
        Statement::AwaitCopies { pending } => format!("await_copies {pending}"),
        Statement::Barrier => "barrier".into(),
        Statement::GridBarrier => "grid_barrier".into(),
        Statement::StoreCluster { array, index, value, block } => {
            format!("store {array}[{index}] of {block} = {value}")
        }
        Statement::ClusterArrive => "cluster_arrive".into(),
        Statement::ClusterWait => "cluster_wait".into(),
        Statement::Prefetch { buffer, index } => format!("prefetch {buffer}[{index}]"),
        Statement::Product(p) => {
            let columns =
                p.columns.iter().map(|c| format!("{}[{}] to {}[{}]", c.panel, c.at, c.to, c.to_index));
            format!(
                "product {} rows {}[{}] step {} sum {} panels {} by {} {} step {} ({})",
                p.rows,
                p.left,
                p.from,
                p.left_step,
                p.count,
                p.width,
                p.layout.along,
                p.layout.across,
                p.to_step,
                columns.collect::<Vec<_>>().join(", ")
            )
        }
        Statement::For { counter, begin, end, step, carried, exchanged, .. } => {
            let mut line = format!("for {counter} = {begin} to {end} step {step} ");
            if !carried.is_empty() {
                let carried: Vec<_> = carried
                    .iter()
                    .map(|c| {
                        let ty = ty(function, c.value);
                        format!("{}: {ty} = {} next {} result {}", c.value, c.init, c.next, c.result)
                    })
                    .collect();
                let _ = write!(line, "carry ({}) ", carried.join(", "));
            }
            if !exchanged.is_empty() {
                let pairs: Vec<_> = exchanged.iter().map(|(a, b)| format!("{a} {b}")).collect();
                let _ = write!(line, "exchange ({}) ", pairs.join(", "));
            }
            line + "{"
        }
        Statement::If { condition, .. } => format!("if {condition} {{"),
    }
}

fn block(function: &Function, body: &[Statement], indent: usize, out: &mut String) {
    let pad = "  ".repeat(indent);
    for statement in body {
        let _ = writeln!(out, "{pad}{}", statement_head(function, statement));
        if let Statement::For { body, .. } | Statement::If { body, .. } = statement {
            block(function, body, indent + 1, out);
            let _ = writeln!(out, "{pad}}}");
        }
    }
}

/// The text form of a function.
pub fn print(function: &Function) -> String {
    let mut out = String::new();
    let mapping = match function.mapping {
        Mapping::Range => "range".to_owned(),
        Mapping::Threads { block } => format!("threads {block}"),
        Mapping::Blocks { threads } => format!("blocks {threads}"),
        Mapping::Resident { threads } => format!("resident {threads}"),
        Mapping::Clusters { threads, blocks } => format!("clusters {blocks} of {threads}"),
    };
    let _ = writeln!(out, "function {} {mapping} {{", word(&function.name));
    for (i, buffer) in function.buffers.iter().enumerate() {
        let access = match buffer.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::ReadWrite => "update",
        };
        let (name, dtype, id) = (&buffer.name, buffer.dtype, buffer.buffer);
        let _ = write!(out, "  {access} p{i} {name:?}: {dtype} = {id}");
        if buffer.divisor > 1 {
            let _ = write!(out, " multiple {}", buffer.divisor);
        }
        out.push('\n');
    }
    for (i, array) in function.shared.iter().enumerate() {
        let (name, lane, elements) = (&array.name, array.lane.name(), array.elements);
        let _ = writeln!(out, "  shared s{i} {name:?}: {lane} x {elements}");
    }
    if !function.symbols.is_empty() {
        let names: Vec<_> = function.symbols.iter().map(|s| word(s.name())).collect();
        let _ = writeln!(out, "  symbols {}", names.join(", "));
    }
    let _ = writeln!(out, "  work {}", expression(&function.work));
    block(function, &function.body, 1, &mut out);
    out.push_str("}\n");
    out
}
