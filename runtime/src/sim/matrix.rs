//! Matrices of 8 by 8 halves between shared memory and the registers of a warp (`ldmatrix`, `stmatrix`). Each of eight
//! lanes gives the address of a row; a register of a lane holds two neighbours of a row, or of a column where matrices
//! are transposed on the way.

use super::access::aligned;
use super::execute::{Context, Wrong, first};
use super::fault::Problem;
use super::op::{Address, Space};
use super::record::Access;
use super::requests::count_request;
use super::value::mask;
use super::warp::{LANES, Warp};

/// The bytes of a row, and of an element.
const ROW: u32 = 16;
const HALF: u32 = 2;

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
        for (matrix, slot) in d.iter().enumerate() {
            let mut rows = [[0u64; 8]; 8];
            for (row, values) in rows.iter_mut().enumerate() {
                let lane = (matrix * 8 + row) % LANES;
                let read = || -> Result<(), Problem> {
                    for (column, value) in (0..).zip(values) {
                        let address = addresses[lane] + u64::from(HALF) * column;
                        let place = memories.place(None, Space::Shared, address, lane, HALF)?;
                        let access = self.access(&memories, Space::Shared, false);
                        let access = Access { thread: access.thread + lane as u32, ..access };
                        place.region.note_read(place.offset, HALF, &access)?;
                        *value = place.region.load(place.offset, HALF);
                    }
                    Ok(())
                };
                read().map_err(|problem| (lane as u32, problem))?;
            }
            self.registers[*slot as usize] = std::array::from_fn(|lane| {
                let pick = |half| {
                    let (row, column) = element(lane, half, transposed);
                    rows[row][column]
                };
                pick(0) | (pick(1) << 16)
            });
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
        for (matrix, slot) in values.iter().enumerate() {
            for lane in 0..LANES {
                for half in 0..2 {
                    let (row, column) = element(lane, half, transposed);
                    let from = (matrix * 8 + row) % LANES;
                    let write = || -> Result<(), Problem> {
                        let address = addresses[from] + u64::from(HALF) * column as u64;
                        let place = memories.place(None, Space::Shared, address, from, HALF)?;
                        let access = self.access(&memories, Space::Shared, false);
                        // The lane that gives the address of a row stands for all that write it.
                        let access = Access { thread: access.thread + from as u32, ..access };
                        place.region.note_write(place.offset, HALF, &access)?;
                        let value = self.registers[*slot as usize][lane] >> (16 * half) & mask(16);
                        place.region.store(place.offset, HALF, value);
                        Ok(())
                    };
                    write().map_err(|problem| (from as u32, problem))?;
                }
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
