//! Where lanes that part at a branch meet again: the immediate post-dominator.

/// The immediate post-dominator of each instruction, given the successors of each; the number of instructions stands
/// for the end. Instructions from which the end is out of reach get the end.
pub(super) fn post_dominators(successors: &[Vec<u32>]) -> Vec<u32> {
    let end = successors.len();
    let mut predecessors = vec![Vec::new(); end + 1];
    for (from, list) in successors.iter().enumerate() {
        for to in list {
            predecessors[*to as usize].push(from);
        }
    }
    // The order in which a walk back from the end leaves each instruction.
    let mut number = vec![usize::MAX; end + 1];
    let mut order = Vec::new();
    let mut seen = vec![false; end + 1];
    let mut stack = vec![(end, 0)];
    seen[end] = true;
    while let Some((at, next)) = stack.pop() {
        if let Some(&from) = predecessors[at].get(next) {
            stack.push((at, next + 1));
            if !seen[from] {
                seen[from] = true;
                stack.push((from, 0));
            }
        } else {
            number[at] = order.len();
            order.push(at);
        }
    }
    let mut parent = vec![usize::MAX; end + 1];
    parent[end] = end;
    let mut changed = true;
    while changed {
        changed = false;
        for &at in order.iter().rev().filter(|at| **at != end) {
            let known = successors[at].iter().map(|s| *s as usize).filter(|s| parent[*s] != usize::MAX);
            let meet = known.reduce(|mut a, mut b| {
                while a != b {
                    while number[a] < number[b] {
                        a = parent[a];
                    }
                    while number[b] < number[a] {
                        b = parent[b];
                    }
                }
                a
            });
            if let Some(meet) = meet
                && parent[at] != meet
            {
                parent[at] = meet;
                changed = true;
            }
        }
    }
    parent[..end].iter().map(|p| if *p == usize::MAX { end as u32 } else { *p as u32 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_meet_where_their_paths_join() {
        // 0 → 1 or 3; 1 → 2; 2 → 4; 3 → 4; 4 → end.
        let successors = [vec![1, 3], vec![2], vec![4], vec![4], vec![5]];
        assert_eq!(post_dominators(&successors), [4, 2, 4, 4, 5]);
    }

    #[test]
    fn loops_meet_after_their_end() {
        // 0 → 1; 1 → 2 or 4; 2 → 3; 3 → 1; 4 → end, and a trap for ever at 5.
        let successors = [vec![1], vec![2, 4], vec![3], vec![1], vec![6], vec![5]];
        assert_eq!(post_dominators(&successors), [1, 4, 3, 1, 6, 6]);
    }

    #[test]
    fn an_early_return_meets_at_the_end() {
        let successors = [vec![1, 2], vec![3], vec![3]];
        assert_eq!(post_dominators(&successors), [3, 3, 3]);
    }
}
