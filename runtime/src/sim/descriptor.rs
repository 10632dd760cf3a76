//! Descriptors of matrices in shared memory, which products of warp groups take (PTX ISA, "Matrix Descriptor Format" and
//! "Shared Memory Matrix Layout"). Matrices lie there in pieces of 8 by 16 bytes. Where nothing is swizzled a piece is
//! 128 bytes in a row. Where it is, eight pieces lie side by side in eight lines of 128 bytes, and the 16 bytes of a line
//! change places: their number is an exclusive or with that of the line.

use super::access::aligned;
use super::fault::{GroupMisuse, Problem};

/// Bytes that stay together.
pub(super) const CHUNK: u32 = 16;
/// Bytes of a line of a swizzled matrix, and of the eight lines after which the pattern begins again.
const LINE: u64 = 128;
const PATTERN: u32 = 1024;
/// Bits that mean something: three of 14 bits, the offset of the pattern, and the swizzle.
const USED: u64 = 0xC00E_3FFF_3FFF_3FFF;

/// Where a matrix lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Descriptor {
    start: u64,
    leading: u64,
    stride: u64,
    swizzled: bool,
}

impl Descriptor {
    /// Reads a descriptor, of a matrix whose neighbours in memory differ along the summed axis or, transposed, across it.
    pub fn decode(bits: u64, transposed: bool) -> Result<Descriptor, Problem> {
        let wrong = |problem| Err(Problem::WarpGroup(GroupMisuse::Descriptor(problem)));
        let field = |shift: u32| (bits >> shift & 0x3FFF) << 4;
        let [start, leading, stride] = [0, 16, 32].map(field);
        if bits & !USED != 0 {
            return wrong("the descriptor has bits that mean nothing");
        }
        let swizzled = match bits >> 62 {
            0 => false,
            1 => true,
            _ => return wrong("the descriptor's swizzle of 32 or 64 bytes is not simulated"),
        };
        if bits >> 49 & 7 != 0 {
            return wrong("the descriptor's offset of the pattern is not simulated");
        }
        if swizzled {
            // Along the summed axis a matrix may begin within a line.
            aligned(if transposed { start } else { start & !(LINE - 1) }, PATTERN)?;
            let strides = if transposed { [leading, stride] } else { [stride; 2] };
            strides.into_iter().try_for_each(|stride| aligned(stride, PATTERN))?;
        }
        Ok(Descriptor { start, leading, stride, swizzled })
    }

    /// The address of 16 bytes along the summed axis, the `chunk`-th ones of a row of the left factor or a column of the
    /// right one.
    pub fn along(&self, row: u64, chunk: u64) -> u64 {
        let group = row / 8 * self.stride;
        if self.swizzled {
            return swizzle(self.start + group + row % 8 * LINE + chunk * u64::from(CHUNK));
        }
        self.start + group + row % 8 * u64::from(CHUNK) + chunk * self.leading
    }

    /// The address of 16 bytes across the summed axis, the `chunk`-th ones of those with the place `k` along it.
    pub fn across(&self, chunk: u64, k: u64) -> u64 {
        if self.swizzled {
            let within = k % 8 * LINE + chunk % 8 * u64::from(CHUNK);
            return swizzle(self.start + chunk / 8 * self.leading + k / 8 * self.stride + within);
        }
        self.start + chunk * self.stride + k % 8 * u64::from(CHUNK) + k / 8 * self.leading
    }
}

/// Where 16 bytes of a line lie that were to lie at an address.
fn swizzle(address: u64) -> u64 {
    address ^ ((address / LINE % 8) * u64::from(CHUNK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn encode(start: u64, leading: u64, stride: u64, swizzle: u64) -> u64 {
        start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | swizzle << 62
    }

    #[test]
    fn lines_are_swizzled_and_pieces_are_not() {
        let swizzled = Descriptor::decode(encode(2048, 0, 1024, 1), false).expect("is one");
        assert_eq!([swizzled.along(0, 1), swizzled.along(1, 0), swizzled.along(11, 1)], [2064, 2192, 3488]);
        let plain = Descriptor::decode(encode(32, 256, 128, 0), false).expect("is one");
        assert_eq!([plain.along(1, 0), plain.along(8, 1)], [48, 416]);
        let across = Descriptor::decode(encode(0, 4096, 1024, 1), true).expect("is one");
        assert_eq!([across.across(9, 0), across.across(0, 9), across.across(1, 1)], [4112, 1168, 128]);
        let pieces = Descriptor::decode(encode(0, 4096, 128, 0), true).expect("is one");
        assert_eq!([pieces.across(2, 3), pieces.across(0, 9)], [304, 4112]);
    }

    #[test]
    fn steps_within_a_line_share_its_pattern() {
        let places: HashSet<u64> = (0..4)
            .flat_map(|step| {
                let step = Descriptor::decode(encode(32 * step, 0, 1024, 1), false).expect("is one");
                (0..8).flat_map(move |row| (0..2).map(move |chunk| step.along(row, chunk)))
            })
            .collect();
        assert_eq!(places, (0..64).map(|chunk| 16 * chunk).collect());
    }

    #[test]
    fn what_is_no_descriptor_is_refused() {
        let wrong = |bits| Descriptor::decode(bits, false).expect_err("is none");
        assert!(matches!(wrong(1 << 14), Problem::WarpGroup(GroupMisuse::Descriptor(_))));
        assert!(matches!(wrong(1 << 49), Problem::WarpGroup(GroupMisuse::Descriptor(_))));
        assert!(matches!(wrong(2 << 62), Problem::WarpGroup(GroupMisuse::Descriptor(_))));
        assert_eq!(wrong(encode(128, 0, 1024, 1)), Problem::Misaligned { address: 128, alignment: PATTERN });
        assert_eq!(wrong(encode(0, 0, 128, 1)), Problem::Misaligned { address: 128, alignment: PATTERN });
        let across = Descriptor::decode(encode(32, 0, 1024, 1), true);
        assert_eq!(across, Err(Problem::Misaligned { address: 32, alignment: PATTERN }));
    }
}
