//! What the lanes of a warp do together: exchanges, votes, reductions, products of small matrices.

use super::arithmetic::{Function, evaluate};
use super::execute::{Wrong, each_lane, first};
use super::fault::Problem;
use super::op::{Op, Product, Shuffle, Vote};
use super::value::{BRAIN, HALF, Mode, Rounding, SINGLE, TENSOR, Type, from_f64, mask, to_f64};
use super::vectors::in_vectors;
use super::warp::{LANES, Warp};

impl Warp {
    /// Refuses an exchange unless exactly the lanes that it names execute it.
    fn members(&self, slot: u32, lanes: u32) -> Result<(), Wrong> {
        let named = self.registers[slot as usize];
        let mut wrong = None;
        each_lane(lanes, |lane| {
            if named[lane] as u32 != lanes && wrong.is_none() {
                wrong = Some((lane as u32, Problem::WrongMembers { here: lanes, named: named[lane] as u32 }));
            }
        });
        wrong.map_or(Ok(()), Err)
    }

    /// Executes an exchange.
    pub fn exchange(&mut self, op: &Op, lanes: u32) -> Result<(), Wrong> {
        match op {
            Op::Shuffle { f, d, p, a, b, c, members } => {
                self.members(*members, lanes)?;
                self.shuffle(*f, [*d, *a, *b, *c], *p, lanes)?;
            }
            Op::Vote { f, d, a, members } => {
                self.members(*members, lanes)?;
                let holds = self.holds(*a) & lanes;
                let answer = |yes: bool| if yes { u32::MAX } else { 0 };
                match f {
                    Vote::All => self.set_predicate(*d, lanes, answer(holds == lanes)),
                    Vote::Any => self.set_predicate(*d, lanes, answer(holds != 0)),
                    Vote::Uniform => self.set_predicate(*d, lanes, answer(holds == lanes || holds == 0)),
                    Vote::Ballot => self.each([*d; 4], lanes, |_, _, _| u64::from(holds)),
                }
            }
            Op::ActiveMask { d } => self.each([*d; 4], lanes, |_, _, _| u64::from(lanes)),
            Op::Elect { d, p, members } => {
                self.members(*members, lanes)?;
                let leader = first(lanes);
                self.set_predicate(*p, lanes, 1 << leader);
                if let Some(d) = d {
                    self.each([*d; 4], lanes, |_, _, _| u64::from(leader));
                }
            }
            Op::WarpBarrier { members } => {
                self.members(*members, lanes)?;
                self.meet();
            }
            // The others change nothing.
            _ => {}
        }
        Ok(())
    }

    fn shuffle(
        &mut self,
        f: Shuffle,
        [d, a, b, c]: [u32; 4],
        p: Option<u32>,
        lanes: u32,
    ) -> Result<(), Wrong> {
        let [values, sources, limits] = [a, b, c].map(|slot| self.registers[slot as usize]);
        let (mut inside, mut wrong) = (0u32, None);
        let out = &mut self.registers[d as usize];
        each_lane(lanes, |lane| {
            let (own, b, c) = (lane as i64, sources[lane] as i64 & 31, limits[lane] as i64);
            let (limit, segment) = (c & 31, (c >> 8) & 31);
            let (least, most) = (own & segment, (own & segment) | (limit & !segment & 31));
            let (from, valid) = match f {
                Shuffle::Up => (own - b, own - b >= most),
                Shuffle::Down => (own + b, own + b <= most),
                Shuffle::Butterfly => (own ^ b, (own ^ b) <= most),
                Shuffle::Index => (least | (b & !segment), (least | (b & !segment)) <= most),
            };
            let from = if valid { from as usize & 31 } else { lane };
            inside |= u32::from(valid) << lane;
            if lanes >> from & 1 == 0 && wrong.is_none() {
                wrong = Some((lane as u32, Problem::WrongMembers { here: lanes, named: 1 << from }));
            }
            out[lane] = values[from];
        });
        if let Some(p) = p {
            self.set_predicate(p, lanes, inside);
        }
        wrong.map_or(Ok(()), Err)
    }

    /// One value of all lanes.
    pub fn reduce(
        &mut self,
        f: Function,
        ty: Type,
        [d, a, members]: [u32; 3],
        lanes: u32,
    ) -> Result<(), Wrong> {
        self.members(members, lanes)?;
        let values = self.registers[a as usize];
        let mut all = values[first(lanes) as usize];
        each_lane(lanes & (lanes - 1), |lane| all = evaluate(f, ty, Mode::default(), all, values[lane], 0));
        self.each([d; 4], lanes, |_, _, _| all);
        Ok(())
    }

    /// A product of matrices that lie over the warp: 16 by k, k by 8, plus 16 by 8. Sums are exact in f64 or nearly
    /// so, and rounded once, within what the hardware's own order gives.
    pub fn multiply(
        &mut self,
        product: Product,
        d: &[u32],
        a: &[u32],
        b: &[u32],
        c: &[u32],
        lanes: u32,
    ) -> Result<(), Wrong> {
        if lanes != u32::MAX {
            return Err((first(lanes), Problem::WrongMembers { here: lanes, named: u32::MAX }));
        }
        const NOTHING: &[u64; LANES] = &[0; LANES];
        let registers = |slots: &[u32]| -> [&[u64; LANES]; 4] {
            std::array::from_fn(|at| slots.get(at).map_or(NOTHING, |slot| &self.registers[*slot as usize]))
        };
        let out = multiplied(product, registers(a), registers(b), registers(c));
        for (slot, values) in d.iter().zip(out) {
            self.registers[*slot as usize] = values;
        }
        Ok(())
    }
}

/// The most elements along the summed axis.
const DEPTH: usize = 16;

in_vectors! {
    /// The product of two factors plus sums, each as up to four registers of all lanes.
    fn multiplied(
        product: Product,
        a: [&[u64; LANES]; 4],
        b: [&[u64; LANES]; 4],
        c: [&[u64; LANES]; 4],
    ) -> [[u64; LANES]; 4] {
        let (k, factors) = (product.k as usize, product.factors);
        // Elements of a register, and those along the summed axis that one register of every lane covers.
        let per = 32 / factors.bits as usize;
        let span = 4 * per;
        let [mut left, mut right] = [[[0.0f64; DEPTH]; 16], [[0.0f64; DEPTH]; 16]];
        for register in 0..k / span {
            for half in 0..per {
                let [upper, lower] = [a[2 * register], a[2 * register + 1]].map(|a| numbers(a, half, factors));
                let columns = numbers(b[register], half, factors);
                for lane in 0..LANES {
                    let (outer, i) = (lane / 4, register * span + lane % 4 * per + half);
                    left[outer][i] = upper[lane];
                    left[outer + 8][i] = lower[lane];
                    right[i][outer] = columns[lane];
                }
            }
        }
        let mut out = [[0u64; LANES]; 4];
        for row in 0..16 {
            let place = |column: usize| (row / 8 * 2 + column % 2, row % 8 * 4 + column / 2);
            let mut sums = [0.0; 8];
            for column in 0..8 {
                let (register, lane) = place(column);
                sums[column] = to_f64(c[register][lane], product.sum);
            }
            for i in 0..k {
                for column in 0..8 {
                    sums[column] = left[row][i].mul_add(right[i][column], sums[column]);
                }
            }
            for column in 0..8 {
                let (register, lane) = place(column);
                out[register][lane] = match product.sum {
                    SINGLE => from_f64(sums[column], SINGLE, Rounding::Nearest),
                    sum => from_f64(sums[column], sum, Rounding::Nearest),
                };
            }
        }
        out
    }
}

/// One of the elements that each lane has in a register; the types that there are, each in a loop of its own.
#[inline(always)]
fn numbers(register: &[u64; LANES], half: usize, ty: Type) -> [f64; LANES] {
    let mut numbers = [0.0; LANES];
    macro_rules! of {
        ($ty:expr) => {
            for lane in 0..LANES {
                numbers[lane] = to_f64(register[lane] >> ($ty.bits as usize * half) & mask($ty.bits), $ty);
            }
        };
    }
    match ty {
        BRAIN => of!(BRAIN),
        HALF => of!(HALF),
        TENSOR => of!(TENSOR),
        _ => of!(ty),
    }
    numbers
}
