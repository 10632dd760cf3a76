//! The loops whose speed is measured, in every width of vectors that the processor has.
//!
//! They are written with intrinsics, so that each runs in the width it names whatever the compiler would choose.

/// A cache line, in which every width of vectors is aligned.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Line([i32; 16]);

impl Line {
    /// All ones, which is a page of memory of its own once it is written, where zeros may not be.
    pub(super) const ONES: Line = Line([1; 16]);
    pub(super) const BYTES: usize = size_of::<Line>();
}

/// Elements that the loop of [`Vectors::products`] sums over before it begins again.
const DEPTH: usize = 64;

/// Lines of the columns of a tile at most, for each of those elements.
const COLUMNS: usize = 4;

/// The lines of both factors of [`Vectors::products`], 20 KiB: less than any first-level cache.
pub(super) const FACTORS: usize = DEPTH * (COLUMNS + 1);

/// Lines that a loop reads before it begins again with its first register.
const LINES_AT_ONCE: usize = 8;

/// The bytes that the length of every buffer is to be a multiple of.
pub(super) const GRAIN: usize = LINES_AT_ONCE * Line::BYTES;

/// The loops in one width. Made by [`available`] only, for what this processor has.
#[derive(Clone, Copy)]
pub(super) struct Vectors {
    /// The instruction set.
    pub(super) name: &'static str,
    pub(super) bits: u32,
    chains: u32,
    /// The rows of a tile of products, and its vectors.
    tile: [u32; 2],
    multiply_adds: unsafe fn(u64),
    products: unsafe fn(&[Line], u64),
    read: unsafe fn(&[Line], u64),
    write: unsafe fn(&mut [Line]),
    copy: unsafe fn(&mut [Line], &[Line]),
}

impl Vectors {
    /// Adds a product to every chain so many times.
    pub(super) fn multiply_adds(&self, times: u64) {
        // SAFETY: `available` found the instructions on this processor.
        unsafe { (self.multiply_adds)(times) }
    }

    /// The arithmetic operations of [`Vectors::multiply_adds`] done once: two for each lane of each chain.
    pub(super) fn operations(&self) -> f64 {
        f64::from(2 * self.chains * self.bits / 32)
    }

    /// Adds to a tile of sums in registers the products of factors that it reads from the buffer of [`FACTORS`] lines, so
    /// many times over all that is summed over.
    pub(super) fn products(&self, factors: &[Line], times: u64) {
        assert!(factors.len() >= FACTORS);
        // SAFETY: as in `multiply_adds`; the factors are there.
        unsafe { (self.products)(factors, times) }
    }

    /// The arithmetic operations of [`Vectors::products`] done once.
    pub(super) fn product_operations(&self) -> f64 {
        let [rows, vectors] = self.tile;
        DEPTH as f64 * f64::from(2 * rows * vectors * self.bits / 32)
    }

    /// Reads all of the buffer so many times.
    pub(super) fn read(&self, data: &[Line], times: u64) {
        // SAFETY: as in `multiply_adds`.
        unsafe { (self.read)(data, times) }
    }

    /// Writes all of the buffer, without reading it.
    pub(super) fn write(&self, data: &mut [Line]) {
        // SAFETY: as in `multiply_adds`.
        unsafe { (self.write)(data) }
    }

    /// Writes what it reads, as far as the shorter buffer goes.
    pub(super) fn copy(&self, to: &mut [Line], from: &[Line]) {
        // SAFETY: as in `multiply_adds`.
        unsafe { (self.copy)(to, from) }
    }
}

/// The widths that this processor has, the widest last; at least one.
pub(super) fn available() -> Vec<Vectors> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let fma = std::arch::is_x86_feature_detected!("fma");
        if fma {
            found.push(bits_128::VECTORS);
        }
        if fma && std::arch::is_x86_feature_detected!("avx2") {
            found.push(bits_256::VECTORS);
        }
        if std::arch::is_x86_feature_detected!("avx512f") {
            found.push(bits_512::VECTORS);
        }
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        found.push(bits_128::VECTORS);
    }
    if found.is_empty() {
        found.push(portable::VECTORS);
    }
    found
}

/// The loops in one width as a module; `$chains` multiply-adds are under way at once, enough to hide the latency of
/// each and no more than there are registers for, beside the two factors.
macro_rules! loops {
    (
        $module:ident, $name:literal, bits: $bits:literal, chains: $chains:literal,
        tile: [$rows:literal, $vectors:literal], $(feature: $feature:literal,)?
        floats: $floats:ty, integers: $integers:ty,
        use $operations:path as operations
    ) => {
        mod $module {
            use std::hint::black_box;

            use $operations as operations;

            use super::{COLUMNS, DEPTH, LINES_AT_ONCE, Line, Vectors};

            const PARTS: usize = Line::BYTES / size_of::<$integers>();

            pub(super) const VECTORS: Vectors = Vectors {
                name: $name,
                bits: $bits,
                chains: $chains,
                tile: [$rows, $vectors],
                multiply_adds,
                products,
                read,
                write,
                copy,
            };

            $(#[target_feature(enable = $feature)])?
            fn multiply_adds(times: u64) {
                let (x, y) = (operations::floats(black_box(0.5)), operations::floats(black_box(1e-6)));
                let mut sums = [x; $chains];
                // Equal chains would be computed once.
                for (chain, sum) in sums.iter_mut().enumerate() {
                    *sum = operations::floats(black_box(chain as f32));
                }
                for _ in 0..times {
                    for sum in &mut sums {
                        *sum = operations::multiply_add(x, y, *sum);
                    }
                }
                black_box(sums);
            }

            $(#[target_feature(enable = $feature)])?
            fn products(factors: &[Line], times: u64) {
                let mut sums = [[operations::floats(0.0); $vectors]; $rows];
                for _ in 0..times {
                    // What is read again could otherwise be known.
                    let columns = black_box(factors).as_ptr().cast::<$floats>();
                    let rows = factors[DEPTH * COLUMNS..].as_ptr().cast::<f32>();
                    for k in 0..DEPTH {
                        let column: [$floats; $vectors] = std::array::from_fn(|v| {
                            // SAFETY: the first lines hold so many vectors for each element summed over.
                            unsafe { columns.add(k * $vectors + v).read() }
                        });
                        for (row, sums) in sums.iter_mut().enumerate() {
                            // SAFETY: the last lines hold a number for each of them and row.
                            let x = operations::floats(unsafe { rows.add(row * DEPTH + k).read() });
                            for (sum, column) in sums.iter_mut().zip(column) {
                                *sum = operations::multiply_add(column, x, *sum);
                            }
                        }
                    }
                }
                black_box(sums);
            }

            $(#[target_feature(enable = $feature)])?
            fn read(data: &[Line], times: u64) {
                let mut sums = [operations::integers(0); LINES_AT_ONCE];
                for _ in 0..times {
                    // What is read again could otherwise be known.
                    for lines in black_box(data).chunks_exact(LINES_AT_ONCE) {
                        for (line, sum) in lines.iter().zip(&mut sums) {
                            for part in 0..PARTS {
                                // SAFETY: a line consists of so many aligned vectors.
                                let value = unsafe { line.0.as_ptr().cast::<$integers>().add(part).read() };
                                *sum = operations::xor(*sum, value);
                            }
                        }
                    }
                }
                black_box(sums);
            }

            $(#[target_feature(enable = $feature)])?
            fn write(data: &mut [Line]) {
                let value = operations::integers(black_box(1));
                for line in data {
                    for part in 0..PARTS {
                        // SAFETY: a line consists of so many aligned vectors.
                        unsafe { line.0.as_mut_ptr().cast::<$integers>().add(part).write(value) };
                    }
                }
            }

            $(#[target_feature(enable = $feature)])?
            fn copy(to: &mut [Line], from: &[Line]) {
                // What changes on the way is no `memcpy`, which the compiler would call instead.
                let change = operations::integers(black_box(0));
                for (to, from) in to.iter_mut().zip(from) {
                    for part in 0..PARTS {
                        // SAFETY: a line consists of so many aligned vectors.
                        let value = unsafe { from.0.as_ptr().cast::<$integers>().add(part).read() };
                        let value = operations::xor(value, change);
                        // SAFETY: as above.
                        unsafe { to.0.as_mut_ptr().cast::<$integers>().add(part).write(value) };
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
loops!(
    bits_128, "fma", bits: 128, chains: 12, tile: [4, 2], feature: "fma",
    floats: std::arch::x86_64::__m128, integers: std::arch::x86_64::__m128i, use super::x86::narrow as operations
);
#[cfg(target_arch = "x86_64")]
loops!(
    bits_256, "avx2 and fma", bits: 256, chains: 12, tile: [4, 2], feature: "avx2,fma",
    floats: std::arch::x86_64::__m256, integers: std::arch::x86_64::__m256i, use super::x86::middle as operations
);
#[cfg(target_arch = "x86_64")]
loops!(
    bits_512, "avx512f", bits: 512, chains: 16, tile: [4, 4], feature: "avx512f",
    floats: std::arch::x86_64::__m512, integers: std::arch::x86_64::__m512i, use super::x86::wide as operations
);
#[cfg(target_arch = "aarch64")]
loops!(
    bits_128, "neon", bits: 128, chains: 16, tile: [4, 4], feature: "neon",
    floats: std::arch::aarch64::float32x4_t, integers: std::arch::aarch64::int32x4_t, use super::neon as operations
);
loops!(
    portable, "what the compiler makes of arrays", bits: 128, chains: 12, tile: [4, 2],
    floats: [f32; 4], integers: [i32; 4], use super::arrays as operations
);

/// The names of the operations in each width.
#[cfg(target_arch = "x86_64")]
mod x86 {
    pub(super) mod narrow {
        pub(in super::super) use std::arch::x86_64::{
            _mm_fmadd_ps as multiply_add, _mm_set1_epi32 as integers, _mm_set1_ps as floats,
            _mm_xor_si128 as xor,
        };
    }
    pub(super) mod middle {
        pub(in super::super) use std::arch::x86_64::{
            _mm256_fmadd_ps as multiply_add, _mm256_set1_epi32 as integers, _mm256_set1_ps as floats,
            _mm256_xor_si256 as xor,
        };
    }
    pub(super) mod wide {
        pub(in super::super) use std::arch::x86_64::{
            _mm512_fmadd_ps as multiply_add, _mm512_set1_epi32 as integers, _mm512_set1_ps as floats,
            _mm512_xor_si512 as xor,
        };
    }
}

/// The names of the operations, and the operands in the order of x86.
#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::{float32x4_t, vfmaq_f32};
    pub(super) use std::arch::aarch64::{vdupq_n_f32 as floats, vdupq_n_s32 as integers, veorq_s32 as xor};

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn multiply_add(x: float32x4_t, y: float32x4_t, sum: float32x4_t) -> float32x4_t {
        vfmaq_f32(sum, x, y)
    }
}

/// The operations on arrays. Without an instruction for it, a fused multiply-add would be a call: this one rounds twice.
mod arrays {
    pub(super) fn floats(value: f32) -> [f32; 4] {
        [value; 4]
    }

    pub(super) fn integers(value: i32) -> [i32; 4] {
        [value; 4]
    }

    pub(super) fn multiply_add(x: [f32; 4], y: [f32; 4], sum: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|lane| sum[lane] + x[lane] * y[lane])
    }

    pub(super) fn xor(a: [i32; 4], b: [i32; 4]) -> [i32; 4] {
        std::array::from_fn(|lane| a[lane] ^ b[lane])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_copies_and_overwrites_whole_buffers() {
        for vectors in available().into_iter().chain([portable::VECTORS]) {
            let from: Vec<Line> = (0..24).map(|i| Line(std::array::from_fn(|j| i * 16 + j as i32))).collect();
            let mut to = vec![Line::ONES; 24];
            vectors.copy(&mut to, &from);
            assert!(to.iter().zip(&from).all(|(a, b)| a.0 == b.0), "{}", vectors.name);
            vectors.write(&mut to);
            assert!(to.iter().all(|line| line.0 == Line::ONES.0), "{}", vectors.name);
            vectors.read(&to, 2);
            vectors.multiply_adds(3);
            vectors.products(&vec![Line::ONES; FACTORS], 3);
        }
    }

    #[test]
    fn wider_vectors_do_more_at_once() {
        let found = available();
        assert!(found.windows(2).all(|pair| pair[0].bits < pair[1].bits));
        assert!(found.windows(2).all(|pair| pair[0].operations() < pair[1].operations()));
        assert!(found.windows(2).all(|pair| pair[0].product_operations() < pair[1].product_operations()));
    }
}
