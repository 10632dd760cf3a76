//! The text form of kernel graphs: what is printed reads back as the same graph, and nothing panics.

#[path = "kernel_text/random.rs"]
mod random;

use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Carry, Coordinate, Element, ElementId, Kernel, KernelGraph, Loop, Step,
    Store, TypedElement,
};
use fuse_ir::limits::{MAX_DIM_DEPTH, MAX_SCAN_DEPTH, MAX_SOURCE_BYTES};
use fuse_ir::ops::Direction;
use fuse_ir::{
    Axis, DType, Expr, Literal, ReduceOp, ScalarOp, Symbol, TensorType, parse_kernels, verify_kernels,
};
use proptest::prelude::*;

fn read(source: &str) -> KernelGraph {
    parse_kernels(source).unwrap_or_else(|e| panic!("{}", e.render("test.kernels", source)))
}

/// Printing and reading again gives the same graph and the same text.
fn assert_stable(graph: &KernelGraph) -> String {
    let printed = graph.to_string();
    let again = read(&printed);
    assert_eq!(again, *graph, "{printed}");
    assert_eq!(again.to_string(), printed);
    printed
}

/// The text is already in the form that printing gives.
fn assert_canonical(source: &str) {
    assert_eq!(assert_stable(&read(source)), source);
}

const RECURRENCE: &str = "kernels rnn {
  buffer x: f32[T, B, 64] input 0
  buffer w: f32[64, 64] input 1
  buffer h: f32[B, 64] state
  buffer h.next: f32[B, 64] state
  buffer y: f32[T, B, 64] output 0
  kernel start [i0 < B, i1 < 64] fuses (constant, broadcast) {
    e0: f32 = constant 0.0
    store h[i0, i1] = e0
  }
  loop %t < T carry (h -> h.next) {
    kernel step [i0 < B, i1 < 64] fuses (contract, add, tanh) {
      e0: f32 = load h[i0, i2]
      e1: f32 = load w[i2, i1]
      e2: f32 = mul e0, e1
      e3: f32 = sum [i2 < 64] e2
      e4: f32 = load x[%t, i0, i1]
      e5: f32 = add e3, e4
      e6: f32 = tanh e5
      store h.next[i0, i1] = e6
      store y[%t, i0, i1] = e6
    }
  }
}
";

#[test]
fn canonical_text_prints_as_it_was_read() {
    assert_canonical(RECURRENCE);
    assert_eq!(verify_kernels(&read(RECURRENCE)), Ok(()));
}

const LINEAR: &str = "kernels average {
  buffer x: f32[T, B] input 0
  buffer a: f32[B] input 1
  buffer before: f32[B] input 2
  buffer y: f32[T, B] output 0
  buffer z: f32[T, B] output 1
  buffer last: f32[B] output 2
  kernel average [i0 < T, i1 < B] fuses (recurrence) {
    e0: f32 = load before[i1]
    e1: f32 = load a[i1]
    e2: f32 = load x[i0, i1]
    e3: f32 = recurrence i0 from e0 by e1 plus e2
    e4: f32 = recurrence before i0 from e0 by e1 plus e2
    store y[i0, i1] = e3
    store z[i0, i1] = e4
    store last[i1] = e3
  }
}
";

#[test]
fn recurrences_print_as_they_were_read() {
    assert_canonical(LINEAR);
    assert_eq!(verify_kernels(&read(LINEAR)), Ok(()));
}

#[test]
fn names_of_elements_are_free_and_clauses_optional() {
    let graph = read(
        "// By hand.
         kernels \"two words\" { buffer store: f32[H*4, -1 + T,] output 0
           kernel load [i0 < 4*H, i1 < T - 1] { store: f32 = constant 1 // a name like a keyword
             cast: f32 = neg store store store[i0, i1] = cast } loop t < 3 carry () {} }",
    );
    assert_eq!(
        assert_stable(&graph),
        "kernels \"two words\" {
  buffer store: f32[4*H, T - 1] output 0
  kernel load [i0 < 4*H, i1 < T - 1] {
    e0: f32 = constant 1.0
    e1: f32 = neg e0
    store store[i0, i1] = e1
  }
  loop t < 3 {
  }
}
"
    );
}

fn element(dtype: DType, element: Element) -> TypedElement {
    TypedElement { element, dtype }
}

fn buffer(name: &str, dtype: DType, shape: Vec<Expr>, kind: BufferKind) -> Buffer {
    Buffer { name: name.into(), ty: TensorType { dtype, shape }, kind }
}

/// Every kind of buffer, step, element and coordinate, with names and symbols that need quotes.
fn every_kind() -> KernelGraph {
    let (t, axis_like, b) = (Expr::symbol("%t"), Expr::symbol("i0"), Expr::symbol("B"));
    let buffers = vec![
        buffer("a table", DType::F32, vec![axis_like.clone(), b.clone()], BufferKind::Input(7)),
        buffer("i1", DType::U8, vec![b.clone()], BufferKind::Input(0)),
        buffer("h\n\"\\\u{1}ä", DType::F32, vec![], BufferKind::State),
        buffer("%3", DType::F32, vec![], BufferKind::State),
        buffer("temporary", DType::I64, vec![b.clone()], BufferKind::Temporary),
        buffer("output", DType::I64, vec![b.clone()], BufferKind::Output(3)),
    ];
    let index = Expr::axis(0) * Expr::constant(3) + axis_like.modulo(&Expr::constant(5)) - t.clone();
    let gathered = [
        Coordinate::Dynamic(ElementId(0)),
        Coordinate::Static(index.floor_div(&b).minimum(&Expr::axis(2)).maximum(&Expr::constant(-4))),
    ];
    let elements = vec![
        element(
            DType::U8,
            Element::Load {
                buffer: BufferId(1),
                index: [Coordinate::Static(Expr::axis(0))].into_iter().collect(),
            },
        ),
        element(DType::F32, Element::Load { buffer: BufferId(0), index: gathered.into_iter().collect() }),
        element(DType::F32, Element::Load { buffer: BufferId(2), index: [].into_iter().collect() }),
        element(
            DType::Bool,
            Element::Scalar(ScalarOp::Lt, [ElementId(1), ElementId(2)].into_iter().collect()),
        ),
        element(
            DType::F32,
            Element::Scalar(ScalarOp::Select, [3, 1, 2].into_iter().map(ElementId).collect()),
        ),
        element(DType::F16, Element::Constant(Literal::from_bits(DType::F16, 0x7c01))),
        element(DType::F32, Element::Cast(ElementId(5))),
        element(
            DType::I64,
            Element::Reduce {
                op: ReduceOp::ArgMax,
                axes: [Axis(2)].into_iter().collect(),
                body: ElementId(4),
            },
        ),
        element(DType::I64, Element::Index(index)),
        element(
            DType::I64,
            Element::Reduce {
                op: ReduceOp::Max,
                axes: [Axis(3), Axis(1)].into_iter().collect(),
                body: ElementId(8),
            },
        ),
    ];
    let stores = vec![
        Store { buffer: BufferId(5), index: [Expr::axis(0)].into_iter().collect(), value: ElementId(7) },
        Store { buffer: BufferId(3), index: [].into_iter().collect(), value: ElementId(6) },
    ];
    let extents = vec![b.clone(), axis_like.clone(), Expr::constant(0), b.clone() + Expr::symbol("x y")];
    let kernel = Kernel {
        name: "step".into(),
        rank: 1,
        extents,
        elements,
        stores,
        ops: vec!["gather".into(), "an op".into(), "fuses".into()],
    };
    let inner = Loop {
        counter: Symbol::new("%t"),
        trip: Expr::symbol("reverse"),
        direction: Direction::Reverse,
        carries: vec![Carry { current: BufferId(2), next: BufferId(3) }],
        body: vec![Step::Kernel(kernel)],
    };
    let outer = Loop {
        counter: Symbol::new("i9"),
        trip: axis_like,
        direction: Direction::Forward,
        carries: vec![],
        body: vec![Step::Loop(inner)],
    };
    KernelGraph { name: "every kind".into(), buffers, steps: vec![Step::Loop(outer)] }
}

#[test]
fn every_kind_of_step_buffer_element_and_coordinate_survives() {
    insta::assert_snapshot!(assert_stable(&every_kind()));
    assert_stable(&KernelGraph { name: "empty".into(), buffers: vec![], steps: vec![] });
}

#[test]
fn every_op_survives() {
    let constant = element(DType::F32, Element::Constant(Literal::from_i64(DType::F32, 1)));
    let scalar = |op: &ScalarOp| {
        let operands = std::iter::repeat_n(ElementId(0), op.arity()).collect();
        element(DType::F32, Element::Scalar(*op, operands))
    };
    let reduce = |(i, op): (usize, ReduceOp)| {
        let axes = [Axis(i as u32)].into_iter().collect();
        element(DType::F32, Element::Reduce { op, axes, body: ElementId(0) })
    };
    let elements: Vec<TypedElement> = std::iter::once(constant)
        .chain(ScalarOp::ALL.iter().map(scalar))
        .chain(ReduceOp::ALL.into_iter().enumerate().map(reduce))
        .collect();
    let extents = vec![Expr::constant(2); ReduceOp::ALL.len()];
    let kernel = Kernel { name: "all".into(), rank: 0, extents, elements, stores: vec![], ops: vec![] };
    assert_stable(&KernelGraph { name: "ops".into(), buffers: vec![], steps: vec![Step::Kernel(kernel)] });
}

#[test]
fn literals_keep_their_bits() {
    let mut random = random::Random::new(7);
    for dtype in DType::ALL {
        let edges =
            [0, 1, u64::MAX, 0x8000_0000, 0x7fc0_0001, 0xffc0_0000, 0x7c01, 0x8000, 1 << 63, 0x7ff << 52];
        let drawn: Vec<u64> = (0..200).map(|_| random.bits()).collect();
        let literals = edges.iter().chain(&drawn).map(|bits| Literal::from_bits(dtype, *bits));
        let elements = literals.map(|value| element(dtype, Element::Constant(value))).collect();
        let kernel =
            Kernel { name: "k".into(), rank: 0, extents: vec![], elements, stores: vec![], ops: vec![] };
        assert_stable(&KernelGraph {
            name: "literals".into(),
            buffers: vec![],
            steps: vec![Step::Kernel(kernel)],
        });
    }
}

#[test]
fn random_kernel_graphs_survive() {
    for seed in 0..2_000 {
        assert_stable(&random::kernel_graph(seed));
    }
}

#[test]
fn a_graph_that_breaks_the_invariants_is_still_printed() {
    let mut graph = read(RECURRENCE);
    graph.buffers.truncate(1);
    let Some(Step::Kernel(kernel)) = graph.steps.first_mut() else { panic!("the first step is a kernel") };
    (kernel.rank, kernel.extents) = (3, vec![]);
    let text = graph.to_string();
    assert!(text.contains("kernel start [i0 < ?, i1 < ?, i2 < ?]"), "{text}");
    assert!(text.contains("loop %t < T carry (b2? -> b3?)"), "{text}");
    assert!(parse_kernels(&text).is_err());
}

/// Each wrong text under its name, with its error.
#[test]
fn errors_say_where_and_why() {
    let change = |from: &str, to: &str| {
        assert!(RECURRENCE.contains(from), "{from}");
        RECURRENCE.replacen(from, to, 1)
    };
    let cases = [
        ("no kernels", "graph g() { return }".to_owned()),
        ("empty", String::new()),
        ("cut off", RECURRENCE[..RECURRENCE.len() / 2].to_owned()),
        ("trailing input", format!("{RECURRENCE}kernels more {{}}")),
        ("buffer twice", change("buffer w", "buffer x")),
        ("buffer without a kind", change(" input 1", "")),
        ("unknown kind", change("input 1", "scratch")),
        ("kind without its position", change("input 1", "input")),
        ("buffer after a kernel", change("  kernel start", "  kernel k [] {}\n  buffer z: f32 temporary\n")),
        ("unknown buffer", change("store h.next", "store h.nxt")),
        ("axis in a shape", change("w: f32[64, 64]", "w: f32[64, i0]")),
        ("axis in an extent", change("i1 < 64", "i1 < 2*i0")),
        ("axes out of order", change("i0 < B, i1 < 64", "i1 < B, i0 < 64")),
        ("gap in the axes", change("sum [i2 < 64]", "sum [i3 < 64]")),
        ("axis without an extent", change("store h[i0, i1]", "store h[i0, i4]")),
        ("two extents", change("sum [i2 < 64]", "sum [i1 < 32]")),
        ("absurd axis", change("load h[i0, i2]", "load h[i0, i99999999999]")),
        ("negative extent", change("i1 < 64", "i1 < 1 - 2")),
        ("unknown op", change("tanh e5", "tahn e5")),
        ("unknown element", change("tanh e5", "tanh e7")),
        ("element twice", change("e5: f32", "e4: f32")),
        ("wrong number of operands", change("add e3, e4", "add e3")),
        ("no operand", change("tanh e5", "tanh")),
        ("unknown element type", change("e5: f32", "e5: f33")),
        ("type with a shape", change("e5: f32", "e5: f32[B]")),
        ("literal out of range", change("f32 = constant 0.0", "u8 = constant 256")),
        (
            "element after a store",
            change("store h.next[i0, i1] = e6", "store h.next[i0, i1] = e6 e7: f32 = neg e6"),
        ),
        ("store without a value", change("= e6", "e6")),
        ("carry without an arrow", change("h -> h.next", "h, h.next")),
        ("loop without a counter", change("loop %t < T", "loop < T")),
        ("loop counted by an axis", change("loop %t < T", "loop i0 < T")),
        ("dynamic coordinate that is no element", change("x[%t", "x[@%t")),
        ("recurrence without its axis", LINEAR.replacen("recurrence i0", "recurrence", 1)),
        ("recurrence along an unknown axis", LINEAR.replacen("recurrence i0", "recurrence i7", 1)),
        ("recurrence without a factor", LINEAR.replacen("by e1 plus e2", "plus e2", 1)),
        ("open kernel", change("= e6\n    }", "= e6\n")),
    ];
    let mut report = String::new();
    for (name, source) in cases {
        let error = parse_kernels(&source).expect_err(name);
        let text = error.render("model.kernels", &source);
        report.push_str(&format!("=== {name}\n{}\n", text.trim_end()));
    }
    insta::assert_snapshot!(report);
}

#[test]
fn nesting_and_sizes_are_bounded() {
    let message = |source: &str| parse_kernels(source).expect_err("a limit is exceeded").message();
    let loops = |n: usize| format!("kernels k {{ {} {} }}", "loop t < 2 {".repeat(n), "}".repeat(n));
    assert_stable(&read(&loops(MAX_SCAN_DEPTH)));
    assert!(message(&loops(MAX_SCAN_DEPTH + 1)).contains("nest deeper"));
    assert!(message(&loops(100_000)).contains("nest deeper"));
    let index = |e: &str| format!("kernels k {{ kernel k [i0 < B] {{ e: i64 = index {e} }} }}");
    let nested = |n: usize| (0..n).fold("i0".to_owned(), |e, i| format!("min({e}, {i})"));
    assert_stable(&read(&index(&nested(MAX_DIM_DEPTH - 1))));
    assert!(message(&index(&nested(MAX_DIM_DEPTH))).contains("nests deeper"));
    let open = format!("{}i0{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(message(&index(&open)).contains("nests deeper"));
    let sum = (0..20).map(|i| format!("s{i}")).collect::<Vec<_>>().join(" + ");
    assert!(message(&index(&vec![format!("({sum})"); 50].join("*"))).contains("terms and factors"));
    let axes = (0..65).map(|i| format!("i{i} < 2")).collect::<Vec<_>>().join(", ");
    assert!(message(&format!("kernels k {{ kernel k [{axes}] {{}} }}")).contains("65 axes"));
    let large = " ".repeat(MAX_SOURCE_BYTES + 1);
    assert!(message(&large).contains("64 MiB"));
}

/// A text that was near to one that is right.
fn mutated() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "kernels",
        "kernel",
        "loop",
        "buffer",
        "fuses",
        "carry",
        "store",
        "load",
        "index",
        "constant",
        "cast",
        "sum",
        "[",
        "]",
        "{",
        "}",
        "(",
        ")",
        "<",
        "@",
        "->",
        ",",
        ":",
        "=",
        "-",
        "*",
        "\"",
        "\\",
        "%",
        "%t",
        "i0",
        "i7",
        "i4294967296",
        "e0",
        "f32",
        "nan:0x",
        "9999999999999999999",
        "1099511627776",
        "mod(",
        "ä",
        "\0",
        "//",
        "\n",
    ];
    let edit = (any::<prop::sample::Index>(), 0usize..12, prop::sample::select(PIECES));
    let edits = prop::collection::vec(edit, 1..5);
    (any::<u64>(), edits).prop_map(|(seed, edits)| {
        let mut text: Vec<char> = random::kernel_graph(seed).to_string().chars().collect();
        for (at, removed, piece) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + removed).min(text.len());
            text.splice(at..end, piece.chars());
        }
        text.into_iter().collect()
    })
}

proptest! {
    #[test]
    fn mutated_text_is_read_stably_or_refused_in_place(source in mutated()) {
        match parse_kernels(&source) {
            Ok(graph) => {
                assert_stable(&graph);
            }
            Err(error) => {
                let line = source.split('\n').nth(error.line - 1).expect("the line is one of the text");
                prop_assert!(error.column <= line.chars().count() + 1);
                prop_assert!(!error.render("test.kernels", &source).is_empty());
            }
        }
    }

    #[test]
    fn any_text_is_read_or_refused(source in "(kernels k \\{)?[a-z0-9%@<>{}()\\[\\]:=,*\" \n.+-]{0,200}") {
        if let Err(error) = parse_kernels(&source) {
            prop_assert!(!error.render("test.kernels", &source).is_empty());
        }
    }
}
