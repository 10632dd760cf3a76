//! Memory of the simulated device: regions with bounds, and beside each byte what is known of it.
//!
//! A region remembers which of its bytes were written, and who accessed them ([`super::shadow`]). Words are atomics, since
//! blocks run on several threads of the host and a kernel under test may well race; the shadow tells.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::fault::Problem;
use super::record::LAST_STAMP;
use super::shadow::Shadows;

/// Addresses have the number of their region from this bit on, counted from 1.
pub(super) const REGION_BITS: u32 = 36;

/// What a region is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Holds data and may only be read.
    Constant,
    /// Holds data and may be written.
    Written,
    /// Must be written before it is read.
    Unwritten,
}

/// Memory with bounds.
pub(super) struct Region {
    pub name: String,
    bytes: u64,
    words: Box<[AtomicU32]>,
    /// One bit a byte; empty where everything is written from the start.
    written: Box<[AtomicU32]>,
    constant: bool,
    /// Who accessed it, where that may be several threads that write.
    pub shadows: Option<Shadows>,
    /// Held while 8 bytes change as one.
    wide: Mutex<()>,
}

/// Zeros, for which the system provides memory once it is touched.
///
/// # Safety
/// Zeros have to be values of the type.
pub(super) unsafe fn zeroed<T>(count: usize) -> Box<[T]> {
    // SAFETY: the caller says so.
    unsafe { Box::new_zeroed_slice(count).assume_init() }
}

impl Region {
    pub fn new(name: &str, bytes: u64, granule: u64, content: Content) -> Region {
        // SAFETY: atomic integers may be 0.
        let words = |per: u64, bytes: u64| unsafe { zeroed(bytes.div_ceil(per) as usize) };
        Region {
            name: name.to_string(),
            bytes,
            words: words(4, bytes),
            written: words(32, if content == Content::Unwritten { bytes } else { 0 }),
            constant: content == Content::Constant,
            shadows: (content != Content::Constant).then(|| Shadows::new(bytes, granule)),
            wide: Mutex::default(),
        }
    }

    /// A region without a shadow, for memory that one thread has for itself.
    pub fn private(name: &str, bytes: u64) -> Region {
        Region { shadows: None, ..Region::new(name, bytes, 4, Content::Unwritten) }
    }

    /// Remembers by which proxy each granule was written.
    pub fn watch_proxies(mut self) -> Region {
        self.shadows.iter_mut().for_each(Shadows::watch_proxies);
        self
    }

    /// Forgets what was written; records of earlier stamps mean nothing anyway.
    pub fn forget(&self) {
        self.written.iter().for_each(|w| w.store(0, Relaxed));
    }

    /// Forgets who accessed it.
    pub fn forget_accesses(&self) {
        self.shadows.iter().for_each(Shadows::forget);
    }

    /// Copies bytes in from the host.
    pub fn fill(&self, bytes: &[u8]) {
        for (word, chunk) in self.words.iter().zip(bytes.chunks(4)) {
            let mut buffer = [0; 4];
            buffer[..chunk.len()].copy_from_slice(chunk);
            word.store(u32::from_le_bytes(buffer), Relaxed);
        }
    }

    /// Copies bytes out to the host.
    pub fn copy_to(&self, bytes: &mut [u8]) {
        for (word, chunk) in self.words.iter().zip(bytes.chunks_mut(4)) {
            chunk.copy_from_slice(&word.load(Relaxed).to_le_bytes()[..chunk.len()]);
        }
    }

    /// Refuses an access that leaves the region; `size` is 1, 2, 4, 8, 16 or 32, and the offset a multiple of it.
    pub fn check(&self, offset: u64, size: u32, address: u64) -> Result<(), Problem> {
        if offset.checked_add(u64::from(size)).is_some_and(|end| end <= self.bytes) {
            return Ok(());
        }
        let buffer = Some((self.name.clone(), offset, self.bytes));
        Err(Problem::OutOfBounds { address, bytes: size, buffer })
    }

    /// Notes that what these bytes hold is not there yet.
    pub fn note_pending(&self, offset: u64, size: u32) {
        if !self.written.is_empty() {
            let mask = ((1u64 << size) - 1) as u32;
            self.written[offset as usize / 32].fetch_and(!(mask << (offset % 32)), Relaxed);
        }
    }

    /// Notes that what these bytes hold is there.
    pub fn note_there(&self, offset: u64, size: u32) {
        if !self.written.is_empty() {
            let mask = (((1u64 << size) - 1) as u32) << (offset % 32);
            let bits = &self.written[offset as usize / 32];
            if bits.load(Relaxed) & mask != mask {
                bits.fetch_or(mask, Relaxed);
            }
        }
    }

    /// Refuses bytes that nothing wrote.
    pub fn check_there(&self, offset: u64, size: u32) -> Result<(), Problem> {
        if self.written.is_empty() {
            return Ok(());
        }
        let mask = ((1u64 << size) - 1) as u32;
        let bits = self.written[offset as usize / 32].load(Relaxed) >> (offset % 32);
        if bits & mask == mask {
            return Ok(());
        }
        let missing = u64::from((!bits & mask).trailing_zeros());
        Err(Problem::NeverWritten { buffer: (self.name.clone(), offset + missing) })
    }

    /// Refuses to be written where it may only be read.
    pub fn check_writable(&self) -> Result<(), Problem> {
        if self.constant {
            return Err(Problem::ReadOnly { buffer: self.name.clone() });
        }
        Ok(())
    }

    /// Replaces 2, 4 or 8 bytes by a function of them, as one, and returns what they were.
    pub fn update(&self, offset: u64, size: u32, f: impl Fn(u64) -> u64) -> u64 {
        if size == 8 {
            let _held = self.wide.lock().unwrap_or_else(PoisonError::into_inner);
            let old = self.load(offset, 8);
            self.store(offset, 8, f(old));
            return old;
        }
        let word = &self.words[offset as usize / 4];
        let shift = (offset % 4) * 8;
        let mask = ((1u64 << (size * 8)) - 1) << shift;
        let replaced = |old: u32| {
            let old = u64::from(old);
            ((old & !mask) | ((f((old & mask) >> shift) << shift) & mask)) as u32
        };
        let mut old = word.load(Relaxed);
        while let Err(now) = word.compare_exchange_weak(old, replaced(old), Relaxed, Relaxed) {
            old = now;
        }
        (u64::from(old) & mask) >> shift
    }

    /// Reads 1, 2, 4 or 8 bytes that [`Region::check`] admits.
    pub fn load(&self, offset: u64, size: u32) -> u64 {
        let at = offset as usize / 4;
        let word = u64::from(self.words[at].load(Relaxed));
        match size {
            8 => word | (u64::from(self.words[at + 1].load(Relaxed)) << 32),
            4 => word,
            _ => (word >> (offset % 4 * 8)) & ((1 << (size * 8)) - 1),
        }
    }

    /// Writes 1, 2, 4 or 8 bytes that [`Region::check`] admits.
    pub fn store(&self, offset: u64, size: u32, value: u64) {
        let at = offset as usize / 4;
        match size {
            8 => {
                self.words[at].store(value as u32, Relaxed);
                self.words[at + 1].store((value >> 32) as u32, Relaxed);
            }
            4 => self.words[at].store(value as u32, Relaxed),
            _ => {
                let shift = (offset % 4) * 8;
                let mask = (((1u64 << (size * 8)) - 1) << shift) as u32;
                self.words[at].fetch_and(!mask, Relaxed);
                self.words[at].fetch_or(((value << shift) as u32) & mask, Relaxed);
            }
        }
    }
}

/// The global memory of a device.
#[derive(Default)]
pub struct Memory {
    regions: Vec<Region>,
    launches: AtomicU64,
}

impl Memory {
    /// Nothing is allocated at first.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// Allocates a buffer and returns its address. Races are told apart down to `granule` bytes, at most 4.
    pub fn allocate(&mut self, name: &str, bytes: u64, granule: u64, content: Content) -> u64 {
        self.regions.push(Region::new(name, bytes, granule, content));
        (self.regions.len() as u64) << REGION_BITS
    }

    /// Allocates a buffer with the given bytes.
    pub fn allocate_with(&mut self, name: &str, bytes: &[u8], granule: u64, content: Content) -> u64 {
        let address = self.allocate(name, bytes.len() as u64, granule, content);
        if let Some(region) = self.regions.last() {
            region.fill(bytes);
        }
        address
    }

    /// Copies the first bytes of the buffer at `address` out; nothing where there is none.
    pub fn read(&self, address: u64, bytes: &mut [u8]) {
        if let Some((region, 0)) = self.find(address) {
            region.copy_to(bytes);
        }
    }

    /// The region of an address and the offset in it, which may lie beyond its end.
    pub(super) fn find(&self, address: u64) -> Option<(&Region, u64)> {
        let region = usize::try_from(address >> REGION_BITS).ok()?.checked_sub(1)?;
        Some((self.regions.get(region)?, address & ((1 << REGION_BITS) - 1)))
    }

    /// A number for a new launch, by which its accesses are told from earlier ones.
    pub(super) fn next_stamp(&self) -> u64 {
        let stamp = self.launches.fetch_add(1, Relaxed) % LAST_STAMP + 1;
        if stamp == 1 {
            self.regions.iter().for_each(Region::forget_accesses);
        }
        stamp
    }
}
