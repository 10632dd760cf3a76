//! Products of warp groups (`wgmma`): four warps multiply matrices in shared memory, each the 16 rows of the left factor
//! that are its own.
//!
//! A product is carried out as late as it can be, when it is waited for. What it reads has to be there when it begins and
//! must not change until then; its sums are nobody's business in between. A warp carries out its part by itself, and the
//! four are only compared.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::access::Memories;
use super::descriptor::{CHUNK, Descriptor};
use super::execute::{Context, Wrong, first};
use super::fault::{GroupMisuse, Problem};
use super::op::{Condition, GroupProduct, Slot, Space};
use super::requests::count_request;
use super::value::{Rounding, SINGLE, from_f64, mask, to_f64};
use super::vectors::in_vectors;
use super::warp::{LANES, Warp};

/// Warps of a group.
const WARPS: u32 = 4;
/// Rows of a warp.
const ROWS: u32 = 16;
/// Chunks that shared memory gives at once.
const PIECE: usize = 8;

/// A product that was begun.
struct Begun {
    product: GroupProduct,
    d: Box<[Slot]>,
    factors: [Descriptor; 2],
    adds: bool,
    /// The commit that covers it; later than all of them where none does yet.
    group: u32,
    /// Fences before it.
    fences: u32,
    /// Who wrote what it reads.
    writers: Vec<u64>,
}

/// What a warp has to do with products of its group.
pub(super) struct Group {
    begun: Vec<Begun>,
    commits: u32,
    fences: u32,
    /// Products under way that sum up in each register.
    sums: Vec<u32>,
    /// How many fences there were when each register was named last, plus one.
    named: Vec<u32>,
}

impl Group {
    pub fn new(registers: u32) -> Group {
        let zeros = || vec![0; registers as usize];
        Group { begun: Vec::new(), commits: 0, fences: 0, sums: zeros(), named: zeros() }
    }

    /// Nothing has happened.
    pub fn forget(&mut self) {
        *self = Group::new(self.sums.len() as u32);
    }

    /// Notes an instruction that names registers; refused while sums are under way there.
    pub fn note(&mut self, registers: &[Slot]) -> Result<(), Problem> {
        for slot in registers {
            if self.sums[*slot as usize] > 0 {
                return Err(Problem::WarpGroup(GroupMisuse::SumsUnderWay));
            }
            self.named[*slot as usize] = self.fences + 1;
        }
        Ok(())
    }

    /// Whether a product may sum up in registers without another fence.
    fn admits(&self, product: GroupProduct, d: &[Slot]) -> bool {
        let other = |begun: &Begun| {
            begun.fences == self.fences
                && (begun.product.columns, begun.product.k, begun.product.factors)
                    != (product.columns, product.k, product.factors)
                && begun.d.iter().any(|slot| d.contains(slot))
        };
        self.fences > 0
            && !d.iter().any(|slot| self.named[*slot as usize] > self.fences)
            && !self.begun.iter().any(other)
    }
}

/// What a warp of a group began.
#[derive(PartialEq, Eq)]
struct Issue {
    pc: u32,
    factors: [u64; 2],
    adds: bool,
}

/// What the warps of one group began.
#[derive(Default)]
struct Ledger {
    /// How many products each began.
    counts: [u64; WARPS as usize],
    ended: [bool; WARPS as usize],
    /// Those that not all have begun; the first of them has the least number of `counts`.
    issues: VecDeque<Issue>,
}

impl Ledger {
    fn issue(&mut self, member: usize, issue: Issue) -> Result<(), GroupMisuse> {
        let number = self.counts[member];
        let least = |counts: &[u64]| counts.iter().copied().min().unwrap_or(0);
        let before = least(&self.counts);
        match self.issues.get((number - before) as usize) {
            Some(other) if *other != issue => return Err(GroupMisuse::Differs),
            Some(_) => {}
            None if self.ended.contains(&true) => return Err(GroupMisuse::Incomplete),
            None => self.issues.push_back(issue),
        }
        self.counts[member] += 1;
        if least(&self.counts) > before {
            self.issues.pop_front();
        }
        Ok(())
    }

    fn end(&mut self, member: usize) -> Result<(), GroupMisuse> {
        self.ended[member] = true;
        let all = self.counts.iter().all(|count| *count <= self.counts[member]);
        if all { Ok(()) } else { Err(GroupMisuse::Incomplete) }
    }
}

/// What the warp groups of a block began, by their numbers.
#[derive(Default)]
pub(super) struct Groups(Mutex<HashMap<u32, Ledger>>);

impl Groups {
    /// Nothing was begun.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn of<T>(&self, warp: u32, f: impl FnOnce(&mut Ledger, usize) -> T) -> T {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f(held.entry(warp / WARPS).or_default(), (warp % WARPS) as usize)
    }
}

/// 16 bytes of a factor: where they lie, and the row of the left factor (the column of the right one) and the place along
/// the summed axis of their first element.
struct Chunk {
    address: u64,
    row: u32,
    k: u32,
}

/// The chunks of some rows of a factor, piece by piece.
fn chunks(factor: &Descriptor, product: GroupProduct, transposed: bool, rows: Range<u32>) -> Vec<Chunk> {
    let per = 8 * CHUNK / product.factors.bits;
    let pieces = rows.step_by(PIECE);
    if !transposed {
        let piece = |row: u32| {
            (0..product.k / per).flat_map(move |chunk| (row..row + 8).map(move |row| (row, chunk)))
        };
        return pieces
            .flat_map(piece)
            .map(|(row, chunk)| Chunk {
                address: factor.along(row.into(), chunk.into()),
                row,
                k: chunk * per,
            })
            .collect();
    }
    pieces
        .flat_map(|row| (0..product.k).map(move |k| (row, k)))
        .map(|(row, k)| Chunk { address: factor.across((row / per).into(), k.into()), row, k })
        .collect()
}

impl Warp {
    /// Registers are ready for products.
    pub fn fence_group(&mut self, lanes: u32) -> Result<(), Wrong> {
        whole(lanes)?;
        self.group.iter_mut().for_each(|group| group.fences += 1);
        Ok(())
    }

    /// What was begun since the last commit is a group.
    pub fn commit_products(&mut self, lanes: u32) -> Result<(), Wrong> {
        whole(lanes)?;
        let Some(group) = &mut self.group else { return Ok(()) };
        group.commits += 1;
        let commits = group.commits;
        group.begun.iter_mut().for_each(|begun| begun.group = begun.group.min(commits));
        Ok(())
    }

    /// Begins a product.
    pub fn multiply_group(
        &mut self,
        context: &mut Context<'_>,
        product: GroupProduct,
        d: &[Slot],
        factors: [Slot; 2],
        adds: Condition,
        lanes: u32,
    ) -> Result<(), Wrong> {
        whole(lanes)?;
        self.begin_product(context, product, d, factors, adds).map_err(|problem| (0, problem))
    }

    fn begin_product(
        &mut self,
        context: &mut Context<'_>,
        product: GroupProduct,
        d: &[Slot],
        factors: [Slot; 2],
        adds: Condition,
    ) -> Result<(), Problem> {
        let misused = |misuse| Err(Problem::WarpGroup(misuse));
        let adds = match self.holds(adds) {
            u32::MAX => true,
            0 => false,
            _ => return misused(GroupMisuse::Differs),
        };
        let bits = factors.map(|slot| self.registers[slot as usize]);
        if bits.iter().any(|bits| bits.iter().any(|other| *other != bits[0])) {
            return misused(GroupMisuse::Differs);
        }
        let bits = bits.map(|bits| bits[0]);
        if (self.clocks.len() as u32) < (self.index / WARPS + 1) * WARPS {
            return misused(GroupMisuse::Incomplete);
        }
        let issue = Issue { pc: self.current.pc, factors: bits, adds };
        let issued = context.memories.groups.of(self.index, |ledger, member| ledger.issue(member, issue));
        issued.map_err(Problem::WarpGroup)?;
        let Some(mut group) = self.group.take() else { return Ok(()) };
        if !group.admits(product, d) {
            return misused(GroupMisuse::NoFence);
        }
        let [left, right] = [0, 1].map(|side| Descriptor::decode(bits[side], product.transposed[side]));
        let mut begun = Begun {
            product,
            d: d.into(),
            factors: [left?, right?],
            adds,
            group: u32::MAX,
            fences: group.fences,
            writers: Vec::new(),
        };
        self.begin_reading(context, &mut begun)?;
        d.iter().for_each(|slot| group.sums[*slot as usize] += 1);
        group.begun.push(begun);
        self.group = Some(group);
        context.progress = true;
        // What the warp writes from here on it writes while the product reads.
        self.count_up();
        self.act();
        Ok(())
    }

    /// The rows of a factor that the warp takes: its own, or all.
    fn rows_of(&self, product: GroupProduct, side: usize) -> Range<u32> {
        let own = self.index % WARPS * ROWS;
        if side == 0 { own..own + ROWS } else { 0..product.columns }
    }

    /// Checks and counts what a product reads. The right factor is counted once a group.
    fn begin_reading(&self, context: &mut Context<'_>, begun: &mut Begun) -> Result<(), Problem> {
        let (product, memories) = (begun.product, context.memories);
        let access = self.access(&memories, Space::Shared, false);
        for (side, factor) in begun.factors.iter().enumerate() {
            let chunks = chunks(factor, product, product.transposed[side], self.rows_of(product, side));
            for chunk in &chunks {
                let place = memories.place(None, Space::Shared, chunk.address, 0, CHUNK)?;
                place.region.note_asynchronous_read(place.offset, CHUNK, &access, &mut begun.writers)?;
            }
            if side == 1 && !self.index.is_multiple_of(WARPS) {
                continue;
            }
            for piece in chunks.chunks(PIECE) {
                let mut addresses = [0; LANES];
                addresses.iter_mut().zip(piece).for_each(|(address, chunk)| *address = chunk.address);
                count_request(context, Space::Shared, &addresses, CHUNK, (1 << PIECE) - 1);
            }
        }
        Ok(())
    }

    /// Carries out the products whose groups are not among the last `pending` commits.
    pub fn wait_for_products(
        &mut self,
        context: &mut Context<'_>,
        pending: u32,
        lanes: u32,
    ) -> Result<(), Wrong> {
        whole(lanes)?;
        let Some(mut group) = self.group.take() else { return Ok(()) };
        let last = group.commits.saturating_sub(pending);
        let (due, later): (Vec<Begun>, Vec<Begun>) =
            group.begun.into_iter().partition(|begun| begun.group <= last);
        for begun in &due {
            self.finish_product(&context.memories, begun).map_err(|problem| (0, problem))?;
            begun.d.iter().for_each(|slot| group.sums[*slot as usize] -= 1);
        }
        group.begun = later;
        self.group = Some(group);
        // Every lane knows that the products of the warp are done.
        self.meet();
        context.progress = true;
        self.act();
        Ok(())
    }

    /// Sums are exact in f64 or nearly so, and rounded once, as those of [`Warp::multiply`] are.
    fn finish_product(&mut self, memories: &Memories<'_>, begun: &Begun) -> Result<(), Problem> {
        let k = begun.product.k as usize;
        let mut writers = begun.writers.iter().copied();
        let left = self.factor(memories, begun, 0, &mut writers)?;
        let right = self.factor(memories, begun, 1, &mut writers)?;
        for (register, slot) in begun.d.iter().enumerate() {
            let sums = &mut self.registers[*slot as usize];
            if !begun.adds {
                *sums = [0; LANES];
            }
            add_products(sums, register, k, &left, &right);
        }
        Ok(())
    }

    /// The elements of a factor that the warp takes, row by row.
    fn factor(
        &self,
        memories: &Memories<'_>,
        begun: &Begun,
        side: usize,
        writers: &mut impl Iterator<Item = u64>,
    ) -> Result<Vec<f64>, Problem> {
        let (product, rows) = (begun.product, self.rows_of(begun.product, side));
        let (bits, transposed) = (product.factors.bits, product.transposed[side]);
        let access = self.access(memories, Space::Shared, false);
        let mut out = vec![0.0; (rows.len() as u32 * product.k) as usize];
        for chunk in chunks(&begun.factors[side], product, transposed, rows.clone()) {
            let place = memories.place(None, Space::Shared, chunk.address, 0, CHUNK)?;
            place.region.note_end_of_read(place.offset, CHUNK, &access, writers)?;
            for element in 0..8 * CHUNK / bits {
                let at = place.offset + u64::from(element * bits / 8);
                let value = to_f64(place.region.load(at, bits / 8) & mask(bits), product.factors);
                let (row, k) =
                    if transposed { (chunk.row + element, chunk.k) } else { (chunk.row, chunk.k + element) };
                let value = if product.negated[side] { -value } else { value };
                out[((row - rows.start) * product.k + k) as usize] = value;
            }
        }
        Ok(out)
    }

    /// The warp ends.
    pub fn leave_group(&self, context: &Context<'_>) -> Result<(), Problem> {
        let Some(group) = &self.group else { return Ok(()) };
        if !group.begun.is_empty() {
            return Err(Problem::WarpGroup(GroupMisuse::NotAwaited));
        }
        context.memories.groups.of(self.index, Ledger::end).map_err(Problem::WarpGroup)
    }
}

in_vectors! {
    /// Adds to the sums of a register of all lanes the products of rows of the factors, of `k` elements each.
    fn add_products(sums: &mut [u64; LANES], register: usize, k: usize, left: &[f64], right: &[f64]) {
        for lane in 0..LANES {
            let row = lane / 4 + register / 2 % 2 * 8;
            let column = register / 4 * 8 + lane % 4 * 2 + register % 2;
            let (left, right) = (&left[row * k..][..k], &right[column * k..][..k]);
            let mut sum = to_f64(sums[lane], SINGLE);
            for at in 0..k {
                sum = left[at].mul_add(right[at], sum);
            }
            sums[lane] = from_f64(sum, SINGLE, Rounding::Nearest);
        }
    }
}

/// Refuses what not all lanes of a warp execute.
fn whole(lanes: u32) -> Result<(), Wrong> {
    if lanes == u32::MAX {
        return Ok(());
    }
    Err((first(lanes), Problem::WrongMembers { here: lanes, named: u32::MAX }))
}
