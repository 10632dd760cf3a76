//! A PTX module as written, with register names resolved.

/// What a register holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Class {
    /// `.pred`
    Predicate,
    /// `.b16` and the narrower and equal types.
    Bits16,
    /// `.b32`
    Bits32,
    /// `.b64`
    Bits64,
}

/// A register: its class and its position among the entry's registers of the same file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Register {
    pub class: Class,
    /// Predicates have a file of their own; all others share one.
    pub slot: u32,
}

/// A constant as written.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Literal {
    /// An integer; negative ones as two's complement.
    Integer(u64),
    /// `0f…`: the bits of an f32.
    Single(u32),
    /// `0d…` or a decimal fraction.
    Double(f64),
}

/// An operand of an instruction.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Operand<'a> {
    Register(Register),
    /// A source predicate that is negated.
    Negated(Register),
    /// `%tid.x` and the like.
    Special(&'a str),
    /// A label, variable or parameter.
    Symbol(&'a str),
    Literal(Literal),
    /// `[base + offset]`.
    Address {
        base: Box<Operand<'a>>,
        offset: i64,
    },
    /// `{a, b, …}`.
    Vector(Vec<Operand<'a>>),
    /// `a|b`, two results.
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    /// `_`, a result that nobody wants.
    Sink,
}

/// An instruction as written.
#[derive(Clone, Debug)]
pub(super) struct Statement<'a> {
    pub line: u32,
    /// The predicate that guards it, and whether that is negated.
    pub guard: Option<(Register, bool)>,
    pub opcode: &'a str,
    pub operands: Vec<Operand<'a>>,
    /// The whole of it, for messages.
    pub text: String,
}

/// Where a variable lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum VariableSpace {
    Global,
    Constant,
    Shared,
    Local,
    /// Of a kernel's parameters.
    Parameter,
}

/// A declared variable or parameter.
#[derive(Clone, Debug)]
pub(super) struct Variable<'a> {
    pub name: &'a str,
    pub space: VariableSpace,
    pub bytes: u64,
    pub alignment: u64,
    /// The initial bytes, where there are any.
    pub initial: Option<Vec<u8>>,
    /// `extern … []`: dynamic shared memory.
    pub dynamic: bool,
}

/// A kernel as written.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    pub name: &'a str,
    pub line: u32,
    pub parameters: Vec<Variable<'a>>,
    pub variables: Vec<Variable<'a>>,
    pub statements: Vec<Statement<'a>>,
    /// Labels and the statement that each stands before.
    pub labels: Vec<(&'a str, usize)>,
    /// `.branchtargets` lists by label.
    pub targets: Vec<(&'a str, Vec<&'a str>)>,
    /// Registers of each file: predicates, others.
    pub registers: [u32; 2],
    /// `.maxntid` or `.reqntid`, and whether it must be met exactly.
    pub block: Option<([u32; 3], bool)>,
    /// `.reqnctapercluster`.
    pub cluster: Option<[u32; 3]>,
    /// `.maxclusterrank`.
    pub most_clustered: Option<u32>,
    /// `.explicitcluster`.
    pub is_explicit: bool,
}

/// A module as written.
#[derive(Clone, Debug, Default)]
pub(super) struct Module<'a> {
    /// `sm_90` of `.target`.
    pub target: &'a str,
    pub variables: Vec<Variable<'a>>,
    pub entries: Vec<Entry<'a>>,
}
