//! Pieces of straight code, each as one piece of inline assembly whose sums are operands and results.

use std::fmt::Write;

use inkwell::types::BasicType;
use inkwell::values::BasicValueEnum;

use super::builder::{LlvmBuilder, built};
use crate::kernel_ir::{LaneType, Type};
use crate::scalar::Around;
use crate::straight::{Register, Step, Straight};

impl<'ctx> LlvmBuilder<'ctx, '_> {
    /// See [`crate::scalar::ScalarBuilder::straight`].
    pub(super) fn straight_code(
        &mut self,
        code: &Straight,
        around: Around<BasicValueEnum<'ctx>>,
    ) -> Vec<BasicValueEnum<'ctx>> {
        let count = around.sums.len();
        let float = Type::scalar(LaneType::F32);
        let mut operands = around.sums;
        for base in around.bases {
            operands.push(self.shared_address(float, base).0.into());
        }
        operands.extend(around.given);
        let sums = self.context.struct_type(&vec![self.llvm_type(float); count], false);
        let (text, constraints) = (instructions(code), constraints(code));
        let result = self.assembly(&text, &constraints, &operands, Some(sums.as_basic_type_enum()));
        let sums = result.expect("it has results").into_struct_value();
        (0..count as u32).map(|i| built(self.builder.build_extract_value(sums, i, ""))).collect()
    }
}

/// A register as the assembly calls it: operands stand in the order of the constraints.
fn name(code: &Straight, register: Register) -> String {
    let sums = code.sums.len() as u32;
    match register {
        Register::Sum(number) => format!("${number}"),
        // Sums are operands twice.
        Register::Given(number) => format!("${}", 2 * sums + code.bases.len() as u32 + number),
        Register::Loaded(array, number) => format!("{}{number}", letters(array)),
    }
}

/// What registers of an array are called: `a`, `b`, and so on, behind `z` `aa`.
fn letters(array: u32) -> String {
    let last = char::from(b'a' + (array % 26) as u8);
    if array < 26 { last.to_string() } else { letters(array / 26 - 1) + &last.to_string() }
}

/// The piece itself.
fn instructions(code: &Straight) -> String {
    let mut text = String::from("{\n");
    let registers = (0..).zip(&code.arrays).map(|(array, (_, count))| format!("{}<{count}>", letters(array)));
    let _ = writeln!(text, "\t.reg .b32 \t{};", registers.collect::<Vec<_>>().join(", "));
    let bases = 2 * code.sums.len() as u32;
    for step in &code.steps {
        match step {
            Step::Load { base, offset, to } => {
                let names: Vec<_> = to.iter().map(|register| name(code, *register)).collect();
                let (vector, names) = match names.len() {
                    1 => (String::new(), names.concat()),
                    lanes => (format!(".v{lanes}"), format!("{{{}}}", names.join(", "))),
                };
                let _ = write!(text, "\tld.shared{vector}.b32 \t{names}, [${}", bases + base);
                let bytes = offset * i64::from(LaneType::F32.bytes());
                let _ = if bytes == 0 { writeln!(text, "];") } else { writeln!(text, "+{bytes}];") };
            }
            Step::Fma(sum, [x, y]) => {
                let [x, y] = [x, y].map(|register| name(code, *register));
                let _ = writeln!(text, "\tfma.rn.f32 \t${sum}, {x}, {y}, ${sum};");
            }
        }
    }
    text + "\t}"
}

/// Of sums as results, of sums as operands, of the addresses of bases, and of what is given.
fn constraints(code: &Straight) -> String {
    let results = code.sums.iter().map(|_| "=f".to_owned());
    let sums = (0..code.sums.len()).map(|number| number.to_string());
    let bases = code.bases.iter().map(|_| "l".to_owned());
    let given = code.given.iter().map(|_| "f".to_owned());
    let all = results.chain(sums).chain(bases).chain(given).chain(["~{memory}".to_owned()]);
    all.collect::<Vec<_>>().join(",")
}
