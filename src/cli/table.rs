//! Plain-text tables.

use fuse_ir::ScalarOp;
use fuse_ir::ops::OP_ROWS;

/// Text with control characters, but for line ends, as escapes.
pub fn printable(text: &str) -> String {
    let escaped =
        |c: char| if c.is_control() && c != '\n' { c.escape_debug().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// Aligns columns; the first row is the heading.
pub fn render(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// The ONNX operators that are imported, as a table or as JSON.
pub fn onnx_ops(json: bool) -> String {
    let mut operators: Vec<_> = fuse_frontend::onnx::rows().collect();
    operators.sort_by_key(|(_, row)| (row.domain, row.name));
    if json {
        let entry = |(family, row): &(&str, &fuse_frontend::onnx::OpRow)| {
            serde_json::json!({
                "name": row.name,
                "domain": row.domain,
                "family": family,
                "versions": [row.versions.0, row.versions.1],
                "attributes": row.attributes,
                "note": row.note,
            })
        };
        let list: Vec<_> = operators.iter().map(entry).collect();
        return format!("{:#}\n", serde_json::Value::from(list));
    }
    let heading = ["operator", "family", "versions", "attributes", "note"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for (family, row) in operators {
        let (first, last) = row.versions;
        rows.push(vec![
            if row.domain.is_empty() { row.name.to_owned() } else { format!("{}.{}", row.domain, row.name) },
            family.to_owned(),
            if first == last { first.to_string() } else { format!("{first}-{last}") },
            row.attributes.join(", "),
            row.note.to_owned(),
        ]);
    }
    render(&rows)
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
    fn what_moves_a_cursor_is_escaped() {
        assert_eq!(super::printable("a\u{1b}[2J\u{9b}é\n"), "a\\u{1b}[2J\\u{9b}é\n");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".to_owned(), "b".into()], vec!["long".into(), "c".into()]];
        assert_eq!(super::render(&rows), "a     b\nlong  c\n");
    }
}
