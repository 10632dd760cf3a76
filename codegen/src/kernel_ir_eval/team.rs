//! A block of GPU threads, or those of a cluster, which take each statement together.
//!
//! Control flow is structured, so that threads on different ways meet again behind the statement at which they parted.
//! Races on buffers go unnoticed, those on shared memory do not ([`super::shared`]).

use super::copies::Copies;
use super::shared::User;
use super::{Evaluated, EvaluationError, Head, Machine, Register, Running};
use crate::kernel_ir::{Operation, Statement, ValueId};

/// Threads that exchange registers.
const WARP: usize = 32;

/// The threads of a block, or of all blocks of a cluster, one block behind the other.
pub(super) struct Team<'a> {
    machine: Machine<'a>,
    /// Threads of a block.
    size: usize,
    /// Whether they have arrived where the cluster meets, and not waited yet.
    has_arrived: bool,
    /// The values of each thread, but for the one whose values the machine has, and its copies.
    values: Vec<Vec<Option<Register>>>,
    copies: Vec<Copies>,
}

impl<'a> Team<'a> {
    pub(super) fn new(machine: Machine<'a>, blocks: usize) -> Team<'a> {
        let size = machine.function.mapping.block_threads().unwrap_or(1) as usize;
        let values = vec![machine.values.clone(); size * blocks];
        let copies = vec![Copies::default(); size * blocks];
        Team { machine, size, has_arrived: false, values, copies }
    }

    pub(super) fn run(&mut self) -> Evaluated<()> {
        let all: Vec<usize> = (0..self.values.len()).collect();
        self.statements(&self.machine.function.body, &all)
    }

    fn change_places(&mut self, thread: usize) {
        std::mem::swap(&mut self.machine.values, &mut self.values[thread]);
        std::mem::swap(&mut self.machine.copies, &mut self.copies[thread]);
    }

    /// What one thread does.
    pub(super) fn on<T>(
        &mut self,
        thread: usize,
        act: impl FnOnce(&mut Machine<'a>) -> Evaluated<T>,
    ) -> Evaluated<T> {
        self.change_places(thread);
        self.machine.user = User { block: thread / self.size, thread: (thread % self.size) as i64 };
        let result = act(&mut self.machine);
        self.change_places(thread);
        result
    }

    /// Runs statements on some threads, ascending by number.
    fn statements(&mut self, body: &[Statement], threads: &[usize]) -> Evaluated<()> {
        if threads.is_empty() {
            return Ok(());
        }
        body.iter().try_for_each(|statement| self.statement(statement, threads))
    }

    fn statement(&mut self, statement: &Statement, threads: &[usize]) -> Evaluated<()> {
        match statement {
            Statement::Let { value, operation: Operation::Butterfly(x, distance) } => {
                self.butterfly(*value, *x, usize::from(*distance), threads)
            }
            Statement::Let { value, operation: Operation::GroupFma { factors, left, right, sum } } => {
                self.group_fma(*value, *factors, [left, right], *sum, threads)
            }
            Statement::Barrier => {
                threads.chunk_by(|a, b| a / self.size == b / self.size).try_for_each(|block| {
                    if block.len() < self.size {
                        return Err(EvaluationError::Diverged(self.machine.function.name.clone()));
                    }
                    self.machine.shared.meet(block[0] / self.size);
                    Ok(())
                })
            }
            Statement::ClusterArrive | Statement::ClusterWait => {
                let arrives = *statement == Statement::ClusterArrive;
                if threads.len() < self.values.len() || arrives == self.has_arrived {
                    return Err(self.diverged());
                }
                self.has_arrived = arrives;
                self.machine.shared.meet_cluster(arrives);
                Ok(())
            }
            Statement::For { counter, begin, end, step, carried, body, .. } => {
                let head = Head { counter: *counter, begin: *begin, end: *end, step: *step, carried };
                self.counted_loop(&head, body, threads)
            }
            Statement::If { condition, body } => {
                let mut inside = Vec::with_capacity(threads.len());
                for thread in threads {
                    if self.on(*thread, |machine| machine.holds(*condition))? {
                        inside.push(*thread);
                    }
                }
                self.statements(body, &inside)
            }
            Statement::Let { .. }
            | Statement::Store { .. }
            | Statement::StoreShared { .. }
            | Statement::StoreCluster { .. }
            | Statement::Prefetch { .. }
            | Statement::Product(_)
            | Statement::StartCopy { .. }
            | Statement::CommitCopies
            | Statement::AwaitCopies { .. }
            | Statement::GridBarrier => {
                threads.iter().try_for_each(|thread| self.on(*thread, |machine| machine.statement(statement)))
            }
        }
    }

    fn counted_loop(&mut self, head: &Head, body: &[Statement], threads: &[usize]) -> Evaluated<()> {
        let enter = |thread: &usize| Ok((*thread, self.on(*thread, |machine| machine.enter(head))?));
        let mut loops = threads.iter().map(enter).collect::<Evaluated<Vec<(usize, Running)>>>()?;
        loop {
            let goes_on = |(_, running): &&mut (usize, Running)| running.position < running.end;
            let mut inside = Vec::with_capacity(threads.len());
            for (thread, running) in loops.iter_mut().filter(goes_on) {
                inside.push(*thread);
                self.on(*thread, |machine| machine.begin_iteration(head, running))?;
            }
            if inside.is_empty() {
                break;
            }
            self.statements(body, &inside)?;
            for (thread, running) in loops.iter_mut().filter(goes_on) {
                self.on(*thread, |machine| machine.end_iteration(head, running))?;
            }
        }
        let leave = |(thread, running)| self.on(thread, |machine| machine.leave(head, running));
        loops.into_iter().try_for_each(leave)
    }

    fn butterfly(&mut self, value: ValueId, x: ValueId, distance: usize, threads: &[usize]) -> Evaluated<()> {
        let mut warps = threads.chunk_by(|a, b| a / WARP == b / WARP);
        if distance >= WARP || !warps.all(|warp| warp.len() == WARP) {
            return Err(self.diverged());
        }
        let mut registers = vec![Register::new(); self.values.len()];
        for thread in threads {
            registers[*thread] = self.on(*thread, |machine| machine.get(x))?;
        }
        for thread in threads {
            let other = registers[*thread ^ distance].clone();
            self.on(*thread, |machine| machine.set(value, other))?;
        }
        Ok(())
    }

    pub(super) fn invalid(&self, value: ValueId, what: &'static str) -> EvaluationError {
        self.machine.invalid(value, what)
    }

    pub(super) fn diverged(&self) -> EvaluationError {
        EvaluationError::Diverged(self.machine.function.name.clone())
    }
}
