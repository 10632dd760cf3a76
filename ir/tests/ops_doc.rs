//! docs/ops.md is the op table in prose; `UPDATE_DOCS=1 cargo test -p fuse-ir --test ops_doc` writes it anew.

use std::fmt::Write as _;
use std::path::Path;

use fuse_ir::ops::{Domain, Group, Law, OP_ROWS, ResultRule};
use fuse_ir::{DType, ReduceOp, ScalarOp};

const HEAD: &str = "\
# Ops

This page is generated from the op table (`ir/src/ops.rs`); do not edit it. After a change of the table run
`UPDATE_DOCS=1 cargo test -p fuse-ir --test ops_doc`.

The reference interpreter (`ir/src/interp/`) defines what each op computes; `ir/tests/conformance/` holds values
that it and every back end must give.
";

const SCALAR_HEAD: &str = "
## Elementwise ops

Functions of scalars, applied at every point; all operands have one shape. The tolerance bounds the error of any back
end against the exact result, in units in the last place (ULP) of the result's type; *exact* means the same bits as
the exact result rounded once. Laws hold over the real numbers; which of them a rewrite may use on floats is the
float policy's decision.

| op | operands | element types | result | tolerance | laws | what it computes |
|---|---|---|---|---|---|---|
";

const REDUCE_HEAD: &str = "
## Reductions

Of every element type but bool. f16 and bf16 accumulate in f32.

| op | result of no elements (f32, i32, u8) | what it computes |
|---|---|---|
";

const STRUCTURAL_HEAD: &str = "
## Structural ops

| op | group | what it computes |
|---|---|---|
";

fn types(domain: Domain) -> String {
    if domain == Domain::Any {
        return "every type".into();
    }
    let names: Vec<_> = DType::ALL.into_iter().filter(|d| domain.contains(*d)).map(DType::name).collect();
    names.join(", ")
}

fn result(rule: ResultRule) -> &'static str {
    match rule {
        ResultRule::Same => "same type",
        ResultRule::Comparison => "bool",
        ResultRule::Select => "type of the choices",
        ResultRule::SameWidth => "float or integer of the same width",
    }
}

fn law(law: Law) -> &'static str {
    match law {
        Law::Commutative => "commutative",
        Law::Associative => "associative",
        Law::Involution => "involution",
        Law::Idempotent => "idempotent",
        Law::Odd => "odd",
        Law::Even => "even",
    }
}

fn group(group: Group) -> &'static str {
    match group {
        Group::Leaf => "leaf",
        Group::Elementwise => "elementwise",
        Group::Movement => "movement",
        Group::Reduce => "reduce",
        Group::Contract => "contract",
        Group::Control => "control",
    }
}

fn reduction(op: ReduceOp) -> &'static str {
    match op {
        ReduceOp::Sum => "The sum.",
        ReduceOp::Prod => "The product.",
        ReduceOp::Max => "The largest; NaN if any is, and 0 above -0.",
        ReduceOp::Min => "The smallest; NaN if any is, and -0 below 0.",
        ReduceOp::ArgMax => {
            "The index (i64) of the first largest element along one axis; a NaN counts as largest."
        }
        ReduceOp::ArgMin => {
            "The index (i64) of the first smallest element along one axis; a NaN counts as smallest."
        }
    }
}

fn page() -> String {
    let mut out = HEAD.to_string() + SCALAR_HEAD;
    for op in ScalarOp::ALL {
        let tolerance = match op.tolerance_ulp() {
            0.0 => "exact".to_string(),
            ulp => format!("{ulp} ULP"),
        };
        let laws: Vec<_> = op.laws().iter().copied().map(law).collect();
        let cells = [
            format!("`{}`", op.mnemonic()),
            op.operands().join(", "),
            types(op.domain()),
            result(op.result_rule()).into(),
            tolerance,
            laws.join(", "),
            op.doc().into(),
        ];
        writeln!(out, "| {} |", cells.join(" | ").replace(" |  | ", " | | ")).expect("writing to a string");
    }
    out += REDUCE_HEAD;
    for op in ReduceOp::ALL {
        let identity = |dtype| op.identity(dtype).to_string();
        let identities = if op.is_arg() {
            identity(DType::I64)
        } else {
            [DType::F32, DType::I32, DType::U8].map(identity).join(", ")
        };
        writeln!(out, "| `{}` | {identities} | {} |", op.mnemonic(), reduction(op))
            .expect("writing to a string");
    }
    out += STRUCTURAL_HEAD;
    for row in OP_ROWS {
        let lines: Vec<_> = row.doc.split_whitespace().collect();
        let doc = lines.join(" ").replace("see [`Scan`]", "see `Scan` in `ir/src/graph.rs`");
        writeln!(out, "| `{}` | {} | {doc} |", row.mnemonic, group(row.group)).expect("writing to a string");
    }
    out
}

#[test]
fn the_page_of_ops_is_that_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ops.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("docs/ops.md can be written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differing = found.lines().zip(page.lines()).position(|(a, b)| a != b);
    assert!(
        found == page,
        "docs/ops.md is out of date (first at line {}); run UPDATE_DOCS=1 cargo test -p fuse-ir --test ops_doc",
        differing.unwrap_or_else(|| found.lines().count().min(page.lines().count())) + 1
    );
}

#[test]
fn every_op_of_the_table_has_a_row() {
    let page = page();
    let rows = ScalarOp::ALL.iter().map(|op| op.mnemonic());
    let rows =
        rows.chain(ReduceOp::ALL.iter().map(|op| op.mnemonic())).chain(OP_ROWS.iter().map(|r| r.mnemonic));
    for name in rows {
        assert!(page.contains(&format!("\n| `{name}` | ")), "{name}");
    }
}
