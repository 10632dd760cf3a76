//! Small sets of numbers, and relations between them, as bits.

/// A set of numbers below a bound.
#[derive(Clone, Debug, Default)]
pub struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// The empty set of numbers below `bound`; keeps its memory.
    pub fn clear(&mut self, bound: usize) {
        self.words.clear();
        self.words.resize(bound.div_ceil(64), 0);
    }

    /// Whether a number is in the set.
    pub fn contains(&self, i: usize) -> bool {
        self.words[i / 64] & 1 << (i % 64) != 0
    }

    /// Adds a number; whether it was absent.
    pub fn insert(&mut self, i: usize) -> bool {
        let bit = 1 << (i % 64);
        let absent = self.words[i / 64] & bit == 0;
        self.words[i / 64] |= bit;
        absent
    }

    /// Removes and returns the least number.
    pub fn pop_first(&mut self) -> Option<usize> {
        let (i, word) = self.words.iter_mut().enumerate().find(|(_, word)| **word != 0)?;
        let bit = word.trailing_zeros() as usize;
        *word &= *word - 1;
        Some(i * 64 + bit)
    }

    /// Adds all of `words`.
    pub fn union_with(&mut self, words: &[u64]) {
        self.words.iter_mut().zip(words).for_each(|(a, b)| *a |= b);
    }

    /// The numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        ones(&self.words)
    }
}

/// The positions of the bits that are set, ascending.
pub fn ones(words: &[u64]) -> impl Iterator<Item = usize> + '_ {
    words.iter().enumerate().flat_map(|(i, word)| {
        let mut word = *word;
        std::iter::from_fn(move || {
            let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
            word &= word - 1;
            Some(i * 64 + bit)
        })
    })
}

/// A relation between numbers below a bound: for each, the set of those it relates to.
#[derive(Clone, Debug, Default)]
pub struct Relation {
    bound: usize,
    /// Words of a set.
    words: usize,
    sets: Vec<u64>,
}

impl Relation {
    /// The empty relation between numbers below `bound`; keeps its memory.
    pub fn clear(&mut self, bound: usize) {
        self.bound = bound;
        self.words = bound.div_ceil(64);
        self.sets.clear();
        self.sets.resize(bound * self.words, 0);
    }

    /// Relates `from` to `to`.
    pub fn insert(&mut self, from: usize, to: usize) {
        self.sets[from * self.words + to / 64] |= 1 << (to % 64);
    }

    /// What a number relates to, as words of bits.
    pub fn of(&self, from: usize) -> &[u64] {
        &self.sets[from * self.words..(from + 1) * self.words]
    }

    /// Makes `all` of what any of `from` relates to, directly or through others.
    pub fn close(&self, from: &Bits, all: &mut Bits, pending: &mut Vec<usize>) {
        pending.clear();
        all.clear(self.bound);
        for start in from.iter() {
            all.union_with(self.of(start));
        }
        pending.extend(all.iter());
        while let Some(next) = pending.pop() {
            for to in ones(self.of(next)) {
                if all.insert(to) {
                    pending.push(to);
                }
            }
        }
    }
}

/// Puts numbers in an order in which each comes after those it relates to; of those that can be next, the least.
#[derive(Clone, Debug, Default)]
pub struct Sorter {
    users: Relation,
    waiting: Vec<u32>,
    ready: Bits,
    /// The order.
    pub order: Vec<usize>,
}

impl Sorter {
    /// Orders the numbers below the relation's bound; whether there is an order.
    pub fn sort(&mut self, relation: &Relation) -> bool {
        let n = relation.bound;
        self.users.clear(n);
        self.waiting.clear();
        self.ready.clear(n);
        self.order.clear();
        for i in 0..n {
            let mut count = 0;
            for operand in ones(relation.of(i)) {
                self.users.insert(operand, i);
                count += 1;
            }
            self.waiting.push(count);
            if count == 0 {
                self.ready.insert(i);
            }
        }
        while let Some(next) = self.ready.pop_first() {
            self.order.push(next);
            for user in ones(self.users.of(next)) {
                self.waiting[user] -= 1;
                if self.waiting[user] == 0 {
                    self.ready.insert(user);
                }
            }
        }
        self.order.len() == n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(n: usize, pairs: &[(usize, usize)]) -> Relation {
        let mut relation = Relation::default();
        relation.clear(n);
        pairs.iter().for_each(|(a, b)| relation.insert(*a, *b));
        relation
    }

    #[test]
    fn operands_come_first_and_the_least_of_those_that_are_ready() {
        let mut sorter = Sorter::default();
        assert!(sorter.sort(&relation(70, &[(0, 69), (2, 0), (69, 1), (3, 4)])));
        assert_eq!(sorter.order[..6], [1, 4, 3, 5, 6, 7]);
        assert_eq!(sorter.order[66..], [68, 69, 0, 2]);
        assert!(!sorter.sort(&relation(3, &[(0, 1), (1, 0)])));
    }

    #[test]
    fn what_is_reached_is_closed() {
        let (mut from, mut all) = (Bits::default(), Bits::default());
        from.clear(80);
        from.insert(1);
        relation(80, &[(1, 2), (2, 79), (3, 1)]).close(&from, &mut all, &mut Vec::new());
        assert_eq!(all.iter().collect::<Vec<_>>(), [2, 79]);
    }
}
