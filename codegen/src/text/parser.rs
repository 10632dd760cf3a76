//! Parsing by recursive descent.

use fuse_ir::expr::{Atom, Dim, Expr, Symbol};
use fuse_ir::kernel::BufferId;
use fuse_ir::{DType, Literal};

use super::lexer::{Kind, TextError, Token, tokens};
use super::printer::Names;
use crate::builder::memory_type;
use crate::kernel_ir::{
    Access, BinaryOp, BufferParameter, Carried, Condition, Conversion, Function, GroupFactor, LaneType,
    Mapping, MatrixFactors, Operation, PanelColumns, PanelLayout, PanelProduct, ParameterId, SharedArray,
    SharedId, Statement, Type, UnaryOp, ValueId,
};

/// Blocks and expressions nest no deeper, so that a hostile text cannot exhaust the stack.
const MAX_NESTING: usize = 200;

/// Reads one function. The result has the right form; whether it is valid is [`crate::verify`]'s to say.
///
/// # Errors
/// The first place where the text is malformed.
pub fn parse(text: &str) -> Result<Function, TextError> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, types: Vec::new(), nesting: 0 };
    let function = parser.function()?;
    match parser.peek() {
        Kind::End => Ok(function),
        other => parser.error(format!("expected the end of the text, found {other}")),
    }
}

/// An atom of two expressions.
type Compound = fn(Box<Expr>, Box<Expr>) -> Atom;

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    types: Vec<Option<Type>>,
    nesting: usize,
}

type Parsed<T> = Result<T, TextError>;

impl Parser {
    fn token(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn peek(&self) -> &Kind {
        &self.token().kind
    }

    fn next(&mut self) -> Kind {
        let kind = self.peek().clone();
        self.at += 1;
        kind
    }

    fn error<T>(&self, message: impl Into<String>) -> Parsed<T> {
        let token = self.token();
        Err(TextError { line: token.line, column: token.column, message: message.into() })
    }

    fn accept(&mut self, c: char) -> bool {
        let found = *self.peek() == Kind::Punctuation(c);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, c: char) -> Parsed<()> {
        if self.accept(c) { Ok(()) } else { self.error(format!("expected `{c}`, found {}", self.peek())) }
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Kind::Word(w) if w == word);
        self.at += usize::from(found);
        found
    }

    fn expect_word(&mut self, word: &str) -> Parsed<()> {
        if self.accept_word(word) {
            Ok(())
        } else {
            self.error(format!("expected `{word}`, found {}", self.peek()))
        }
    }

    fn word(&mut self, what: &str) -> Parsed<String> {
        match self.peek().clone() {
            Kind::Word(word) => {
                self.at += 1;
                Ok(word)
            }
            other => self.error(format!("expected {what}, found {other}")),
        }
    }

    fn name(&mut self, what: &str) -> Parsed<String> {
        match self.peek().clone() {
            Kind::Word(name) | Kind::Quoted(name) => {
                self.at += 1;
                Ok(name)
            }
            other => self.error(format!("expected {what}, found {other}")),
        }
    }

    fn number<T: std::str::FromStr>(&mut self, what: &str) -> Parsed<T> {
        let parsed = match self.peek() {
            Kind::Number(text) => text.parse().ok(),
            _ => None,
        };
        match parsed {
            Some(number) => {
                self.at += 1;
                Ok(number)
            }
            None => self.error(format!("expected {what}, found {}", self.peek())),
        }
    }

    /// A word of one letter and a number, such as `v12`.
    fn numbered(&mut self, letter: char, what: &str) -> Parsed<u32> {
        let parsed = match self.peek() {
            Kind::Word(word) => word.strip_prefix(letter).and_then(|digits| digits.parse().ok()),
            _ => None,
        };
        match parsed {
            Some(number) => {
                self.at += 1;
                Ok(number)
            }
            None => self.error(format!("expected {what}, found {}", self.peek())),
        }
    }

    fn value(&mut self) -> Parsed<ValueId> {
        self.numbered('v', "a value such as `v0`").map(ValueId)
    }

    fn parameter(&mut self) -> Parsed<ParameterId> {
        self.numbered('p', "a buffer parameter such as `p0`").map(ParameterId)
    }

    fn shared_id(&mut self) -> Parsed<SharedId> {
        self.numbered('s', "a shared array such as `s0`").map(SharedId)
    }

    /// `[v0]`, a position.
    fn position(&mut self) -> Parsed<ValueId> {
        self.expect('[')?;
        let index = self.value()?;
        self.expect(']')?;
        Ok(index)
    }

    fn lane(&mut self) -> Parsed<u8> {
        self.number("the number of a lane")
    }

    fn ty(&mut self) -> Parsed<Type> {
        let word = self.word("a type")?;
        let (lane, lanes) = match word.rsplit_once('x') {
            Some((lane, lanes)) => (lane.to_owned(), lanes.parse().ok()),
            None => (word.clone(), Some(1)),
        };
        let lane = [LaneType::F32, LaneType::F64, LaneType::I32, LaneType::I64, LaneType::Bool]
            .into_iter()
            .find(|t| t.name() == lane);
        match (lane, lanes) {
            (Some(lane), Some(lanes)) => Ok(Type { lane, lanes }),
            _ => {
                self.at -= 1;
                self.error(format!("`{word}` is not a type"))
            }
        }
    }

    /// Records the type of a value that is defined here.
    fn define(&mut self, value: ValueId, ty: Type) -> Parsed<()> {
        let at = value.0 as usize;
        if at >= self.tokens.len() {
            // Each definition takes tokens, so a larger number leaves values undefined.
            return self.error(format!("{value} is numbered beyond the values of the function"));
        }
        if self.types.len() <= at {
            self.types.resize(at + 1, None);
        }
        if self.types[at].replace(ty).is_some() {
            return self.error(format!("{value} is defined twice"));
        }
        Ok(())
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.nesting >= MAX_NESTING {
            return self.error("nested too deeply");
        }
        self.nesting += 1;
        let result = parse(self);
        self.nesting -= 1;
        result
    }

    fn function(&mut self) -> Parsed<Function> {
        self.expect_word("function")?;
        let name = self.name("a name")?;
        let mapping = if self.accept_word("threads") {
            Mapping::Threads { block: self.number("the number of threads")? }
        } else if self.accept_word("blocks") {
            Mapping::Blocks { threads: self.number("the number of threads")? }
        } else if self.accept_word("resident") {
            Mapping::Resident { threads: self.number("the number of threads")? }
        } else if self.accept_word("clusters") {
            let blocks = self.number("the number of blocks")?;
            self.expect_word("of")?;
            Mapping::Clusters { threads: self.number("the number of threads")?, blocks }
        } else {
            self.expect_word("range")?;
            Mapping::Range
        };
        self.expect('{')?;
        let buffers = self.buffers()?;
        let shared = self.shared()?;
        let mut symbols = Vec::new();
        if self.accept_word("symbols") {
            symbols.push(Symbol::new(self.name("a symbol")?));
            while self.accept(',') {
                symbols.push(Symbol::new(self.name("a symbol")?));
            }
        }
        self.expect_word("work")?;
        let work = self.expression()?;
        let body = self.block()?;
        let mut types = Vec::with_capacity(self.types.len());
        for (i, ty) in std::mem::take(&mut self.types).into_iter().enumerate() {
            match ty {
                Some(ty) => types.push(ty),
                None => return self.error(format!("v{i} is never defined")),
            }
        }
        Ok(Function { name, buffers, symbols, work, mapping, shared, types, body })
    }

    fn buffers(&mut self) -> Parsed<Vec<BufferParameter>> {
        let mut buffers = Vec::new();
        loop {
            let access = if self.accept_word("read") {
                Access::Read
            } else if self.accept_word("write") {
                Access::Write
            } else if self.accept_word("update") {
                Access::ReadWrite
            } else {
                return Ok(buffers);
            };
            let expected = buffers.len();
            if self.parameter()?.0 as usize != expected {
                self.at -= 1;
                return self.error(format!("expected `p{expected}`, buffer parameters count up"));
            }
            let name = self.name("a name")?;
            self.expect(':')?;
            let dtype = self.dtype()?;
            self.expect('=')?;
            let buffer = BufferId(self.numbered('b', "a buffer such as `b0`")?);
            let mut divisor = 1;
            if self.accept_word("multiple") {
                divisor = self.number("1, 2, 4, 8 or 16")?;
            }
            buffers.push(BufferParameter { name, dtype, access, buffer, divisor });
        }
    }

    fn shared(&mut self) -> Parsed<Vec<SharedArray>> {
        let mut shared = Vec::new();
        while self.accept_word("shared") {
            let expected = shared.len();
            if self.shared_id()?.0 as usize != expected {
                self.at -= 1;
                return self.error(format!("expected `s{expected}`, shared arrays count up"));
            }
            let name = self.name("a name")?;
            self.expect(':')?;
            let lane = self.ty()?.lane;
            self.expect_word("x")?;
            shared.push(SharedArray { name, lane, elements: self.number("a number of elements")? });
        }
        Ok(shared)
    }

    /// Statements up to and with the closing brace.
    fn block(&mut self) -> Parsed<Vec<Statement>> {
        let mut body = Vec::new();
        while !self.accept('}') {
            body.push(self.statement()?);
        }
        Ok(body)
    }

    fn statement(&mut self) -> Parsed<Statement> {
        if self.accept_word("store") {
            if self.at_shared() {
                let (array, index) = (self.shared_id()?, self.position()?);
                if self.accept_word("of") {
                    let block = self.value()?;
                    self.expect('=')?;
                    return Ok(Statement::StoreCluster { array, index, value: self.value()?, block });
                }
                self.expect('=')?;
                return Ok(Statement::StoreShared { array, index, value: self.value()? });
            }
            let (buffer, index) = (self.parameter()?, self.position()?);
            self.expect('=')?;
            return Ok(Statement::Store { buffer, index, value: self.value()? });
        }
        if self.accept_word("prefetch") {
            return Ok(Statement::Prefetch { buffer: self.parameter()?, index: self.position()? });
        }
        if self.accept_word("product") {
            return Ok(Statement::Product(self.panel_product()?));
        }
        if self.accept_word("copy") {
            let (array, to) = (self.shared_id()?, self.position()?);
            self.expect('=')?;
            let (buffer, from) = (self.parameter()?, self.position()?);
            self.expect(',')?;
            let bytes = self.number("the number of bytes")?;
            self.expect_word("if")?;
            return Ok(Statement::StartCopy { array, to, buffer, from, bytes, inside: self.value()? });
        }
        if self.accept_word("commit_copies") {
            return Ok(Statement::CommitCopies);
        }
        if self.accept_word("await_copies") {
            return Ok(Statement::AwaitCopies { pending: self.number("the number of groups")? });
        }
        if self.accept_word("barrier") {
            return Ok(Statement::Barrier);
        }
        if self.accept_word("grid_barrier") {
            return Ok(Statement::GridBarrier);
        }
        if self.accept_word("cluster_arrive") {
            return Ok(Statement::ClusterArrive);
        }
        if self.accept_word("cluster_wait") {
            return Ok(Statement::ClusterWait);
        }
        if self.accept_word("for") {
            return self.nested(Self::counted_loop);
        }
        if self.accept_word("if") {
            let condition = self.value()?;
            self.expect('{')?;
            return self.nested(|p| Ok(Statement::If { condition, body: p.block()? }));
        }
        let value = self.value()?;
        self.expect(':')?;
        let ty = self.ty()?;
        self.define(value, ty)?;
        self.expect('=')?;
        Ok(Statement::Let { value, operation: self.operation(ty)? })
    }

    fn panel_product(&mut self) -> Parsed<PanelProduct> {
        let rows = self.value()?;
        self.expect_word("rows")?;
        let (left, from) = (self.parameter()?, self.position()?);
        self.expect_word("step")?;
        let left_step = self.value()?;
        self.expect_word("sum")?;
        let count = self.value()?;
        self.expect_word("panels")?;
        let width = self.number("the columns of a panel")?;
        self.expect_word("by")?;
        let along = self.number("the distance along a sum")?;
        let across = self.number("the distance of columns")?;
        let layout = PanelLayout { along, across };
        self.expect_word("step")?;
        let to_step = self.value()?;
        self.expect('(')?;
        let mut columns = Vec::new();
        loop {
            let (panel, at) = (self.parameter()?, self.position()?);
            self.expect_word("to")?;
            let (to, to_index) = (self.parameter()?, self.position()?);
            columns.push(PanelColumns { panel, at, to, to_index });
            if !self.accept(',') {
                break;
            }
        }
        self.expect(')')?;
        Ok(PanelProduct { rows, count, left, from, left_step, width, layout, to_step, columns })
    }

    /// Whether a shared array is named here.
    fn at_shared(&self) -> bool {
        matches!(self.peek(), Kind::Word(word) if word.starts_with('s'))
    }

    fn counted_loop(&mut self) -> Parsed<Statement> {
        let counter = self.value()?;
        self.define(counter, Type::scalar(LaneType::I64))?;
        self.expect('=')?;
        let begin = self.value()?;
        self.expect_word("to")?;
        let end = self.value()?;
        self.expect_word("step")?;
        let step = self.number("a step")?;
        let mut carried = Vec::new();
        if self.accept_word("carry") {
            self.expect('(')?;
            loop {
                let value = self.value()?;
                self.expect(':')?;
                let ty = self.ty()?;
                self.define(value, ty)?;
                self.expect('=')?;
                let init = self.value()?;
                self.expect_word("next")?;
                let next = self.value()?;
                self.expect_word("result")?;
                let result = self.value()?;
                self.define(result, ty)?;
                carried.push(Carried { value, init, next, result });
                if !self.accept(',') {
                    break;
                }
            }
            self.expect(')')?;
        }
        let mut exchanged = Vec::new();
        if self.accept_word("exchange") {
            self.expect('(')?;
            loop {
                exchanged.push((self.parameter()?, self.parameter()?));
                if !self.accept(',') {
                    break;
                }
            }
            self.expect(')')?;
        }
        self.expect('{')?;
        let body = self.block()?;
        Ok(Statement::For { counter, begin, end, step, carried, exchanged, body })
    }

    fn operation(&mut self, ty: Type) -> Parsed<Operation> {
        let name = self.word("an operation")?;
        if let Some(op) = UnaryOp::from_name(&name) {
            return Ok(Operation::Unary(op, self.value()?));
        }
        if let Some(op) = BinaryOp::from_name(&name) {
            let (x, y) = self.pair()?;
            return Ok(Operation::Binary(op, x, y));
        }
        Ok(match name.as_str() {
            "constant" => Operation::Constant(self.literal(memory_type(ty.lane))?),
            "symbol" => Operation::Symbol(self.number("the position of a symbol")?),
            "work_begin" => Operation::WorkBegin,
            "work_end" => Operation::WorkEnd,
            "work_item" => Operation::WorkItem,
            "block" => Operation::Block,
            "blocks" => Operation::Blocks,
            "thread" => Operation::Thread,
            "lane_index" => Operation::LaneIndex,
            "load" if self.at_shared() => {
                Operation::LoadShared { array: self.shared_id()?, index: self.position()? }
            }
            "load" => Operation::Load { buffer: self.parameter()?, index: self.position()? },
            "butterfly" => {
                let x = self.value()?;
                self.expect(',')?;
                Operation::Butterfly(x, self.number("a distance between threads")?)
            }
            "fma" => {
                let (x, y, z) = self.triple()?;
                Operation::Fma(x, y, z)
            }
            "load_matrices" | "load_transposed" => {
                let transposed = name == "load_transposed";
                Operation::LoadMatrices { array: self.shared_id()?, index: self.position()?, transposed }
            }
            "matrix_fma" => {
                let factors = self.named::<MatrixFactors>("a type of factors")?;
                let (left, right, sum) = self.triple()?;
                Operation::MatrixFma { factors, left, right, sum }
            }
            "group_fma" => {
                let factors = self.named::<MatrixFactors>("a type of factors")?;
                let left = self.group_factor()?;
                self.expect(',')?;
                let right = self.group_factor()?;
                self.expect(',')?;
                Operation::GroupFma { factors, left, right, sum: self.value()? }
            }
            "pair" => {
                let dtype = self.dtype()?;
                let (x, y) = self.pair()?;
                Operation::Pair(dtype, x, y)
            }
            "tf32" => Operation::Tf32(self.value()?),
            "select" => {
                let (x, y, z) = self.triple()?;
                Operation::Select(x, y, z)
            }
            "compare" => {
                let condition = self.named::<Condition>("a condition")?;
                let (x, y) = self.pair()?;
                Operation::Compare(condition, x, y)
            }
            "convert" => {
                let conversion = self.named::<Conversion>("a conversion")?;
                Operation::Convert(conversion, self.value()?)
            }
            "splat" => Operation::Splat(self.value()?),
            "extract" => {
                let x = self.value()?;
                self.expect(',')?;
                Operation::Extract(x, self.lane()?)
            }
            "insert" => {
                let (x, y) = self.pair()?;
                self.expect(',')?;
                Operation::Insert(x, y, self.lane()?)
            }
            _ => {
                self.at -= 1;
                return self.error(format!("`{name}` is not an operation"));
            }
        })
    }

    fn group_factor(&mut self) -> Parsed<GroupFactor> {
        let transposed = self.accept_word("transposed");
        Ok(GroupFactor { array: self.shared_id()?, index: self.position()?, transposed })
    }

    fn dtype(&mut self) -> Parsed<DType> {
        let name = self.word("an element type")?;
        match DType::from_name(&name) {
            Some(dtype) => Ok(dtype),
            None => {
                self.at -= 1;
                self.error(format!("`{name}` is not an element type"))
            }
        }
    }

    fn named<T: Names>(&mut self, what: &str) -> Parsed<T> {
        let name = self.word(what)?;
        match T::from_name(&name) {
            Some(found) => Ok(found),
            None => {
                self.at -= 1;
                self.error(format!("`{name}` is not {what}"))
            }
        }
    }

    fn pair(&mut self) -> Parsed<(ValueId, ValueId)> {
        let x = self.value()?;
        self.expect(',')?;
        Ok((x, self.value()?))
    }

    fn triple(&mut self) -> Parsed<(ValueId, ValueId, ValueId)> {
        let (x, y) = self.pair()?;
        self.expect(',')?;
        Ok((x, y, self.value()?))
    }

    fn literal(&mut self, dtype: DType) -> Parsed<Literal> {
        let negative = self.accept('-');
        let token = self.next();
        let literal = match (&token, dtype) {
            (Kind::Word(w), DType::Bool) if !negative => match w.as_str() {
                "true" => Some(Literal::from_i64(dtype, 1)),
                "false" => Some(Literal::from_i64(dtype, 0)),
                _ => None,
            },
            (Kind::Word(w), DType::F32 | DType::F64) if w == "inf" => {
                Some(Literal::from_f64(dtype, if negative { f64::NEG_INFINITY } else { f64::INFINITY }))
            }
            (Kind::Word(w), DType::F32 | DType::F64) if w == "nan" && !negative => {
                if self.accept(':') {
                    match self.next() {
                        Kind::Number(bits) => bits
                            .strip_prefix("0x")
                            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                            .map(|bits| Literal::from_bits(dtype, bits)),
                        _ => None,
                    }
                } else {
                    Some(Literal::from_f64(dtype, f64::NAN))
                }
            }
            (Kind::Number(digits), _) => {
                number(&format!("{}{digits}", if negative { "-" } else { "" }), dtype)
            }
            _ => None,
        };
        match literal {
            Some(literal) => Ok(literal),
            None => {
                self.at = self.at.saturating_sub(1);
                self.error(format!("expected a constant of type {dtype}, found {token}"))
            }
        }
    }

    /// A sum of products.
    fn expression(&mut self) -> Parsed<Dim> {
        self.nested(|p| {
            let mut sum = if p.accept('-') { -p.product()? } else { p.product()? };
            loop {
                if p.accept('+') {
                    sum = sum + p.product()?;
                } else if p.accept('-') {
                    sum = sum - p.product()?;
                } else {
                    return Ok(sum);
                }
            }
        })
    }

    fn product(&mut self) -> Parsed<Expr> {
        let mut product = self.factor()?;
        while self.accept('*') {
            product = product * self.factor()?;
        }
        Ok(product)
    }

    fn factor(&mut self) -> Parsed<Expr> {
        if let Kind::Number(_) = self.peek() {
            // The magnitude of the least integer does not fit; saturated coefficients are never printed so.
            return self.number::<i64>("an integer").map(Expr::constant);
        }
        let quoted = matches!(self.peek(), Kind::Quoted(_));
        let name = self.name("an expression")?;
        let compound: Option<Compound> = match name.as_str() {
            _ if quoted || *self.peek() != Kind::Punctuation('(') => None,
            "floordiv" => Some(Atom::FloorDiv),
            "mod" => Some(Atom::Mod),
            "min" => Some(Atom::Min),
            "max" => Some(Atom::Max),
            _ => None,
        };
        let Some(compound) = compound else { return Ok(Expr::symbol(name)) };
        self.expect('(')?;
        let a = self.expression()?;
        self.expect(',')?;
        let b = self.expression()?;
        self.expect(')')?;
        Ok(Expr::atom(compound(Box::new(a), Box::new(b))))
    }
}

/// A number of the type, by the shortest decimal that identifies it.
fn number(text: &str, dtype: DType) -> Option<Literal> {
    match dtype {
        DType::F32 => text.parse::<f32>().ok().map(|x| Literal::from_bits(dtype, u64::from(x.to_bits()))),
        DType::F64 => text.parse::<f64>().ok().map(|x| Literal::from_bits(dtype, x.to_bits())),
        DType::I32 => text.parse::<i32>().ok().map(|x| Literal::from_i64(dtype, i64::from(x))),
        DType::I64 => text.parse::<i64>().ok().map(|x| Literal::from_i64(dtype, x)),
        DType::U8 | DType::Bool | DType::F16 | DType::Bf16 => None,
    }
}
