//! Graphs and statements: recursive descent over tokens, with inference at every statement.

use std::collections::HashMap;

use crate::graph::{Graph, InputKind, ValueId};
use crate::limits::MAX_OPERANDS;
use crate::ops::{OP_ROWS, Op, ReduceOp, ScalarOp};
use crate::types::TensorType;

use super::attributes;
use super::cursor::{Declared, Parsed, Span};
use super::error::{ParseError, ParseErrorKind};
use super::lexer::{Token, shortened};
use super::scope::{GraphParser, Graphs, Scope, ScopeInput, Used};
use super::suggest::nearest;

/// Reads the text form of a graph; see the [module](crate::text) for the language.
///
/// A graph that is returned keeps the invariants of [`mod@crate::verify`], and for every valid graph
/// `parse(&graph.to_string())` is the graph itself, value numbers included (source locations excepted).
///
/// # Errors
/// Where the text is not a graph: the first thing that is wrong, with its place.
pub fn parse(source: &str) -> Result<Graph, ParseError> {
    let mut parser = GraphParser::new(source, Graphs::default())?;
    let graph = parser.graph()?;
    parser.expect_end("a file holds one graph")?;
    Ok(graph)
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

/// Statements.
impl<'s> GraphParser<'s> {
    fn graph(&mut self) -> Parsed<Graph> {
        if !self.eat_word("graph")? {
            return Err(self.unexpected("`graph`").with_help("a graph begins `graph name(x: f32[T, B]) {`"));
        }
        let (name, _) = self.name("the name of the graph")?;
        self.form.0.push(Scope::new(name.into_owned()));
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
        let scope = self.form.0.pop().expect("the scope pushed above");
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

    /// Adds the type of each operand as a note, so that both sides of a mismatch are seen in place.
    fn operand_notes(&self, mut error: ParseError, operands: &[Used]) -> ParseError {
        const MOST: usize = 4;
        let Some(scope) = self.form.0.last() else { return error };
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
