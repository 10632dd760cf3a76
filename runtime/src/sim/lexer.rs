//! PTX text as tokens, each with the line it stands on.
//!
//! An identifier takes its dotted parts along (`ld.global.v2.b32`, `%tid.x`, `.shared::cta` after it), so that an
//! opcode is one token and a directive is one that starts with a point.

use super::error::PtxError;

/// One token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token<'a> {
    /// An opcode, directive, register, label or symbol.
    Word(&'a str),
    /// An integer or float literal, as written.
    Number(&'a str),
    /// What stands between quotes.
    Text(&'a str),
    /// Anything else, one character each.
    Punctuation(char),
}

/// A token and its line, counted from 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Located<'a> {
    pub token: Token<'a>,
    pub line: u32,
}

/// Splits a module into tokens; comments and white space go.
pub(super) fn tokens(text: &str) -> Result<Vec<Located<'_>>, PtxError> {
    let mut out = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\n' => {
                line += 1;
                1
            }
            c if c.is_whitespace() => c.len_utf8(),
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => {
                let end = rest.find("*/").ok_or_else(|| PtxError::new(line, "/*", "a comment has no end"))?;
                line += rest[..end].matches('\n').count() as u32;
                end + 2
            }
            '"' => {
                let end = rest[1..].find('"');
                let end = end.ok_or_else(|| PtxError::new(line, "\"", "a text has no end"))?;
                out.push(Located { token: Token::Text(&rest[1..=end]), line });
                end + 2
            }
            c if c.is_ascii_digit() => {
                let end = number_length(rest);
                out.push(Located { token: Token::Number(&rest[..end]), line });
                end
            }
            c if starts_word(c) => {
                let end = word_length(rest);
                out.push(Located { token: Token::Word(&rest[..end]), line });
                end
            }
            c => {
                out.push(Located { token: Token::Punctuation(c), line });
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    Ok(out)
}

fn starts_word(c: char) -> bool {
    c.is_ascii_alphabetic() || matches!(c, '_' | '$' | '%' | '.')
}

fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$')
}

/// The length of the word that `text` starts with, points and double colons within it included.
fn word_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let follows = |at: usize| bytes.get(at).is_some_and(|b| in_word(char::from(*b)));
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b if in_word(char::from(b)) => at += 1,
            b'.' if follows(at + 1) => at += 1,
            b':' if bytes.get(at + 1) == Some(&b':') && follows(at + 2) => at += 2,
            _ => break,
        }
    }
    at
}

/// The length of a number: hexadecimal digits and suffixes, a fraction, an exponent with its sign.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let decimal = !text.starts_with("0x") && !text.starts_with("0X") && !text.starts_with("0f");
    let mut at = 1;
    while let Some(b) = bytes.get(at) {
        let signed = matches!(b, b'+' | b'-')
            && decimal
            && !text.starts_with("0d")
            && matches!(bytes[at - 1], b'e' | b'E')
            && text[..at].contains('.');
        if !(b.is_ascii_alphanumeric() || *b == b'.' || signed) {
            break;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opcode_is_one_word_and_lines_are_counted() {
        let text = "// a comment\n@!%p1 ld.shared::cta.v2.b32 {%r1, _}, [%rd1+-4]; /* two\nlines */ L:";
        let found = tokens(text).unwrap();
        let words: Vec<_> = found.iter().map(|t| t.token).collect();
        assert!(words.contains(&Token::Word("ld.shared::cta.v2.b32")));
        assert!(words.contains(&Token::Number("4")));
        assert_eq!(words[words.len() - 2..], [Token::Word("L"), Token::Punctuation(':')]);
        assert_eq!((found[0].line, found.last().map(|t| t.line)), (2, Some(3)));
    }

    #[test]
    fn numbers_keep_their_notation() {
        for text in ["12", "0x1F", "0f3F800000", "0d3FF0000000000000", "1.5", "1.5e-3", "7U"] {
            assert_eq!(tokens(text).unwrap()[0].token, Token::Number(text), "{text}");
        }
    }
}
