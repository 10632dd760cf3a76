//! Products of warp groups.

use super::lane::Lane;
use super::team::Team;
use super::{Evaluated, Register};
use crate::kernel_ir::{Conversion, GroupFactor, LaneType, MatrixFactors, ValueId};

/// Threads of a group, and of a warp.
const GROUP: usize = GroupFactor::THREADS as usize;
const WARP: usize = 32;
/// Rows of a group, and of a warp.
const ROWS: usize = 64;
const ROWS_OF_WARP: usize = 16;
/// Words of a line, and of a chunk of it.
const LINE: usize = GroupFactor::LINE as usize / 4;
const CHUNK: usize = 4;
/// Lines after which the places of chunks begin again.
const PATTERN: usize = 8;

impl Team<'_> {
    /// A product of each group that some threads are.
    pub(super) fn group_fma(
        &mut self,
        value: ValueId,
        factors: MatrixFactors,
        sides: [&GroupFactor; 2],
        sum: ValueId,
        threads: &[usize],
    ) -> Evaluated<()> {
        threads.chunk_by(|a, b| a / GROUP == b / GROUP).try_for_each(|group| {
            if group.len() < GROUP {
                return Err(self.diverged());
            }
            let begin = self.on(group[0], |machine| machine.get(sum))?;
            let columns = 2 * begin.len();
            let [left, right] = [(sides[0], ROWS), (sides[1], columns)];
            let left = self.factor(value, factors, left, group)?;
            let right = self.factor(value, factors, right, group)?;
            for (place, thread) in group.iter().enumerate() {
                let mut sums = self.on(*thread, |machine| machine.get(sum))?;
                for (number, lane) in sums.iter_mut().enumerate() {
                    let (row, column) = position(place, number);
                    let Lane::F32(begin) = *lane else {
                        return Err(self.invalid(value, "has operands of wrong types"));
                    };
                    let products = left[row].iter().zip(&right[column]);
                    let total = products.fold(f64::from(begin), |sum, (x, y)| x.mul_add(*y, sum));
                    *lane = Lane::F32(total as f32);
                }
                self.on(*thread, |machine| machine.set(value, sums))?;
            }
            Ok(())
        })
    }

    /// The elements along the summed axis of so many rows or columns.
    fn factor(
        &mut self,
        value: ValueId,
        factors: MatrixFactors,
        (factor, count): (&GroupFactor, usize),
        group: &[usize],
    ) -> Evaluated<Vec<Vec<f64>>> {
        let per_word = factors.per_word() as usize;
        let side = GroupFactor::SIDE as usize;
        let lines = if factor.transposed { count.div_ceil(side) * side } else { count };
        let mut begin = None;
        for thread in group {
            let index = self.on(*thread, |machine| machine.scalar_i64(factor.index))?;
            if *begin.get_or_insert(index) != index {
                return Err(self.invalid(value, "is of other factors for other threads"));
            }
        }
        let begin = begin.unwrap_or(0);
        let mut words: Vec<Vec<u32>> = Vec::with_capacity(lines);
        // Two of the threads read for all: what several threads have read is the same for whoever writes there next.
        for thread in [group[0], group[GROUP - 1]] {
            words = (0..lines)
                .map(|line| self.on(thread, |machine| machine.group_line(value, factor, begin, line)))
                .collect::<Evaluated<_>>()?;
        }
        let element = |line: usize, at: usize| {
            let word = words[line][at / per_word] >> (at % per_word * 16);
            widened(factors, word)
        };
        let depth = LINE * per_word;
        let of = |row: usize| -> Vec<f64> {
            let at = |k: usize| match factor.transposed {
                true => element(row / side * side + k, row % side),
                false => element(row, k),
            };
            (0..depth).map(at).collect()
        };
        Ok((0..count).map(of).collect())
    }
}

impl super::Machine<'_> {
    /// The words of a line of a factor, as they follow each other.
    fn group_line(
        &mut self,
        value: ValueId,
        factor: &GroupFactor,
        begin: i64,
        line: usize,
    ) -> Evaluated<Vec<u32>> {
        if begin % i64::from(GroupFactor::ALIGNMENT / 4) != 0 {
            return Err(self.invalid(value, "is of a factor that does not begin at a multiple of 1024 bytes"));
        }
        let mut words = Vec::with_capacity(LINE);
        for chunk in 0..LINE / CHUNK {
            let place = line * LINE + (chunk ^ (line % PATTERN)) * CHUNK;
            let loaded = self.shared.load(self.user, factor.array.0 as usize, begin + place as i64, CHUNK);
            let loaded: Register = loaded.map_err(|what| self.invalid(value, what))?;
            for lane in loaded {
                match lane {
                    Lane::I32(word) => words.push(word as u32),
                    _ => return Err(self.invalid(value, "is of other words than i32")),
                }
            }
        }
        Ok(words)
    }
}

/// The row and the column of a sum of a thread of a group.
fn position(thread: usize, number: usize) -> (usize, usize) {
    let (warp, lane) = (thread / WARP, thread % WARP);
    let row = warp * ROWS_OF_WARP + lane / 4 + number / 2 % 2 * 8;
    (row, number / 4 * 8 + lane % 4 * 2 + number % 2)
}

/// What the low bits of a word hold.
fn widened(factors: MatrixFactors, word: u32) -> f64 {
    let float = |bits: u32| f64::from(f32::from_bits(bits));
    match factors {
        MatrixFactors::F16 => {
            let half = Lane::I32((word & 0xffff) as i32);
            match super::lane::convert(Conversion::HalfToFloat, half, LaneType::F32) {
                Some(Lane::F32(x)) => f64::from(x),
                _ => f64::NAN,
            }
        }
        MatrixFactors::Bf16 => float(word << 16),
        MatrixFactors::Tf32 => float(word & !0x1fff),
    }
}
