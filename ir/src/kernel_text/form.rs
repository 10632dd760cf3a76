//! What the parser of kernel graphs knows: the buffers, and the kernel that is being read.

use std::collections::{BTreeMap, HashMap};

use crate::expr::{Atom, Axis, Dim, Expr, Symbol};
use crate::kernel::{Buffer, BufferId, ElementId};
use crate::text::cursor::{Parsed, Parser, Span, TextForm};
use crate::text::error::{ParseError, ParseErrorKind};
use crate::text::is_identifier;
use crate::text::lexer::{Token, shortened};
use crate::text::suggest::nearest;

/// The text form of kernel graphs.
#[derive(Default)]
pub(super) struct Kernels<'s> {
    pub buffers: Vec<Buffer>,
    names: HashMap<String, (BufferId, Span)>,
    /// Whether an expression may have axes: an index may, a dimension may not.
    indexing: bool,
    /// The kernel that is being read.
    pub kernel: KernelNames<'s>,
}

/// The names of a kernel.
#[derive(Default)]
pub(super) struct KernelNames<'s> {
    pub elements: HashMap<&'s str, (ElementId, Span)>,
    /// The extent of each axis, with the place that gives it.
    pub extents: BTreeMap<Axis, (Dim, Span)>,
    /// The first use of each axis.
    pub uses: BTreeMap<Axis, Span>,
}

/// The parser of kernel graphs.
pub(super) type KernelParser<'s> = Parser<'s, Kernels<'s>>;

/// The number of a word that names an axis.
fn axis_digits(word: &str) -> Option<&str> {
    word.strip_prefix('i').filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether a symbol of that name needs no quotes in an expression.
pub(super) fn is_plain_symbol(name: &str) -> bool {
    let label = |rest: &str| {
        !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
    };
    match name.strip_prefix('%') {
        Some(rest) => label(rest),
        None => is_identifier(name) && axis_digits(name).is_none(),
    }
}

impl TextForm for Kernels<'_> {
    fn leaf(parser: &mut Parser<'_, Self>) -> Parsed<Option<Expr>> {
        let span = parser.span.clone();
        let axis = match parser.token {
            Token::Word(word) if axis_digits(word).is_some() => word,
            _ => return Ok(parser.symbol()?.map(|s| Expr::atom(Atom::Symbol(s)))),
        };
        if !parser.form.indexing {
            return Err(parser.axis_in_dimension(axis));
        }
        let axis = parser.axis()?;
        parser.form.kernel.uses.entry(axis).or_insert(span);
        Ok(Some(Expr::axis(axis.index())))
    }
}

/// Expressions.
impl Parser<'_, Kernels<'_>> {
    /// An expression over axes and symbols.
    pub(super) fn index(&mut self) -> Parsed<Expr> {
        self.form.indexing = true;
        let index = self.dim();
        self.form.indexing = false;
        index
    }

    /// Takes a symbol, if one is next: a word, a label or a string.
    fn symbol(&mut self) -> Parsed<Option<Symbol>> {
        let symbol = match self.token {
            Token::Word(word) => Symbol::new(word),
            Token::Label(label) => Symbol::new(format!("%{label}")),
            Token::Quoted(_) => return self.name("a symbol").map(|(name, _)| Some(Symbol::new(name))),
            Token::Number(_) | Token::Hex(_) | Token::Arrow | Token::Mark(_) | Token::End => return Ok(None),
        };
        self.advance()?;
        Ok(Some(symbol))
    }

    /// The counter of a loop.
    pub(super) fn counter(&mut self) -> Parsed<Symbol> {
        match self.token {
            Token::Word(word) if axis_digits(word).is_some() => Err(self.axis_in_dimension(word)),
            _ => self.symbol()?.ok_or_else(|| self.unexpected("the counter of the loop, such as `%t`")),
        }
    }

    /// `i2`.
    pub(super) fn axis(&mut self) -> Parsed<Axis> {
        let digits = match self.token {
            Token::Word(word) => axis_digits(word),
            _ => None,
        };
        let Some(digits) = digits else { return Err(self.unexpected("an axis such as `i0`")) };
        let Ok(number) = digits.parse::<u32>() else {
            return Err(self.axis_error(self.span.clone(), "is beyond the number of axes a kernel may have"));
        };
        self.advance()?;
        Ok(Axis(number))
    }

    /// `i2 < H`, which gives the axis its extent.
    pub(super) fn axis_extent(&mut self) -> Parsed<Axis> {
        let start = self.span.start;
        let axis = self.axis()?;
        self.expect('<')?;
        let extent = self.extent()?;
        let span = start..self.previous_end;
        let first = self.form.kernel.extents.get(&axis);
        if let Some((_, first)) = first.filter(|(other, _)| *other != extent) {
            let first = first.clone();
            let error = self.axis_error(span, "has two extents");
            return Err(error.with_label(first, "the other is here"));
        }
        self.form.kernel.extents.entry(axis).or_insert((extent, span));
        Ok(axis)
    }

    pub(super) fn axis_error(&self, span: Span, problem: &str) -> ParseError {
        let text = self.text(span.clone());
        let word = text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or(text);
        self.error_at(span, ParseErrorKind::Axis { axis: shortened(word), problem: problem.into() })
    }

    fn axis_in_dimension(&self, word: &str) -> ParseError {
        let help = format!("a symbol of this name goes in quotes: \"{}\"", shortened(word));
        self.axis_error(self.span.clone(), "cannot stand here").with_help(help)
    }
}

/// Names.
impl<'s> KernelParser<'s> {
    /// Adds a buffer.
    pub(super) fn declare_buffer(&mut self, buffer: Buffer, span: Span) -> Parsed<()> {
        let id = BufferId::from(self.form.buffers.len());
        if let Some((_, first)) = self.form.names.insert(buffer.name.clone(), (id, span.clone())) {
            let kind = ParseErrorKind::Redefinition(shortened(&buffer.name));
            return Err(self.error_at(span, kind).with_label(first, "first defined here"));
        }
        self.form.buffers.push(buffer);
        Ok(())
    }

    /// A use of a buffer.
    pub(super) fn buffer_use(&mut self) -> Parsed<BufferId> {
        let (name, span) = self.name("the name of a buffer")?;
        if let Some((id, _)) = self.form.names.get(name.as_ref()) {
            return Ok(*id);
        }
        let near = nearest(&name, self.form.buffers.iter().map(|b| b.name.as_str()));
        let kind = ParseErrorKind::UndefinedBuffer(shortened(&name));
        let help = near.map(|near| format!("did you mean `{near}`?"));
        Err(self.error_at(span, kind).with_optional_help(help))
    }

    /// Names an element of the kernel.
    pub(super) fn define_element(&mut self, name: &'s str, id: ElementId, span: Span) -> Parsed<()> {
        match self.form.kernel.elements.insert(name, (id, span.clone())) {
            Some((_, first)) => {
                let kind = ParseErrorKind::Redefinition(shortened(name));
                Err(self.error_at(span, kind).with_label(first, "first defined here"))
            }
            None => Ok(()),
        }
    }

    /// A use of an element.
    pub(super) fn element_use(&mut self) -> Parsed<ElementId> {
        let Token::Word(name) = self.token else { return Err(self.unexpected("an element such as `e3`")) };
        let Some((id, _)) = self.form.kernel.elements.get(name) else {
            let help = "an element is used after the line that defines it, in the same kernel";
            let error = self.error_here(ParseErrorKind::UndefinedValue(shortened(name)));
            return Err(error.with_help(help));
        };
        let id = *id;
        self.advance()?;
        Ok(id)
    }
}
