//! "Did you mean …": the nearest of the names that would have been right.

/// Names longer than this are not compared; the distance costs the product of the lengths.
const MAX_COMPARED: usize = 64;

/// The candidate with the least edit distance to `name`, if that is small enough to be a slip.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = name.chars().count();
    if length > MAX_COMPARED {
        return None;
    }
    // One slip in three letters; shorter names are too near to everything.
    let allowed = length / 3;
    let close = candidates.into_iter().filter(|c| c.chars().count() <= MAX_COMPARED);
    let ranked = close.map(|c| (edit_distance(name, c), c)).filter(|(d, _)| *d <= allowed);
    ranked.min_by_key(|(d, _)| *d).map(|(_, c)| c)
}

/// The number of insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (above[j] + usize::from(x != y)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *y && b[j - 1] == *x {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_single_edits_and_swaps() {
        assert_eq!(edit_distance("tanh", "tanh"), 0);
        assert_eq!(edit_distance("tahn", "tanh"), 1);
        assert_eq!(edit_distance("sigmod", "sigmoid"), 1);
        assert_eq!(edit_distance("", "abc"), 3);
    }

    #[test]
    fn only_slips_are_suggested() {
        assert_eq!(nearest("sigmod", ["tanh", "sigmoid"]), Some("sigmoid"));
        assert_eq!(nearest("banana", ["tanh", "sigmoid"]), None);
    }
}
