//! The graphs under construction and the names of their values.

use std::collections::HashMap;

use crate::expr::Expr;
use crate::graph::{Graph, InputKind, ValueId};
use crate::types::TensorType;

use super::cursor::{Parsed, Parser, Span, TextForm};
use super::error::{ParseError, ParseErrorKind};
use super::lexer::{Token, shortened};
use super::suggest::nearest;

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
    pub(super) fn add_inputs(&mut self, all: bool) {
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

/// The text form of graphs: the graphs under construction, outermost first; the last is the current one.
#[derive(Default)]
pub(super) struct Graphs<'s>(pub Vec<Scope<'s>>);

/// The parser of graphs.
pub(super) type GraphParser<'s> = Parser<'s, Graphs<'s>>;

impl TextForm for Graphs<'_> {
    fn leaf(parser: &mut Parser<'_, Self>) -> Parsed<Option<Expr>> {
        let Token::Word(name) = parser.token else { return Ok(None) };
        parser.advance()?;
        Ok(Some(Expr::symbol(name)))
    }
}

/// Values.
impl<'s> GraphParser<'s> {
    /// The graph under construction. There is one wherever statements are parsed.
    pub(super) fn scope(&mut self) -> &mut Scope<'s> {
        self.form.0.last_mut().expect("statements are parsed within a graph")
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
    pub(super) fn starts_operand(&self) -> bool {
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
        let labels = self.form.0.last().into_iter().flat_map(|s| s.labels.keys().copied());
        // Of labels that are equally near, the least, so that the message does not depend on hashing.
        let mut labels: Vec<&str> = labels.filter(|l| l.len().abs_diff(label.len()) <= 2).collect();
        labels.sort_unstable();
        let digits = label.bytes().all(|b| b.is_ascii_digit());
        let near = if digits { None } else { nearest(label, labels) };
        let outer = self.form.0.iter().rev().skip(1).any(|s| s.labels.contains_key(label));
        error.with_help(match near {
            _ if outer => format!("a scan body sees only its own inputs; capture it: `with (v = %{label})`"),
            Some(near) => format!("did you mean `%{near}`?"),
            None => "results are used by their labels, after the statement that defines them".into(),
        })
    }

    fn undefined_name(&self, name: &str, span: Span) -> ParseError {
        let error = self.error_at(span, ParseErrorKind::UndefinedValue(shortened(name)));
        let inputs = self.form.0.last().map_or(&[][..], |s| &s.inputs);
        let near = nearest(name, inputs.iter().map(|i| i.name.as_str()));
        let outer = self.form.0.iter().rev().skip(1).any(|s| s.names.contains_key(name));
        let label = self.form.0.last().is_some_and(|s| s.labels.contains_key(name));
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

    /// Names a result.
    pub(super) fn define_label(&mut self, label: &'s str, used: Used) -> Parsed<()> {
        let span = used.span.clone();
        match self.scope().labels.insert(label, used) {
            Some(first) => {
                let kind = ParseErrorKind::Redefinition(format!("%{}", shortened(label)));
                Err(self.error_at(span, kind).with_label(first.span, "first defined here"))
            }
            None => Ok(()),
        }
    }
}
