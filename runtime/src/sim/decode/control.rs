//! Branches, barriers, and exchanges between the lanes of a warp.

use super::super::arithmetic::Function;
use super::super::op::{Op, Shuffle, Vote};
use super::super::syntax::Operand;
use super::super::value::{Kind, Type};
use super::{Decoded, Decoder, Opcode, predicate_result, result_of};

const WORD: Type = Type { kind: Kind::Unsigned, bits: 32, packed: false };

impl<'m> Decoder<'m> {
    /// The instruction, if it is one of these.
    pub(super) fn control(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Option<Op>> {
        Ok(Some(match opcode.name {
            "bra" => Op::Branch { target: self.label(o, 0)? },
            "brx" => self.table(o)?,
            "ret" | "exit" => Op::Return,
            "trap" => Op::Trap,
            "fence" | "membar" if fences(opcode) => Op::Fence,
            "fence" if opcode.has("proxy") && opcode.has("async") && !opcode.has("global") => Op::ProxyFence,
            "fence" | "membar" | "griddepcontrol" | "nanosleep" | "pmevent" => Op::Nothing,
            "barrier" if opcode.has("cluster") => {
                self.clustered()?;
                match opcode.parts.get(1) {
                    Some(&"arrive") => Op::ClusterArrive { releases: !opcode.has("relaxed") },
                    Some(&"wait") => Op::ClusterWait,
                    _ => return Err("a barrier of a cluster is arrived at or waited for".to_string()),
                }
            }
            "bar" | "barrier" if opcode.has("warp") => Op::WarpBarrier { members: self.source(o, 0, WORD)? },
            "bar" | "barrier" if opcode.has("sync") || opcode.has("arrive") => {
                let count = if o.len() > 1 { Some(self.source(o, 1, WORD)?) } else { None };
                Op::Barrier { id: self.source(o, 0, WORD)?, count, waits: opcode.has("sync") }
            }
            "shfl" if opcode.has("sync") => self.shuffle(opcode, o)?,
            "vote" if opcode.has("sync") => self.vote(opcode, o)?,
            "redux" if opcode.has("sync") => self.reduce(opcode, o)?,
            "activemask" => Op::ActiveMask { d: self.result(o, 0)? },
            "elect" => {
                let Some(Operand::Pair(d, p)) = o.first() else {
                    return Err("expected a result and a predicate".to_string());
                };
                let d = if **d == Operand::Sink { None } else { Some(result_of(d)?) };
                let p = predicate_result(p)?.ok_or("the predicate is missing")?;
                Op::Elect { d, p, members: self.source(o, 1, WORD)? }
            }
            _ => return Ok(None),
        }))
    }

    fn label(&self, o: &[Operand<'m>], at: usize) -> Decoded<u32> {
        match o.get(at) {
            Some(Operand::Symbol(name)) => self.target(name),
            _ => Err("expected a label".to_string()),
        }
    }

    fn target(&self, name: &str) -> Decoded<u32> {
        self.labels.get(name).copied().ok_or_else(|| format!("there is no label `{name}`"))
    }

    fn table(&mut self, o: &[Operand<'m>]) -> Decoded<Op> {
        let Some(Operand::Symbol(name)) = o.get(1) else {
            return Err("expected a list of labels".to_string());
        };
        let list = self.entry.targets.iter().find(|(label, _)| label == name);
        let (_, list) = list.ok_or_else(|| format!("there is no list `{name}`"))?;
        let targets: Decoded<Box<[u32]>> = list.iter().map(|label| self.target(label)).collect();
        Ok(Op::BranchTable { index: self.source(o, 0, WORD)?, targets: targets? })
    }

    fn shuffle(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Op> {
        let f = match opcode.parts.get(1) {
            Some(&"up") => Shuffle::Up,
            Some(&"down") => Shuffle::Down,
            Some(&"bfly") => Shuffle::Butterfly,
            Some(&"idx") => Shuffle::Index,
            _ => return Err("the mode of shfl is missing".to_string()),
        };
        let (d, p) = match o.first() {
            Some(Operand::Pair(d, p)) => (result_of(d)?, predicate_result(p)?),
            Some(d) => (result_of(d)?, None),
            None => return Err("the result is missing".to_string()),
        };
        let [a, b, c, members] = [1, 2, 3, 4].map(|at| self.source(o, at, WORD));
        Ok(Op::Shuffle { f, d, p, a: a?, b: b?, c: c?, members: members? })
    }

    fn vote(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Op> {
        let f = opcode.parts.iter().find_map(|part| match *part {
            "all" => Some(Vote::All),
            "any" => Some(Vote::Any),
            "uni" => Some(Vote::Uniform),
            "ballot" => Some(Vote::Ballot),
            _ => None,
        });
        let f = f.ok_or("the mode of vote is missing")?;
        let d = match (f, o.first()) {
            (Vote::Ballot, Some(d)) => result_of(d)?,
            (_, Some(p)) => predicate_result(p)?.ok_or("the result is missing")?,
            (_, None) => return Err("the result is missing".to_string()),
        };
        Ok(Op::Vote { f, d, a: self.predicate(o, 1)?, members: self.source(o, 2, WORD)? })
    }

    fn reduce(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Op> {
        let f = opcode.parts.iter().find_map(|part| match *part {
            "add" => Some(Function::Add),
            "min" => Some(Function::Min),
            "max" => Some(Function::Max),
            "and" => Some(Function::And),
            "or" => Some(Function::Or),
            "xor" => Some(Function::Xor),
            _ => None,
        });
        let ty = *opcode.types.first().ok_or("the type is missing")?;
        let (f, d) = (f.ok_or("the operation is not simulated")?, self.result(o, 0)?);
        Ok(Op::Reduce { f, ty, d, a: self.source(o, 1, ty)?, members: self.source(o, 2, WORD)? })
    }
}

/// Whether a fence orders what blocks do.
fn fences(opcode: &Opcode<'_>) -> bool {
    let wide = ["gpu", "gl", "sys"].iter().any(|scope| opcode.has(scope));
    wide && !opcode.has("proxy")
}
