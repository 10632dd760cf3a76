//! Dimension expressions: `4*H + T - 1`, `floordiv(T, 2)`.

use crate::expr::{Dim, Expr};
use crate::limits::{self, MAX_DIM, MAX_DIM_DEPTH, MAX_DIM_SIZE};

use super::cursor::{Parsed, Parser, TextForm};
use super::error::ParseErrorKind;
use super::lexer::{Token, shortened};

/// A function of two expressions.
type Function = fn(&Expr, &Expr) -> Expr;

fn function(name: &str) -> Option<Function> {
    match name {
        "floordiv" => Some(Expr::floor_div),
        "mod" => Some(Expr::modulo),
        "min" => Some(Expr::minimum),
        "max" => Some(Expr::maximum),
        _ => None,
    }
}

impl<F: TextForm> Parser<'_, F> {
    /// A dimension or index expression, normalised as it is read.
    pub(crate) fn dim(&mut self) -> Parsed<Dim> {
        self.sum(MAX_DIM_DEPTH)
    }

    fn sum(&mut self, depth: usize) -> Parsed<Dim> {
        let Some(depth) = depth.checked_sub(1) else {
            let text = format!("the dimension nests deeper than {MAX_DIM_DEPTH} levels");
            return Err(self.error_here(ParseErrorKind::Limit(text)));
        };
        let start = self.span.start;
        let negative = self.eat('-')?;
        let mut out = self.term(depth)?;
        if negative {
            out = -out;
        }
        loop {
            let subtract = match self.token {
                Token::Mark('+') => false,
                Token::Mark('-') => true,
                _ => return Ok(out),
            };
            self.advance()?;
            let term = self.term(depth)?;
            out = if subtract { out - term } else { out + term };
            self.check_dim(&out, start)?;
        }
    }

    fn term(&mut self, depth: usize) -> Parsed<Dim> {
        let start = self.span.start;
        let mut out = self.factor(depth)?;
        while self.eat('*')? {
            let factor = self.factor(depth)?;
            let (a, b) = (limits::dim_size(&out), limits::dim_size(&factor));
            // Bounds the product before it is multiplied out: each term of one side meets each of the other.
            let (m, n) = (out.terms().count(), factor.terms().count());
            if a.saturating_mul(n).saturating_add(b.saturating_mul(m)) > 4 * MAX_DIM_SIZE {
                let text = format!("the dimension has more than {MAX_DIM_SIZE} terms and factors");
                return Err(self.error_at(start..self.previous_end, ParseErrorKind::Limit(text)));
            }
            out = out * factor;
            self.check_dim(&out, start)?;
        }
        Ok(out)
    }

    fn factor(&mut self, depth: usize) -> Parsed<Dim> {
        let start = self.span.start;
        match self.token {
            Token::Number(text) => {
                let value = text.parse::<i64>().ok().filter(|v| *v <= MAX_DIM);
                let Some(value) = value else {
                    let expected = "a number in a dimension: those are whole and at most 2^40";
                    return Err(self.error_here(ParseErrorKind::Number { text: shortened(text), expected }));
                };
                self.advance()?;
                if let Token::Word(word) = self.token
                    && self.previous_end == self.span.start
                {
                    let error = self.unexpected("an operator, `,` or `]`");
                    return Err(error.with_help(format!("write a product as `{text}*{}`", shortened(word))));
                }
                Ok(Dim::constant(value))
            }
            Token::Word(name) if self.second() == Token::Mark('(') => {
                self.advance()?;
                let Some(function) = function(name) else {
                    let span = start..start + name.len();
                    let found = format!("`{}`", shortened(name));
                    let kind = ParseErrorKind::Unexpected { expected: "a function".into(), found };
                    let help = "the functions are floordiv(a, b), mod(a, b), min(a, b) and max(a, b)";
                    return Err(self.error_at(span, kind).with_help(help));
                };
                self.advance()?;
                let a = self.sum(depth)?;
                self.expect(',')?;
                let b = self.sum(depth)?;
                self.expect(')')?;
                let out = function(&a, &b);
                self.check_dim(&out, start)?;
                Ok(out)
            }
            Token::Mark('(') => {
                self.advance()?;
                let out = self.sum(depth)?;
                self.expect(')')?;
                Ok(out)
            }
            Token::Word(_)
            | Token::Label(_)
            | Token::Hex(_)
            | Token::Quoted(_)
            | Token::Arrow
            | Token::Mark(_)
            | Token::End => match F::leaf(self)? {
                Some(leaf) => Ok(leaf),
                None => Err(self.unexpected("a dimension such as `T`, `64` or `4*H`")),
            },
        }
    }

    fn check_dim(&self, dim: &Dim, start: usize) -> Parsed<()> {
        match limits::dim_problem(dim) {
            Some(problem) => Err(self.error_at(start..self.previous_end, ParseErrorKind::Limit(problem))),
            None => Ok(()),
        }
    }
}
