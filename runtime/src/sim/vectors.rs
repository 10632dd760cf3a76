//! Loops over the lanes of a warp in the vector instructions of the host.

/// Compiles a function for each width of vectors that processors of x86-64 may have, beside the one that all of them have;
/// a call takes the widest there is. What it calls is compiled with it only where it is inlined.
macro_rules! in_vectors {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $out)? {
            // Loops over several arrays are clearest with the lane in hand.
            #[allow(clippy::needless_range_loop)]
            #[inline(always)]
            fn in_any($($arg: $ty),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                fn in_512_bits($($arg: $ty),*) $(-> $out)? {
                    in_any($($arg),*)
                }

                #[target_feature(enable = "avx2,fma")]
                fn in_256_bits($($arg: $ty),*) $(-> $out)? {
                    in_any($($arg),*)
                }

                use std::arch::is_x86_feature_detected as has;
                if has!("avx2") && has!("fma") {
                    if has!("avx512f") && has!("avx512vl") && has!("avx512bw") && has!("avx512dq") {
                        // SAFETY: the processor has what it is compiled for.
                        return unsafe { in_512_bits($($arg),*) };
                    }
                    // SAFETY: as above.
                    return unsafe { in_256_bits($($arg),*) };
                }
            }
            in_any($($arg),*)
        }
    };
}

pub(super) use in_vectors;
