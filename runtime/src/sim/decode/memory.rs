//! Loads, stores, atomic operations, addresses, asynchronous copies and matrices.

use super::super::arithmetic::Function;
use super::super::op::{Address, Atomic, Op, Order, Phase, Product, Slot, Space, Transfer};
use super::super::syntax::{Class, Operand};
use super::super::value::{Kind, Type, mask};
use super::{Decoded, Decoder, Opcode, class_bits, predicate_result, result_of};

const ADDRESS: Type = Type { kind: Kind::Unsigned, bits: 64, packed: false };
const WORD: Type = Type { kind: Kind::Unsigned, bits: 32, packed: false };

impl<'m> Decoder<'m> {
    /// The instruction, if it is one of these.
    pub(super) fn memory(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Option<Op>> {
        Ok(Some(match opcode.name {
            "ld" | "ldu" => self.load(opcode, o)?,
            "st" => self.store(opcode, o)?,
            "atom" | "red" => self.atomic(opcode, o)?,
            "cvta" => {
                let space = self.space(opcode)?.ok_or("the state space is missing")?;
                let (d, a) = (self.result(o, 0)?, self.source(o, 1, ADDRESS)?);
                Op::ConvertAddress { to_generic: !opcode.has("to"), space, d, a }
            }
            "isspacep" => {
                let space = self.space(opcode)?.ok_or("the state space is missing")?;
                let p = o.first().map(predicate_result).transpose()?.flatten();
                let p = p.ok_or("the result is no predicate")?;
                Op::IsSpace { space, p, a: self.source(o, 1, ADDRESS)? }
            }
            "mapa" => {
                self.clustered()?;
                let (d, a) = (self.result(o, 0)?, self.source(o, 1, ADDRESS)?);
                Op::MapToBlock { d, a, rank: self.source(o, 2, WORD)? }
            }
            "getctarank" => {
                self.clustered()?;
                Op::BlockOf { d: self.result(o, 0)?, a: self.source(o, 1, ADDRESS)? }
            }
            "prefetch" | "prefetchu" | "applypriority" => Op::Nothing,
            "cp" if opcode.has("async") && !opcode.has("bulk") => self.copy(opcode, o)?,
            "cp" if opcode.has("bulk") => self.copy_bulk(opcode, o)?,
            "ldmatrix" => {
                let (at, transposed, d) = self.matrices(opcode, o, [1, 0])?;
                Op::LoadMatrix { at, transposed, d }
            }
            "stmatrix" => {
                let (at, transposed, values) = self.matrices(opcode, o, [0, 1])?;
                Op::StoreMatrix { at, transposed, values }
            }
            "mbarrier" => self.phase_barrier(opcode, o)?,
            "mma" => self.multiply(opcode, o)?,
            _ => return Ok(None),
        }))
    }

    /// The state space, if the instruction names one.
    fn space(&mut self, opcode: &Opcode<'_>) -> Decoded<Option<Space>> {
        for part in &opcode.parts {
            return Ok(Some(match *part {
                "global" | "const" => Space::Global,
                "shared" | "shared::cta" => Space::Shared,
                "local" => Space::Local,
                "param" | "generic" => Space::Generic,
                "shared::cluster" => {
                    self.clustered()?;
                    Space::Cluster
                }
                _ => continue,
            }));
        }
        Ok(None)
    }

    fn address(&mut self, o: &[Operand<'m>], at: usize) -> Decoded<Address> {
        match o.get(at) {
            Some(Operand::Address { base, offset }) => match base.as_ref() {
                Operand::Literal(_) | Operand::Register(_) | Operand::Symbol(_) => {
                    Ok(Address { base: self.source_of(base, ADDRESS)?, offset: *offset })
                }
                _ => Err("expected a register or variable in the address".to_string()),
            },
            _ => Err("expected an address".to_string()),
        }
    }

    fn transfer(&mut self, opcode: &Opcode<'_>) -> Decoded<Transfer> {
        let ty = *opcode.types.last().ok_or("the type is missing")?;
        let count = [("v2", 2), ("v4", 4), ("v8", 8)].iter().find(|(name, _)| opcode.has(name));
        let space = self.space(opcode)?.unwrap_or(Space::Generic);
        let ordered = ["relaxed", "acquire", "release", "volatile", "mmio"];
        let atomic = ordered.iter().any(|part| opcode.has(part));
        if matches!(space, Space::Shared | Space::Cluster | Space::Generic) {
            self.kernel.granule = self.kernel.granule.min(u64::from(ty.bytes().min(4)));
        }
        let count = count.map_or(1, |(_, n)| *n);
        Ok(Transfer { space, ty, count, atomic, order: order(opcode), destination: mask(ty.bytes() * 8) })
    }

    fn load(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Op> {
        let mut transfer = self.transfer(opcode)?;
        let operands = match o.first() {
            Some(Operand::Vector(parts)) => parts.as_slice(),
            Some(single) => std::slice::from_ref(single),
            None => return Err("the result is missing".to_string()),
        };
        if operands.len() != transfer.count as usize {
            return Err(format!("loads {} elements", transfer.count));
        }
        let mut d = Vec::new();
        for operand in operands {
            d.push(match operand {
                Operand::Sink => None,
                Operand::Register(r) if r.class != Class::Predicate => {
                    transfer.destination = mask(class_bits(*r));
                    Some(r.slot)
                }
                _ => return Err("the result is no register".to_string()),
            });
        }
        if !opcode.has("param") {
            return Ok(Op::Load { transfer, at: self.address(o, 1)?, d: d.into() });
        }
        let Some(Operand::Address { base, offset }) = o.get(1) else {
            return Err("expected an address".to_string());
        };
        let Operand::Symbol(name) = base.as_ref() else {
            return Err("parameters are simulated at constant addresses only".to_string());
        };
        let start = self.symbols.get(name).ok_or_else(|| format!("`{name}` is not declared"))?;
        let offset = start.checked_add_signed(*offset).and_then(|at| u32::try_from(at).ok());
        let offset = offset.ok_or("the parameter has no such offset")?;
        Ok(Op::Parameter { offset, transfer, d: d.into() })
    }

    fn store(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Op> {
        if opcode.has("param") || opcode.has("async") {
            return Err("this store is not simulated".to_string());
        }
        let transfer = self.transfer(opcode)?;
        let operands = match o.get(1) {
            Some(Operand::Vector(parts)) => parts.as_slice(),
            Some(single) => std::slice::from_ref(single),
            None => return Err("the value is missing".to_string()),
        };
        if operands.len() != transfer.count as usize {
            return Err(format!("stores {} elements", transfer.count));
        }
        let values: Decoded<Box<[Slot]>> = operands.iter().map(|v| self.source_of(v, transfer.ty)).collect();
        Ok(Op::Store { transfer, at: self.address(o, 0)?, values: values? })
    }

    fn atomic(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Op> {
        if opcode.has("async") {
            return Err("asynchronous reductions are not simulated".to_string());
        }
        let transfer = Transfer { atomic: true, ..self.transfer(opcode)? };
        let (ty, returns) = (transfer.ty, opcode.name == "atom");
        let f = opcode.parts.iter().find_map(|part| {
            Some(match *part {
                "add" => Atomic::Map(Function::Add),
                "min" => Atomic::Map(Function::Min),
                "max" => Atomic::Map(Function::Max),
                "and" => Atomic::Map(Function::And),
                "or" => Atomic::Map(Function::Or),
                "xor" => Atomic::Map(Function::Xor),
                "exch" => Atomic::Exchange,
                "cas" => Atomic::CompareAndSwap,
                "inc" => Atomic::Increment,
                "dec" => Atomic::Decrement,
                _ => return None,
            })
        });
        let f = f.ok_or("the atomic operation is not simulated")?;
        if transfer.count != 1 {
            return Err("atomic operations on vectors are not simulated".to_string());
        }
        let first = usize::from(returns);
        let d = match o.first() {
            Some(Operand::Sink) => None,
            Some(operand) if returns => Some(result_of(operand)?),
            _ => None,
        };
        let (at, b) = (self.address(o, first)?, self.source(o, first + 1, ty)?);
        let c = if f == Atomic::CompareAndSwap { self.source(o, first + 2, ty)? } else { b };
        Ok(Op::Atomic { f, transfer, at, d, b, c })
    }

    fn copy(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Op> {
        if opcode.has("commit_group") {
            return Ok(Op::CommitCopies);
        }
        if opcode.has("wait_all") {
            return Ok(Op::WaitCopies { pending: 0 });
        }
        let constant = |at: usize| match o.get(at) {
            Some(Operand::Literal(super::super::syntax::Literal::Integer(v))) => u32::try_from(*v).ok(),
            _ => None,
        };
        if opcode.has("wait_group") {
            return Ok(Op::WaitCopies { pending: constant(0).ok_or("expected a constant")? });
        }
        let bytes = constant(2).filter(|b| matches!(b, 4 | 8 | 16)).ok_or("copies 4, 8 or 16 bytes")?;
        // A predicate there says that nothing is read.
        let ignored = self.predicate(o, 3).ok();
        let given = if o.len() > 3 && ignored.is_none() { Some(self.source(o, 3, WORD)?) } else { None };
        Ok(Op::CopyAsync { to: self.address(o, 0)?, from: self.address(o, 1)?, bytes, given, ignored })
    }

    fn copy_bulk(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Op> {
        // The block of a cluster that is meant is this one: addresses of others are out of bounds.
        let to_block = matches!(opcode.parts.get(2), Some(&("shared::cluster" | "shared::cta")));
        let plain = !["tensor", "multicast::cluster", "reduce"].iter().any(|part| opcode.has(part));
        let ends = opcode.has("mbarrier::complete_tx::bytes");
        if !(to_block && plain && ends && opcode.parts.get(3) == Some(&"global")) {
            return Err("only bulk copies from global to shared memory are simulated".to_string());
        }
        self.kernel.granule = self.kernel.granule.min(4);
        let (to, from, barrier) = (self.address(o, 0)?, self.address(o, 1)?, self.address(o, 3)?);
        Ok(Op::CopyBulk { to, from, bytes: self.source(o, 2, WORD)?, barrier })
    }

    /// Where matrices lie, whether they are transposed on the way, and their registers.
    fn matrices(
        &mut self,
        opcode: &Opcode<'_>,
        o: &[Operand<'m>],
        [at, parts]: [usize; 2],
    ) -> Decoded<(Address, bool, Box<[Slot]>)> {
        if !opcode.has("m8n8") || !opcode.has("b16") {
            return Err("only matrices of 8 by 8 halves are simulated".to_string());
        }
        self.kernel.granule = self.kernel.granule.min(4);
        let Some(Operand::Vector(parts)) = o.get(parts) else { return Err("expected a vector".to_string()) };
        let count = [("x1", 1), ("x2", 2), ("x4", 4)].iter().find(|(name, _)| opcode.has(name));
        if count.is_none_or(|(_, count)| *count != parts.len()) {
            return Err("takes a register for each matrix".to_string());
        }
        let registers: Decoded<Box<[Slot]>> = parts.iter().map(result_of).collect();
        Ok((self.address(o, at)?, opcode.has("trans"), registers?))
    }

    fn phase_barrier(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Op> {
        if !matches!(self.space(opcode)?, Some(Space::Shared) | None) || opcode.has("cluster") {
            return Err("barriers are simulated in the block's own shared memory only".to_string());
        }
        let (at, f) = match opcode.parts.first() {
            Some(&"init") => (0, Phase::Begin { count: self.source(o, 1, WORD)? }),
            Some(&"inval") => (0, Phase::End),
            Some(&"arrive") if !opcode.has("noComplete") => {
                let d = match o.first() {
                    Some(Operand::Sink) => None,
                    _ => Some(self.result(o, 0)?),
                };
                let operand = if o.len() > 2 { Some(self.source(o, 2, WORD)?) } else { None };
                let (count, bytes) = if opcode.has("expect_tx") { (None, operand) } else { (operand, None) };
                (1, Phase::Arrive { d, count, bytes })
            }
            Some(&("expect_tx" | "complete_tx")) => {
                let arrived = opcode.has("complete_tx");
                (0, Phase::Await { bytes: self.source(o, 1, WORD)?, arrived })
            }
            Some(&("test_wait" | "try_wait")) => {
                let p = o.first().map(predicate_result).transpose()?.flatten();
                let parity = opcode.has("parity");
                let of = self.source(o, 2, if parity { WORD } else { ADDRESS })?;
                (1, Phase::Ask { p: p.ok_or("the result is no predicate")?, of, parity })
            }
            _ => return Err("this use of a barrier is not simulated".to_string()),
        };
        Ok(Op::PhaseBarrier { f, at: self.address(o, at)? })
    }

    fn multiply(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Op> {
        let k = ["m16n8k4", "m16n8k8", "m16n8k16"].iter().zip([4, 8, 16]).find(|(name, _)| opcode.has(name));
        let (_, k) = k.ok_or("the shape of this product is not simulated")?;
        let [sum, a, b, c] = opcode.types[..] else { return Err("takes four types".to_string()) };
        let half = a.bits == 16 && a.is_float();
        let fits = if half { k >= 8 } else { a.kind == Kind::Tensor && k <= 8 };
        if a != b || sum != c || !fits || !(sum.kind == Kind::Float && sum.bits == 32) {
            return Err("products of these types are not simulated".to_string());
        }
        let vector = |at: usize| match o.get(at) {
            Some(Operand::Vector(parts)) => Ok(parts.clone()),
            _ => Err("expected a vector of registers".to_string()),
        };
        let factors = k * if half { 1 } else { 2 } / 4;
        let d: Decoded<Box<[Slot]>> = vector(0)?.iter().map(result_of).collect();
        let mut sources = |at: usize, ty: Type, count: u32| -> Decoded<Box<[Slot]>> {
            let slots: Box<[Slot]> =
                vector(at)?.iter().map(|p| self.source_of(p, ty)).collect::<Decoded<_>>()?;
            if slots.len() as u32 == count {
                Ok(slots)
            } else {
                Err(format!("operand {at} has {count} registers"))
            }
        };
        let product = Product { k, factors: a, sum };
        let (a, b, c) = (sources(1, WORD, factors)?, sources(2, WORD, factors / 2)?, sources(3, sum, 4)?);
        Ok(Op::MultiplyMatrix { product, d: d?, a, b, c })
    }
}

/// What an instruction orders between blocks: nothing where its scope is one block, or a cluster.
fn order(opcode: &Opcode<'_>) -> Order {
    let both = opcode.has("acq_rel");
    let wide = !opcode.has("cta") && !opcode.has("cluster");
    Order {
        acquires: wide && (both || opcode.has("acquire")),
        releases: wide && (both || opcode.has("release")),
    }
}
