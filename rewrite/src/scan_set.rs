//! Sets of scans, as bits.

use smallvec::SmallVec;

use crate::language::ScanId;

/// A set of scans; small graphs need no allocation.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ScanSet {
    /// Without trailing zero words, so that equal sets are equal values.
    words: SmallVec<[u64; 1]>,
}

impl ScanSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The set of one scan.
    pub fn of(scan: ScanId) -> Self {
        let mut set = Self::new();
        set.insert(scan);
        set
    }

    /// Adds a scan; whether it was absent.
    pub fn insert(&mut self, scan: ScanId) -> bool {
        let (word, bit) = (scan.index() / 64, 1u64 << (scan.index() % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let absent = self.words[word] & bit == 0;
        self.words[word] |= bit;
        absent
    }

    /// Removes a scan.
    pub fn remove(&mut self, scan: ScanId) {
        if let Some(word) = self.words.get_mut(scan.index() / 64) {
            *word &= !(1u64 << (scan.index() % 64));
        }
        self.trim();
    }

    /// Whether the scan is in the set.
    pub fn contains(&self, scan: ScanId) -> bool {
        self.words.get(scan.index() / 64).is_some_and(|w| w & (1u64 << (scan.index() % 64)) != 0)
    }

    /// Whether there are no scans.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Adds all of `other`; whether that added any.
    pub fn union_with(&mut self, other: &ScanSet) -> bool {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        let mut grew = false;
        for (a, b) in self.words.iter_mut().zip(&other.words) {
            grew |= *b & !*a != 0;
            *a |= b;
        }
        grew
    }

    /// Keeps what `other` has too.
    pub fn intersect_with(&mut self, other: &ScanSet) {
        self.words.truncate(other.words.len());
        for (a, b) in self.words.iter_mut().zip(&other.words) {
            *a &= b;
        }
        self.trim();
    }

    /// Whether every scan is in `other` too.
    pub fn is_subset(&self, other: &ScanSet) -> bool {
        self.iter().all(|s| other.contains(s))
    }

    /// The scans, ascending.
    pub fn iter(&self) -> impl Iterator<Item = ScanId> + '_ {
        self.words.iter().enumerate().flat_map(|(i, word)| {
            let mut word = *word;
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
                word &= word - 1;
                Some(ScanId::from(i * 64 + bit))
            })
        })
    }

    /// Whether there is at most one scan.
    pub fn is_single(&self) -> bool {
        self.iter().nth(1).is_none()
    }

    fn trim(&mut self) {
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(scans: &[usize]) -> ScanSet {
        let mut out = ScanSet::new();
        for s in scans {
            out.insert(ScanId::from(*s));
        }
        out
    }

    #[test]
    fn equal_sets_are_equal_whatever_their_history() {
        let mut a = set(&[3, 70]);
        a.remove(ScanId::from(70));
        assert_eq!(a, set(&[3]));
        a.intersect_with(&set(&[70, 90]));
        assert_eq!(a, ScanSet::new());
    }

    #[test]
    fn union_tells_whether_it_grew() {
        let mut a = set(&[1]);
        assert!(a.union_with(&set(&[1, 130])));
        assert!(!a.union_with(&set(&[130])));
        assert_eq!(a.iter().map(|s| s.index()).collect::<Vec<_>>(), [1, 130]);
        assert!(set(&[130]).is_subset(&a) && !a.is_subset(&set(&[130])));
    }
}
