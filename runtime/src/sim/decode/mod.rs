//! From instructions as written to [`Op`]s: opcodes are read once, symbols get addresses, constants and special
//! registers become registers that a warp starts with.

mod arithmetic;
mod control;
mod group;
mod memory;

use std::collections::HashMap;

use super::cluster::FIRST_CAPABILITY;
use super::error::PtxError;
use super::flow::post_dominators;
use super::limits::Limits;
use super::op::{Condition, Instruction, Kernel, Op, Slot, Special};
use super::syntax::{Class, Entry, Literal, Module, Operand, Register, Statement, Variable, VariableSpace};
use super::value::{Mode, Rounding, Type};

/// The number of the first region that a module's own variables have.
pub(super) const MODULE_REGIONS: u64 = 1 << 19;

/// An opcode in parts.
struct Opcode<'a> {
    name: &'a str,
    parts: Vec<&'a str>,
    types: Vec<Type>,
}

impl<'a> Opcode<'a> {
    fn new(text: &'a str) -> Opcode<'a> {
        let mut parts = text.split('.');
        let name = parts.next().unwrap_or_default();
        let parts: Vec<&str> = parts.collect();
        let types = parts.iter().filter_map(|p| Type::named(p)).collect();
        Opcode { name, parts, types }
    }

    fn has(&self, part: &str) -> bool {
        self.parts.contains(&part)
    }

    fn rounding(&self) -> Option<(Rounding, bool)> {
        self.parts.iter().find_map(|p| {
            Some(match *p {
                "rn" => (Rounding::Nearest, false),
                "rna" => (Rounding::Away, false),
                "rz" => (Rounding::Zero, false),
                "rm" => (Rounding::Down, false),
                "rp" => (Rounding::Up, false),
                "rni" => (Rounding::Nearest, true),
                "rzi" => (Rounding::Zero, true),
                "rmi" => (Rounding::Down, true),
                "rpi" => (Rounding::Up, true),
                _ => return None,
            })
        })
    }

    fn mode(&self) -> Mode {
        let (rounding, integral) = self.rounding().unwrap_or_default();
        Mode {
            rounding,
            integral,
            flush: self.has("ftz"),
            saturate: self.has("sat"),
            propagate: self.has("NaN"),
            relu: self.has("relu"),
        }
    }
}

/// What a statement does not have or has wrongly.
type Decoded<T> = Result<T, String>;

/// Decodes one kernel.
struct Decoder<'m> {
    entry: &'m Entry<'m>,
    kernel: Kernel,
    constants: HashMap<u64, Slot>,
    specials: HashMap<String, Slot>,
    symbols: HashMap<&'m str, u64>,
    dynamic: Vec<&'m str>,
    labels: HashMap<&'m str, u32>,
    /// The compute capability of the target, times ten.
    capability: u32,
    /// Whether the target is an architecture with features of its own (`sm_90a`).
    is_specific: bool,
}

/// Decodes every kernel of a module.
pub(super) fn decode(module: &Module<'_>) -> Result<Vec<Kernel>, PtxError> {
    module.entries.iter().map(|entry| Decoder::new(module, entry).run()).collect()
}

fn align(offset: u64, alignment: u64) -> u64 {
    offset.next_multiple_of(alignment.max(1))
}

impl<'m> Decoder<'m> {
    fn new(module: &'m Module<'m>, entry: &'m Entry<'m>) -> Decoder<'m> {
        let mut symbols = HashMap::new();
        let mut dynamic = Vec::new();
        let (mut shared, mut local) = (0, 0);
        let mut regions = MODULE_REGIONS;
        let mut place = |variable: &'m Variable<'m>, module_wide: bool| {
            let address = match variable.space {
                VariableSpace::Shared if variable.dynamic => {
                    dynamic.push(variable.name);
                    return;
                }
                VariableSpace::Shared => {
                    let at = align(shared, variable.alignment);
                    shared = at + variable.bytes;
                    at
                }
                VariableSpace::Local => {
                    let at = align(local, variable.alignment);
                    local = at + variable.bytes;
                    at
                }
                _ if module_wide => {
                    regions += 1;
                    (regions - 1) << 36
                }
                _ => return,
            };
            symbols.insert(variable.name, address);
        };
        module.variables.iter().for_each(|v| place(v, true));
        entry.variables.iter().for_each(|v| place(v, false));
        let mut parameters = Vec::new();
        let mut end = 0;
        for parameter in &entry.parameters {
            let at = align(end, parameter.alignment);
            end = at + parameter.bytes;
            symbols.insert(parameter.name, at);
            parameters.push((at as u32, parameter.bytes as u32));
        }
        let kernel = Kernel {
            name: entry.name.to_string(),
            parameters,
            code: Vec::new(),
            registers: entry.registers[1],
            predicates: entry.registers[0],
            constants: Vec::new(),
            specials: Vec::new(),
            shared,
            local: align(local, 16),
            block: entry.block,
            cluster: entry.cluster,
            most_clustered: entry.most_clustered,
            is_explicit: entry.is_explicit,
            is_clustered: false,
            is_grouped: false,
            granule: 4,
        };
        let labels = entry.labels.iter().map(|(name, at)| (*name, *at as u32)).collect();
        Decoder {
            entry,
            kernel,
            constants: HashMap::new(),
            specials: HashMap::new(),
            symbols,
            dynamic,
            labels,
            capability: Limits::of(module.target).capability,
            is_specific: module.target.ends_with('a'),
        }
    }

    fn run(mut self) -> Result<Kernel, PtxError> {
        let entry = self.entry;
        if entry.cluster.is_some() || entry.most_clustered.is_some() || entry.is_explicit {
            self.clustered().map_err(|problem| PtxError::new(entry.line, entry.name, problem))?;
        }
        for statement in &entry.statements {
            let op = self.statement(statement);
            let op = op.map_err(|problem| PtxError::new(statement.line, statement.text.clone(), problem))?;
            let guard = statement.guard.map(|(r, negated)| Condition { slot: r.slot, negated });
            self.kernel.code.push(Instruction {
                category: op.category(),
                op,
                guard,
                meets: 0,
                line: statement.line,
                text: statement.text.clone(),
                registers: Box::default(),
            });
        }
        if self.kernel.is_grouped {
            self.name_registers();
        }
        self.join();
        Ok(self.kernel)
    }

    /// Notes an instruction of clusters.
    fn clustered(&mut self) -> Decoded<()> {
        self.kernel.is_clustered = true;
        if self.capability < FIRST_CAPABILITY {
            return Err("clusters need sm_90".to_string());
        }
        Ok(())
    }

    /// Finds where branches meet.
    fn join(&mut self) {
        let code = &self.kernel.code;
        let end = code.len() as u32;
        let successors: Vec<Vec<u32>> = (1..)
            .zip(code)
            .map(|(next, instruction)| {
                let mut to = match &instruction.op {
                    Op::Branch { target } => vec![*target],
                    Op::BranchTable { targets, .. } => targets.to_vec(),
                    Op::Return | Op::Trap => vec![end],
                    _ => vec![next],
                };
                if instruction.guard.is_some() {
                    to.push(next);
                }
                to
            })
            .collect();
        for (instruction, meets) in self.kernel.code.iter_mut().zip(post_dominators(&successors)) {
            instruction.meets = meets;
        }
    }

    fn statement(&mut self, statement: &Statement<'m>) -> Decoded<Op> {
        let opcode = Opcode::new(statement.opcode);
        let operands = &statement.operands;
        if let Some(op) = self.control(&opcode, operands)? {
            return Ok(op);
        }
        if let Some(op) = self.group(&opcode, operands)? {
            return Ok(op);
        }
        if let Some(op) = self.memory(&opcode, operands)? {
            return Ok(op);
        }
        match self.arithmetic(&opcode, operands)? {
            Some(op) => Ok(op),
            None => Err("unknown instruction".to_string()),
        }
    }

    /// A register that always holds `bits`.
    fn constant(&mut self, bits: u64) -> Slot {
        let kernel = &mut self.kernel;
        *self.constants.entry(bits).or_insert_with(|| {
            kernel.registers += 1;
            kernel.constants.push((kernel.registers - 1, bits));
            kernel.registers - 1
        })
    }

    fn special(&mut self, name: &str, special: Special) -> Slot {
        let kernel = &mut self.kernel;
        *self.specials.entry(name.to_string()).or_insert_with(|| {
            kernel.registers += 1;
            kernel.specials.push((special, kernel.registers - 1));
            kernel.registers - 1
        })
    }

    /// A source of at most 64 bits, of the given type where it is a literal.
    fn source(&mut self, operands: &[Operand<'m>], at: usize, ty: Type) -> Decoded<Slot> {
        let operand = operands.get(at).ok_or("an operand is missing")?;
        self.source_of(operand, ty)
    }

    fn source_of(&mut self, operand: &Operand<'m>, ty: Type) -> Decoded<Slot> {
        match operand {
            Operand::Register(r) if r.class != Class::Predicate => Ok(r.slot),
            Operand::Literal(value) => Ok(self.constant(literal_bits(*value, ty))),
            Operand::Special(name) => match special(name) {
                Some(special) => {
                    if name.contains("cluster") {
                        self.clustered()?;
                    }
                    Ok(self.special(name, special))
                }
                None => Err(format!("the special register `{name}` is not simulated")),
            },
            Operand::Symbol(name) => self.symbol(name),
            _ => Err("expected a register or a number".to_string()),
        }
    }

    /// A register that holds a variable's address in its space.
    fn symbol(&mut self, name: &str) -> Decoded<Slot> {
        if self.dynamic.contains(&name) {
            return Ok(self.special(name, Special::DynamicShared));
        }
        match self.symbols.get(name) {
            Some(address) => {
                let address = *address;
                Ok(self.constant(address))
            }
            None => Err(format!("`{name}` is not declared")),
        }
    }

    fn result(&self, operands: &[Operand<'m>], at: usize) -> Decoded<Slot> {
        match operands.get(at) {
            Some(operand) => result_of(operand),
            None => Err("a result is missing".to_string()),
        }
    }

    fn predicate(&self, operands: &[Operand<'m>], at: usize) -> Decoded<Condition> {
        match operands.get(at) {
            Some(Operand::Register(r)) if r.class == Class::Predicate => {
                Ok(Condition { slot: r.slot, negated: false })
            }
            Some(Operand::Negated(r)) if r.class == Class::Predicate => {
                Ok(Condition { slot: r.slot, negated: true })
            }
            _ => Err("expected a predicate".to_string()),
        }
    }
}

fn result_of(operand: &Operand<'_>) -> Decoded<Slot> {
    match operand {
        Operand::Register(r) if r.class != Class::Predicate => Ok(r.slot),
        _ => Err("the result is no register".to_string()),
    }
}

fn predicate_result(operand: &Operand<'_>) -> Decoded<Option<Slot>> {
    match operand {
        Operand::Register(r) if r.class == Class::Predicate => Ok(Some(r.slot)),
        Operand::Sink => Ok(None),
        _ => Err("the result is no predicate".to_string()),
    }
}

/// The bits of a register's class.
fn class_bits(register: Register) -> u32 {
    match register.class {
        Class::Predicate => 1,
        Class::Bits16 => 16,
        Class::Bits32 => 32,
        Class::Bits64 => 64,
    }
}

fn literal_bits(value: Literal, ty: Type) -> u64 {
    match value {
        Literal::Integer(v) => v & super::value::mask(ty.bits * if ty.packed { 2 } else { 1 }),
        Literal::Single(bits) => u64::from(bits),
        Literal::Double(v) if ty.is_float() => super::value::from_f64(v, ty, Rounding::Nearest),
        Literal::Double(v) => v.to_bits(),
    }
}

fn special(name: &str) -> Option<Special> {
    let axis = |prefix: &str| -> Option<usize> {
        match name.strip_prefix(prefix)? {
            ".x" => Some(0),
            ".y" => Some(1),
            ".z" => Some(2),
            _ => None,
        }
    };
    type OfAxis = fn(usize) -> Special;
    let by_axis: [(&str, OfAxis); 8] = [
        ("%tid", Special::Thread),
        ("%ntid", Special::BlockSize),
        ("%ctaid", Special::Block),
        ("%nctaid", Special::GridSize),
        ("%cluster_ctaid", Special::BlockInCluster),
        ("%cluster_nctaid", Special::ClusterSize),
        ("%clusterid", Special::Cluster),
        ("%nclusterid", Special::Clusters),
    ];
    if let Some(found) = by_axis.iter().find_map(|(prefix, special)| axis(prefix).map(special)) {
        return Some(found);
    }
    let mask = |below, equal, above| Some(Special::LaneMask { below, equal, above });
    match name {
        "%laneid" => Some(Special::Lane),
        "%warpid" => Some(Special::Warp),
        "%nwarpid" => Some(Special::Warps),
        "%lanemask_eq" => mask(false, true, false),
        "%lanemask_lt" => mask(true, false, false),
        "%lanemask_le" => mask(true, true, false),
        "%lanemask_gt" => mask(false, false, true),
        "%lanemask_ge" => mask(false, true, true),
        "%total_smem_size" => Some(Special::TotalShared),
        "%smid" => Some(Special::Multiprocessor),
        "%nsmid" => Some(Special::Multiprocessors),
        "%gridid" => Some(Special::Zero),
        "%cluster_ctarank" => Some(Special::Rank),
        "%cluster_nctarank" => Some(Special::Ranks),
        _ => None,
    }
}
