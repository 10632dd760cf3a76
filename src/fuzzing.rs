//! Bodies of the fuzz targets in `fuzz/`; `tests/fuzz.rs` runs them too.
//!
//! Each takes bytes from outside and panics where what fuse makes of them breaks a promise. That it returns, soon and
//! with little memory, is a promise as well.

use fuse_frontend::onnx::{self, ImportOptions};

use crate::io::npz;

/// A target: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// What is fuzzed: a name, as that of the target and of its corpus, and the body.
pub const TARGETS: [Target; 3] = [("onnx", onnx), ("text", text), ("npz", npz)];

/// A model of ONNX: what is imported is a valid graph with a text form, whose parameters have their declared types.
pub fn onnx(data: &[u8]) {
    let Ok(imported) = onnx::import_bytes(data, &ImportOptions::default()) else { return };
    let graph = &imported.graph;
    fuse_ir::verify(graph).unwrap_or_else(|e| panic!("the imported graph is invalid: {e}\n{graph}"));
    for (name, tensor) in &imported.parameters {
        let input = graph.inputs().iter().find(|i| i.name == *name).expect("a parameter is an input");
        let ty = graph.ty(input.value);
        let shape: Vec<i64> = tensor.shape().iter().map(|n| *n as i64).collect();
        let declared: Vec<i64> = ty.shape.iter().filter_map(fuse_ir::Dim::as_constant).collect();
        assert!(tensor.dtype() == ty.dtype && shape == declared, "`{name}` is {shape:?}, declared {ty}");
    }
    prints_and_parses(graph);
}

/// A `.fuse` text: what parses and verifies prints as a text that parses to the same graph.
pub fn text(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    match fuse_ir::parse(source) {
        Ok(graph) if fuse_ir::verify(&graph).is_ok() => prints_and_parses(&graph),
        Ok(_) => {}
        Err(e) => assert!(!e.render("fuzz.fuse", source).is_empty(), "the error says nothing"),
    }
}

/// An archive of arrays: each that is read has the bytes that its shape takes.
pub fn npz(data: &[u8]) {
    for (name, tensor) in npz::from_bytes(data).unwrap_or_default() {
        let size = fuse_ir::tensor::checked_byte_size(tensor.dtype(), tensor.shape());
        assert_eq!(size, Some(tensor.bytes().len()), "`{name}`");
    }
}

fn prints_and_parses(graph: &fuse_ir::Graph) {
    let printed = graph.to_string();
    let again = fuse_ir::parse(&printed)
        .unwrap_or_else(|e| panic!("the printed graph does not parse: {}", e.render("printed", &printed)));
    assert!(again == *graph, "the printed graph parses to another one:\n{printed}");
}
