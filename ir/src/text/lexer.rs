//! Tokens of the text form, one at a time.

use std::ops::Range;

use winnow::Parser;
use winnow::ascii::{digit1, multispace1, till_line_ending};
use winnow::combinator::{alt, dispatch, fail, opt, peek, preceded, repeat};
use winnow::error::EmptyError;
use winnow::stream::{LocatingSlice, Location, Stream};
use winnow::token::{any, none_of, one_of, take_while};

use super::error::{ParseError, ParseErrorKind};

/// A token; text is a slice of the source.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Token<'s> {
    /// A word: keyword, mnemonic, name or symbol.
    Word(&'s str),
    /// A label, without its `%`.
    Label(&'s str),
    /// A decimal number without sign, perhaps with fraction and exponent.
    Number(&'s str),
    /// A hexadecimal number, with its `0x`.
    Hex(&'s str),
    /// A string, between its quotes, escapes as written.
    Quoted(&'s str),
    /// `->`.
    Arrow,
    /// One of `( ) [ ] { } , : = + - * < @`.
    Mark(char),
    /// The end of the source.
    End,
}

impl Token<'_> {
    /// The token as an error names it.
    pub(crate) fn describe(self) -> String {
        match self {
            Token::Word(text) | Token::Number(text) | Token::Hex(text) => format!("`{}`", shortened(text)),
            Token::Label(text) => format!("`%{}`", shortened(text)),
            Token::Quoted(text) => format!("`\"{}\"`", shortened(text)),
            Token::Arrow => "`->`".into(),
            Token::Mark(mark) => format!("`{mark}`"),
            Token::End => "the end of the text".into(),
        }
    }
}

/// The text, or its beginning where it is too long for a message.
pub(crate) fn shortened(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

type Input<'s> = LocatingSlice<&'s str>;
type LexResult<T> = Result<T, EmptyError>;

/// A place between two tokens; cheap to copy, so that the parser can look ahead.
#[derive(Clone, Copy)]
pub(super) struct Lexer<'s> {
    source: &'s str,
    input: Input<'s>,
}

impl<'s> Lexer<'s> {
    pub(super) fn new(source: &'s str) -> Self {
        Lexer { source, input: LocatingSlice::new(source) }
    }

    /// The next token and its place; [`Token::End`] for ever at the end.
    pub(super) fn next(&mut self) -> Result<(Token<'s>, Range<usize>), ParseError> {
        let () = trivia(&mut self.input).unwrap_or(());
        let start = self.input.current_token_start();
        if self.input.eof_offset() == 0 {
            return Ok((Token::End, start..start));
        }
        match token(&mut self.input) {
            Ok(token) => Ok((token, start..self.input.previous_token_end())),
            Err(EmptyError) => Err(self.error(start)),
        }
    }

    /// Why no token starts at `start`.
    fn error(&self, start: usize) -> ParseError {
        let rest = &self.source[start..];
        let first = rest.chars().next().unwrap_or('\0');
        let span = start..start + first.len_utf8();
        match first {
            '"' => {
                let line_end = rest.find('\n').map_or(self.source.len(), |n| start + n);
                ParseError::new(self.source, start..line_end, ParseErrorKind::UnterminatedString)
            }
            '%' => {
                let found = format!("{:?}", rest.chars().nth(1).unwrap_or(' '));
                let expected = "letters or digits after `%`".into();
                ParseError::new(self.source, span, ParseErrorKind::Unexpected { expected, found })
            }
            other => {
                let error = ParseError::new(self.source, span, ParseErrorKind::Character(other));
                match other {
                    '#' | ';' | '/' => {
                        error.with_help("comments start with `//`; statements need no end mark")
                    }
                    _ => error.with_help("a name with characters like this goes in quotes: \"…\""),
                }
            }
        }
    }
}

fn trivia(input: &mut Input<'_>) -> LexResult<()> {
    repeat(0.., alt((multispace1.void(), ("//", till_line_ending).void()))).parse_next(input)
}

fn token<'s>(input: &mut Input<'s>) -> LexResult<Token<'s>> {
    dispatch! { peek(any);
        'A'..='Z' | 'a'..='z' | '_' => take_while(1.., is_word).map(Token::Word),
        '%' => preceded('%', take_while(1.., is_word)).map(Token::Label),
        '0'..='9' => alt((hexadecimal, decimal)),
        '"' => quoted,
        '-' => alt(("->".value(Token::Arrow), '-'.map(Token::Mark))),
        '(' | ')' | '[' | ']' | '{' | '}' | ',' | ':' | '=' | '+' | '*' | '<' | '@' => any.map(Token::Mark),
        _ => fail,
    }
    .parse_next(input)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.')
}

fn hexadecimal<'s>(input: &mut Input<'s>) -> LexResult<Token<'s>> {
    ("0x", take_while(1.., |c: char| c.is_ascii_hexdigit())).take().map(Token::Hex).parse_next(input)
}

fn decimal<'s>(input: &mut Input<'s>) -> LexResult<Token<'s>> {
    let exponent = (one_of(['e', 'E']), opt(one_of(['+', '-'])), digit1);
    (digit1, opt(('.', digit1)), opt(exponent)).take().map(Token::Number).parse_next(input)
}

fn quoted<'s>(input: &mut Input<'s>) -> LexResult<Token<'s>> {
    let character = alt((('\\', none_of('\n')).void(), none_of(['"', '\\', '\n']).void()));
    let body = repeat::<_, _, (), _, _>(0.., character).take();
    ('"', body, '"').map(|(_, text, _)| Token::Quoted(text)).parse_next(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(source: &str) -> Vec<Token<'_>> {
        let mut lexer = Lexer::new(source);
        let mut out = Vec::new();
        loop {
            match lexer.next().expect("the source has only tokens") {
                (Token::End, _) => return out,
                (token, _) => out.push(token),
            }
        }
    }

    #[test]
    fn numbers_take_their_fraction_and_exponent_but_not_a_following_word() {
        assert_eq!(tokens("1.5e-7"), [Token::Number("1.5e-7")]);
        assert_eq!(tokens("4H"), [Token::Number("4"), Token::Word("H")]);
        assert_eq!(tokens("1e"), [Token::Number("1"), Token::Word("e")]);
        assert_eq!(tokens("0x7fC0"), [Token::Hex("0x7fC0")]);
    }

    #[test]
    fn comments_and_line_ends_separate_tokens() {
        assert_eq!(tokens("a// b\r\n-> -"), [Token::Word("a"), Token::Arrow, Token::Mark('-')]);
        assert_eq!(tokens("// only a comment"), []);
    }

    #[test]
    fn a_quote_that_is_escaped_does_not_end_a_string() {
        assert_eq!(tokens(r#""a\"b" "\\""#), [Token::Quoted(r#"a\"b"#), Token::Quoted(r"\\")]);
    }

    #[test]
    fn spans_are_those_of_the_token() {
        let mut lexer = Lexer::new("  %ab =");
        assert_eq!(lexer.next(), Ok((Token::Label("ab"), 2..5)));
        assert_eq!(lexer.next(), Ok((Token::Mark('='), 6..7)));
        assert_eq!(lexer.next(), Ok((Token::End, 7..7)));
    }
}
