//! Branches to the instruction that follows anyway, which code that is only selected is left with.

/// The text without them.
pub(super) fn without_idle_branches(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut lines = text.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        let target = line.strip_prefix("\tbra.uni \t").and_then(|rest| rest.trim_end().strip_suffix(';'));
        let follows =
            |target: &str| lines.peek().and_then(|next| next.trim_end().strip_suffix(':')) == Some(target);
        if !target.is_some_and(follows) {
            out.push_str(line);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::without_idle_branches;

    #[test]
    fn a_branch_to_the_next_line_goes_and_others_stay() {
        let text = "\t@%p1 bra \t$L__BB0_2;\n\tbra.uni \t$L__BB0_1;\n$L__BB0_1:\n\tbra.uni \t$L__BB0_1;\n$L__BB0_2:\n\tret;\n";
        let shorter = "\t@%p1 bra \t$L__BB0_2;\n$L__BB0_1:\n\tbra.uni \t$L__BB0_1;\n$L__BB0_2:\n\tret;\n";
        assert_eq!(without_idle_branches(text), shorter);
        let behind = "\tbra.uni \t$L__BB0_1;\n$L__BB0_10:\n";
        assert_eq!(without_idle_branches(behind), behind);
    }
}
