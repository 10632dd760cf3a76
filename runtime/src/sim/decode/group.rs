//! Products of warp groups (`wgmma`), and what waits for them.

use super::super::op::{GroupProduct, Op, Slot};
use super::super::syntax::{Class, Literal, Operand};
use super::super::value::{Kind, Type};
use super::{Decoded, Decoder, Opcode, result_of};

/// The most columns of a product; fewer ones are a multiple of 8.
const MOST_COLUMNS: u32 = 256;
const DESCRIPTOR: Type = Type { kind: Kind::Unsigned, bits: 64, packed: false };

impl<'m> Decoder<'m> {
    /// The instruction, if it is one of these.
    pub(super) fn group(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Option<Op>> {
        if opcode.name != "wgmma" {
            return Ok(None);
        }
        if self.capability != 90 || !self.is_specific {
            return Err("products of warp groups need sm_90a".to_string());
        }
        self.kernel.is_grouped = true;
        Ok(Some(match opcode.parts.first() {
            Some(&"fence") => Op::GroupFence,
            Some(&"commit_group") => Op::CommitProducts,
            Some(&"wait_group") => Op::WaitProducts { pending: constant(o, 0)? },
            Some(&"mma_async") => self.multiply_group(opcode, o)?,
            _ => return Err("this use of a warp group is not simulated".to_string()),
        }))
    }

    fn multiply_group(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Op> {
        let [sum, left, right] = opcode.types[..] else { return Err("takes three types".to_string()) };
        let half = left.bits == 16 && left.is_float();
        if left != right || !(half || left.kind == Kind::Tensor) || (sum.kind, sum.bits) != (Kind::Float, 32)
        {
            return Err("products of these types are not simulated".to_string());
        }
        let k = if half { 16 } else { 8 };
        let shape = opcode.parts.iter().find_map(|part| part.strip_prefix("m64n"));
        let columns = shape.and_then(|shape| shape.strip_suffix(&format!("k{k}"))?.parse().ok());
        let columns = columns.filter(|n| (8..=MOST_COLUMNS).contains(n) && n % 8 == 0);
        let columns: u32 = columns.ok_or("the shape of this product is not simulated")?;
        let Some(Operand::Vector(sums)) = o.first() else {
            return Err("expected a vector of registers".to_string());
        };
        let d: Box<[Slot]> = sums.iter().map(result_of).collect::<Decoded<_>>()?;
        if d.len() as u32 != columns / 2 {
            return Err(format!("the sums have {} registers", columns / 2));
        }
        if matches!(o.get(1), Some(Operand::Vector(_))) {
            return Err("factors in registers are not simulated".to_string());
        }
        let sign = |at| match constant(o, at)? {
            1 => Ok(false),
            u32::MAX => Ok(true),
            _ => Err("a sign is 1 or -1".to_string()),
        };
        // Only halves may be transposed.
        let turn = |at| if half { Ok(constant(o, at)? != 0) } else { Ok::<_, String>(false) };
        let product = GroupProduct {
            columns,
            k,
            factors: left,
            negated: [sign(4)?, sign(5)?],
            transposed: [turn(6)?, turn(7)?],
        };
        let (a, b) = (self.source(o, 1, DESCRIPTOR)?, self.source(o, 2, DESCRIPTOR)?);
        Ok(Op::MultiplyGroup { product, d, a, b, adds: self.predicate(o, 3)? })
    }

    /// Notes which registers each instruction names.
    pub(super) fn name_registers(&mut self) {
        for (instruction, statement) in self.kernel.code.iter_mut().zip(&self.entry.statements) {
            let sums = usize::from(matches!(instruction.op, Op::MultiplyGroup { .. }));
            let mut registers = Vec::new();
            statement.operands[sums..].iter().for_each(|operand| name(operand, &mut registers));
            instruction.registers = registers.into();
        }
    }
}

fn name(operand: &Operand<'_>, out: &mut Vec<Slot>) {
    match operand {
        Operand::Register(register) | Operand::Negated(register) => {
            out.extend((register.class != Class::Predicate).then_some(register.slot));
        }
        Operand::Address { base, .. } => name(base, out),
        Operand::Vector(parts) => parts.iter().for_each(|part| name(part, out)),
        Operand::Pair(first, second) => [first, second].into_iter().for_each(|part| name(part, out)),
        Operand::Special(_) | Operand::Symbol(_) | Operand::Literal(_) | Operand::Sink => {}
    }
}

fn constant(o: &[Operand<'_>], at: usize) -> Decoded<u32> {
    match o.get(at) {
        Some(Operand::Literal(Literal::Integer(value))) => Ok(*value as u32),
        _ => Err("expected a constant".to_string()),
    }
}
