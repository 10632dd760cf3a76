//! The vectors of x86-64, and the routine with each.

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
    #[inline(always)]
    unsafe fn transpose(from: *const f32, step: usize, to: *mut f32, to_step: usize) {
        // SAFETY: the caller's promise; only `avx512` uses this type.
        unsafe {
            let mut a = [Self::zero(); 16];
            for (i, row) in a.iter_mut().enumerate() {
                *row = Self::load(from.add(i * step));
            }
            // Within each quarter: pairs of elements of two rows, then fours of four rows.
            let mut b = a;
            for i in (0..16).step_by(2) {
                b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
                b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
            }
            for i in (0..16).step_by(4) {
                for half in 0..2 {
                    let x = _mm512_castps_pd(b[i + half]);
                    let y = _mm512_castps_pd(b[i + 2 + half]);
                    a[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
                    a[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
                }
            }
            // Then quarters of rows that are four apart, and eight.
            for i in [0, 1, 2, 3, 8, 9, 10, 11] {
                b[i] = _mm512_shuffle_f32x4::<0x88>(a[i], a[i + 4]);
                b[i + 4] = _mm512_shuffle_f32x4::<0xdd>(a[i], a[i + 4]);
            }
            for i in 0..8 {
                a[i] = _mm512_shuffle_f32x4::<0x88>(b[i], b[i + 8]);
                a[i + 8] = _mm512_shuffle_f32x4::<0xdd>(b[i], b[i + 8]);
            }
            for (i, row) in a.into_iter().enumerate() {
                row.store(to.add(i * to_step));
            }
        }
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
    #[inline(always)]
    unsafe fn transpose(from: *const f32, step: usize, to: *mut f32, to_step: usize) {
        // SAFETY: the caller's promise; only `avx2` uses this type.
        unsafe {
            let mut a = [Self::zero(); 8];
            for (i, row) in a.iter_mut().enumerate() {
                *row = Self::load(from.add(i * step));
            }
            // Within each half: pairs of elements of two rows, then fours of four rows.
            let mut b = a;
            for i in (0..8).step_by(2) {
                b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
                b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
            }
            for i in (0..8).step_by(4) {
                for half in 0..2 {
                    let x = _mm256_castps_pd(b[i + half]);
                    let y = _mm256_castps_pd(b[i + 2 + half]);
                    a[i + 2 * half] = _mm256_castpd_ps(_mm256_unpacklo_pd(x, y));
                    a[i + 2 * half + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(x, y));
                }
            }
            // Then halves of rows that are four apart.
            for i in 0..4 {
                b[i] = _mm256_permute2f128_ps::<0x20>(a[i], a[i + 4]);
                b[i + 4] = _mm256_permute2f128_ps::<0x31>(a[i], a[i + 4]);
            }
            for (i, row) in b.into_iter().enumerate() {
                row.store(to.add(i * to_step));
            }
        }
    }
}

/// See [`super::Routine`]: of 32 registers of 512 bits, 16 hold sums.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx2,fma")]
pub(super) unsafe extern "C" fn avx512(arguments: *const Arguments) {
    // SAFETY: the caller's promise.
    unsafe {
        match (*arguments).is_direct() {
            true => product::<__m512, 4, 8, false>(arguments),
            false => avx512_in_chunks(arguments),
        }
    }
}

/// Not inlined: its stack is larger than a page.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx2,fma")]
unsafe fn avx512_in_chunks(arguments: *const Arguments) {
    // SAFETY: the caller's promise.
    unsafe { product::<__m512, 4, 8, true>(arguments) };
}

/// See [`super::Routine`]: of 16 registers of 256 bits, 8 hold sums.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe extern "C" fn avx2(arguments: *const Arguments) {
    // SAFETY: the caller's promise.
    unsafe {
        match (*arguments).is_direct() {
            true => product::<__m256, 2, 4, false>(arguments),
            false => avx2_in_chunks(arguments),
        }
    }
}

/// As above.
#[inline(never)]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_in_chunks(arguments: *const Arguments) {
    // SAFETY: the caller's promise.
    unsafe { product::<__m256, 2, 4, true>(arguments) };
}
