//! Plain-text tables.

use fuse_ir::ScalarOp;
use fuse_ir::ops::OP_ROWS;

/// Aligns columns; the first row is the heading.
pub fn render(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// The operations of the tensor IR, from the op table.
pub fn ops() -> String {
    let mut rows = vec![vec!["op".into(), "operands".into(), "ULP".into(), "what it computes".into()]];
    for op in ScalarOp::ALL {
        rows.push(vec![
            op.mnemonic().into(),
            op.operands().join(", "),
            op.tolerance_ulp().to_string(),
            op.doc().into(),
        ]);
    }
    for row in OP_ROWS {
        rows.push(vec![row.mnemonic.into(), String::new(), String::new(), row.doc.trim().into()]);
    }
    render(&rows)
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".to_owned(), "b".into()], vec!["long".into(), "c".into()]];
        assert_eq!(super::render(&rows), "a     b\nlong  c\n");
    }
}
