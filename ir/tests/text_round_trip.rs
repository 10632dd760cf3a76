//! Texts that people write, and what printing makes of them.

use fuse_ir::{Graph, InputKind, ParseError, parse};

fn read(source: &str) -> Graph {
    parse(source).unwrap_or_else(|e| panic!("{}", e.render("test.fuse", source)))
}

/// Printing and reading again gives the same graph and the same text.
fn assert_stable(source: &str) -> String {
    let graph = read(source);
    let printed = graph.to_string();
    let again = read(&printed);
    assert_eq!(again, graph, "{printed}");
    assert_eq!(again.to_string(), printed);
    printed
}

/// The text is already in the form that printing gives.
fn assert_canonical(source: &str) {
    let printed = assert_stable(source);
    assert_eq!(printed, source);
}

#[test]
fn canonical_text_prints_as_it_was_read() {
    assert_canonical(
        "graph cell(x: f32[T, B, 64], h0: f32[B, 32], param w: f32[64, 32]) -> (y: f32[T, B, 32], hn: f32[B, 32]) {
  %3, %4 = scan step over T reverse
      carry (h: f32[B, 32] = h0)
      each (xt: f32[B, 64] = x)
      with (w: f32[64, 32] = w)
      -> (f32[B, 32], f32[T, B, 32])
  {
    %3 = contract xt, w axes=[1:0] : f32[B, 32]
    %4 = add %3, h : f32[B, 32]
    %5 = tanh %4 : f32[B, 32]
    next h = %5
    stack y = %5
  }
  return y = %4, hn = %3
}
"
        .replacen("(x:", "(\n  x:", 1)
        .replacen("64], h0", "64],\n  h0", 1)
        .replacen("32], param", "32],\n  param", 1)
        .replacen("32]) ->", "32],\n) ->", 1)
        .as_str(),
    );
}

#[test]
fn every_kind_of_attribute_survives() {
    assert_canonical(
        "graph attributes(x: f32[T, 6], i: i64[B], m: f32[6, 3]) {
  %3 = constant -0.5 : f32[]
  %4 = iota axis=1 : i32[B, 6]
  %5 = cast %4 : f16[B, 6]
  %6 = reshape m : f32[3, 6]
  %7 = broadcast %3 axes=[] : f32[T, 6]
  %8 = transpose x permutation=[1, 0] : f32[6, T]
  %9 = slice x start=[0, 1] length=[floordiv(T + 1, 2), 2] step=[2, 3] : f32[floordiv(T + 1, 2), 2]
  %10 = slice x start=[0, 0] length=[T, 6] : f32[T, 6]
  %11 = pad x low=[0, B] high=[2, 0] value=-inf : f32[T + 2, B + 6]
  %12 = concat x, %7 axis=0 : f32[2*T, 6]
  %13 = reverse x axes=[0, 1] : f32[T, 6]
  %14 = gather x, i axis=0 : f32[B, 6]
  %15 = argmax x axes=[1] : i64[T]
  %16 = sum x axes=[0, 1] : f32[]
  %17 = contract x, m axes=[1:0] : f32[T, 3]
  %18 = contract m, m batch=[0:0, 1:1] axes=[] : f32[6, 3]
  %19 = lt x, %7 : bool[T, 6]
  %20 = select %19, x, %7 : f32[T, 6]
  return
}
",
    );
}

#[test]
fn literals_keep_their_bits() {
    let values = [
        ("f32", "-0.0"),
        ("f32", "1e-45"),
        ("f32", "3.4028235e38"),
        ("f32", "nan"),
        ("f32", "nan:0x7fc00001"),
        ("f32", "nan:0xffc00000"),
        ("f64", "0.1"),
        ("f64", "5e-324"),
        ("f64", "nan:0x7ff0000000000001"),
        ("f16", "65504.0"),
        ("f16", "nan:0x7c01"),
        ("bf16", "-inf"),
        ("i64", "-9223372036854775808"),
        ("i32", "2147483647"),
        ("u8", "255"),
        ("bool", "true"),
    ];
    for (dtype, value) in values {
        assert_canonical(&format!(
            "graph g() -> (y: {dtype}[]) {{\n  %0 = constant {value} : {dtype}[]\n  return y = %0\n}}\n"
        ));
    }
}

#[test]
fn labels_types_and_signatures_are_optional_and_become_canonical() {
    let printed = assert_stable(
        "// A comment.
         graph g(x: f32[H*4, -1 + T], param \"odd name\\n\": f32[], s: i32,) { %twice = add x, x // why
           %scaled = broadcast \"odd name\\n\" axes=[] : f32[4*H, T - (2 - 1)]
           %y=mul %twice,%scaled return y = %y, \"1\" = s }",
    );
    assert_eq!(
        printed,
        "graph g(
  x: f32[4*H, T - 1],
  param \"odd name\\n\": f32[],
  s: i32[],
) -> (y: f32[4*H, T - 1], \"1\": i32[]) {
  %3 = add x, x : f32[4*H, T - 1]
  %4 = broadcast \"odd name\\n\" axes=[] : f32[4*H, T - 1]
  %5 = mul %3, %4 : f32[4*H, T - 1]
  return y = %5, \"1\" = s
}
"
    );
}

#[test]
fn an_input_defined_after_results_keeps_its_number() {
    let mut graph = Graph::new("late");
    let ty = fuse_ir::TensorType::new(fuse_ir::DType::F32, ["T"]);
    let x = graph.add_input("x", InputKind::Input, ty.clone());
    let neg =
        |g: &mut Graph, v| g.add_node(fuse_ir::Op::Scalar(fuse_ir::ScalarOp::Neg), &[v], None).unwrap()[0];
    let a = neg(&mut graph, x);
    let w = graph.add_input("w", InputKind::Parameter, ty.clone());
    let v = graph.add_input("v", InputKind::Parameter, ty.clone());
    let b = neg(&mut graph, w);
    let last = graph.add_input("last", InputKind::Input, ty);
    for (name, value) in [("a", a), ("b", b), ("v", v), ("last", last)] {
        graph.add_output(name, value);
    }
    let printed = graph.to_string();
    assert!(printed.contains("param w: f32[T] at 2"), "{printed}");
    assert_eq!(read(&printed), graph);
}

#[test]
fn keywords_are_names_where_only_a_name_can_stand() {
    assert_stable(
        "graph graph(param: f32[2], param param2: f32[2], axes: f32[2], nan: i32[over], carry: i32[], at: f32[2] at 9) {
           %1 = concat param, axes axis=0
           %2 = reverse axes axes=[0]
           %3, %4 = scan \"over\" over over each (next: i32 = nan) carry (stack: i32 = carry) {
             %n = add next, stack
             next stack = %n
             stack next = next
           }
           return return = %3, at = at, next = %2
         }",
    );
}

#[test]
fn scans_nest_and_take_lengths() {
    let printed = assert_stable(
        "graph g(x: f32[T, B, 3], h: f32[B, 3], n: i32[B]) {
           %h, %y = scan outer over T lengths n carry (h = h) each (x = x) {
             %k = constant 0.0 : f32
             %z = broadcast %k axes=[] : f32[4, B, 3]
             %i = scan over 4 forward carry (a = h) each (b = %z) with (c = x) {
               %s = add a, b
               %t = add %s, c
               next a = %t
             }
             next h = %i stack y = %i
           }
           return h = %h
         }",
    );
    assert!(printed.contains("%4 = scan body over 4\n"), "{printed}");
    assert!(printed.contains("lengths n"), "{printed}");
}

#[test]
fn a_scan_of_no_steps_is_read() {
    assert_stable(
        "graph g(h: f32[2]) { %h, %y = scan s over 0 carry (h = h) { next h = h stack y = h } return h = %h, y = %y }",
    );
}

/// The error, as a person sees it.
fn rendered(source: &str) -> String {
    let error: ParseError = parse(source).expect_err("the text is wrong");
    error.render("model.fuse", source)
}

/// Each wrong text under its name, with its error.
#[test]
fn errors_say_where_and_why() {
    let cases = [
        ("unknown op", "graph g(x: f32[T]) {\n  %1 = tahn x : f32[T]\n  return y = %1\n}\n"),
        ("undefined label", "graph g(x: f32[T]) {\n  %gates = tanh x\n  return y = %gate\n}\n"),
        ("undefined number", "graph g(x: f32[T]) {\n  return y = %7\n}\n"),
        ("undefined name", "graph g(hidden: f32[T]) {\n  %1 = tanh hiden\n  return y = %1\n}\n"),
        ("label without its mark", "graph g(x: f32[T]) {\n  %a = tanh x\n  %b = tanh a\n  return\n}\n"),
        ("redefinition", "graph g(x: f32[T]) {\n  %1 = tanh x\n  %1 = exp x\n  return\n}\n"),
        ("input twice", "graph g(x: f32[T], x: i32) {\n  return\n}\n"),
        ("output twice", "graph g(x: f32[T]) {\n  return y = x, y = x\n}\n"),
        (
            "shape mismatch",
            "graph g(x: f32[T, 64], b: f32[64]) {\n  %1 = add x, b : f32[T, 64]\n  return y = %1\n}\n",
        ),
        ("element type mismatch", "graph g(x: f32[T], i: i32[T]) {\n  %1 = mul x, i\n  return\n}\n"),
        (
            "contract mismatch",
            "graph g(x: f32[B, 64], w: f32[63, 8]) {\n  %1 = contract x, w axes=[1:0]\n  return\n}\n",
        ),
        ("declared type", "graph g(x: f32[T, 4]) {\n  %1 = sum x axes=[1] : f32[4]\n  return\n}\n"),
        ("declared output", "graph g(x: f32[T, 4]) -> (y: f32[4]) {\n  return y = x\n}\n"),
        ("outputs differ", "graph g(x: f32[T]) -> (y: f32[T]) {\n  return z = x\n}\n"),
        ("missing type", "graph g(x: f32[T]) {\n  %1 = reshape x\n  return\n}\n"),
        ("missing attribute", "graph g(x: f32[T]) {\n  %1 = sum x\n  return\n}\n"),
        ("unknown attribute", "graph g(x: f32[T]) {\n  %1 = sum x axis=[0]\n  return\n}\n"),
        ("attribute twice", "graph g(x: f32[T]) {\n  %1 = sum x axes=[0] axes=[0]\n  return\n}\n"),
        ("attribute of an elementwise op", "graph g(x: f32[T]) {\n  %1 = tanh x axes=[0]\n  return\n}\n"),
        ("unknown element type", "graph g(x: fp32[T]) {\n  return\n}\n"),
        ("another element type", "graph g(x: complex64[T]) {\n  return\n}\n"),
        ("negative extent", "graph g(x: f32[2 - 3]) {\n  return\n}\n"),
        ("fraction in a dimension", "graph g(x: f32[1.5]) {\n  return\n}\n"),
        ("absurd dimension", "graph g(x: f32[1099511627777]) {\n  return\n}\n"),
        ("product without its sign", "graph g(x: f32[4H]) {\n  return\n}\n"),
        ("unknown function", "graph g(x: f32[ceil(T, 2)]) {\n  return\n}\n"),
        ("trailing input", "graph g() {\n  return\n}\ngraph h() {\n  return\n}\n"),
        ("cut off", "graph g(x: f32[T]) {\n  %1 = add x,"),
        ("no graph", ""),
        ("stray character", "graph g(x: f32[T]) {\n  # comment\n  return\n}\n"),
        ("open string", "graph g(\"x: f32[T]) {\n  return\n}\n"),
        ("bad escape", "graph g(\"a\\q\": f32[T]) {\n  return\n}\n"),
        ("empty name", "graph g(\"\": f32[T]) {\n  return\n}\n"),
        ("literal out of range", "graph g() {\n  %0 = constant 256 : u8\n  return\n}\n"),
        ("fraction of an integer", "graph g() {\n  %0 = constant 0.5 : i32\n  return\n}\n"),
        ("float beyond its type", "graph g() {\n  %0 = constant 1e39 : f32\n  return\n}\n"),
        ("bits of no nan", "graph g() {\n  %0 = constant nan:0x0 : f32\n  return\n}\n"),
        ("wrong number of operands", "graph g(x: f32[T]) {\n  %1 = add x\n  return\n}\n"),
        ("wrong number of labels", "graph g(x: f32[T]) {\n  %a, %b = tanh x\n  return\n}\n"),
        ("late use", "graph g(x: f32[T] at 5) {\n  %0 = tanh x\n  return\n}\n"),
        (
            "value outside a scan",
            "graph g(h: f32[2], w: f32[2]) {\n  %h = scan s over T carry (h = h) {\n    %1 = mul h, w\n    next h = %1\n  }\n  return\n}\n",
        ),
        (
            "carry changes its type",
            "graph g(h: f32[2]) {\n  %h = scan s over T carry (h = h) {\n    %1 = cast h : f64[2]\n    next h = %1\n  }\n  return\n}\n",
        ),
        (
            "too few new carries",
            "graph g(h: f32[2]) {\n  %h = scan s over T carry (h = h) {\n    stack y = h\n  }\n  return\n}\n",
        ),
        (
            "scanned without the time axis",
            "graph g(h: f32[2], x: f32[B, 2]) {\n  %h = scan s over T carry (h = h) each (x = x) {\n    next h = x\n  }\n  return\n}\n",
        ),
        (
            "body input with another type",
            "graph g(h: f32[2]) {\n  %h = scan s over T carry (h: f32[3] = h) {\n    next h = h\n  }\n  return\n}\n",
        ),
        (
            "lengths of another batch",
            "graph g(h: f32[B, 2], n: i32[C]) {\n  %h = scan s over T carry (h = h) lengths n {\n    next h = h\n  }\n  return\n}\n",
        ),
    ];
    let mut report = String::new();
    for (name, source) in cases {
        report.push_str(&format!("=== {name}\n{}\n", rendered(source).trim_end()));
    }
    insta::assert_snapshot!(report);
}

#[test]
fn line_and_column_count_from_one_in_characters() {
    let error =
        parse("graph g(\"ä\": f32[T]) {\n  %1 = tanh \"ö\", zzz\n return }").expect_err("undefined values");
    assert_eq!((error.line, error.column), (2, 13));
    assert_eq!(error.to_string(), "2:13: there is no value `ö` here");
}

#[test]
fn nesting_is_bounded() {
    let deep = format!("graph g(x: f32[{}T{}]) {{ return }}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(parse(&deep).unwrap_err().message().contains("nests deeper"));
    let mut scans = String::from("graph g(h: f32[2]) {\n");
    for _ in 0..10_000 {
        scans.push_str("%h = scan s over T carry (h = h) {\n");
    }
    assert!(parse(&scans).unwrap_err().message().contains("nest deeper"));
}

#[test]
fn the_deepest_nesting_is_read() {
    let mut source = String::from("graph g(h: f32[2]) {\n");
    let depth = fuse_ir::limits::MAX_SCAN_DEPTH;
    for _ in 0..depth {
        source.push_str("%h = scan s over T carry (h = h) {\n");
    }
    source.push_str("%h = tanh h\n");
    for _ in 0..depth {
        source.push_str("next h = %h }\n");
    }
    source.push_str("return h = %h }");
    assert_stable(&source);
    let half = (fuse_ir::limits::MAX_DIM_DEPTH - 1) / 2;
    let nested = (0..half).fold("T".to_owned(), |d, _| format!("floordiv((T + {d}), 3)"));
    assert_stable(&format!("graph g(x: f32[{nested}]) {{ return x = x }}"));
}

#[test]
fn polynomials_are_bounded_before_they_are_multiplied_out() {
    let sum = (0..20).map(|i| format!("s{i}")).collect::<Vec<_>>().join(" + ");
    let product = vec![format!("({sum})"); 50].join("*");
    assert!(parse(&format!("graph g(x: f32[{product}]) {{ return }}")).is_err());
    let nested = (0..40).fold("T".to_owned(), |d, _| format!("floordiv({d}, 7)*({sum})"));
    assert!(parse(&format!("graph g(x: f32[{nested}]) {{ return }}")).is_err());
    let axes = (0..60).map(|i| format!("a{i} + 1")).collect::<Vec<_>>().join(", ");
    let source = format!("graph g(x: f32[{axes}]) {{ %1 = reshape x : f32[{axes}] return }}");
    assert!(parse(&source).unwrap_err().message().contains("polynomial"));
}

#[test]
fn coefficients_stay_where_arithmetic_is_exact() {
    let big = "1099511627776";
    for dim in [format!("{big}*{big}*T"), format!("mod(0 - {big}*{big}*T, -1)"), format!("{big} + 1")] {
        let source = format!("graph g(x: f32[{dim}]) {{ return }}");
        assert!(parse(&source).unwrap_err().message().contains("2^40"), "{dim}");
    }
    let mut source = format!("graph g(x: f32[{big}]) {{\n%0 = pad x low=[1] high=[0] value=0 return }}");
    assert!(parse(&source).unwrap_err().message().contains("2^40"));
    source.truncate(source.len() / 2);
    assert!(parse(&source).is_err());
}

#[test]
fn a_file_beyond_the_limit_is_refused() {
    let source = " ".repeat(fuse_ir::limits::MAX_SOURCE_BYTES + 1);
    let error = parse(&source).unwrap_err();
    assert!(error.message().contains("64 MiB"));
    assert!(error.render("big.fuse", &source).len() < 10_000);
}

#[test]
fn an_error_in_a_very_long_line_is_shown_in_part() {
    let source = format!("graph g(a: f32, {}x: f99) {{ return }}", " ".repeat(100_000));
    let text = rendered(&source);
    assert!(text.contains("f99") && text.len() < 4_000, "{text}");
}
