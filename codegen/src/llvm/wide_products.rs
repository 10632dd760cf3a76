//! Products of 32-bit integers that are 64 bits wide, where selection leaves two instructions.
//!
//! An address is computed from an index of 32 bits by `mul.wide`, which ptxas joins with the addition to the base.
//! LLVM finds that instruction only where it optimises what it selects, which takes longer than all the rest of it and
//! costs registers; otherwise it widens the index, then shifts it. Both stand together in the text.

/// The text with one instruction for each such two.
pub(super) fn with_wide_products(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // Registers have names within an entry.
    let mut rest = text;
    while !rest.is_empty() {
        let next = rest[1..].find("\n.visible").map_or(rest.len(), |at| at + 2);
        let (entry, others) = rest.split_at(next);
        rewrite(entry, &mut out);
        rest = others;
    }
    out
}

/// Rewrites what belongs to one entry.
fn rewrite(entry: &str, out: &mut String) {
    let mentions = mentions(entry);
    let mut lines = entry.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        let product = lines.peek().and_then(|next| product(line, next));
        let Some((widened, product)) = product else {
            out.push_str(line);
            continue;
        };
        // Others may use the wide index, too.
        if mentions.get(widened).is_none_or(|n| *n > 2) {
            out.push_str(line);
        }
        out.push_str(&product);
        lines.next();
    }
}

/// The product that an index widened by one line and shifted by the next is, with the number of the register between them.
fn product(widening: &str, shift: &str) -> Option<(usize, String)> {
    let (sign, operands) = match widening.strip_prefix("\tcvt.")? {
        rest if rest.starts_with("s64.s32 \t") => ("s32", &rest[9..]),
        rest if rest.starts_with("u64.u32 \t") => ("u32", &rest[9..]),
        _ => return None,
    };
    let (wide, index) = operands.trim_end().strip_suffix(';')?.split_once(", ")?;
    let operands = shift.strip_prefix("\tshl.b64 \t")?.trim_end().strip_suffix(';')?;
    let [result, shifted, distance] = <[&str; 3]>::try_from(operands.split(", ").collect::<Vec<_>>()).ok()?;
    let distance: u32 = distance.parse().ok().filter(|d| *d < 31)?;
    if shifted != wide || !index.starts_with("%r") {
        return None;
    }
    let number = wide.strip_prefix("%rd")?.parse().ok()?;
    Some((number, format!("\tmul.wide.{sign} \t{result}, {index}, {};\n", 1u32 << distance)))
}

/// How often each 64-bit register is mentioned, by number.
fn mentions(entry: &str) -> Vec<u32> {
    let mut mentions = Vec::new();
    for (at, _) in entry.match_indices("%rd") {
        let digits = entry[at + 3..].bytes().take_while(u8::is_ascii_digit);
        let Some(number) = digits.map(|d| usize::from(d - b'0')).reduce(|n, d| 10 * n + d) else { continue };
        if mentions.len() <= number {
            mentions.resize(number + 1, 0);
        }
        mentions[number] += 1;
    }
    mentions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_is_widened_and_shifted_is_multiplied() {
        let text = "\n.visible .entry a(\n\tcvt.s64.s32 \t%rd1, %r7;\n\tshl.b64 \t%rd2, %rd1, 2;\n\tadd.s64 \t%rd3, %rd4, %rd2;\n";
        let expected =
            "\n.visible .entry a(\n\tmul.wide.s32 \t%rd2, %r7, 4;\n\tadd.s64 \t%rd3, %rd4, %rd2;\n";
        assert_eq!(with_wide_products(text), expected);
        assert_eq!(
            with_wide_products("\tcvt.u64.u32 \t%rd1, %r7;\n\tshl.b64 \t%rd1, %rd1, 3;\n"),
            "\tcvt.u64.u32 \t%rd1, %r7;\n\tmul.wide.u32 \t%rd1, %r7, 8;\n"
        );
    }

    #[test]
    fn an_index_that_is_used_elsewhere_in_the_entry_stays() {
        let pair = "\tcvt.s64.s32 \t%rd1, %r7;\n\tshl.b64 \t%rd2, %rd1, 2;\n";
        let product = "\tmul.wide.s32 \t%rd2, %r7, 4;\n";
        let used = "\tadd.s64 \t%rd3, %rd4, %rd1;\n";
        assert_eq!(
            with_wide_products(&format!(".visible .entry a(\n{pair}{used}")),
            format!(".visible .entry a(\n\tcvt.s64.s32 \t%rd1, %r7;\n{product}{used}")
        );
        assert_eq!(
            with_wide_products(&format!(".visible .entry a(\n{pair}\n.visible .entry b(\n{used}")),
            format!(".visible .entry a(\n{product}\n.visible .entry b(\n{used}")
        );
    }

    #[test]
    fn other_pairs_stay() {
        for text in [
            "\tcvt.s64.s32 \t%rd1, %r7;\n\tshl.b64 \t%rd2, %rd5, 2;\n",
            "\tcvt.s64.s32 \t%rd1, %r7;\n\tadd.s64 \t%rd2, %rd1, 2;\n",
            "\tcvt.s64.s32 \t%rd1, %r7;\n\tshl.b64 \t%rd2, %rd1, 40;\n",
            "\tcvt.s64.s16 \t%rd1, %rs7;\n\tshl.b64 \t%rd2, %rd1, 2;\n",
            "",
            "\n",
        ] {
            assert_eq!(with_wide_products(text), text);
        }
    }
}
