//! Arithmetic of integers where it is needed.
//!
//! Kernel IR is built with what does not change in a loop before it, as early as it can be computed. What is used behind a
//! loop alone would then take a register as long as that runs, and what a condition needs would be computed where it does
//! not hold. So what computes integers goes to the place before its first use, also into conditions, but into no loop.

use crate::kernel_ir::{LaneType, Operation, Statement, Type, ValueId};
use crate::operands::{counts, of_end, of_operation, of_statement};

/// The same statements, in such an order.
pub(crate) fn place(body: Vec<Statement>, types: &[Type]) -> Vec<Statement> {
    let remaining = counts(types.len(), &body);
    let values = vec![None; types.len()];
    let mut late = Late { types, remaining, held: values, lists: Vec::new(), parents: Vec::new() };
    late.list(body, Vec::new(), false)
}

/// What is held back until all of its uses are known.
#[derive(Clone)]
struct Held {
    operation: Operation,
    /// How deep the list is where it stood.
    home: usize,
    /// The innermost list that all of its uses so far are in.
    common: Option<usize>,
}

/// A list of statements that is gone through from its end.
struct List {
    number: usize,
    /// Whether it is the body of a loop.
    repeats: bool,
    reversed: Vec<Statement>,
    /// What goes before the statement whose body is gone through now.
    waiting: Vec<ValueId>,
}

struct Late<'a> {
    types: &'a [Type],
    /// Uses that come before what has been gone through.
    remaining: Vec<u32>,
    held: Vec<Option<Held>>,
    /// The lists around what is gone through, outermost first.
    lists: Vec<List>,
    /// The list around each list, by number.
    parents: Vec<usize>,
}

impl Late<'_> {
    fn list(&mut self, body: Vec<Statement>, end: Vec<ValueId>, repeats: bool) -> Vec<Statement> {
        let (number, home) = (self.parents.len(), self.lists.len());
        self.parents.push(self.lists.last().map_or(0, |list| list.number));
        self.lists.push(List {
            number,
            repeats,
            reversed: Vec::with_capacity(body.len()),
            waiting: Vec::new(),
        });
        let mut fixed = Vec::with_capacity(body.len());
        for statement in body {
            match statement {
                Statement::Let { value, operation }
                    if self.remaining[value.0 as usize] > 0 && self.moves(value, &operation) =>
                {
                    self.held[value.0 as usize] = Some(Held { operation, home, common: None });
                }
                other => fixed.push(other),
            }
        }
        self.use_all(end);
        while let Some(statement) = fixed.pop() {
            self.statement(statement);
        }
        let mut done = self.lists.pop().map(|list| list.reversed).unwrap_or_default();
        done.reverse();
        done
    }

    /// Whether an operation computes an integer, or compares some, of nothing but integers.
    fn moves(&self, value: ValueId, operation: &Operation) -> bool {
        let is_integer = |id: ValueId| {
            let Type { lane, lanes } = self.types[id.0 as usize];
            lanes == 1 && matches!(lane, LaneType::I32 | LaneType::I64 | LaneType::Bool)
        };
        let is_pure = match operation {
            Operation::Constant(_)
            | Operation::Symbol(_)
            | Operation::WorkItem
            | Operation::Block
            | Operation::Blocks
            | Operation::Thread
            | Operation::Unary(..)
            | Operation::Binary(..)
            | Operation::Compare(..)
            | Operation::Select(..)
            | Operation::Convert(..) => true,
            Operation::WorkBegin
            | Operation::WorkEnd
            | Operation::LaneIndex
            | Operation::Load { .. }
            | Operation::LoadShared { .. }
            | Operation::LoadMatrices { .. }
            | Operation::Butterfly(..)
            | Operation::Tf32(_)
            | Operation::Splat(_)
            | Operation::Extract(..)
            | Operation::Pair(..)
            | Operation::Insert(..)
            | Operation::Fma(..)
            | Operation::MatrixFma { .. }
            | Operation::GroupFma { .. } => false,
        };
        is_pure && is_integer(value) && of_operation(operation).all(is_integer)
    }

    fn statement(&mut self, mut statement: Statement) {
        let end: Vec<ValueId> = of_end(&statement).collect();
        let repeats = matches!(statement, Statement::For { .. });
        if let Statement::For { body, .. } | Statement::If { body, .. } = &mut statement {
            *body = self.list(std::mem::take(body), end, repeats);
        }
        let mut used = Vec::new();
        of_statement(&statement, &mut |id| used.push(id));
        let here = self.here();
        here.reversed.push(statement);
        for value in std::mem::take(&mut here.waiting) {
            self.write(value);
        }
        self.use_all(used);
    }

    fn here(&mut self) -> &mut List {
        self.lists.last_mut().expect("a statement is in a list")
    }

    fn use_all(&mut self, used: Vec<ValueId>) {
        // From the last one on, as all else.
        for value in used.into_iter().rev() {
            self.use_one(value);
        }
    }

    /// Notes that a value is used here. If that is its first use, its place is known.
    fn use_one(&mut self, value: ValueId) {
        let at = value.0 as usize;
        self.remaining[at] -= 1;
        let Some(held) = &mut self.held[at] else { return };
        // In front of the outermost loop that it is not in.
        let inside = &self.lists[held.home..];
        let depth = held.home + inside.iter().skip(1).take_while(|list| !list.repeats).count();
        let mut common = held.common.unwrap_or(self.lists[depth].number);
        let around = |number: usize| self.lists[..=depth].iter().rposition(|list| list.number == number);
        let depth = loop {
            match around(common) {
                Some(depth) => break depth,
                None => common = self.parents[common],
            }
        };
        held.common = Some(common);
        if self.remaining[at] > 0 {
            return;
        }
        if depth + 1 == self.lists.len() {
            self.write(value);
        } else {
            self.lists[depth].waiting.push(value);
        }
    }

    /// Puts what computes a value before all that was gone through.
    fn write(&mut self, value: ValueId) {
        let Some(Held { operation, .. }) = self.held[value.0 as usize].take() else { return };
        let used = of_operation(&operation).collect();
        self.here().reversed.push(Statement::Let { value, operation });
        self.use_all(used);
    }
}

#[cfg(test)]
mod tests {
    use crate::text;

    /// What a function is in such an order, without its header.
    fn placed(body: &str) -> String {
        let header = "function f blocks 32 {
  read p0 \"x\": f32 = b0 multiple 16
  write p1 \"y\": f32 = b1
  work 1
";
        let mut function = text::parse(&format!("{header}{body}}}\n")).expect("it is Kernel IR");
        function.body = super::place(function.body, &function.types);
        crate::verify::verify(&function).expect("it is as valid as before");
        let text = text::print(&function);
        let begin = text.find("work 1\n").expect("it has work") + "work 1\n".len();
        text[begin..text.len() - 2].to_owned()
    }

    #[test]
    fn what_is_used_behind_a_loop_is_computed_there() {
        let body = "  v0: i64 = thread
  v1: i64 = constant 0
  v2: i64 = constant 8
  v3: i64 = mul v0, v2
  v4: f32 = constant 0.0
  for v5 = v1 to v2 step 1 carry (v6: f32 = v4 next v8 result v9) {
    v7: f32 = load p0[v5]
    v8: f32 = add v6, v7
  }
  store p1[v3] = v9
";
        let expected = "  v4: f32 = constant 0.0
  v1: i64 = constant 0
  v2: i64 = constant 8
  for v5 = v1 to v2 step 1 carry (v6: f32 = v4 next v8 result v9) {
    v7: f32 = load p0[v5]
    v8: f32 = add v6, v7
  }
  v0: i64 = thread
  v3: i64 = mul v0, v2
  store p1[v3] = v9
";
        assert_eq!(placed(body), expected);
    }

    #[test]
    fn what_a_condition_needs_is_computed_where_it_holds_but_not_in_loops() {
        let body = "  v0: i64 = thread
  v1: i64 = constant 0
  v2: i64 = constant 8
  v3: bool = compare lt v0, v2
  v4: i64 = add v0, v2
  v5: i64 = mul v0, v2
  if v3 {
    for v6 = v1 to v2 step 1 {
      v7: i64 = add v5, v6
      v8: f32 = load p0[v4]
      store p1[v7] = v8
    }
  }
";
        let expected = "  v0: i64 = thread
  v2: i64 = constant 8
  v3: bool = compare lt v0, v2
  if v3 {
    v1: i64 = constant 0
    v4: i64 = add v0, v2
    v5: i64 = mul v0, v2
    for v6 = v1 to v2 step 1 {
      v8: f32 = load p0[v4]
      v7: i64 = add v5, v6
      store p1[v7] = v8
    }
  }
";
        assert_eq!(placed(body), expected);
    }

    #[test]
    fn what_two_conditions_need_is_computed_before_both() {
        let body = "  v0: i64 = thread
  v1: i64 = constant 8
  v2: bool = compare lt v0, v1
  v3: i64 = mul v0, v1
  v4: f32 = load p0[v0]
  if v2 {
    store p1[v3] = v4
  }
  if v2 {
    store p1[v3] = v4
  }
";
        let expected = "  v0: i64 = thread
  v4: f32 = load p0[v0]
  v1: i64 = constant 8
  v2: bool = compare lt v0, v1
  v3: i64 = mul v0, v1
  if v2 {
    store p1[v3] = v4
  }
  if v2 {
    store p1[v3] = v4
  }
";
        assert_eq!(placed(body), expected);
    }

    #[test]
    fn what_nobody_uses_stays() {
        let body = "  v0: i64 = thread
  v1: i64 = constant 8
  v2: i64 = mul v0, v1
";
        assert_eq!(placed(body), body);
    }
}
