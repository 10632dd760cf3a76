//! What the lanes of a warp do together: exchanges, votes, reductions, products of small matrices.

use super::arithmetic::{Function, evaluate};
use super::execute::{Wrong, each_lane, first};
use super::fault::Problem;
use super::op::{Op, Product, Shuffle, Vote};
use super::value::{Mode, Rounding, Type, from_f64, mask, to_f64};
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
        let k = product.k as usize;
        let element = |slots: &[u32], register: usize, lane: usize, half: usize| {
            let bits = self.registers[slots[register] as usize][lane];
            if product.factors.bits == 16 {
                to_f64((bits >> (16 * half)) & mask(16), product.factors)
            } else {
                to_f64(bits, product.factors)
            }
        };
        // Elements of a register, and columns that one register of every lane covers.
        let per = 32 / product.factors.bits as usize;
        let span = 4 * per;
        let left = |row: usize, column: usize| {
            let register = usize::from(row >= 8) + 2 * (column / span);
            element(a, register, row % 8 * 4 + column % span / per, column % per)
        };
        let right =
            |row: usize, column: usize| element(b, row / span, column * 4 + row % span / per, row % per);
        let mut out = [[0u64; LANES]; 4];
        for (register, values) in out.iter_mut().enumerate() {
            for (lane, value) in values.iter_mut().enumerate() {
                let (row, column) = (lane / 4 + 8 * (register / 2), lane % 4 * 2 + register % 2);
                let start = to_f64(self.registers[c[register] as usize][lane], product.sum);
                let sum = (0..k).fold(start, |sum, i| left(row, i).mul_add(right(i, column), sum));
                *value = from_f64(sum, product.sum, Rounding::Nearest);
            }
        }
        for (slot, values) in d.iter().zip(out) {
            self.registers[*slot as usize] = values;
        }
        Ok(())
    }
}
