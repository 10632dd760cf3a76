//! Literals: numbers, infinities, NaNs with their bits, truth values.

use crate::dtype::{DType, Literal};

use super::cursor::{Parsed, Parser, Span};
use super::error::ParseErrorKind;
use super::lexer::{Token, shortened};

/// A scalar as written; its type comes from elsewhere.
#[derive(Clone)]
pub(crate) struct LiteralText {
    text: String,
    /// The digits of `nan:0x…`.
    nan_bits: Option<String>,
    span: Span,
}

impl<F> Parser<'_, F> {
    /// `1`, `-0.5`, `-inf`, `nan`, `nan:0x7fc00001`, `true`.
    pub(crate) fn literal(&mut self) -> Parsed<LiteralText> {
        let start = self.span.start;
        let negative = self.eat('-')?;
        let word = match self.token {
            Token::Number(text) => text,
            Token::Word(word @ ("inf" | "nan" | "true" | "false")) if !negative || word == "inf" => word,
            _ => return Err(self.unexpected("a number, `inf`, `-inf`, `nan`, `true` or `false`")),
        };
        self.advance()?;
        let mut nan_bits = None;
        // `nan : f32` declares a type; only `nan:0x…` gives the bits.
        if word == "nan"
            && self.token == Token::Mark(':')
            && let Token::Hex(digits) = self.second()
        {
            self.advance()?;
            self.advance()?;
            nan_bits = Some(digits.trim_start_matches("0x").to_owned());
        }
        let text = if negative { format!("-{word}") } else { word.to_owned() };
        Ok(LiteralText { text, nan_bits, span: start..self.previous_end })
    }

    /// The literal of that type; an error where the text stands for none.
    pub(crate) fn typed_literal(&self, literal: &LiteralText, dtype: DType) -> Parsed<Literal> {
        let fail = |problem: &'static str| {
            let text = match &literal.nan_bits {
                Some(bits) => format!("{}:0x{}", literal.text, shortened(bits)),
                None => shortened(&literal.text),
            };
            self.error_at(literal.span.clone(), ParseErrorKind::Literal { text, dtype, problem })
        };
        if let Some(digits) = &literal.nan_bits {
            if !dtype.is_float() {
                return Err(fail("only floats are NaN"));
            }
            let bits = u64::from_str_radix(digits, 16).map_err(|_| fail("the bits do not fit"))?;
            let value = Literal::from_bits(dtype, bits);
            return match value.bits() == bits {
                true if value.as_f64().is_nan() => Ok(value),
                true => Err(fail("these are not the bits of a NaN")),
                false => Err(fail("the bits do not fit")),
            };
        }
        let text = literal.text.as_str();
        match dtype {
            DType::Bool => match text {
                "true" => Ok(Literal::from_i64(dtype, 1)),
                "false" => Ok(Literal::from_i64(dtype, 0)),
                _ => Err(fail("a bool is `true` or `false`")),
            },
            DType::I32 | DType::I64 | DType::U8 => {
                let value: i64 =
                    text.parse().map_err(|_| fail("an integer is digits, within the range of its type"))?;
                let out = Literal::from_i64(dtype, value);
                if out.as_i64() == value { Ok(out) } else { Err(fail("it is outside the range of the type")) }
            }
            DType::F32 | DType::F64 | DType::F16 | DType::Bf16 => float_literal(text, dtype).map_err(fail),
        }
    }
}

/// The float that decimal text stands for. Narrow types go through f32, in which every printed value of
/// theirs is exact.
fn float_literal(text: &str, dtype: DType) -> Result<Literal, &'static str> {
    match text {
        "nan" => return Ok(Literal::from_f64(dtype, f64::NAN)),
        "inf" => return Ok(Literal::from_f64(dtype, f64::INFINITY)),
        "-inf" => return Ok(Literal::from_f64(dtype, f64::NEG_INFINITY)),
        "true" | "false" => return Err("a float is a number, `inf` or `nan`"),
        _ => {}
    }
    let value = match dtype {
        DType::F64 => text.parse::<f64>(),
        _ => text.parse::<f32>().map(f64::from),
    };
    let out = Literal::from_f64(dtype, value.map_err(|_| "a float is a number, `inf` or `nan`")?);
    if out.as_f64().is_infinite() {
        Err("it is beyond the largest finite value; write `inf`")
    } else {
        Ok(out)
    }
}
