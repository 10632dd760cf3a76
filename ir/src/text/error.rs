//! Errors of the parser, and how they are shown.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::dtype::DType;
use crate::infer::InferError;
use crate::types::TensorType;

/// What is wrong with a text form.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseErrorKind {
    /// The file is larger than the parser takes.
    #[error("the text has {bytes} bytes, more than the {} MiB a graph may have", crate::limits::MAX_SOURCE_BYTES >> 20)]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A character that starts no token.
    #[error("unexpected character {0:?}")]
    Character(char),
    /// A string without its closing quote.
    #[error("the string is not closed on its line")]
    UnterminatedString,
    /// A backslash followed by something that is not an escape.
    #[error("`{0}` is not an escape of a string")]
    Escape(String),
    /// Another token than the grammar takes here.
    #[error("expected {expected}, found {found}")]
    Unexpected {
        /// What would do.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Something after the end of the graph.
    #[error("unexpected {0} after the end of the graph")]
    Trailing(String),
    /// No op has this mnemonic.
    #[error("there is no op `{0}`")]
    UnknownOp(String),
    /// No element type has this name.
    #[error("there is no element type `{0}`")]
    UnknownDType(String),
    /// The op has no such attribute.
    #[error("{op}: there is no attribute `{name}`")]
    UnknownAttribute {
        /// The op's mnemonic.
        op: &'static str,
        /// The attribute.
        name: String,
    },
    /// An attribute, clause or type is given twice.
    #[error("`{0}` is given twice")]
    Repeated(String),
    /// An attribute, clause or type is not given.
    #[error("{op}: missing {name}")]
    Missing {
        /// The op's mnemonic.
        op: &'static str,
        /// What is missing.
        name: &'static str,
    },
    /// A value that nothing before defines.
    #[error("there is no value `{0}` here")]
    UndefinedValue(String),
    /// A name or label that is already taken.
    #[error("`{0}` is defined twice")]
    Redefinition(String),
    /// The operands do not fit the op.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// A type is given and is not the one that follows from the operands.
    #[error("`{what}` is declared as {declared}, but is {actual}")]
    DeclaredType {
        /// What is declared.
        what: String,
        /// The type given.
        declared: TensorType,
        /// The type that follows.
        actual: TensorType,
    },
    /// The number of labels or types differs from the number of results.
    #[error("the number of results of {op} is {results}, the number of {what} {given}")]
    ResultCount {
        /// The op's mnemonic.
        op: &'static str,
        /// The number of its results.
        results: usize,
        /// The number given.
        given: usize,
        /// What is given: labels or types.
        what: &'static str,
    },
    /// A number that is none of its type.
    #[error("`{text}` is not of type {dtype}: {problem}")]
    Literal {
        /// The number as written.
        text: String,
        /// The element type.
        dtype: DType,
        /// Why not.
        problem: &'static str,
    },
    /// A number of another kind than needed here.
    #[error("`{text}` is not {expected}")]
    Number {
        /// The number as written.
        text: String,
        /// What would do.
        expected: &'static str,
    },
    /// The outputs in the signature and those returned differ.
    #[error("the signature has the outputs ({declared}), but ({returned}) are returned")]
    Outputs {
        /// The names in the signature.
        declared: String,
        /// The names returned.
        returned: String,
    },
    /// The body of a scan gives another number of new carries than there are carries.
    #[error("scan: the number of carries is {carries}, that of the values of `next` {next}")]
    NextCount {
        /// The number of carries.
        carries: usize,
        /// The number of new values.
        next: usize,
    },
    /// A value that cannot be scanned.
    #[error("scan: `{value}` is {ty}, but a scanned tensor needs a leading axis of {trip} positions")]
    Scanned {
        /// The value.
        value: String,
        /// Its type.
        ty: TensorType,
        /// The number of steps.
        trip: String,
    },
    /// A buffer that a kernel graph does not have.
    #[error("there is no buffer `{0}`")]
    UndefinedBuffer(String),
    /// An axis of a kernel that cannot stand here, or has no extent.
    #[error("axis `{axis}` {problem}")]
    Axis {
        /// The axis as written.
        axis: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A bound of [`crate::limits`] is exceeded.
    #[error("{0}")]
    Limit(String),
}

/// A note on another place of the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Label {
    /// The place, in bytes.
    pub span: Range<usize>,
    /// What is said about it.
    pub text: String,
}

/// Why a text is not a graph, and where.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{line}:{column}: {kind}")]
pub struct ParseError {
    /// What is wrong.
    pub kind: Box<ParseErrorKind>,
    /// The place, in bytes of the source.
    pub span: Range<usize>,
    /// The line of its start, from 1.
    pub line: usize,
    /// The column of its start in characters, from 1.
    pub column: usize,
    /// How to put it right, if that is known.
    pub help: Option<String>,
    /// Notes on other places that matter.
    pub labels: Vec<Label>,
}

/// Lines longer than this are shown in part.
const LONGEST_LINE: usize = 400;
/// Notes further from the error than this are left out.
const FARTHEST_LABEL: usize = 16 << 10;

impl ParseError {
    pub(crate) fn new(source: &str, span: Range<usize>, kind: impl Into<ParseErrorKind>) -> Self {
        let start = floor_boundary(source, span.start);
        let before = &source[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        ParseError {
            kind: Box::new(kind.into()),
            line: before.matches('\n').count() + 1,
            column: source[line_start..start].chars().count() + 1,
            span,
            help: None,
            labels: Vec::new(),
        }
    }

    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn with_optional_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    pub(crate) fn with_label(mut self, span: Range<usize>, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    /// The message without its place.
    pub fn message(&self) -> String {
        self.kind.to_string()
    }

    /// The error as a compiler shows it: message, place, the lines around it with the spot marked, and help.
    ///
    /// `source` is the text that was parsed; `file_name` is shown in front of line and column.
    pub fn render(&self, file_name: &str, source: &str) -> String {
        let message = self.message();
        let window = self.window(source);
        let text = &source[window.clone()];
        let within = |span: &Range<usize>| {
            let clamp = |at: usize| floor_boundary(source, at.clamp(window.start, window.end)) - window.start;
            clamp(span.start)..clamp(span.end).max(clamp(span.start))
        };
        let contained = |label: &&Label| window.start <= label.span.start && label.span.end <= window.end;
        let notes = self.labels.iter().filter(contained);
        let line_start = 1 + source[..window.start].matches('\n').count();
        let snippet = Snippet::source(text)
            .path(file_name)
            .line_start(line_start)
            .annotation(AnnotationKind::Primary.span(within(&self.span)))
            .annotations(notes.map(|l| AnnotationKind::Context.span(within(&l.span)).label(l.text.as_str())));
        let mut report = Level::ERROR.primary_title(message.as_str()).element(snippet);
        if let Some(help) = &self.help {
            report = report.element(Level::HELP.message(help.as_str()));
        }
        Renderer::plain().render(&[report])
    }

    /// The part of the source that is shown: whole lines with the error and its notes where they are short
    /// and near, otherwise a piece of the error's line.
    fn window(&self, source: &str) -> Range<usize> {
        let at = floor_boundary(source, self.span.start);
        let mut low = at;
        let mut high = floor_boundary(source, self.span.end.clamp(at, at + LONGEST_LINE));
        for label in &self.labels {
            let near = |x: usize| x <= source.len() && x.abs_diff(at) <= FARTHEST_LABEL;
            if near(label.span.start) && near(label.span.end) {
                low = low.min(label.span.start);
                high = high.max(label.span.end);
            }
        }
        let (low, high) = (floor_boundary(source, low), floor_boundary(source, high));
        let start = source[..low].rfind('\n').map_or(0, |n| n + 1);
        let end = source[high..].find('\n').map_or(source.len(), |n| high + n);
        if source[start..end].lines().all(|line| line.len() <= LONGEST_LINE) {
            return start..end;
        }
        let line_start = source[..at].rfind('\n').map_or(0, |n| n + 1);
        let line_end = source[at..].find('\n').map_or(source.len(), |n| at + n);
        let start = floor_boundary(source, line_start.max(at.saturating_sub(LONGEST_LINE / 2)));
        start..floor_boundary(source, line_end.min(at + LONGEST_LINE / 2))
    }
}

/// The last character boundary of `text` at or before `at`.
fn floor_boundary(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at.min(text.len()))
}
