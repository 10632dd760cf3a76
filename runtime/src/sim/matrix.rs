//! Matrices of 8 by 8 halves between shared memory and the registers of a warp (`ldmatrix`, `stmatrix`). Each of eight
//! lanes gives the address of a row; a register of a lane holds two neighbours of a row, or of a column where matrices
//! are transposed on the way.

use super::access::aligned;
use super::execute::{Context, Wrong, first};
use super::fault::Problem;
use super::op::{Address, Space};
use super::record::Batch;
use super::requests::count_request;
use super::value::mask;
use super::warp::{LANES, Warp};

/// The bytes of a row, and of an element.
const ROW: u32 = 16;
const HALF: u32 = 2;
const WORDS: usize = ROW as usize / 4;
/// The most matrices of an instruction.
const MOST: usize = 4;

/// The row and the column of one of the two elements that a lane holds.
fn element(lane: usize, half: usize, transposed: bool) -> (usize, usize) {
    let (outer, inner) = (lane / 4, lane % 4 * 2 + half);
    if transposed { (inner, outer) } else { (outer, inner) }
}

impl Warp {
    /// Loads a matrix into each of the registers.
    pub fn load_matrix(
        &mut self,
        context: &mut Context<'_>,
        at: Address,
        transposed: bool,
        d: &[u32],
        lanes: u32,
    ) -> Result<(), Wrong> {
        let addresses = self.rows(context, at, d.len(), lanes)?;
        let memories = context.memories;
        let mut batch = Batch::new(self.access(&memories, Space::Shared, false));
        let mut matrices = [[[0u64; WORDS]; 8]; MOST];
        for (lane, row) in matrices[..d.len()].as_flattened_mut().iter_mut().enumerate() {
            let place = memories.place(None, Space::Shared, addresses[lane], lane, ROW);
            let place = place.map_err(|problem| (lane as u32, problem))?;
            place.region.note_reads(place.offset, ROW, 1 << lane, &mut batch)?;
            for (at, word) in (place.offset..).step_by(4).zip(row) {
                *word = place.region.load(at, 4);
            }
        }
        for (rows, slot) in matrices.iter().zip(d) {
            for (lane, value) in self.registers[*slot as usize].iter_mut().enumerate() {
                let pick = |half| {
                    let (row, column) = element(lane, half, transposed);
                    rows[row][column / 2] >> (16 * (column % 2)) & mask(16)
                };
                *value = pick(0) | (pick(1) << 16);
            }
        }
        Ok(())
    }

    /// Stores a matrix from each of the registers.
    pub fn store_matrix(
        &mut self,
        context: &mut Context<'_>,
        at: Address,
        transposed: bool,
        values: &[u32],
        lanes: u32,
    ) -> Result<(), Wrong> {
        let addresses = self.rows(context, at, values.len(), lanes)?;
        let memories = context.memories;
        let mut batch = Batch::new(self.access(&memories, Space::Shared, false));
        for (matrix, slot) in values.iter().enumerate() {
            let mut rows = [[0u64; 8]; 8];
            for (lane, value) in self.registers[*slot as usize].iter().enumerate() {
                for half in 0..2 {
                    let (row, column) = element(lane, half, transposed);
                    rows[row][column] = value >> (16 * half) & mask(16);
                }
            }
            // The lane that gives the address of a row stands for all that write it.
            for (lane, row) in (matrix * 8..).zip(rows) {
                let mut write = || -> Result<(), Problem> {
                    let place = memories.place(None, Space::Shared, addresses[lane], lane, ROW)?;
                    place.region.note_lane_write(place.offset, ROW, lane as u32, &mut batch)?;
                    for (column, value) in (0..).zip(row) {
                        place.region.store(place.offset + u64::from(HALF) * column, HALF, value);
                    }
                    Ok(())
                };
                write().map_err(|problem| (lane as u32, problem))?;
            }
        }
        context.progress = true;
        Ok(())
    }

    /// The addresses of the rows of so many matrices, checked and counted.
    fn rows(
        &mut self,
        context: &mut Context<'_>,
        at: Address,
        matrices: usize,
        lanes: u32,
    ) -> Result<[u64; LANES], Wrong> {
        if lanes != u32::MAX {
            return Err((first(lanes), Problem::WrongMembers { here: lanes, named: u32::MAX }));
        }
        let addresses = self.addresses(at);
        for (lane, address) in (0..8 * matrices as u32).zip(addresses) {
            aligned(address, ROW).map_err(|problem| (lane, problem))?;
        }
        for matrix in 0..matrices {
            count_request(context, Space::Shared, &addresses, ROW, 0xFF << (matrix * 8 % LANES));
        }
        self.act();
        Ok(addresses)
    }
}
