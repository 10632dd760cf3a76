//! Sets of classes, and what a walk asks of one.

use super::dense::Class;

/// A set of classes, as bits: those in memory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Materialised {
    words: Vec<u64>,
}

impl Materialised {
    /// None of `classes` classes.
    pub fn none(classes: usize) -> Self {
        Materialised { words: vec![0; classes.div_ceil(64)] }
    }

    /// Whether the class is.
    pub fn contains(&self, class: Class) -> bool {
        self.words[class as usize / 64] & (1 << (class % 64)) != 0
    }

    /// Sets whether the class is.
    pub fn set(&mut self, class: Class, value: bool) {
        let bit = 1 << (class % 64);
        match value {
            true => self.words[class as usize / 64] |= bit,
            false => self.words[class as usize / 64] &= !bit,
        }
    }

    /// The classes, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Class> + '_ {
        self.words.iter().enumerate().flat_map(|(i, word)| {
            let mut word = *word;
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros())?;
                word &= word - 1;
                Some(i as Class * 64 + bit)
            })
        })
    }
}

/// Memory that remembers what it was asked.
pub struct Asked<'m> {
    memory: &'m Materialised,
    /// The classes that were asked for, as bits.
    asked: &'m mut [u64],
}

/// What was asked of memory: words of classes, which bits of each, and the answers.
pub type Answers = Box<[(u32, u64, u64)]>;

impl<'m> Asked<'m> {
    /// Nothing asked yet; `asked` is as many words as memory has, all zero.
    pub fn new(memory: &'m Materialised, asked: &'m mut [u64]) -> Self {
        Asked { memory, asked }
    }

    /// Whether a class is in memory.
    pub fn contains(&mut self, class: Class) -> bool {
        let (word, bit) = (class as usize / 64, 1 << (class % 64));
        self.asked[word] |= bit;
        self.memory.words[word] & bit != 0
    }

    /// The questions and answers; what was asked is zero again.
    pub fn answers(self) -> Answers {
        let words = self.asked.iter_mut().zip(&self.memory.words).enumerate();
        let asked = words.filter(|(_, (mask, _))| **mask != 0);
        asked.map(|(i, (mask, word))| (i as u32, *mask, word & std::mem::take(mask))).collect()
    }
}

impl Materialised {
    /// Whether memory would give these answers.
    pub fn agrees(&self, answers: &Answers) -> bool {
        answers.iter().all(|(word, mask, value)| self.words[*word as usize] & mask == *value)
    }

    /// The number of words.
    pub fn words(&self) -> usize {
        self.words.len()
    }
}
