//! One kernel: its space, its elements, its stores.

use crate::dtype::DType;
use crate::expr::{Axis, Dim};
use crate::infer::InferError;
use crate::kernel::{Coordinate, Element, ElementId, Kernel, Recurrence, Store, TypedElement};
use crate::limits::MAX_RANK;
use crate::ops::{ReduceOp, ScalarOp};
use crate::text::cursor::{Parsed, Span};
use crate::text::error::{ParseError, ParseErrorKind};
use crate::text::lexer::{Token, shortened};
use crate::text::suggest::nearest;

use super::form::{KernelNames, KernelParser};

/// The mnemonics of elements beside those of elementwise ops and reductions.
const STRUCTURAL: [&str; 5] = ["load", "constant", "index", "cast", "recurrence"];

impl KernelParser<'_> {
    /// A kernel after its keyword.
    pub(super) fn kernel(&mut self) -> Parsed<Kernel> {
        self.form.kernel = KernelNames::default();
        let name = self.name("the name of a kernel")?.0.into_owned();
        let rank = self.space()?;
        let mut ops = Vec::new();
        if self.eat_word("fuses")? {
            self.expect('(')?;
            ops = self.list(')', |p| Ok(p.name("the name of an op")?.0.into_owned()))?;
        }
        if !self.eat('{')? {
            return Err(self.unexpected("`fuses` or `{`"));
        }
        let mut elements = Vec::new();
        while self.starts_element() {
            elements.push(self.element(ElementId::from(elements.len()))?);
        }
        let mut stores = Vec::new();
        while self.eat_word("store")? {
            stores.push(self.store()?);
        }
        if !self.eat('}')? {
            let error = self.unexpected(if stores.is_empty() {
                "an element such as `e0: f32 = …`, `store` or `}`"
            } else {
                "`store` or `}`"
            });
            return Err(error.with_help("a kernel holds its elements, then its stores"));
        }
        let extents = self.extents()?;
        Ok(Kernel { name, rank, extents, elements, stores, ops })
    }

    /// `[i0 < B, i1 < H]`; gives the number of axes.
    fn space(&mut self) -> Parsed<usize> {
        let start = self.span.start;
        self.expect('[')?;
        let mut rank = 0;
        self.list(']', |p| {
            let span = p.span.clone();
            let axis = p.axis_extent()?;
            if axis.index() != rank {
                let error = p.axis_error(span, "is out of order");
                return Err(error.with_help(format!("the next axis of the space is `i{rank}`")));
            }
            rank += 1;
            Ok(())
        })?;
        if rank > MAX_RANK {
            let text = format!("the space has {rank} axes, more than {MAX_RANK}");
            return Err(self.error_at(start..self.previous_end, ParseErrorKind::Limit(text)));
        }
        Ok(rank)
    }

    /// Whether the next token begins an element; one may be called `store`.
    fn starts_element(&self) -> bool {
        match self.token {
            Token::Word("store") => self.second() == Token::Mark(':'),
            Token::Word(_) => true,
            _ => false,
        }
    }

    fn element(&mut self, id: ElementId) -> Parsed<TypedElement> {
        let (Token::Word(name), span) = (self.token, self.span.clone()) else {
            return Err(self.unexpected("an element such as `e0: f32 = …`"));
        };
        self.advance()?;
        self.expect(':')?;
        let dtype = self.dtype()?;
        self.expect('=')?;
        let element = self.value(dtype)?;
        self.define_element(name, id, span)?;
        Ok(TypedElement { element, dtype })
    }

    fn value(&mut self, dtype: DType) -> Parsed<Element> {
        let (Token::Word(word), span) = (self.token, self.span.clone()) else {
            return Err(self.unexpected("the name of an op"));
        };
        let (scalar, reduce) = (ScalarOp::from_mnemonic(word), ReduceOp::from_mnemonic(word));
        if scalar.is_none() && reduce.is_none() && !STRUCTURAL.contains(&word) {
            return Err(self.unknown_op(word));
        }
        self.advance()?;
        if let Some(op) = scalar {
            return self.scalar(op, span);
        }
        if let Some(op) = reduce {
            return self.reduce(op);
        }
        Ok(match word {
            "load" => {
                let buffer = self.buffer_use()?;
                self.expect('[')?;
                let index = self.list(']', Self::coordinate)?.into();
                Element::Load { buffer, index }
            }
            "constant" => {
                let literal = self.literal()?;
                Element::Constant(self.typed_literal(&literal, dtype)?)
            }
            "index" => Element::Index(self.index()?),
            "recurrence" => self.recurrence()?,
            _ => Element::Cast(self.element_use()?),
        })
    }

    fn unknown_op(&self, word: &str) -> ParseError {
        let scalars = ScalarOp::ALL.iter().map(|op| op.mnemonic());
        let reductions = ReduceOp::ALL.into_iter().map(ReduceOp::mnemonic);
        let near = nearest(word, scalars.chain(reductions).chain(STRUCTURAL));
        let help = near.map(|name| format!("did you mean `{name}`?"));
        self.error_here(ParseErrorKind::UnknownOp(shortened(word))).with_optional_help(help)
    }

    fn scalar(&mut self, op: ScalarOp, span: Span) -> Parsed<Element> {
        let mut operands = vec![self.element_use()?];
        while self.eat(',')? {
            operands.push(self.element_use()?);
        }
        if operands.len() != op.arity() {
            let (expected, got) = (op.arity().to_string(), operands.len());
            return Err(self.error_at(span, InferError::Arity { op: op.mnemonic(), expected, got }));
        }
        Ok(Element::Scalar(op, operands.into()))
    }

    fn reduce(&mut self, op: ReduceOp) -> Parsed<Element> {
        self.expect('[')?;
        let axes = self.list(']', Self::axis_extent)?.into();
        Ok(Element::Reduce { op, axes, body: self.element_use()? })
    }

    /// A recurrence after its keyword.
    fn recurrence(&mut self) -> Parsed<Element> {
        let exclusive = self.eat_word("before")?;
        let span = self.span.clone();
        let axis = self.axis()?;
        self.form.kernel.uses.entry(axis).or_insert(span);
        let init = self.operand_after("from")?;
        let factor = self.operand_after("by")?;
        let term = self.operand_after("plus")?;
        Ok(Element::Recurrence { state: Recurrence { axis, init, factor, term }, exclusive })
    }

    /// A word, and the element that follows it.
    fn operand_after(&mut self, word: &str) -> Parsed<ElementId> {
        if !self.eat_word(word)? {
            let error = self.unexpected(format!("`{word}`"));
            return Err(error.with_help("a recurrence reads `recurrence i0 from e0 by e1 plus e2`"));
        }
        self.element_use()
    }

    fn coordinate(&mut self) -> Parsed<Coordinate> {
        if self.eat('@')? {
            self.element_use().map(Coordinate::Dynamic)
        } else {
            self.index().map(Coordinate::Static)
        }
    }

    /// A store after its keyword.
    fn store(&mut self) -> Parsed<Store> {
        let buffer = self.buffer_use()?;
        self.expect('[')?;
        let index = self.list(']', Self::index)?.into();
        self.expect('=')?;
        Ok(Store { buffer, index, value: self.element_use()? })
    }

    /// The extents of all axes, once the kernel is read: numbered without a gap, and every axis that is used has
    /// one.
    fn extents(&mut self) -> Parsed<Vec<Dim>> {
        let KernelNames { extents, uses, .. } = std::mem::take(&mut self.form.kernel);
        let count = extents.len();
        let past = |axis: &Axis| axis.index() >= count;
        if let Some((_, (_, span))) = extents.iter().find(|(axis, _)| past(axis)) {
            let error = self.axis_error(span.clone(), "leaves a gap");
            return Err(error.with_help("the axes of a kernel are numbered from `i0` without a gap"));
        }
        if let Some((_, span)) = uses.iter().find(|(axis, _)| past(axis)) {
            let error = self.axis_error(span.clone(), "has no extent");
            return Err(error.with_help("an axis belongs to the space or to a reduction: `sum [i2 < H] e1`"));
        }
        Ok(extents.into_values().map(|(extent, _)| extent).collect())
    }
}
