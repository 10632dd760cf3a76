//! The values that operations and statements use.

use crate::kernel_ir::{Function, Operation, Statement, ValueId};

/// The operands of an operation, in order.
pub(crate) fn of_operation(operation: &Operation) -> impl DoubleEndedIterator<Item = ValueId> + use<> {
    let (a, b, c) = match operation {
        Operation::Constant(_)
        | Operation::Symbol(_)
        | Operation::WorkBegin
        | Operation::WorkEnd
        | Operation::WorkItem
        | Operation::Block
        | Operation::Blocks
        | Operation::Thread
        | Operation::LaneIndex => (None, None, None),
        Operation::Load { index, .. }
        | Operation::LoadShared { index, .. }
        | Operation::LoadMatrices { index, .. } => (Some(*index), None, None),
        Operation::Unary(_, x)
        | Operation::Convert(_, x)
        | Operation::Butterfly(x, _)
        | Operation::Tf32(x)
        | Operation::Splat(x)
        | Operation::Extract(x, _) => (Some(*x), None, None),
        Operation::Binary(_, x, y)
        | Operation::Pair(_, x, y)
        | Operation::Compare(_, x, y)
        | Operation::Insert(x, y, _) => (Some(*x), Some(*y), None),
        Operation::Fma(x, y, z)
        | Operation::Select(x, y, z)
        | Operation::MatrixFma { left: x, right: y, sum: z, .. } => (Some(*x), Some(*y), Some(*z)),
        Operation::GroupFma { left, right, sum, .. } => (Some(left.index), Some(right.index), Some(*sum)),
    };
    [a, b, c].into_iter().flatten()
}

/// Visits what a statement uses where it stands: not what its body does, nor what that ends with.
pub(crate) fn of_statement(statement: &Statement, used: &mut impl FnMut(ValueId)) {
    match statement {
        Statement::Let { operation, .. } => of_operation(operation).for_each(used),
        Statement::Store { index, value, .. } | Statement::StoreShared { index, value, .. } => {
            [*index, *value].into_iter().for_each(used);
        }
        Statement::StartCopy { to, from, inside, .. } => [*to, *from, *inside].into_iter().for_each(used),
        Statement::StoreCluster { index, value, block, .. } => {
            [*index, *value, *block].into_iter().for_each(used);
        }
        Statement::Prefetch { index, .. } => used(*index),
        Statement::Product(product) => {
            let all = [product.rows, product.count, product.from, product.left_step, product.to_step];
            let columns = product.columns.iter().flat_map(|c| [c.at, c.to_index]);
            all.into_iter().chain(columns).for_each(used);
        }
        Statement::For { begin, end, carried, .. } => {
            [*begin, *end].into_iter().chain(carried.iter().map(|c| c.init)).for_each(used);
        }
        Statement::If { condition, .. } => used(*condition),
        Statement::CommitCopies
        | Statement::AwaitCopies { .. }
        | Statement::Barrier
        | Statement::GridBarrier
        | Statement::ClusterArrive
        | Statement::ClusterWait => {}
    }
}

/// What the body of a statement ends with: the next values of a loop.
pub(crate) fn of_end(statement: &Statement) -> impl DoubleEndedIterator<Item = ValueId> {
    let carried = if let Statement::For { carried, .. } = statement { &carried[..] } else { &[] };
    carried.iter().map(|c| c.next)
}

/// How often each of so many values is used.
pub(crate) fn counts(values: usize, body: &[Statement]) -> Vec<u32> {
    fn count(body: &[Statement], uses: &mut [u32]) {
        for statement in body {
            of_statement(statement, &mut |id| uses[id.0 as usize] += 1);
            of_end(statement).for_each(|id| uses[id.0 as usize] += 1);
            count(statement.body(), uses);
        }
    }
    let mut all = vec![0; values];
    count(body, &mut all);
    all
}

/// How often each value of a function is used.
pub(crate) fn uses(function: &Function) -> Vec<u32> {
    counts(function.types.len(), &function.body)
}
