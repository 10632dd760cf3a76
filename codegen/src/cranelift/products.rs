//! Products with panels, which compiled code calls: Cranelift has vectors of 128 bits, these have all that the machine has.
//!
//! A tile of a few rows by a few vectors of columns stays in registers while one loop over `k` loads each vector of the
//! panels once for all rows, and each element of the rows once for all vectors.

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
}

/// A panel and where its columns go.
#[repr(C)]
struct Columns {
    panel: *const f32,
    to: *mut f32,
}

/// Words of [`Arguments`], and of each panel that follows.
pub(super) const WORDS: usize = 7;
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
}

/// What a tile reads and writes, by row and by vector.
struct Tile<const R: usize, const V: usize> {
    left: [*const f32; R],
    panels: [*const f32; V],
    to: [[*mut f32; V]; R],
}

impl<const R: usize, const V: usize> Tile<R, V> {
    /// # Safety
    /// `count` elements are readable at each row, and vectors as far apart as `width` at each panel; a vector is writable
    /// at each place.
    #[inline(always)]
    unsafe fn run<T: Vector>(&self, count: usize, width: usize) {
        let mut sums = [[T::zero(); V]; R];
        for k in 0..count {
            // SAFETY: `k` is below `count`.
            let columns = self.panels.map(|panel| unsafe { T::load(panel.add(k * width)) });
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

/// A product's panels, vector by vector.
#[derive(Clone, Copy)]
struct Vectors<'a> {
    arguments: &'a Arguments,
    columns: &'a [Columns],
    /// The vectors of a panel.
    each: usize,
}

impl Vectors<'_> {
    /// All rows of `V` vectors from the given one on, in tiles of `R`, and of fewer where rows are left over.
    ///
    /// # Safety
    /// As for [`Routine`]: what the arguments say is there.
    #[inline(always)]
    unsafe fn rows<T: Vector, const R: usize, const V: usize>(self, first: usize) {
        let rows = self.arguments.rows as usize;
        let mut row = 0;
        while row + R <= rows {
            // SAFETY: these rows are there.
            unsafe { self.tile::<T, R, V>(row, first) };
            row += R;
        }
        while row + 2 <= rows && R > 2 {
            // SAFETY: as above.
            unsafe { self.tile::<T, 2, V>(row, first) };
            row += 2;
        }
        while row < rows {
            // SAFETY: as above.
            unsafe { self.tile::<T, 1, V>(row, first) };
            row += 1;
        }
    }

    /// # Safety
    /// As for [`Routine`].
    #[inline(always)]
    unsafe fn tile<T: Vector, const R: usize, const V: usize>(self, row: usize, first: usize) {
        let Arguments { left, count, left_step, to_step, width, .. } = *self.arguments;
        let column = |v: usize| (&self.columns[(first + v) / self.each], (first + v) % self.each * T::LANES);
        // SAFETY: rows, panels and results are where the arguments say.
        let tile: Tile<R, V> = unsafe {
            Tile {
                left: std::array::from_fn(|r| left.offset((row + r) as isize * left_step as isize)),
                panels: std::array::from_fn(|v| column(v).0.panel.add(column(v).1)),
                to: std::array::from_fn(|r| {
                    let place = |v: usize| column(v).0.to.add(column(v).1);
                    std::array::from_fn(|v| place(v).offset((row + r) as isize * to_step as isize))
                }),
            }
        };
        // SAFETY: the caller's promise.
        unsafe { tile.run::<T>(count as usize, width as usize) };
    }
}

/// The whole product in tiles of `R` rows and four vectors, or of `R1` rows and one or two vectors.
///
/// # Safety
/// As many rows of `count` elements are readable at `left`, panels of `count` times `width` elements at each panel, and
/// as many rows of `width` elements are writable at each place, which overlap nothing else.
#[inline(always)]
unsafe fn product<T: Vector, const R: usize, const R1: usize>(arguments: *const Arguments) {
    // SAFETY: the arguments, and behind them so many panels, are the caller's.
    let (arguments, columns) = unsafe {
        let panels = (*arguments).panels as usize;
        (&*arguments, std::slice::from_raw_parts(arguments.add(1).cast::<Columns>(), panels))
    };
    let vectors = Vectors { arguments, columns, each: arguments.width as usize / T::LANES };
    let all = vectors.each * columns.len();
    let mut first = 0;
    // SAFETY: none goes past the last vector; otherwise the caller's promise.
    unsafe {
        while first + 4 <= all {
            vectors.rows::<T, R, 4>(first);
            first += 4;
        }
        if first + 2 <= all {
            vectors.rows::<T, R1, 2>(first);
            first += 2;
        }
        if first < all {
            vectors.rows::<T, R1, 1>(first);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Arguments, Vector, product};

    impl Vector for __m512 {
        const LANES: usize = 16;
        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: all zeros are a value of the type.
            unsafe { std::mem::zeroed() }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's promise; only `avx512` uses this type.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(to, self) };
        }
        #[inline(always)]
        fn multiply_add(self, x: f32, sum: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_fmadd_ps(self, _mm512_set1_ps(x), sum) }
        }
    }

    impl Vector for __m256 {
        const LANES: usize = 8;
        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: all zeros are a value of the type.
            unsafe { std::mem::zeroed() }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's promise; only `avx2` uses this type.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(to, self) };
        }
        #[inline(always)]
        fn multiply_add(self, x: f32, sum: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(self, _mm256_set1_ps(x), sum) }
        }
    }

    /// See [`super::Routine`]: of 32 registers of 512 bits, 16 hold sums.
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx2,fma")]
    pub(super) unsafe extern "C" fn avx512(arguments: *const Arguments) {
        // SAFETY: the caller's promise.
        unsafe { product::<__m512, 4, 8>(arguments) };
    }

    /// See [`super::Routine`]: of 16 registers of 256 bits, 8 hold sums.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe extern "C" fn avx2(arguments: *const Arguments) {
        // SAFETY: the caller's promise.
        unsafe { product::<__m256, 2, 4>(arguments) };
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
}

/// See [`Routine`], for machines whose compiler makes vectors of arrays of four.
///
/// # Safety
/// As for [`product`].
#[cfg(any(target_arch = "aarch64", test))]
unsafe extern "C" fn portable(arguments: *const Arguments) {
    // SAFETY: the caller's promise.
    unsafe { product::<[f32; 4], 4, 8>(arguments) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    struct Call {
        arguments: Arguments,
        columns: [Columns; 3],
    }

    /// Rows of 40, of which `count` are summed up, by three panels of `width` columns; where results lie 100 apart.
    fn check(lanes: usize, routine: Routine) {
        let number = |i: usize| ((i * 7919 % 1009) as f32 - 500.0) / 64.0;
        for (rows, count, each) in
            [(1, 1, 1), (2, 40, 1), (3, 17, 2), (4, 5, 4), (5, 33, 3), (19, 40, 1), (0, 7, 1)]
        {
            let width = each * lanes;
            let left: Vec<f32> = (0..rows * 40 + 40).map(number).collect();
            let panels: Vec<Vec<f32>> =
                (1..4).map(|p| (0..count * width).map(|i| number(i * p + 31)).collect()).collect();
            let mut to = vec![vec![-1f32; rows * 100 + width]; 3];
            let columns =
                |p: usize, to: &mut [Vec<f32>]| Columns { panel: panels[p].as_ptr(), to: to[p].as_mut_ptr() };
            let call = Call {
                arguments: Arguments {
                    left: left.as_ptr(),
                    rows: rows as i64,
                    count: count as i64,
                    left_step: 40,
                    to_step: 100,
                    width: width as i64,
                    panels: 3,
                },
                columns: [columns(0, &mut to), columns(1, &mut to), columns(2, &mut to)],
            };
            // SAFETY: rows, panels and places have the sizes that are passed.
            unsafe { routine((&raw const call).cast()) };
            for (p, to) in to.iter().enumerate() {
                for (i, found) in to.iter().enumerate() {
                    let (r, j) = (i / 100, i % 100);
                    let sum = |r: usize| {
                        (0..count)
                            .fold(0f32, |sum, k| left[r * 40 + k].mul_add(panels[p][k * width + j], sum))
                    };
                    let expected = if r < rows && j < width { sum(r) } else { -1.0 };
                    assert_eq!(
                        found.to_bits(),
                        expected.to_bits(),
                        "{lanes} {rows} {count} {width}: {r} {j}"
                    );
                }
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
