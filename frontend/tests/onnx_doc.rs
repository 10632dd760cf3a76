//! The operators in docs/onnx.md are those of the table; `UPDATE_DOCS=1 cargo test --workspace --test onnx_doc` writes
//! them anew.

use std::fmt::Write as _;
use std::path::Path;

use fuse_frontend::onnx::{OpRow, rows};

const BEGIN: &str = "<!-- operators: begin -->\n";
const END: &str = "<!-- operators: end -->";

fn line((family, row): (&str, &OpRow)) -> String {
    let attributes = row.attributes.iter().map(|a| format!("`{a}`")).collect::<Vec<_>>().join(", ");
    let (first, last) = row.versions;
    let versions = if first == last { first.to_string() } else { format!("{first} to {last}") };
    format!("| `{}` | {family} | {versions} | {attributes} | {} |", row.name, row.note)
}

fn table() -> String {
    let mut sorted: Vec<_> = rows().collect();
    sorted.sort_by_key(|(_, row)| row.name);
    let mut out = format!(
        "{} operators. The versions are those in which an operator's definition changed.\n\n",
        sorted.len()
    );
    out.push_str("| operator | family | versions | attributes | |\n|---|---|---|---|---|\n");
    for entry in sorted {
        let _ = writeln!(out, "{}", line(entry));
    }
    out
}

#[test]
fn the_page_lists_the_operators_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/onnx.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(BEGIN).expect("the page marks the table");
    let (_, tail) = rest.split_once(END).expect("the page marks the table's end");
    let expected = format!("{head}{BEGIN}{}{END}{tail}", table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, expected).unwrap();
    } else {
        assert!(
            page == expected,
            "docs/onnx.md is stale; UPDATE_DOCS=1 cargo test --workspace --test onnx_doc"
        );
    }
}

#[test]
fn every_operator_stands_once() {
    let mut names: Vec<_> = rows().map(|(_, row)| (row.domain, row.name)).collect();
    names.sort_unstable();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert!(
        rows().all(|(_, row)| row.versions.0 <= row.versions.1
            && row.versions.1 <= fuse_frontend::onnx::NEWEST_OPSET)
    );
}
