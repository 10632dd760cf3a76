//! Scans: a header of clauses, then the body as a graph of its own.

use crate::expr::Dim;
use crate::graph::{InputKind, Scan};
use crate::limits::MAX_SCAN_DEPTH;
use crate::ops::{Direction, Op};
use crate::types::TensorType;

use super::cursor::{Declared, Parsed, Span};
use super::error::ParseErrorKind;
use super::lexer::{Token, shortened};
use super::scope::{GraphParser, Scope, ScopeInput, Used};

/// `name [":" type] "=" value ["at" number]`.
struct BodyInput {
    name: String,
    span: Span,
    declared: Option<Declared>,
    used: Used,
    at: Option<usize>,
}

/// What stands between `scan` and the body.
#[derive(Default)]
struct Header {
    direction: Option<Direction>,
    carry: Option<Vec<BodyInput>>,
    each: Option<Vec<BodyInput>>,
    with: Option<Vec<BodyInput>>,
    lengths: Option<Used>,
}

const CLAUSES: &str = "`carry`, `each`, `with`, `lengths`, `reverse`, `->` or `{`";

impl<'s> GraphParser<'s> {
    /// A scan after its mnemonic; `start` is the place of the mnemonic.
    pub(super) fn scan(&mut self, labels: Vec<(&'s str, Span)>, start: Span) -> Parsed<()> {
        if self.form.0.len() > MAX_SCAN_DEPTH {
            let text = format!("scans nest deeper than {MAX_SCAN_DEPTH} levels");
            return Err(self.error_at(start, ParseErrorKind::Limit(text)));
        }
        let name = if self.token == Token::Word("over") {
            "body".to_owned()
        } else {
            self.name("`over` or the name of the body")?.0.into_owned()
        };
        if !self.eat_word("over")? {
            return Err(self.unexpected("`over` and the number of steps"));
        }
        let trip = self.dim()?;
        let header = self.scan_header()?;
        let declared = if self.eat_arrow()? {
            self.expect('(')?;
            Some(self.list(')', Self::ty)?)
        } else {
            None
        };
        let [carry, each, with] = [header.carry, header.each, header.with].map(Option::unwrap_or_default);
        let (carries, scanned) = (carry.len(), each.len());
        let inputs: Vec<BodyInput> = carry.into_iter().chain(each).chain(with).collect();
        let mut operands: Vec<Used> = inputs.iter().map(|i| i.used.clone()).collect();
        let lengths = header.lengths.is_some();
        operands.extend(header.lengths);
        let body = self.scan_body(name, inputs, carries..carries + scanned, &trip)?;
        let direction = header.direction.unwrap_or_default();
        let scan = Scan { body, carries, scanned, trip, direction, lengths };
        self.define(labels, Op::Scan(Box::new(scan)), &operands, declared, start)
    }

    fn scan_header(&mut self) -> Parsed<Header> {
        let mut header = Header::default();
        loop {
            let Token::Word(word) = self.token else {
                return match self.token {
                    Token::Arrow | Token::Mark('{') => Ok(header),
                    _ => Err(self.unexpected(CLAUSES)),
                };
            };
            let repeated = match word {
                "forward" | "reverse" => header.direction.is_some(),
                "carry" => header.carry.is_some(),
                "each" => header.each.is_some(),
                "with" => header.with.is_some(),
                "lengths" => header.lengths.is_some(),
                _ => return Err(self.unexpected(CLAUSES)),
            };
            if repeated {
                return Err(self.error_here(ParseErrorKind::Repeated(word.into())));
            }
            self.advance()?;
            match word {
                "forward" => header.direction = Some(Direction::Forward),
                "reverse" => header.direction = Some(Direction::Reverse),
                "lengths" => header.lengths = Some(self.value()?),
                "carry" => header.carry = Some(self.body_inputs()?),
                "each" => header.each = Some(self.body_inputs()?),
                _ => header.with = Some(self.body_inputs()?),
            }
        }
    }

    fn body_inputs(&mut self) -> Parsed<Vec<BodyInput>> {
        self.expect('(')?;
        self.list(')', |p| {
            let (name, span) = p.name("the name of a body input")?;
            let declared = if p.eat(':')? { Some(p.ty()?) } else { None };
            p.expect('=')?;
            let used = p.value()?;
            let at = p.position()?;
            Ok(BodyInput { name: name.into_owned(), span, declared, used, at })
        })
    }

    /// The type a body input has, by its operand: without the leading axis where it is scanned.
    fn body_input_type(&mut self, input: &BodyInput, scanned: bool, trip: &Dim) -> Parsed<TensorType> {
        let mut ty = self.scope().graph.ty(input.used.value).clone();
        if scanned {
            if ty.shape.first() != Some(trip) {
                let value = shortened(self.text(input.used.span.clone()));
                let kind = ParseErrorKind::Scanned { value, ty, trip: trip.to_string() };
                return Err(self.error_at(input.used.span.clone(), kind));
            }
            ty.shape.remove(0);
        }
        if let Some(declared) = &input.declared {
            self.check_declared(&input.name, declared, &ty)?;
        }
        Ok(ty)
    }

    fn scan_body(
        &mut self,
        name: String,
        inputs: Vec<BodyInput>,
        scanned: std::ops::Range<usize>,
        trip: &Dim,
    ) -> Parsed<crate::graph::Graph> {
        let mut types = Vec::with_capacity(inputs.len());
        for (i, input) in inputs.iter().enumerate() {
            types.push(self.body_input_type(input, scanned.contains(&i), trip)?);
        }
        self.expect('{')?;
        self.form.0.push(Scope::new(name));
        for (input, ty) in inputs.into_iter().zip(types) {
            let BodyInput { name, span, at, .. } = input;
            self.declare_input(ScopeInput { name, kind: InputKind::Input, ty, at, span })?;
        }
        self.statements(&["next", "stack"])?;
        let next_span = self.span.clone();
        let next = if self.eat_word("next")? { self.bindings()? } else { Vec::new() };
        if next.len() != scanned.start {
            let kind = ParseErrorKind::NextCount { carries: scanned.start, next: next.len() };
            return Err(self
                .error_at(next_span, kind)
                .with_help("give the new value of every carry, in order"));
        }
        let stack = if self.eat_word("stack")? { self.bindings()? } else { Vec::new() };
        self.expect('}')?;
        let scope = self.form.0.pop().expect("the scope pushed above");
        let mut body = scope.finish();
        for (name, _, used) in next.into_iter().chain(stack) {
            body.add_output(name, used.value);
        }
        Ok(body)
    }
}
