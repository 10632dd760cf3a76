//! The parser: recursive descent over tokens, with inference at every statement.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use crate::dtype::DType;
use crate::graph::{Graph, InputKind, ValueId};
use crate::limits::{self, MAX_OPERANDS, MAX_SOURCE_BYTES};
use crate::ops::{OP_ROWS, Op, ReduceOp, ScalarOp};
use crate::types::{Shape, TensorType};

use super::attributes;
use super::error::{ParseError, ParseErrorKind};
use super::lexer::{Lexer, Token, shortened};
use super::suggest::nearest;

pub(super) type Span = Range<usize>;
pub(super) type Parsed<T> = Result<T, ParseError>;

/// Reads the text form of a graph; see the [module](crate::text) for the language.
///
/// A graph that is returned keeps the invariants of [`crate::verify`], and for every valid graph
/// `parse(&graph.to_string())` is the graph itself, value numbers included (source locations excepted).
///
/// # Errors
/// Where the text is not a graph: the first thing that is wrong, with its place.
pub fn parse(source: &str) -> Result<Graph, ParseError> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(ParseError::new(source, 0..0, ParseErrorKind::TooLarge { bytes: source.len() }));
    }
    let mut parser = Parser::new(source)?;
    let graph = parser.graph()?;
    match parser.token {
        Token::End => Ok(graph),
        other => {
            let error = parser.error_here(ParseErrorKind::Trailing(other.describe()));
            Err(error.with_help("a file holds one graph"))
        }
    }
}

/// A type as it stands in the text.
pub(super) struct Declared {
    pub ty: TensorType,
    pub span: Span,
}

/// A value that an operand or binding names.
#[derive(Clone)]
pub(super) struct Used {
    pub value: ValueId,
    pub span: Span,
}

/// An input of the graph under construction, in the order of the text.
pub(super) struct ScopeInput {
    pub name: String,
    pub kind: InputKind,
    pub ty: TensorType,
    /// The number of values before it, where that is not "those of the inputs before it".
    pub at: Option<usize>,
    pub span: Span,
}

/// A graph under construction and its names.
pub(super) struct Scope<'s> {
    pub graph: Graph,
    inputs: Vec<ScopeInput>,
    names: HashMap<String, usize>,
    labels: HashMap<&'s str, Used>,
}

impl Scope<'_> {
    pub(super) fn new(name: String) -> Self {
        Scope { graph: Graph::new(name), inputs: Vec::new(), names: HashMap::new(), labels: HashMap::new() }
    }

    /// Adds the inputs whose turn has come; with `all`, every one that is left.
    fn add_inputs(&mut self, all: bool) {
        while let Some(input) = self.inputs.get(self.graph.inputs().len()) {
            if !all && input.at.is_some_and(|at| at > self.graph.values().len()) {
                return;
            }
            self.graph.add_input(input.name.clone(), input.kind, input.ty.clone());
        }
    }

    /// The finished graph.
    pub(super) fn finish(mut self) -> Graph {
        self.add_inputs(true);
        self.graph
    }
}

/// What a mnemonic names.
#[derive(Clone, Copy)]
pub(super) enum Mnemonic {
    Scalar(ScalarOp),
    Reduce(ReduceOp),
    Structural(&'static str),
}

impl Mnemonic {
    fn from_name(name: &str) -> Option<Mnemonic> {
        let structural = || {
            let row = OP_ROWS.iter().find(|r| r.mnemonic == name && !is_group_row(r.mnemonic))?;
            Some(Mnemonic::Structural(row.mnemonic))
        };
        ScalarOp::from_mnemonic(name)
            .map(Mnemonic::Scalar)
            .or_else(|| ReduceOp::from_mnemonic(name).map(Mnemonic::Reduce))
            .or_else(structural)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Mnemonic::Scalar(op) => op.mnemonic(),
            Mnemonic::Reduce(op) => op.mnemonic(),
            Mnemonic::Structural(name) => name,
        }
    }

    fn all() -> impl Iterator<Item = &'static str> {
        let structural = OP_ROWS.iter().map(|r| r.mnemonic).filter(|m| !is_group_row(m));
        let scalars = ScalarOp::ALL.iter().map(|op| op.mnemonic());
        scalars.chain(ReduceOp::ALL.into_iter().map(ReduceOp::mnemonic)).chain(structural)
    }
}

/// Whether a row of the op table stands for many ops that have mnemonics of their own.
fn is_group_row(mnemonic: &str) -> bool {
    matches!(mnemonic, "elementwise" | "reduce")
}

pub(super) struct Parser<'s> {
    source: &'s str,
    lexer: Lexer<'s>,
    /// The token that is next.
    pub(super) token: Token<'s>,
    /// Its place.
    pub(super) span: Span,
    /// Where the token before it ends.
    pub(super) previous_end: usize,
    /// The graphs under construction, outermost first; the last is the current one.
    pub(super) scopes: Vec<Scope<'s>>,
}

/// Tokens.
impl<'s> Parser<'s> {
    fn new(source: &'s str) -> Parsed<Self> {
        let mut lexer = Lexer::new(source);
        let (token, span) = lexer.next()?;
        Ok(Parser { source, lexer, token, span, previous_end: 0, scopes: Vec::new() })
    }

    pub(super) fn advance(&mut self) -> Parsed<()> {
        self.previous_end = self.span.end;
        (self.token, self.span) = self.lexer.next()?;
        Ok(())
    }

    /// The token after the next one; [`Token::End`] where there is none.
    pub(super) fn second(&self) -> Token<'s> {
        let mut ahead = self.lexer;
        ahead.next().map_or(Token::End, |(token, _)| token)
    }

    pub(super) fn error_at(&self, span: Span, kind: impl Into<ParseErrorKind>) -> ParseError {
        ParseError::new(self.source, span, kind)
    }

    pub(super) fn error_here(&self, kind: impl Into<ParseErrorKind>) -> ParseError {
        self.error_at(self.span.clone(), kind)
    }

    pub(super) fn unexpected(&self, expected: impl Into<String>) -> ParseError {
        let found = self.token.describe();
        self.error_here(ParseErrorKind::Unexpected { expected: expected.into(), found })
    }

    pub(super) fn text(&self, span: Span) -> &'s str {
        &self.source[span]
    }

    pub(super) fn eat(&mut self, mark: char) -> Parsed<bool> {
        let found = self.token == Token::Mark(mark);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub(super) fn expect(&mut self, mark: char) -> Parsed<()> {
        if self.eat(mark)? { Ok(()) } else { Err(self.unexpected(format!("`{mark}`"))) }
    }

    pub(super) fn eat_word(&mut self, word: &str) -> Parsed<bool> {
        let found = self.token == Token::Word(word);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub(super) fn eat_arrow(&mut self) -> Parsed<bool> {
        let found = self.token == Token::Arrow;
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    /// `item {"," item} [","]` up to `close`, which is taken too.
    pub(super) fn list<T>(
        &mut self,
        close: char,
        mut item: impl FnMut(&mut Self) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        let mut out = Vec::new();
        while !self.eat(close)? {
            out.push(item(self)?);
            if !self.eat(',')? {
                if !self.eat(close)? {
                    return Err(self.unexpected(format!("`,` or `{close}`")));
                }
                break;
            }
        }
        Ok(out)
    }

    /// A name with its place: a word or a string, not empty.
    pub(super) fn name(&mut self, what: &str) -> Parsed<(Cow<'s, str>, Span)> {
        let span = self.span.clone();
        let name = match self.token {
            Token::Word(word) => Cow::Borrowed(word),
            Token::Quoted(text) => Cow::Owned(self.unescape(text, span.start + 1)?),
            Token::Label(_)
            | Token::Number(_)
            | Token::Hex(_)
            | Token::Arrow
            | Token::Mark(_)
            | Token::End => {
                return Err(self.unexpected(what));
            }
        };
        if name.is_empty() {
            let error = ParseErrorKind::Unexpected { expected: what.into(), found: "an empty name".into() };
            return Err(self.error_here(error));
        }
        self.advance()?;
        Ok((name, span))
    }

    /// The text of a string; `start` is where it begins in the source.
    fn unescape(&self, text: &str, start: usize) -> Parsed<String> {
        let mut out = String::with_capacity(text.len());
        let mut chars = text.char_indices();
        while let Some((at, c)) = chars.next() {
            if c != '\\' {
                out.push(c);
                continue;
            }
            let escaped = chars.next().map(|(_, c)| c);
            let plain = match escaped {
                Some('n') => Some('\n'),
                Some('r') => Some('\r'),
                Some('t') => Some('\t'),
                Some(c @ ('"' | '\\')) => Some(c),
                Some('u') => {
                    let digits = text[at + 2..].strip_prefix('{').and_then(|rest| rest.split_once('}'));
                    let code = digits.and_then(|(d, _)| Some((d.len(), u32::from_str_radix(d, 16).ok()?)));
                    code.and_then(|(length, code)| {
                        // Skips the braces and the digits between them.
                        (0..length + 2).for_each(|_| _ = chars.next());
                        char::from_u32(code)
                    })
                }
                Some(_) | None => None,
            };
            let Some(plain) = plain else {
                let end = at + 1 + escaped.map_or(0, char::len_utf8);
                let kind = ParseErrorKind::Escape(text[at..end].to_owned());
                let help = r#"the escapes are \" \\ \n \r \t and \u{…} with a hexadecimal code point"#;
                return Err(self.error_at(start + at..start + end, kind).with_help(help));
            };
            out.push(plain);
        }
        Ok(out)
    }
}

/// Types and numbers.
impl<'s> Parser<'s> {
    /// A count or position: decimal digits.
    pub(super) fn count(&mut self, expected: &'static str) -> Parsed<usize> {
        let Token::Number(text) = self.token else { return Err(self.unexpected(expected)) };
        let value = text
            .parse()
            .map_err(|_| self.error_here(ParseErrorKind::Number { text: shortened(text), expected }))?;
        self.advance()?;
        Ok(value)
    }

    pub(super) fn dtype(&mut self) -> Parsed<DType> {
        let Token::Word(word) = self.token else { return Err(self.unexpected("a type such as `f32[T, B]`")) };
        let Some(dtype) = DType::from_name(word) else {
            let names = DType::ALL.map(DType::name);
            let help = match nearest(word, names) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("the element types are {}", names.join(", ")),
            };
            return Err(self.error_here(ParseErrorKind::UnknownDType(shortened(word))).with_help(help));
        };
        self.advance()?;
        Ok(dtype)
    }

    /// `f32[T, B]`, or `f32` for the scalar.
    pub(super) fn ty(&mut self) -> Parsed<Declared> {
        let start = self.span.start;
        let dtype = self.dtype()?;
        let shape = if self.eat('[')? { self.list(']', Self::extent)? } else { Shape::new() };
        let span = start..self.previous_end;
        let ty = TensorType { dtype, shape };
        self.check_type(&ty, &span)?;
        Ok(Declared { ty, span })
    }

    fn extent(&mut self) -> Parsed<crate::expr::Dim> {
        let start = self.span.start;
        let dim = self.dim()?;
        if dim.as_constant().is_some_and(|c| c < 0) {
            let span = start..self.previous_end;
            let expected = "an extent: extents are at least 0";
            return Err(self.error_at(span, ParseErrorKind::Number { text: dim.to_string(), expected }));
        }
        Ok(dim)
    }

    pub(super) fn check_type(&self, ty: &TensorType, span: &Span) -> Parsed<()> {
        match limits::type_problem(ty) {
            Some(problem) => Err(self.error_at(span.clone(), ParseErrorKind::Limit(problem))),
            None => Ok(()),
        }
    }
}

/// Values.
impl<'s> Parser<'s> {
    /// The graph under construction. There is one wherever statements are parsed.
    pub(super) fn scope(&mut self) -> &mut Scope<'s> {
        self.scopes.last_mut().expect("statements are parsed within a graph")
    }

    /// Declares an input of the current graph.
    pub(super) fn declare_input(&mut self, input: ScopeInput) -> Parsed<()> {
        let scope = self.scope();
        let position = scope.inputs.len();
        if let Some(first) = scope.names.insert(input.name.clone(), position) {
            let first = scope.inputs[first].span.clone();
            let kind = ParseErrorKind::Redefinition(shortened(&input.name));
            return Err(self.error_at(input.span, kind).with_label(first, "first defined here"));
        }
        scope.inputs.push(input);
        Ok(())
    }

    /// Whether the next token begins an operand (and not an attribute or the next statement).
    fn starts_operand(&self) -> bool {
        match self.token {
            Token::Label(_) | Token::Quoted(_) => true,
            Token::Word(_) => self.second() != Token::Mark('='),
            Token::Number(_) | Token::Hex(_) | Token::Arrow | Token::Mark(_) | Token::End => false,
        }
    }

    /// A use of a value: a label, or the name of an input.
    pub(super) fn value(&mut self) -> Parsed<Used> {
        let span = self.span.clone();
        if let Token::Label(label) = self.token {
            let Some(used) = self.scope().labels.get(label) else { return Err(self.undefined_label(label)) };
            let value = used.value;
            self.advance()?;
            return Ok(Used { value, span });
        }
        let (name, span) = self.name("a value: the name of an input or a label such as `%3`")?;
        let scope = self.scope();
        scope.add_inputs(false);
        let Some(position) = scope.names.get(name.as_ref()).copied() else {
            return Err(self.undefined_name(&name, span));
        };
        match scope.graph.inputs().get(position) {
            Some(input) => Ok(Used { value: input.value, span }),
            None => {
                let declared = scope.inputs[position].span.clone();
                let kind = ParseErrorKind::UndefinedValue(shortened(&name));
                Err(self.error_at(span, kind).with_label(declared, "`at` places it after this use"))
            }
        }
    }

    fn undefined_label(&self, label: &str) -> ParseError {
        let error = self.error_here(ParseErrorKind::UndefinedValue(format!("%{}", shortened(label))));
        let labels = self.scopes.last().into_iter().flat_map(|s| s.labels.keys().copied());
        // Of labels that are equally near, the least, so that the message does not depend on hashing.
        let mut labels: Vec<&str> = labels.filter(|l| l.len().abs_diff(label.len()) <= 2).collect();
        labels.sort_unstable();
        let digits = label.bytes().all(|b| b.is_ascii_digit());
        let near = if digits { None } else { nearest(label, labels) };
        let outer = self.scopes.iter().rev().skip(1).any(|s| s.labels.contains_key(label));
        error.with_help(match near {
            _ if outer => format!("a scan body sees only its own inputs; capture it: `with (v = %{label})`"),
            Some(near) => format!("did you mean `%{near}`?"),
            None => "results are used by their labels, after the statement that defines them".into(),
        })
    }

    fn undefined_name(&self, name: &str, span: Span) -> ParseError {
        let error = self.error_at(span, ParseErrorKind::UndefinedValue(shortened(name)));
        let inputs = self.scopes.last().map_or(&[][..], |s| &s.inputs);
        let near = nearest(name, inputs.iter().map(|i| i.name.as_str()));
        let outer = self.scopes.iter().rev().skip(1).any(|s| s.names.contains_key(name));
        let label = self.scopes.last().is_some_and(|s| s.labels.contains_key(name));
        error.with_optional_help(if label {
            Some(format!("results are used by their labels: `%{name}`"))
        } else if outer {
            Some(format!("a scan body sees only its own inputs; capture it: `with ({name} = {name})`"))
        } else {
            near.map(|near| format!("did you mean `{near}`?"))
        })
    }

    /// `name = value`, for outputs.
    pub(super) fn binding(&mut self) -> Parsed<(String, Span, Used)> {
        let (name, span) = self.name("the name of an output")?;
        self.expect('=')?;
        let used = self.value()?;
        Ok((name.into_owned(), span, used))
    }

    /// `binding {"," binding}`, none where what follows begins no binding.
    pub(super) fn bindings(&mut self) -> Parsed<Vec<(String, Span, Used)>> {
        let mut out = Vec::new();
        let starts = |p: &Self| matches!(p.token, Token::Word(_) | Token::Quoted(_));
        if !starts(self) {
            return Ok(out);
        }
        out.push(self.binding()?);
        while self.eat(',')? {
            out.push(self.binding()?);
        }
        Ok(out)
    }
}

/// Statements.
impl<'s> Parser<'s> {
    fn graph(&mut self) -> Parsed<Graph> {
        if !self.eat_word("graph")? {
            return Err(self.unexpected("`graph`").with_help("a graph begins `graph name(x: f32[T, B]) {`"));
        }
        let (name, _) = self.name("the name of the graph")?;
        self.scopes.push(Scope::new(name.into_owned()));
        self.expect('(')?;
        self.list(')', Self::input)?;
        let signature = if self.eat_arrow()? {
            self.expect('(')?;
            Some(self.list(')', Self::output)?)
        } else {
            None
        };
        self.expect('{')?;
        self.statements(&["return"])?;
        if !self.eat_word("return")? {
            return Err(self.unexpected("`return`, a label or an operand"));
        }
        let returned_at = self.span.clone();
        let returned = self.bindings()?;
        let returned_at = returned_at.start..self.previous_end.max(returned_at.start);
        self.expect('}')?;
        self.scope().add_inputs(true);
        self.check_outputs(signature, &returned, returned_at)?;
        for (name, _, used) in returned {
            self.scope().graph.add_output(name, used.value);
        }
        let scope = self.scopes.pop().expect("the scope pushed above");
        Ok(scope.finish())
    }

    fn input(&mut self) -> Parsed<()> {
        let mut kind = InputKind::Input;
        if self.token == Token::Word("param") && self.second() != Token::Mark(':') {
            kind = InputKind::Parameter;
            self.advance()?;
        }
        let (name, span) = self.name("the name of an input")?;
        self.expect(':')?;
        let declared = self.ty()?;
        let at = self.position()?;
        self.declare_input(ScopeInput { name: name.into_owned(), kind, ty: declared.ty, at, span })
    }

    /// `["at" number]`.
    pub(super) fn position(&mut self) -> Parsed<Option<usize>> {
        if self.eat_word("at")? { self.count("the number of a value").map(Some) } else { Ok(None) }
    }

    fn output(&mut self) -> Parsed<(String, Declared)> {
        let (name, _) = self.name("the name of an output")?;
        self.expect(':')?;
        Ok((name.into_owned(), self.ty()?))
    }

    fn check_outputs(
        &mut self,
        signature: Option<Vec<(String, Declared)>>,
        returned: &[(String, Span, Used)],
        returned_at: Span,
    ) -> Parsed<()> {
        let mut first = HashMap::new();
        for (name, span, _) in returned {
            if let Some(earlier) = first.insert(name.as_str(), span.clone()) {
                let kind = ParseErrorKind::Redefinition(shortened(name));
                return Err(self.error_at(span.clone(), kind).with_label(earlier, "first returned here"));
            }
        }
        let Some(signature) = signature else { return Ok(()) };
        if !signature.iter().map(|(name, _)| name).eq(returned.iter().map(|(name, ..)| name)) {
            let join = |names: Vec<&str>| shortened(&names.join(", "));
            let kind = ParseErrorKind::Outputs {
                declared: join(signature.iter().map(|(name, _)| name.as_str()).collect()),
                returned: join(returned.iter().map(|(name, ..)| name.as_str()).collect()),
            };
            return Err(self.error_at(returned_at, kind).with_help("give the same names in the same order"));
        }
        for ((name, declared), (_, returned_span, used)) in signature.into_iter().zip(returned) {
            let actual = self.scope().graph.ty(used.value).clone();
            self.check_declared(&name, &declared, &actual)
                .map_err(|e| e.with_label(returned_span.clone(), "returned here"))?;
        }
        Ok(())
    }

    pub(super) fn check_declared(&self, what: &str, declared: &Declared, actual: &TensorType) -> Parsed<()> {
        if declared.ty == *actual {
            return Ok(());
        }
        let kind = ParseErrorKind::DeclaredType {
            what: shortened(what),
            declared: declared.ty.clone(),
            actual: actual.clone(),
        };
        Err(self.error_at(declared.span.clone(), kind))
    }

    /// Statements up to one of the keywords or the closing brace.
    pub(super) fn statements(&mut self, ends: &[&str]) -> Parsed<()> {
        loop {
            match self.token {
                Token::Label(_) => self.statement()?,
                Token::Word(word) if ends.contains(&word) => return Ok(()),
                Token::Mark('}') => return Ok(()),
                _ => {
                    let ends: Vec<String> = ends.iter().map(|e| format!("`{e}`")).collect();
                    let error = self.unexpected(format!("a statement or {}", ends.join(", ")));
                    return Err(error.with_help("a statement reads `%label = op operands attribute=…`"));
                }
            }
        }
    }

    fn statement(&mut self) -> Parsed<()> {
        let mut labels = Vec::new();
        loop {
            let Token::Label(label) = self.token else { return Err(self.unexpected("a label such as `%3`")) };
            labels.push((label, self.span.clone()));
            self.advance()?;
            if !self.eat(',')? {
                break;
            }
        }
        self.expect('=')?;
        let Token::Word(word) = self.token else { return Err(self.unexpected("the name of an op")) };
        let span = self.span.clone();
        let Some(mnemonic) = Mnemonic::from_name(word) else { return Err(self.unknown_op(word)) };
        self.advance()?;
        match mnemonic {
            Mnemonic::Structural("scan") => self.scan(labels, span),
            other => self.apply(labels, other, span),
        }
    }

    fn unknown_op(&self, word: &str) -> ParseError {
        let near = nearest(word, Mnemonic::all()).map(|name| format!("did you mean `{name}`?"));
        self.error_here(ParseErrorKind::UnknownOp(shortened(word))).with_optional_help(near)
    }

    fn apply(&mut self, labels: Vec<(&'s str, Span)>, mnemonic: Mnemonic, start: Span) -> Parsed<()> {
        let mut operands = Vec::new();
        let literal = match mnemonic {
            Mnemonic::Structural("constant") => Some(self.literal()?),
            _ => None,
        };
        if self.starts_operand() {
            operands.push(self.value()?);
            while self.eat(',')? {
                operands.push(self.value()?);
            }
        }
        let given = self.attributes(mnemonic)?;
        let declared = if self.eat(':')? { Some(self.ty()?) } else { None };
        let span = start.start..self.previous_end;
        let operand_type = operands.first().map(|o| self.scope().graph.ty(o.value).clone());
        let context = attributes::Context { mnemonic, span, literal, operand_type };
        let op = self.build_op(context, given, declared.as_ref())?;
        self.define(labels, op, &operands, declared.map(|d| vec![d]), start)
    }

    /// Adds a node and names its results. `span` is the place of the mnemonic; the operands are marked beside it.
    pub(super) fn define(
        &mut self,
        labels: Vec<(&'s str, Span)>,
        op: Op,
        operands: &[Used],
        declared: Option<Vec<Declared>>,
        span: Span,
    ) -> Parsed<()> {
        let name = op.mnemonic();
        if operands.len() > MAX_OPERANDS {
            let text = format!("{name}: {} operands are more than {MAX_OPERANDS}", operands.len());
            return Err(self.error_at(span, ParseErrorKind::Limit(text)));
        }
        let scope = self.scope();
        scope.add_inputs(false);
        let ids: Vec<ValueId> = operands.iter().map(|o| o.value).collect();
        let results = match scope.graph.add_node(op, &ids, None) {
            Ok(results) => results,
            Err(error) => return Err(self.operand_notes(self.error_at(span, error), operands)),
        };
        for result in &results {
            let ty = self.scope().graph.ty(*result).clone();
            self.check_type(&ty, &span)?;
        }
        let count_error = |given: usize, what: &'static str| ParseErrorKind::ResultCount {
            op: name,
            results: results.len(),
            given,
            what,
        };
        if labels.len() != results.len() {
            return Err(self.error_at(span, count_error(labels.len(), "labels")));
        }
        if let Some(declared) = declared {
            if declared.len() != results.len() {
                return Err(self.error_at(span, count_error(declared.len(), "types")));
            }
            for ((declared, result), (label, _)) in declared.iter().zip(&results).zip(&labels) {
                let actual = self.scope().graph.ty(*result).clone();
                self.check_declared(&format!("%{label}"), declared, &actual)?;
            }
        }
        for ((label, span), value) in labels.into_iter().zip(results) {
            self.define_label(label, Used { value, span })?;
        }
        Ok(())
    }

    fn define_label(&mut self, label: &'s str, used: Used) -> Parsed<()> {
        let span = used.span.clone();
        match self.scope().labels.insert(label, used) {
            Some(first) => {
                let kind = ParseErrorKind::Redefinition(format!("%{}", shortened(label)));
                Err(self.error_at(span, kind).with_label(first.span, "first defined here"))
            }
            None => Ok(()),
        }
    }

    /// Adds the type of each operand as a note, so that both sides of a mismatch are seen in place.
    fn operand_notes(&self, mut error: ParseError, operands: &[Used]) -> ParseError {
        const MOST: usize = 4;
        let Some(scope) = self.scopes.last() else { return error };
        for operand in operands.iter().take(MOST) {
            let ty = scope.graph.ty(operand.value);
            error = error.with_label(operand.span.clone(), format!("{ty}"));
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mnemonics_are_unique() {
        let mut names: Vec<_> = Mnemonic::all().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
