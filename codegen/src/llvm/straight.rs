//! Pieces of straight code, each as one piece of inline assembly.
//!
//! Its sums are operands and results, or registers that the assembly declares, which LLVM knows nothing of: the 64 of a tile
//! would be 64 values that a loop carries, 128 operands and as many copies between them.

use std::fmt::Write;

use inkwell::types::{BasicType, BasicTypeEnum};
use inkwell::values::BasicValueEnum;

use super::builder::{LlvmBuilder, built};
use crate::kernel_ir::{LaneType, Type};
use crate::scalar::{Around, Kept, Sums};
use crate::straight::{Register, Step, Straight};

/// Results of one piece of assembly, where that may be chosen: to take one of them out, LLVM looks at all.
const RESULTS: usize = 4;

impl<'ctx> LlvmBuilder<'ctx, '_> {
    /// See [`crate::scalar::ScalarBuilder::keep`].
    pub(super) fn keep_sums(&mut self, values: &[BasicValueEnum<'ctx>]) -> Kept {
        let kept = Kept { number: self.kept, count: values.len() as u32 };
        self.kept += 1;
        // Most begin with the same zero.
        let mut operands: Vec<BasicValueEnum<'ctx>> = Vec::new();
        let mut text = format!(".reg .b32 \t{}<{}>;", register(kept, None), kept.count);
        for (value, number) in values.iter().zip(0..) {
            let operand = operands.iter().position(|o| o == value).unwrap_or_else(|| {
                operands.push(*value);
                operands.len() - 1
            });
            let _ = write!(text, "\n\tmov.b32 \t{}, ${operand};", register(kept, Some(number)));
        }
        self.assembly(&text, &joined(vec!["f".to_owned(); operands.len()]), &operands, None);
        kept
    }

    /// See [`crate::scalar::ScalarBuilder::kept`].
    pub(super) fn kept_sums(&mut self, kept: Kept) -> Vec<BasicValueEnum<'ctx>> {
        let all: Vec<u32> = (0..kept.count).collect();
        let some = |numbers: &[u32]| {
            let moves = (0..).zip(numbers).map(|(operand, number): (u32, _)| {
                format!("mov.b32 \t${operand}, {};", register(kept, Some(*number)))
            });
            let constraints = joined(vec!["=f".to_owned(); numbers.len()]);
            self.several(&moves.collect::<Vec<_>>().join("\n\t"), &constraints, &[], numbers.len())
        };
        all.chunks(RESULTS).flat_map(some).collect()
    }

    /// See [`crate::scalar::ScalarBuilder::straight`].
    pub(super) fn straight_code(
        &mut self,
        code: &Straight,
        around: Around<BasicValueEnum<'ctx>>,
    ) -> Vec<BasicValueEnum<'ctx>> {
        let float = Type::scalar(LaneType::F32);
        let (mut operands, kept) = match around.sums {
            Sums::Values(sums) => (sums, None),
            Sums::Kept(kept) => (Vec::new(), Some(kept)),
        };
        let count = operands.len();
        for base in around.bases {
            operands.push(self.shared_address(float, base).0.into());
        }
        operands.extend(around.given);
        let names = Names { sums: count as u32, kept, bases: code.bases.len() as u32 };
        let (text, constraints) = (names.instructions(code), names.constraints(code));
        if count == 0 {
            self.assembly(&text, &constraints, &operands, None);
            return Vec::new();
        }
        self.several(&text, &constraints, &operands, count)
    }

    /// Assembly with several f32 as results.
    fn several(
        &mut self,
        text: &str,
        constraints: &str,
        operands: &[BasicValueEnum<'ctx>],
        count: usize,
    ) -> Vec<BasicValueEnum<'ctx>> {
        let float: BasicTypeEnum<'ctx> = self.llvm_type(Type::scalar(LaneType::F32));
        if count == 1 {
            return self.assembly(text, constraints, operands, Some(float)).into_iter().collect();
        }
        let ty = self.context.struct_type(&vec![float; count], false).as_basic_type_enum();
        let result = self.assembly(text, constraints, operands, Some(ty));
        let all = result.expect("it has results").into_struct_value();
        (0..count as u32).map(|i| built(self.builder.build_extract_value(all, i, ""))).collect()
    }
}

/// A register of a group, or what all of them begin with: `sum0`, `sum1_0`.
fn register(kept: Kept, number: Option<u32>) -> String {
    let group = if kept.number == 0 { "sum".to_owned() } else { format!("sum{}_", kept.number) };
    number.map_or(group.clone(), |number| format!("{group}{number}"))
}

/// What registers of an array are called: `a`, `b`, and so on, behind `z` `aa`.
fn letters(array: u32) -> String {
    let last = char::from(b'a' + (array % 26) as u8);
    if array < 26 { last.to_string() } else { letters(array / 26 - 1) + &last.to_string() }
}

/// Constraints as one text, of assembly that reads and writes memory.
fn joined(mut constraints: Vec<String>) -> String {
    constraints.push("~{memory}".to_owned());
    constraints.join(",")
}

/// What a piece calls its registers: operands stand in the order of the constraints.
struct Names {
    /// Sums that are operands.
    sums: u32,
    /// Those that are not.
    kept: Option<Kept>,
    bases: u32,
}

impl Names {
    fn of(&self, name: Register) -> String {
        match (name, self.kept) {
            (Register::Sum(number), Some(kept)) => register(kept, Some(number)),
            (Register::Sum(number), None) => format!("${number}"),
            // Sums are operands twice.
            (Register::Given(number), _) => format!("${}", 2 * self.sums + self.bases + number),
            (Register::Loaded(array, number), _) => format!("{}{number}", letters(array)),
        }
    }

    /// The piece itself.
    fn instructions(&self, code: &Straight) -> String {
        let mut text = String::from("{\n");
        let registers: Vec<_> = (0..)
            .zip(&code.arrays)
            .map(|(array, (_, count))| format!("{}<{count}>", letters(array)))
            .collect();
        if !registers.is_empty() {
            let _ = writeln!(text, "\t.reg .b32 \t{};", registers.join(", "));
        }
        let bases = 2 * self.sums;
        for step in &code.steps {
            match step {
                Step::Load { base, offset, to } => {
                    let names: Vec<_> = to.iter().map(|register| self.of(*register)).collect();
                    let (vector, names) = match names.len() {
                        1 => (String::new(), names.concat()),
                        lanes => (format!(".v{lanes}"), format!("{{{}}}", names.join(", "))),
                    };
                    let _ = write!(text, "\tld.shared{vector}.b32 \t{names}, [${}", bases + base);
                    let bytes = offset * i64::from(LaneType::F32.bytes());
                    let _ = if bytes == 0 { writeln!(text, "];") } else { writeln!(text, "+{bytes}];") };
                }
                Step::Fma(sum, [x, y]) => {
                    let [sum, x, y] = [Register::Sum(*sum), *x, *y].map(|register| self.of(register));
                    let _ = writeln!(text, "\tfma.rn.f32 \t{sum}, {x}, {y}, {sum};");
                }
            }
        }
        text + "\t}"
    }

    /// Of sums as results, of sums as operands, of the addresses of bases, and of what is given.
    fn constraints(&self, code: &Straight) -> String {
        let results = (0..self.sums).map(|_| "=f".to_owned());
        let sums = (0..self.sums).map(|number| number.to_string());
        let bases = code.bases.iter().map(|_| "l".to_owned());
        let given = code.given.iter().map(|_| "f".to_owned());
        joined(results.chain(sums).chain(bases).chain(given).collect())
    }
}
