//! Attributes: `axes=[0, 1]`, `low=[T, 0]`, `value=-inf`, and the ops that are made of them.

use crate::dtype::DType;
use crate::expr::Dim;
use crate::limits::MAX_RANK;
use crate::ops::{Op, SliceAxis};
use crate::types::TensorType;

use super::cursor::{Declared, Parsed, Span};
use super::error::ParseErrorKind;
use super::lexer::{Token, shortened};
use super::literal::LiteralText;
use super::parse::Mnemonic;
use super::scope::GraphParser;
use super::suggest::nearest;

/// How the value of an attribute is written.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Form {
    /// One axis: `1`.
    Axis,
    /// Axes or steps: `[0, 2]`.
    Numbers,
    /// Pairs of axes: `[1:0]`.
    Pairs,
    /// Dimensions: `[T - 1, 0]`.
    Dims,
    /// A scalar: `-0.5`.
    Literal,
}

/// The attributes of an op: name and form.
fn forms(mnemonic: Mnemonic) -> &'static [(&'static str, Form)] {
    match mnemonic {
        Mnemonic::Scalar(_) => &[],
        Mnemonic::Reduce(_) => &[("axes", Form::Numbers)],
        Mnemonic::Structural(name) => match name {
            "iota" | "concat" | "gather" => &[("axis", Form::Axis)],
            "broadcast" | "reverse" => &[("axes", Form::Numbers)],
            "transpose" => &[("permutation", Form::Numbers)],
            "slice" => &[("start", Form::Dims), ("length", Form::Dims), ("step", Form::Numbers)],
            "pad" => &[("low", Form::Dims), ("high", Form::Dims), ("value", Form::Literal)],
            "contract" => &[("batch", Form::Pairs), ("axes", Form::Pairs)],
            _ => &[],
        },
    }
}

/// The value of an attribute.
enum Value {
    Axis(usize),
    Numbers(Vec<usize>),
    Pairs(Vec<(usize, usize)>),
    Dims(Vec<Dim>),
    Literal(LiteralText),
}

/// The attributes that a statement gives.
pub(super) struct Given(Vec<(&'static str, Value)>);

impl Given {
    fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(n, _)| *n == name)?;
        Some(self.0.swap_remove(at).1)
    }
}

/// What a statement says beside its attributes.
pub(super) struct Context {
    pub mnemonic: Mnemonic,
    pub span: Span,
    /// The value of a constant.
    pub literal: Option<LiteralText>,
    /// The type of the first operand.
    pub operand_type: Option<TensorType>,
}

/// Reading.
impl GraphParser<'_> {
    pub(super) fn attributes(&mut self, mnemonic: Mnemonic) -> Parsed<Given> {
        let forms = forms(mnemonic);
        let mut given = Given(Vec::new());
        while let Token::Word(word) = self.token
            && self.second() == Token::Mark('=')
        {
            let Some((name, form)) = forms.iter().find(|(name, _)| *name == word) else {
                return Err(self.unknown_attribute(mnemonic, word));
            };
            if given.0.iter().any(|(n, _)| n == name) {
                return Err(self.error_here(ParseErrorKind::Repeated((*name).into())));
            }
            self.advance()?;
            self.expect('=')?;
            let value = self.attribute_value(*form)?;
            given.0.push((name, value));
        }
        Ok(given)
    }

    fn unknown_attribute(&self, mnemonic: Mnemonic, word: &str) -> super::error::ParseError {
        let names: Vec<&str> = forms(mnemonic).iter().map(|(name, _)| *name).collect();
        let help = match nearest(word, names.iter().copied()) {
            Some(name) => format!("did you mean `{name}`?"),
            None if names.is_empty() => format!("{} has no attributes", mnemonic.name()),
            None => format!("its attributes are {}", names.join(", ")),
        };
        let kind = ParseErrorKind::UnknownAttribute { op: mnemonic.name(), name: shortened(word) };
        self.error_here(kind).with_help(help)
    }

    fn attribute_value(&mut self, form: Form) -> Parsed<Value> {
        Ok(match form {
            Form::Axis => Value::Axis(self.axis()?),
            Form::Literal => Value::Literal(self.literal()?),
            Form::Numbers => Value::Numbers(self.bracketed(Self::axis)?),
            Form::Dims => Value::Dims(self.bracketed(Self::dim)?),
            Form::Pairs => Value::Pairs(self.bracketed(|p| {
                let first = p.axis()?;
                if !p.eat(':')? {
                    let error = p.unexpected("`:`");
                    return Err(error
                        .with_help("a pair is an axis of the first operand and one of the second: `1:0`"));
                }
                Ok((first, p.axis()?))
            })?),
        })
    }

    fn axis(&mut self) -> Parsed<usize> {
        self.count("a whole number of at least 0")
    }

    fn bracketed<T>(&mut self, item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let start = self.span.start;
        self.expect('[')?;
        let items = self.list(']', item)?;
        if items.len() > MAX_RANK {
            let text = format!(
                "the list has {} entries, more than the {MAX_RANK} axes a tensor may have",
                items.len()
            );
            return Err(self.error_at(start..self.previous_end, ParseErrorKind::Limit(text)));
        }
        Ok(items)
    }
}

/// Building.
impl GraphParser<'_> {
    pub(super) fn build_op(
        &self,
        context: Context,
        mut given: Given,
        declared: Option<&Declared>,
    ) -> Parsed<Op> {
        let op = context.mnemonic.name();
        let missing =
            |name: &'static str| self.error_at(context.span.clone(), ParseErrorKind::Missing { op, name });
        let made = || {
            let help =
                format!("`{op}` makes the type it is given: end the statement with one, as `: f32[T, B]`");
            declared.map(|d| d.ty.clone()).ok_or_else(|| missing("type").with_help(help))
        };
        let axis = |given: &mut Given| match given.take("axis") {
            Some(Value::Axis(axis)) => Ok(axis),
            _ => Err(missing("axis")),
        };
        let numbers = |given: &mut Given, name: &'static str| match given.take(name) {
            Some(Value::Numbers(numbers)) => Ok(numbers),
            _ => Err(missing(name)),
        };
        let dims = |given: &mut Given, name: &'static str| match given.take(name) {
            Some(Value::Dims(dims)) => Ok(dims),
            _ => Err(missing(name)),
        };
        let structural = match context.mnemonic {
            Mnemonic::Scalar(op) => return Ok(Op::Scalar(op)),
            Mnemonic::Reduce(op) => return Ok(Op::Reduce { op, axes: numbers(&mut given, "axes")? }),
            Mnemonic::Structural(name) => name,
        };
        Ok(match structural {
            "constant" => {
                let literal = context.literal.as_ref().ok_or_else(|| missing("value"))?;
                Op::Constant { value: self.typed_literal(literal, made()?.dtype)? }
            }
            "iota" => {
                let ty = made()?;
                Op::Iota { axis: axis(&mut given)?, shape: ty.shape, dtype: ty.dtype }
            }
            "cast" => Op::Cast { dtype: made()?.dtype },
            "reshape" => Op::Reshape { shape: made()?.shape },
            "broadcast" => Op::Broadcast { axes: numbers(&mut given, "axes")?, shape: made()?.shape },
            "transpose" => Op::Transpose { permutation: numbers(&mut given, "permutation")? },
            "slice" => {
                let (start, length) = (dims(&mut given, "start")?, dims(&mut given, "length")?);
                Op::Slice { axes: self.slice_axes(&context.span, start, length, given.take("step"))? }
            }
            "pad" => {
                let (low, high) = (dims(&mut given, "low")?, dims(&mut given, "high")?);
                let Some(Value::Literal(value)) = given.take("value") else { return Err(missing("value")) };
                // Without an operand the arity is wrong, which inference says better.
                let dtype = context.operand_type.as_ref().map_or(DType::F32, |ty| ty.dtype);
                Op::Pad { low, high, value: self.typed_literal(&value, dtype)? }
            }
            "concat" => Op::Concat { axis: axis(&mut given)? },
            "reverse" => Op::Reverse { axes: numbers(&mut given, "axes")? },
            "gather" => Op::Gather { axis: axis(&mut given)? },
            "contract" => {
                let pairs = |value| match value {
                    Some(Value::Pairs(pairs)) => Some(pairs),
                    _ => None,
                };
                let batch = pairs(given.take("batch")).unwrap_or_default();
                Op::Contract { batch, axes: pairs(given.take("axes")).ok_or_else(|| missing("axes"))? }
            }
            other => {
                return Err(self.error_at(context.span.clone(), ParseErrorKind::UnknownOp(other.into())));
            }
        })
    }

    fn slice_axes(
        &self,
        span: &Span,
        start: Vec<Dim>,
        length: Vec<Dim>,
        step: Option<Value>,
    ) -> Parsed<Vec<SliceAxis>> {
        let step = match step {
            Some(Value::Numbers(step)) => step,
            _ => vec![1; start.len()],
        };
        if start.len() != length.len() || start.len() != step.len() {
            let text = format!(
                "slice: start, length and step have {}, {} and {} entries, but each needs one an axis",
                start.len(),
                length.len(),
                step.len()
            );
            return Err(self.error_at(span.clone(), ParseErrorKind::Limit(text)));
        }
        let axes = start.into_iter().zip(length).zip(step);
        axes.map(|((start, length), step)| {
            let in_range = i64::try_from(step).ok().filter(|s| *s <= crate::limits::MAX_DIM);
            let step = in_range.ok_or_else(|| {
                let expected = "a step: steps are at most 2^40";
                self.error_at(span.clone(), ParseErrorKind::Number { text: step.to_string(), expected })
            })?;
            Ok(SliceAxis { start, length, step })
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::OP_ROWS;

    #[test]
    fn every_structural_op_can_be_read() {
        // An op that `forms` and `build_op` do not know would take no attributes and fail as unknown.
        let without = ["constant", "elementwise", "cast", "reshape", "reduce", "scan"];
        for row in OP_ROWS {
            let known = !forms(Mnemonic::Structural(row.mnemonic)).is_empty();
            assert_ne!(known, without.contains(&row.mnemonic), "{}", row.mnemonic);
        }
    }
}
