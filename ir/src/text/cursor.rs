//! The parser's cursor: tokens, names, numbers and types.

use std::borrow::Cow;
use std::ops::Range;

use crate::dtype::DType;
use crate::expr::{Dim, Expr};
use crate::limits::{self, MAX_SOURCE_BYTES};
use crate::types::{Shape, TensorType};

use super::error::{ParseError, ParseErrorKind};
use super::lexer::{Lexer, Token, shortened};
use super::suggest::nearest;

pub(crate) type Span = Range<usize>;
pub(crate) type Parsed<T> = Result<T, ParseError>;

/// A type as it stands in the text.
pub(crate) struct Declared {
    pub ty: TensorType,
    pub span: Span,
}

/// One of the text forms that share tokens, types, expressions and literals: what its parser knows beside its
/// place in the text, and what the words of its expressions mean.
pub(crate) trait TextForm: Sized {
    /// Takes the axis or symbol that an expression has next; takes nothing where the next token is none.
    fn leaf(parser: &mut Parser<'_, Self>) -> Parsed<Option<Expr>>;
}

/// A parser: a cursor over the tokens, and the state of its text form.
pub(crate) struct Parser<'s, F> {
    source: &'s str,
    lexer: Lexer<'s>,
    /// The token that is next.
    pub(crate) token: Token<'s>,
    /// Its place.
    pub(crate) span: Span,
    /// Where the token before it ends.
    pub(crate) previous_end: usize,
    /// What the text form keeps, such as what is under construction.
    pub(crate) form: F,
}

/// Tokens.
impl<'s, F> Parser<'s, F> {
    /// A parser at the start of a text; refuses one that is too large.
    pub(crate) fn new(source: &'s str, form: F) -> Parsed<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(ParseError::new(source, 0..0, ParseErrorKind::TooLarge { bytes: source.len() }));
        }
        let mut lexer = Lexer::new(source);
        let (token, span) = lexer.next()?;
        Ok(Parser { source, lexer, token, span, previous_end: 0, form })
    }

    /// Checks that nothing comes after what was read; `help` says what a file holds.
    pub(crate) fn expect_end(&self, help: &str) -> Parsed<()> {
        match self.token {
            Token::End => Ok(()),
            other => Err(self.error_here(ParseErrorKind::Trailing(other.describe())).with_help(help)),
        }
    }

    pub(crate) fn advance(&mut self) -> Parsed<()> {
        self.previous_end = self.span.end;
        (self.token, self.span) = self.lexer.next()?;
        Ok(())
    }

    /// The token after the next one; [`Token::End`] where there is none.
    pub(crate) fn second(&self) -> Token<'s> {
        let mut ahead = self.lexer;
        ahead.next().map_or(Token::End, |(token, _)| token)
    }

    pub(crate) fn error_at(&self, span: Span, kind: impl Into<ParseErrorKind>) -> ParseError {
        ParseError::new(self.source, span, kind)
    }

    pub(crate) fn error_here(&self, kind: impl Into<ParseErrorKind>) -> ParseError {
        self.error_at(self.span.clone(), kind)
    }

    pub(crate) fn unexpected(&self, expected: impl Into<String>) -> ParseError {
        let found = self.token.describe();
        self.error_here(ParseErrorKind::Unexpected { expected: expected.into(), found })
    }

    pub(crate) fn text(&self, span: Span) -> &'s str {
        &self.source[span]
    }

    pub(crate) fn eat(&mut self, mark: char) -> Parsed<bool> {
        let found = self.token == Token::Mark(mark);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub(crate) fn expect(&mut self, mark: char) -> Parsed<()> {
        if self.eat(mark)? { Ok(()) } else { Err(self.unexpected(format!("`{mark}`"))) }
    }

    pub(crate) fn eat_word(&mut self, word: &str) -> Parsed<bool> {
        let found = self.token == Token::Word(word);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub(crate) fn eat_arrow(&mut self) -> Parsed<bool> {
        let found = self.token == Token::Arrow;
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    /// `item {"," item} [","]` up to `close`, which is taken too.
    pub(crate) fn list<T>(
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
    pub(crate) fn name(&mut self, what: &str) -> Parsed<(Cow<'s, str>, Span)> {
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
impl<F: TextForm> Parser<'_, F> {
    /// A count or position: decimal digits.
    pub(crate) fn count(&mut self, expected: &'static str) -> Parsed<usize> {
        let Token::Number(text) = self.token else { return Err(self.unexpected(expected)) };
        let value = text
            .parse()
            .map_err(|_| self.error_here(ParseErrorKind::Number { text: shortened(text), expected }))?;
        self.advance()?;
        Ok(value)
    }

    pub(crate) fn dtype(&mut self) -> Parsed<DType> {
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
    pub(crate) fn ty(&mut self) -> Parsed<Declared> {
        let start = self.span.start;
        let dtype = self.dtype()?;
        let shape = if self.eat('[')? { self.list(']', Self::extent)? } else { Shape::new() };
        let span = start..self.previous_end;
        let ty = TensorType { dtype, shape };
        self.check_type(&ty, &span)?;
        Ok(Declared { ty, span })
    }

    /// A dimension that is not a negative constant.
    pub(crate) fn extent(&mut self) -> Parsed<Dim> {
        let start = self.span.start;
        let dim = self.dim()?;
        if dim.as_constant().is_some_and(|c| c < 0) {
            let span = start..self.previous_end;
            let expected = "an extent: extents are at least 0";
            return Err(self.error_at(span, ParseErrorKind::Number { text: dim.to_string(), expected }));
        }
        Ok(dim)
    }

    pub(crate) fn check_type(&self, ty: &TensorType, span: &Span) -> Parsed<()> {
        match limits::type_problem(ty) {
            Some(problem) => Err(self.error_at(span.clone(), ParseErrorKind::Limit(problem))),
            None => Ok(()),
        }
    }
}
