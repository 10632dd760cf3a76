//! Words, numbers, strings and punctuation with their positions.

/// A malformed text form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct TextError {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A keyword or name.
    Word(String),
    /// Begins with a digit.
    Number(String),
    /// In double quotes.
    Quoted(String),
    /// One character.
    Punctuation(char),
    /// Behind the last token.
    End,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Word(text) | Kind::Number(text) => write!(f, "`{text}`"),
            Kind::Quoted(text) => write!(f, "{text:?}"),
            Kind::Punctuation(c) => write!(f, "`{c}`"),
            Kind::End => f.write_str("the end of the text"),
        }
    }
}

/// A token and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) line: usize,
    pub(super) column: usize,
}

struct Cursor<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
    column: usize,
}

impl Cursor<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            (self.line, self.column) = (self.line + 1, 1);
        } else {
            self.column += 1;
        }
        Some(c)
    }

    fn take_while(&mut self, first: char, accept: impl Fn(char, char) -> bool) -> String {
        let mut text = String::from(first);
        let mut last = first;
        while let Some(c) = self.rest.peek().copied().filter(|c| accept(last, *c)) {
            text.push(c);
            last = c;
            self.next();
        }
        text
    }

    fn error(&self, message: impl Into<String>) -> TextError {
        TextError { line: self.line, column: self.column, message: message.into() }
    }

    /// The rest of a string as Rust's `Debug` writes it.
    fn quoted(&mut self) -> Result<String, TextError> {
        let mut text = String::new();
        loop {
            match self.next() {
                None | Some('\n') => return Err(self.error("the string is not closed")),
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escape()?),
                Some(c) => text.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, TextError> {
        match self.next() {
            Some('n') => Ok('\n'),
            Some('t') => Ok('\t'),
            Some('r') => Ok('\r'),
            Some('0') => Ok('\0'),
            Some(c @ ('"' | '\\' | '\'')) => Ok(c),
            Some('u') if self.next() == Some('{') => {
                let mut digits = String::new();
                while let Some(c) = self.next().filter(|c| *c != '}') {
                    digits.push(c);
                    if digits.len() > 6 {
                        break;
                    }
                }
                let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                code.ok_or_else(|| self.error("no such character"))
            }
            _ => Err(self.error("no such escape")),
        }
    }
}

/// All tokens, the last of them [`Kind::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, TextError> {
    let mut cursor = Cursor { rest: text.chars().peekable(), line: 1, column: 1 };
    let mut out = Vec::new();
    loop {
        let (line, column) = (cursor.line, cursor.column);
        let kind = match cursor.next() {
            None => Kind::End,
            Some(c) if c.is_whitespace() => continue,
            Some('/') if cursor.rest.peek() == Some(&'/') => {
                cursor.take_while('/', |_, c| c != '\n');
                continue;
            }
            Some('"') => Kind::Quoted(cursor.quoted()?),
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                Kind::Word(cursor.take_while(c, |_, c| c.is_ascii_alphanumeric() || c == '_' || c == '.'))
            }
            Some(c) if c.is_ascii_digit() => Kind::Number(cursor.take_while(c, |last, c| {
                c.is_ascii_alphanumeric() || c == '.' || (matches!(last, 'e' | 'E') && matches!(c, '-' | '+'))
            })),
            Some(c) if c.is_ascii_punctuation() => Kind::Punctuation(c),
            Some(c) => {
                return Err(TextError { line, column, message: format!("unexpected character {c:?}") });
            }
        };
        let end = kind == Kind::End;
        out.push(Token { kind, line, column });
        if end {
            return Ok(out);
        }
    }
}
