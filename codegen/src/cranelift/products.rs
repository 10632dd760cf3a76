//! Products with panels, which compiled code calls: Cranelift has vectors of 128 bits, these have all that the machine has.
//!
//! A tile of a few rows by a few vectors of columns stays in registers while one loop over `k` loads each vector of the
//! panels once for all rows, and each element of the rows once for all vectors. Columns of a matrix that is not in panels are
//! copied to the cache for a chunk of `k` at a time, transposed if need be; sums go on from one chunk to the next.

#[cfg(target_arch = "x86_64")]
mod x86;

use std::mem::MaybeUninit;

/// What compiled code passes: as many [`Columns`] as it says follow it.
#[repr(C)]
pub(super) struct Arguments {
    /// The first row, whose elements are contiguous.
    left: *const f32,
    rows: i64,
    /// The elements summed up.
    count: i64,
    /// From one row to the next.
    left_step: i64,
    /// From one row to the next in what is written.
    to_step: i64,
    /// The columns of a panel, a multiple of [`lanes`].
    width: i64,
    panels: i64,
    /// From one element summed up to the next in a panel, and from one column to the next; one of the two is 1.
    along: i64,
    across: i64,
}

/// A panel and where its columns go.
#[repr(C)]
struct Columns {
    panel: *const f32,
    to: *mut f32,
}

impl Arguments {
    /// Whether panels are read where they are.
    fn is_direct(&self) -> bool {
        self.across == 1 && (self.along == self.width || self.rows <= FEW_ROWS as i64)
    }
}

/// Words of [`Arguments`], and of each panel that follows.
pub(super) const WORDS: usize = 9;
pub(super) const WORDS_OF_PANEL: usize = 2;

/// The routine's type.
pub(super) type Routine = unsafe extern "C" fn(arguments: *const Arguments);

/// The columns that this machine's vectors hold, of which a panel's width is a multiple; `None` where it has no routine.
pub fn lanes() -> Option<u32> {
    routine().map(|(lanes, _)| lanes)
}

/// The routine for this machine, and the lanes of its vectors.
pub(super) fn routine() -> Option<(u32, Routine)> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") && has!("avx512vl") && has!("avx512dq") {
            return Some((16, x86::avx512));
        }
        if has!("avx2") && has!("fma") {
            return Some((8, x86::avx2));
        }
        None
    }
    #[cfg(target_arch = "aarch64")]
    return Some((4, portable));
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    None
}

/// A vector register of f32.
trait Vector: Copy {
    const LANES: usize;
    fn zero() -> Self;
    /// # Safety
    /// As many elements are readable there as the vector has lanes.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// As many elements are writable there.
    unsafe fn store(self, to: *mut f32);
    /// `self·x + sum` with one `x` for all lanes, rounded once.
    fn multiply_add(self, x: f32, sum: Self) -> Self;
    /// Copies a square block: row `i` of what is written has element `i` of each row of what is read.
    ///
    /// # Safety
    /// As many vectors as one has lanes are readable there, `step` apart, and as many writable, `to_step` apart.
    unsafe fn transpose(from: *const f32, step: usize, to: *mut f32, to_step: usize);
}

/// Rows up to which a panel whose columns are contiguous is read where it is, however far apart they lie for the next `k`: each
/// tile of rows reads it again, and with more of them a copy in the cache is faster.
const FEW_ROWS: usize = 16;

/// Elements of each column that are copied to the cache at a time, 32 KiB of four vectors of 512 bits.
const CHUNK: usize = 128;

/// Vectors of a tile at most.
const MOST_VECTORS: usize = 4;

/// Lanes of a vector at most.
const MOST_LANES: usize = 16;

/// Memory for the chunk of a few columns.
#[repr(align(64))]
struct Scratch(MaybeUninit<[f32; CHUNK * MOST_VECTORS * MOST_LANES]>);

/// What a tile reads and writes, by row and by vector.
struct Tile<const R: usize, const V: usize> {
    left: [*const f32; R],
    panels: [*const f32; V],
    to: [[*mut f32; V]; R],
}

impl<const R: usize, const V: usize> Tile<R, V> {
    /// Sums go on from what is there already, or from 0.
    ///
    /// # Safety
    /// `count` elements are readable at each row, and vectors as far apart as `step` at each panel; a vector is writable
    /// at each place, and readable if sums go on.
    #[inline(always)]
    unsafe fn run<T: Vector, const GO_ON: bool>(&self, count: usize, step: usize) {
        let mut sums = [[T::zero(); V]; R];
        if GO_ON {
            for (sums, places) in sums.iter_mut().zip(&self.to) {
                for (sum, place) in sums.iter_mut().zip(places) {
                    // SAFETY: the caller's promise.
                    *sum = unsafe { T::load(*place) };
                }
            }
        }
        let mut at = 0;
        for k in 0..count {
            // SAFETY: `k` is below `count`.
            let columns = self.panels.map(|panel| unsafe { T::load(panel.add(at)) });
            at += step;
            for (row, sums) in self.left.iter().zip(&mut sums) {
                // SAFETY: as above.
                let x = unsafe { *row.add(k) };
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = column.multiply_add(x, *sum);
                }
            }
        }
        for (places, sums) in self.to.iter().zip(sums) {
            for (place, sum) in places.iter().zip(sums) {
                // SAFETY: the caller's promise.
                unsafe { sum.store(*place) };
            }
        }
    }
}

/// Some elements of some vectors of columns.
#[derive(Clone, Copy)]
struct Part<const V: usize> {
    /// The vectors of the first element.
    panels: [*const f32; V],
    /// From one element to the next there.
    step: usize,
    /// The first element summed up, and how many.
    from: usize,
    count: usize,
}

/// A product's panels, vector by vector.
#[derive(Clone, Copy)]
struct Vectors<'a> {
    arguments: &'a Arguments,
    columns: &'a [Columns],
    /// The vectors of a panel.
    each: usize,
}

impl Vectors<'_> {
    /// The panel of a vector, and which of its columns is the first.
    #[inline(always)]
    fn column<T: Vector>(&self, vector: usize) -> (&Columns, usize) {
        (&self.columns[vector / self.each], vector % self.each * T::LANES)
    }

    /// Where the sums of a row and a vector go.
    ///
    /// # Safety
    /// As for [`Routine`]; both are there.
    #[inline(always)]
    unsafe fn place<T: Vector>(&self, row: usize, vector: usize) -> *mut f32 {
        let (columns, first) = self.column::<T>(vector);
        // SAFETY: the caller's promise.
        unsafe { columns.to.add(first).offset(row as isize * self.arguments.to_step as isize) }
    }

    /// All sums of `V` vectors from the given one on.
    ///
    /// # Safety
    /// As for [`Routine`]: what the arguments say is there.
    #[inline(always)]
    unsafe fn sums<T: Vector, const R: usize, const V: usize, const CHUNKS: bool>(
        self,
        first: usize,
        scratch: &mut Scratch,
    ) {
        let Arguments { rows, count, along, across, .. } = *self.arguments;
        let (count, along, across) = (count as usize, along as usize, across as usize);
        // SAFETY: columns are inside of their panel.
        let panels: [_; V] = std::array::from_fn(|v| unsafe {
            let (columns, first) = self.column::<T>(first + v);
            columns.panel.add(first * across)
        });
        if !CHUNKS {
            // SAFETY: the caller's promise.
            unsafe { self.rows::<T, R, V, false>(first, Part { panels, step: along, from: 0, count }) };
            return;
        }
        for (row, v) in (0..rows as usize).flat_map(|row| (0..V).map(move |v| (row, v))) {
            // SAFETY: as for the sums that go there.
            unsafe { T::zero().store(self.place::<T>(row, first + v)) };
        }
        let step = V * T::LANES;
        let scratch: *mut f32 = scratch.0.as_mut_ptr().cast();
        for from in (0..count).step_by(CHUNK) {
            let some = CHUNK.min(count - from);
            let copy = Part {
                // SAFETY: a chunk of all vectors fits.
                panels: std::array::from_fn(|v| unsafe { scratch.add(v * T::LANES) }.cast_const()),
                step,
                from,
                count: some,
            };
            // SAFETY: these elements are in the panels, and the copy has room for them.
            unsafe {
                for (v, panel) in panels.into_iter().enumerate() {
                    let (panel, to) = (panel.add(from * along), scratch.add(v * T::LANES));
                    match across {
                        1 => copy_rows::<T>(panel, along, some, to, step),
                        _ => copy_columns::<T>(panel, across, some, to, step),
                    }
                }
                self.rows::<T, R, V, true>(first, copy);
            }
        }
    }

    /// All rows, in tiles of `R`, and of fewer where rows are left over.
    ///
    /// # Safety
    /// As for [`Routine`].
    #[inline(always)]
    unsafe fn rows<T: Vector, const R: usize, const V: usize, const GO_ON: bool>(
        self,
        first: usize,
        part: Part<V>,
    ) {
        let rows = self.arguments.rows as usize;
        let mut row = 0;
        while row + R <= rows {
            // SAFETY: these rows are there.
            unsafe { self.tile::<T, R, V, GO_ON>(row, first, part) };
            row += R;
        }
        while row + 2 <= rows && R > 2 {
            // SAFETY: as above.
            unsafe { self.tile::<T, 2, V, GO_ON>(row, first, part) };
            row += 2;
        }
        while row < rows {
            // SAFETY: as above.
            unsafe { self.tile::<T, 1, V, GO_ON>(row, first, part) };
            row += 1;
        }
    }

    /// # Safety
    /// As for [`Routine`].
    #[inline(always)]
    unsafe fn tile<T: Vector, const R: usize, const V: usize, const GO_ON: bool>(
        self,
        row: usize,
        first: usize,
        part: Part<V>,
    ) {
        let Arguments { left, left_step, .. } = *self.arguments;
        // SAFETY: rows and results are where the arguments say.
        let tile: Tile<R, V> = unsafe {
            Tile {
                left: std::array::from_fn(|r| {
                    left.offset((row + r) as isize * left_step as isize).add(part.from)
                }),
                panels: part.panels,
                to: std::array::from_fn(|r| std::array::from_fn(|v| self.place::<T>(row + r, first + v))),
            }
        };
        // SAFETY: the caller's promise.
        unsafe { tile.run::<T, GO_ON>(part.count, part.step) };
    }
}

/// Copies `count` vectors that are `step` apart.
///
/// # Safety
/// They are readable there, and as many, `to_step` apart, are writable.
#[inline(always)]
unsafe fn copy_rows<T: Vector>(from: *const f32, step: usize, count: usize, to: *mut f32, to_step: usize) {
    for k in 0..count {
        // SAFETY: the caller's promise.
        unsafe { T::load(from.add(k * step)).store(to.add(k * to_step)) };
    }
}

/// Copies as many columns as a vector has lanes, of `count` elements each and `step` apart, in vectors across them.
///
/// # Safety
/// They are readable there, and `count` vectors, `to_step` apart, are writable.
#[inline(always)]
unsafe fn copy_columns<T: Vector>(from: *const f32, step: usize, count: usize, to: *mut f32, to_step: usize) {
    let whole = count / T::LANES * T::LANES;
    // SAFETY: the caller's promise; no element is past the last.
    unsafe {
        for k in (0..whole).step_by(T::LANES) {
            T::transpose(from.add(k), step, to.add(k * to_step), to_step);
        }
        for k in whole..count {
            (0..T::LANES).for_each(|j| *to.add(k * to_step + j) = *from.add(j * step + k));
        }
    }
}

/// The whole product in tiles of `R` rows and four vectors, or of `R1` rows and one or two vectors, from panels where they are or
/// by `CHUNKS` of them in the cache.
///
/// # Safety
/// As many rows of `count` elements are readable at `left`, panels of `count` times `width` elements, as far apart as the
/// arguments say, at each panel, and as many rows of `width` elements are writable at each place, which overlap nothing else.
#[inline(always)]
unsafe fn product<T: Vector, const R: usize, const R1: usize, const CHUNKS: bool>(
    arguments: *const Arguments,
) {
    // SAFETY: the arguments, and behind them so many panels, are the caller's.
    let (arguments, columns) = unsafe {
        let panels = (*arguments).panels as usize;
        (&*arguments, std::slice::from_raw_parts(arguments.add(1).cast::<Columns>(), panels))
    };
    let vectors = Vectors { arguments, columns, each: arguments.width as usize / T::LANES };
    let all = vectors.each * columns.len();
    let mut scratch = Scratch(MaybeUninit::uninit());
    let mut first = 0;
    // SAFETY: none goes past the last vector; otherwise the caller's promise.
    unsafe {
        while first + 4 <= all {
            vectors.sums::<T, R, 4, CHUNKS>(first, &mut scratch);
            first += 4;
        }
        if first + 2 <= all {
            vectors.sums::<T, R1, 2, CHUNKS>(first, &mut scratch);
            first += 2;
        }
        if first < all {
            vectors.sums::<T, R1, 1, CHUNKS>(first, &mut scratch);
        }
    }
}

#[cfg(any(target_arch = "aarch64", test))]
impl Vector for [f32; 4] {
    const LANES: usize = 4;
    #[inline(always)]
    fn zero() -> Self {
        [0.0; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self) };
    }
    #[inline(always)]
    fn multiply_add(self, x: f32, sum: Self) -> Self {
        std::array::from_fn(|i| self[i].mul_add(x, sum[i]))
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, step: usize, to: *mut f32, to_step: usize) {
        // SAFETY: the caller's promise.
        let rows: [Self; 4] = std::array::from_fn(|i| unsafe { Self::load(from.add(i * step)) });
        for i in 0..4 {
            // SAFETY: as above.
            unsafe { rows.map(|row| row[i]).store(to.add(i * to_step)) };
        }
    }
}

/// See [`Routine`], for machines whose compiler makes vectors of arrays of four.
///
/// # Safety
/// As for [`product`].
#[cfg(any(target_arch = "aarch64", test))]
unsafe extern "C" fn portable(arguments: *const Arguments) {
    // SAFETY: the caller's promise.
    unsafe {
        match (*arguments).is_direct() {
            true => product::<[f32; 4], 4, 8, false>(arguments),
            false => product::<[f32; 4], 4, 8, true>(arguments),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    struct Call {
        arguments: Arguments,
        columns: [Columns; 3],
    }

    /// Rows of `count` numbers and 7 more by three panels of `width` columns, of which `width + gap` lie side by side, or below
    /// each other; where results lie 100 apart.
    fn check(lanes: usize, routine: Routine) {
        let shapes = [
            (1, 1, 1),
            (2, 40, 1),
            (3, 17, 2),
            (4, 5, 4),
            (5, 33, 3),
            (19, 40, 1),
            (1, 2 * CHUNK + 9, 3),
            (FEW_ROWS + 3, CHUNK + 20, 2),
            (0, 7, 1),
            (2, 0, 1),
        ];
        for ((rows, count, each), gap, transposed) in
            shapes.into_iter().flat_map(|s| [(s, 0, false), (s, 5, false), (s, 3, true)])
        {
            check_one(routine, (rows, count, each * lanes), gap, transposed);
        }
    }

    fn check_one(
        routine: Routine,
        (rows, count, width): (usize, usize, usize),
        gap: usize,
        transposed: bool,
    ) {
        let number = |i: usize| ((i * 7919 % 1009) as f32 - 500.0) / 64.0;
        let (along, across) = if transposed { (1, count + gap) } else { (width + gap, 1) };
        let left_step = count + 7;
        let left: Vec<f32> = (0..rows * left_step).map(number).collect();
        let size = (count + gap) * (width + gap);
        let panels: Vec<Vec<f32>> = (1..4).map(|p| (0..size).map(|i| number(i * p + 31)).collect()).collect();
        let mut to = vec![vec![-1f32; rows * 100 + width]; 3];
        let columns =
            |p: usize, to: &mut [Vec<f32>]| Columns { panel: panels[p].as_ptr(), to: to[p].as_mut_ptr() };
        let call = Call {
            arguments: Arguments {
                left: left.as_ptr(),
                rows: rows as i64,
                count: count as i64,
                left_step: left_step as i64,
                to_step: 100,
                width: width as i64,
                panels: 3,
                along: along as i64,
                across: across as i64,
            },
            columns: [columns(0, &mut to), columns(1, &mut to), columns(2, &mut to)],
        };
        // SAFETY: rows, panels and places have the sizes that are passed.
        unsafe { routine((&raw const call).cast()) };
        for (panel, to) in panels.iter().zip(&to) {
            for (i, found) in to.iter().enumerate() {
                let (r, j) = (i / 100, i % 100);
                let row = |k: usize| left[r * left_step + k];
                let sum =
                    || (0..count).fold(0f32, |sum, k| row(k).mul_add(panel[k * along + j * across], sum));
                let expected = if r < rows && j < width { sum() } else { -1.0 };
                let case = format!("{rows} {count} {width} {gap} {transposed}: {r} {j}");
                assert_eq!(found.to_bits(), expected.to_bits(), "{case}");
            }
        }
    }

    #[test]
    fn products_go_up_in_k_whatever_is_left_over() {
        check(4, portable);
        if let Some((lanes, routine)) = routine() {
            check(lanes as usize, routine);
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            check(8, x86::avx2);
        }
    }
}
