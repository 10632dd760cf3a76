//! The two sides of a textual rule.
//!
//! `(add ?x (neg ?y))`: heads are elementwise ops by mnemonic, `?x` matches anything, a number matches a class
//! whose value is that constant in its own type. On the right a number is the constant over the matched
//! space, in the type of its sibling.

use std::collections::BTreeMap;

use egg::{ENodeOrVar, Id, PatternAst, RecExpr, Subst, Var};
use fuse_ir::interp::fold_scalar;
use fuse_ir::ops::{Law, ResultRule, ScalarOp};
use fuse_ir::{DType, Literal};

use crate::analysis::Terms;
use crate::language::{Head, SpaceId, Term};

/// One side of a rule.
#[derive(Clone, PartialEq, Debug)]
pub enum Side {
    /// Matches anything, the same everywhere.
    Variable(String),
    /// A constant, in the type that its place asks for.
    Number(f64),
    /// An elementwise op.
    Apply(ScalarOp, Vec<Side>),
}

impl Side {
    /// Reads a side.
    ///
    /// # Errors
    /// In words, where the text is none.
    pub fn parse(text: &str) -> Result<Side, String> {
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let mut tokens = spaced.split_whitespace().peekable();
        let side = parse_side(&mut tokens)?;
        match tokens.next() {
            Some(rest) => Err(format!("`{rest}` follows the end of `{text}`")),
            None => Ok(side),
        }
    }

    /// The sides that match what this one does up to the order of operands of commutative ops.
    pub fn commuted(&self) -> Vec<Side> {
        let Side::Apply(op, operands) = self else { return vec![self.clone()] };
        let mut combinations: Vec<Vec<Side>> = vec![Vec::new()];
        for operand in operands {
            let choices = operand.commuted();
            let extended = combinations.iter().flat_map(|c| {
                choices.iter().map(move |choice| {
                    let mut next = c.clone();
                    next.push(choice.clone());
                    next
                })
            });
            combinations = extended.collect();
        }
        let mut out: Vec<Side> = Vec::new();
        for operands in combinations {
            let mut swapped = operands.clone();
            swapped.reverse();
            out.push(Side::Apply(*op, operands));
            if op.has(Law::Commutative) {
                out.push(Side::Apply(*op, swapped));
            }
        }
        let mut distinct: Vec<Side> = Vec::new();
        for side in out {
            if !distinct.contains(&side) {
                distinct.push(side);
            }
        }
        distinct
    }

    /// The pattern for the e-matcher; numbers become variables, returned with their value.
    pub fn pattern(&self) -> (PatternAst<Term>, Vec<(Var, f64)>) {
        let (mut ast, mut numbers) = (RecExpr::default(), Vec::new());
        self.add_to(&mut ast, &mut numbers);
        (ast, numbers)
    }

    fn add_to(&self, ast: &mut PatternAst<Term>, numbers: &mut Vec<(Var, f64)>) -> Id {
        match self {
            Side::Variable(name) => ast.add(ENodeOrVar::Var(variable(name))),
            Side::Number(value) => {
                let var = variable(&format!("?number{}", numbers.len()));
                numbers.push((var, *value));
                ast.add(ENodeOrVar::Var(var))
            }
            Side::Apply(op, operands) => {
                let children: Vec<Id> = operands.iter().map(|o| o.add_to(ast, numbers)).collect();
                ast.add(ENodeOrVar::ENode(Term::new(Head::Scalar(*op), &children)))
            }
        }
    }

    /// Adds the term with these variables; `dtype` is the type of numbers.
    pub fn instantiate(&self, terms: &mut Terms, subst: &Subst, space: SpaceId, dtype: DType) -> Id {
        match self {
            Side::Variable(name) => subst[variable(name)],
            Side::Number(value) => {
                let head = terms.analysis.tables.constant_head(Literal::from_f64(dtype, *value), space);
                terms.add(Term::leaf(head))
            }
            Side::Apply(op, operands) => {
                let children: Vec<Id> =
                    operands.iter().map(|o| o.instantiate(terms, subst, space, dtype)).collect();
                let term = in_order(terms, *op, &children);
                terms.add(term)
            }
        }
    }

    /// The class of the term with these variables, if the graph has it; adds constants alone.
    pub fn known(&self, terms: &mut Terms, subst: &Subst, space: SpaceId, dtype: DType) -> Option<Id> {
        match self {
            Side::Variable(_) | Side::Number(_) => Some(self.instantiate(terms, subst, space, dtype)),
            Side::Apply(op, operands) => {
                let children: Option<Vec<Id>> =
                    operands.iter().map(|o| o.known(terms, subst, space, dtype)).collect();
                let term = in_order(terms, *op, &children?);
                terms.lookup(term)
            }
        }
    }

    /// The outermost term of this side, whose operands are in the graph; `None` where it is none of its own.
    pub fn outermost(&self, terms: &mut Terms, subst: &Subst, space: SpaceId, dtype: DType) -> Option<Term> {
        let Side::Apply(op, operands) = self else { return None };
        let children: Vec<Id> = operands.iter().map(|o| o.instantiate(terms, subst, space, dtype)).collect();
        Some(in_order(terms, *op, &children))
    }

    /// The type of the result where values have the type `dtype`: conditions are bools.
    pub fn result_type(&self, dtype: DType) -> DType {
        match self {
            Side::Variable(_) | Side::Number(_) => dtype,
            Side::Apply(op, operands) => match op.result_rule() {
                ResultRule::Comparison => DType::Bool,
                ResultRule::Select => operands[2].result_type(dtype),
                ResultRule::SameWidth => ResultRule::SameWidth.result(operands[0].result_type(dtype)),
                ResultRule::Same => {
                    let types = operands.iter().map(|o| o.result_type(dtype));
                    types.fold(dtype, |all, ty| if ty == DType::Bool { ty } else { all })
                }
            },
        }
    }

    /// The type of each operand of an op whose result has the type `result` where values have the type `dtype`.
    pub fn operand_type(op: ScalarOp, position: usize, result: DType, dtype: DType) -> DType {
        match op.result_rule() {
            ResultRule::Comparison => dtype,
            ResultRule::Select if position == 0 => DType::Bool,
            ResultRule::Select | ResultRule::Same => result,
            ResultRule::SameWidth => ResultRule::SameWidth.result(result),
        }
    }

    /// The value, of type `result`, with these variables where values have the type `dtype`. `None` where the
    /// types do not fit.
    pub fn evaluate(
        &self,
        variables: &BTreeMap<String, Literal>,
        result: DType,
        dtype: DType,
    ) -> Option<Literal> {
        match self {
            Side::Variable(name) => variables.get(name).copied(),
            Side::Number(value) => Some(Literal::from_f64(result, *value)),
            Side::Apply(op, operands) => {
                let operand = |(i, operand): (usize, &Side)| {
                    operand.evaluate(variables, Side::operand_type(*op, i, result, dtype), dtype)
                };
                let values: Option<Vec<Literal>> = operands.iter().enumerate().map(operand).collect();
                fold_scalar(*op, &values?)
            }
        }
    }
}

/// The term of an op with its operands, those of a commutative one in the order in which it is known, or else by
/// age: both orders of one sum would be two classes, and four of the next.
pub fn in_order(terms: &Terms, op: ScalarOp, operands: &[Id]) -> Term {
    let term = Term::new(Head::Scalar(op), operands);
    if !op.has(Law::Commutative) || terms.lookup(term.clone()).is_some() {
        return term;
    }
    let swapped = Term::new(Head::Scalar(op), &[operands[1], operands[0]]);
    if terms.lookup(swapped.clone()).is_some() { swapped } else { swapped.min(term) }
}

/// The matcher's name of a variable.
fn variable(name: &str) -> Var {
    name.parse().expect("a name with a question mark is a variable")
}

fn parse_side<'a>(tokens: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> Result<Side, String> {
    match tokens.next() {
        None => Err("a side ends early".into()),
        Some("(") => {
            let name = tokens.next().unwrap_or_default();
            let op = ScalarOp::from_mnemonic(name).ok_or_else(|| format!("no op is called `{name}`"))?;
            let mut operands = Vec::new();
            while tokens.peek().is_some_and(|t| *t != ")") {
                operands.push(parse_side(tokens)?);
            }
            tokens.next().ok_or("a parenthesis stays open")?;
            if operands.len() != op.arity() {
                return Err(format!("`{name}` takes {} operands, got {}", op.arity(), operands.len()));
            }
            Ok(Side::Apply(op, operands))
        }
        Some(name) if name.starts_with('?') && name.len() > 1 => Ok(Side::Variable(name.into())),
        Some(number) => number.parse().map(Side::Number).map_err(|_| format!("`{number}` is no operand")),
    }
}

/// The outermost term that a pattern matched.
pub fn matched(ast: &PatternAst<Term>, terms: &Terms, subst: &Subst) -> Option<Term> {
    let mut classes: Vec<Id> = Vec::with_capacity(ast.len());
    let mut outermost = None;
    for node in ast.iter() {
        let class = match node {
            ENodeOrVar::Var(var) => *subst.get(*var)?,
            ENodeOrVar::ENode(term) => {
                let children: Vec<Id> = term.children.iter().map(|c| classes[usize::from(*c)]).collect();
                let term = Term::new(term.head, &children);
                outermost = Some(term.clone());
                terms.lookup(term)?
            }
        };
        classes.push(class);
    }
    outermost
}
