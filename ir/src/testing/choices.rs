//! Random words, read as decisions.

/// A run of words. Past its end every decision is the first alternative, which is the simplest.
pub(super) struct Choices<'a> {
    words: &'a [u16],
}

impl<'a> Choices<'a> {
    pub fn new(words: &'a [u16]) -> Self {
        Choices { words }
    }

    fn word(&mut self) -> u16 {
        match self.words.split_first() {
            Some((first, rest)) => {
                self.words = rest;
                *first
            }
            None => 0,
        }
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { usize::from(self.word()) % n }
    }

    /// True in one of `n` draws.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    /// One of the items, `None` if there is none.
    pub fn of<'t, T>(&mut self, items: &'t [T]) -> Option<&'t T> {
        items.get(self.below(items.len()))
    }

    /// Each of `0..n` with even odds, ascending.
    pub fn subset(&mut self, n: usize) -> Vec<usize> {
        let bits = self.word();
        (0..n).filter(|i| bits >> (i % 16) & 1 == 1).collect()
    }

    /// Sixty-four bits.
    pub fn bits(&mut self) -> u64 {
        (0..4).fold(0, |bits, _| bits << 16 | u64::from(self.word()))
    }
}

/// The steps of a graph, each with words of its own; a scan takes its body from those that follow it.
pub(super) struct Recipe<'a> {
    steps: &'a [[u16; 12]],
}

impl<'a> Recipe<'a> {
    pub fn new(steps: &'a [[u16; 12]]) -> Self {
        Recipe { steps }
    }

    /// The words that decide about the inputs.
    pub fn header(words: &'a [u16; 32]) -> Choices<'a> {
        Choices::new(words)
    }

    pub fn next(&mut self) -> Option<Choices<'a>> {
        let (first, rest) = self.steps.split_first()?;
        self.steps = rest;
        Some(Choices::new(first))
    }

    /// The next `n` steps as a recipe of their own.
    pub fn take(&mut self, n: usize) -> Recipe<'a> {
        let (first, rest) = self.steps.split_at(n.min(self.steps.len()));
        self.steps = rest;
        Recipe { steps: first }
    }
}
