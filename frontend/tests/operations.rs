//! What the operations compute, on the interpreter, against values worked out by hand or by plain loops.

mod common;

use common::{Numbers, assert_close, f32s, i64s, run};
use fuse_frontend::{DType, Graph, ScanOptions, Tensor, Trace, concat, stack, trace};
use fuse_ir::{Op, Tensor as HostTensor};

fn traced(program: impl FnOnce(&Trace)) -> Graph {
    trace("test", program).unwrap_or_else(|e| panic!("{e}"))
}

/// The result of an operation on one f32 tensor of a constant shape.
fn of_one(shape: &[usize], values: &[f64], make: impl FnOnce(&Tensor) -> Tensor) -> (Vec<usize>, Vec<f64>) {
    let graph = traced(|t| t.output("y", make(&t.input("x", DType::F32, shape.to_vec()))));
    run(&graph, &[("x", f32s(shape, values))]).remove(0)
}

fn counting(count: usize) -> Vec<f64> {
    (0..count).map(|i| i as f64).collect()
}

#[test]
fn operators_take_tensors_references_and_numbers_on_either_side() {
    let graph = traced(|t| {
        let x = t.input("x", DType::F32, (2,));
        let mut y = 1.0 - &x;
        y += 2;
        y -= 0.5f32;
        y *= &x;
        y /= 4i64;
        t.output("y", -(2 * y) % 5.0 + &x * &x);
        t.output("n", (t.input("n", DType::I32, (2,)) + 1) / 2);
        t.output("m", !(x.lt(1.0) & x.gt(-1.0)) | false);
    });
    let got = run(
        &graph,
        &[("x", f32s(&[2], &[0.5, 3.0])), ("n", HostTensor::from_values(&[2], &[5i32, -8]).expect("2"))],
    );
    let expected = |x: f64| -(2.0 * ((1.0 - x + 2.0 - 0.5) * x / 4.0)) % 5.0 + x * x;
    assert_close(&got[0].1, &[expected(0.5), expected(3.0)]);
    assert_eq!(got[1].1, [3.0, -3.0]);
    assert_eq!(got[2].1, [0.0, 1.0]);
}

#[test]
fn operands_broadcast_from_the_last_axis() {
    let graph = traced(|t| {
        let a = t.input("a", DType::F32, ("T", 1, 3));
        let b = t.input("b", DType::F32, (2, 1));
        t.output("y", a * 10.0 + b);
    });
    let got = run(&graph, &[("a", f32s(&[2, 1, 3], &counting(6))), ("b", f32s(&[2, 1], &[0.5, 0.25]))]);
    assert_eq!(got[0].0, [2, 2, 3]);
    let expected = [0.5, 10.5, 20.5, 0.25, 10.25, 20.25, 30.5, 40.5, 50.5, 30.25, 40.25, 50.25];
    assert_eq!(got[0].1, expected);
}

#[test]
fn no_broadcast_is_traced_where_shapes_agree() {
    let graph = traced(|t| {
        let (a, b) = (t.input("a", DType::F32, ("T", 3)), t.input("b", DType::F32, ("T", 3)));
        t.output("y", a + b);
    });
    assert_eq!(graph.nodes().len(), 1);
}

#[test]
fn movement_reads_the_positions_it_says() {
    let x = counting(12);
    let check = |make: fn(&Tensor) -> Tensor, shape: &[usize], expected: &[f64]| {
        let (got_shape, got) = of_one(&[3, 4], &x, make);
        assert_eq!((got_shape.as_slice(), got.as_slice()), (shape, expected));
    };
    check(|x| x.slice(0, 1..), &[2, 4], &x[4..]);
    check(|x| x.slice(1, ..-2), &[3, 2], &[0., 1., 4., 5., 8., 9.]);
    check(|x| x.slice(1, -2..), &[3, 2], &[2., 3., 6., 7., 10., 11.]);
    check(|x| x.slice(-1, 1..=2), &[3, 2], &[1., 2., 5., 6., 9., 10.]);
    check(|x| x.slice(-1, "3"..="-1"), &[3, 1], &[3., 7., 11.]);
    check(|x| x.slice(1, ..=0), &[3, 1], &[0., 4., 8.]);
    check(|x| x.slice(0, ..=-1), &[3, 4], &x);
    check(|x| x.slice(1, 1..).slice(1, ..-1), &[3, 2], &[1., 2., 5., 6., 9., 10.]);
    check(|x| x.slice_by(1, .., 3), &[3, 2], &[0., 3., 4., 7., 8., 11.]);
    check(|x| x.slice_by(1, 1..4, 2), &[3, 2], &[1., 3., 5., 7., 9., 11.]);
    check(|x| x.at(0, -1), &[4], &[8., 9., 10., 11.]);
    check(|x| x.at(1, 2), &[3], &[2., 6., 10.]);
    check(|x| x.transpose(0, -1), &[4, 3], &[0., 4., 8., 1., 5., 9., 2., 6., 10., 3., 7., 11.]);
    check(|x| x.permute([-1, 0]).permute([1, 0]), &[3, 4], &x);
    check(|x| x.reshape((2, -1)), &[2, 6], &x);
    check(|x| x.unsqueeze(-1).squeeze(2).unsqueeze(1).squeeze(1), &[3, 4], &x);
    check(|x| x.reverse(0).slice(0, ..1), &[1, 4], &[8., 9., 10., 11.]);
    check(|x| x.reverse([0, 1]).at(0, 0), &[4], &[11., 10., 9., 8.]);
    check(|x| x.at(0, 0).pad(0, 1, 2, -1.0), &[7], &[-1., 0., 1., 2., 3., -1., -1.]);
    check(|x| x.at(0, 0).broadcast_to((2, 4)), &[2, 4], &[0., 1., 2., 3., 0., 1., 2., 3.]);
    check(
        |x| {
            let [a, b] = x.split(-1);
            concat([b, a], -1).at(0, 0)
        },
        &[4],
        &[2., 3., 0., 1.],
    );
    check(|x| stack([x.at(0, 2), x.at(0, 0)], -1).slice(0, ..2), &[2, 2], &[8., 0., 9., 1.]);
    check(|x| x.chunks(3, 0).remove(1), &[1, 4], &[4., 5., 6., 7.]);
}

#[test]
fn positions_may_be_symbolic() {
    let graph = traced(|t| {
        let x = t.input("x", DType::F32, ("T", 2));
        t.output("next", x.slice(0, 1..));
        t.output("last", x.at(0, "T - 1"));
        t.output("flat", x.reshape((-1,)));
        t.output("count", t.dim_value(DType::F32, "3*T + 1"));
        t.output("rows", t.iota(DType::I64, ("T", 2), 0));
    });
    let got = run(&graph, &[("x", f32s(&[3, 2], &counting(6)))]);
    assert_eq!(got[0], (vec![2, 2], vec![2., 3., 4., 5.]));
    assert_eq!(got[1], (vec![2], vec![4., 5.]));
    assert_eq!(got[2], (vec![6], counting(6)));
    assert_eq!(got[3], (vec![], vec![10.]));
    assert_eq!(got[4], (vec![3, 2], vec![0., 0., 1., 1., 2., 2.]));
}

#[test]
fn gather_replaces_an_axis_by_those_of_the_indices() {
    let graph = traced(|t| {
        let table = t.parameter("table", DType::F32, (4, 2));
        let ids = t.input("ids", DType::I64, ("T", 3));
        t.output("rows", fuse_frontend::nn::embedding(&table, &ids));
        t.output("columns", table.gather(-1, ids.at(0, 0)));
    });
    let ids = i64s(&[1, 3], &[1, 0, 1]);
    let got = run(&graph, &[("table", f32s(&[4, 2], &counting(8))), ("ids", ids)]);
    assert_eq!(got[0], (vec![1, 3, 2], vec![2., 3., 0., 1., 2., 3.]));
    assert_eq!(got[1], (vec![4, 3], vec![1., 0., 1., 3., 2., 3., 5., 4., 5., 7., 6., 7.]));
}

#[test]
fn reductions_drop_or_keep_their_axes() {
    let x = [1., -2., 3., 4., 0.5, -1.];
    let check = |make: fn(&Tensor) -> Tensor, shape: &[usize], expected: &[f64]| {
        let (got_shape, got) = of_one(&[2, 3], &x, make);
        assert_eq!((got_shape.as_slice(), got.as_slice()), (shape, expected));
    };
    check(|x| x.sum(-1), &[2], &[2., 3.5]);
    check(|x| x.sum_keepdims([0]), &[1, 3], &[5., -1.5, 2.]);
    check(|x| x.sum(..), &[], &[5.5]);
    check(|x| x.prod_keepdims(..), &[1, 1], &[12.]);
    check(|x| x.max(0), &[3], &[4., 0.5, 3.]);
    check(|x| x.min([1, 0]), &[], &[-2.]);
    check(|x| x.argmax(1), &[2], &[2., 0.]);
    check(|x| x.argmin_keepdims(-1), &[2, 1], &[1., 2.]);
    check(|x| x.mean(1), &[2], &[2. / 3., 3.5 / 3.]);
    check(|x| x.sum(&[] as &[i64]), &[2, 3], &x);
}

#[test]
fn compositions_agree_with_plain_loops() {
    let rows = 3;
    let x = Numbers(1).take(rows * 5);
    let per_row = |f: &dyn Fn(&[f64]) -> Vec<f64>| x.chunks(5).flat_map(f).collect::<Vec<f64>>();
    let total = |row: &[f64]| row.iter().map(|v| v.exp()).sum::<f64>();
    let mean = |row: &[f64]| row.iter().sum::<f64>() / 5.0;
    let var = |row: &[f64]| row.iter().map(|v| (v - mean(row)).powi(2)).sum::<f64>() / 5.0;
    let check = |make: fn(&Tensor) -> Tensor, expected: Vec<f64>| {
        assert_close(&of_one(&[rows, 5], &x, make).1, &expected);
    };
    check(|x| x.softmax(-1), per_row(&|r| r.iter().map(|v| v.exp() / total(r)).collect()));
    check(|x| x.log_softmax(1), per_row(&|r| r.iter().map(|v| v - total(r).ln()).collect()));
    check(|x| x.logsumexp(-1), per_row(&|r| vec![total(r).ln()]));
    check(|x| x.var(-1), per_row(&|r| vec![var(r)]));
    check(|x| x.var_keepdims(1).squeeze(1), per_row(&|r| vec![var(r)]));
    check(
        |x| x.layer_norm(-1, 0.125),
        per_row(&|r| r.iter().map(|v| (v - mean(r)) / (var(r) + 0.125).sqrt()).collect()),
    );
    check(|x| x.silu(), x.iter().map(|v| v / (1.0 + (-v).exp())).collect());
    check(|x| x.mean_keepdims([0, 1]).squeeze(0), vec![x.iter().sum::<f64>() / 15.0]);
}

#[test]
fn gelu_is_the_exact_form() {
    // From tables of the normal distribution: x·Φ(x).
    let (_, got) = of_one(&[3], &[-1.0, 0.0, 2.0], Tensor::gelu);
    for (got, expected) in got.iter().zip([-0.158_655_253_931, 0.0, 1.954_499_736_104]) {
        assert!((got - expected).abs() < 1e-7, "{got} {expected}");
    }
}

#[test]
fn softmax_and_logsumexp_survive_extremes() {
    let (_, soft) = of_one(&[3], &[1000.0, 1000.0, -1000.0], |x| x.softmax(0));
    assert_eq!(soft, [0.5, 0.5, 0.0]);
    let (_, low) = of_one(&[2], &[f64::NEG_INFINITY, f64::NEG_INFINITY], |x| x.logsumexp(0));
    assert_eq!(low, [f64::NEG_INFINITY]);
    let (_, high) = of_one(&[2], &[1000.0, f64::INFINITY], |x| x.logsumexp(0));
    assert_eq!(high, [f64::INFINITY]);
}

#[test]
fn half_precision_compositions_compute_in_f32() {
    let graph = traced(|t| t.output("y", t.input("x", DType::F16, ("N",)).mean(0)));
    let wide = graph
        .nodes()
        .any(|(_, n)| matches!(n.op, Op::Reduce { .. }) && graph.ty(n.operands[0]).dtype == DType::F32);
    assert!(wide, "{graph}");
    assert_eq!(graph.ty(graph.outputs()[0].value).to_string(), "f16[]");
}

#[test]
fn the_mean_counts_a_symbolic_axis() {
    let graph = traced(|t| t.output("y", t.input("x", DType::F32, ("T", 2)).mean(0)));
    for t in [1, 4] {
        let x = counting(2 * t);
        let sum = |k: usize| x.iter().skip(k).step_by(2).sum::<f64>() / t as f64;
        assert_close(&run(&graph, &[("x", f32s(&[t, 2], &x))])[0].1, &[sum(0), sum(1)]);
    }
}

/// NumPy's matmul, element by element: axes before the last two broadcast.
fn matmul_reference(a: (&[usize], &[f64]), b: (&[usize], &[f64])) -> (Vec<usize>, Vec<f64>) {
    let (mut sa, mut sb) = (a.0.to_vec(), b.0.to_vec());
    if a.0.len() == 1 {
        sa.insert(0, 1);
    }
    if b.0.len() == 1 {
        sb.push(1);
    }
    let rank = sa.len().max(sb.len());
    let padded = |s: &[usize]| [vec![1; rank - s.len()], s.to_vec()].concat();
    let (sa, sb) = (padded(&sa), padded(&sb));
    let batch: Vec<usize> = (0..rank - 2).map(|i| if sa[i] == 1 { sb[i] } else { sa[i] }).collect();
    let (m, k, n) = (sa[rank - 2], sa[rank - 1], sb[rank - 1]);
    let offset = |s: &[usize], at: &[usize], row: usize, column: usize| {
        let all = at.iter().copied().chain([row, column]);
        s.iter().zip(all).fold(0, |o, (size, i)| o * size + if *size == 1 { 0 } else { i })
    };
    let mut out = Vec::new();
    for flat in 0..batch.iter().product::<usize>() {
        let mut rest = flat;
        let mut at: Vec<usize> = batch
            .iter()
            .rev()
            .map(|s| {
                let i = rest % s;
                rest /= s;
                i
            })
            .collect();
        at.reverse();
        for row in 0..m {
            for column in 0..n {
                let term = |i| a.1[offset(&sa, &at, row, i)] * b.1[offset(&sb, &at, i, column)];
                out.push((0..k).map(term).sum());
            }
        }
    }
    let mut shape = batch;
    if a.0.len() > 1 {
        shape.push(m);
    }
    if b.0.len() > 1 {
        shape.push(n);
    }
    (shape, out)
}

#[test]
fn matmul_follows_numpy() {
    let cases: [(&[usize], &[usize]); 14] = [
        (&[3], &[3]),
        (&[2, 3], &[3]),
        (&[3], &[3, 2]),
        (&[2, 3], &[3, 4]),
        (&[5, 2, 3], &[3, 4]),
        (&[2, 3], &[5, 3, 4]),
        (&[5, 2, 3], &[5, 3, 4]),
        (&[5, 2, 3], &[1, 3, 4]),
        (&[1, 2, 3], &[5, 3, 4]),
        (&[2, 1, 2, 3], &[4, 3, 2]),
        (&[2, 1, 4, 2, 3], &[5, 1, 3, 2]),
        (&[3], &[2, 3, 4]),
        (&[2, 4, 3], &[3]),
        (&[1, 1, 2, 3], &[1, 1, 3, 2]),
    ];
    for (sa, sb) in cases {
        let mut numbers = Numbers(7);
        let a = numbers.take(sa.iter().product());
        let b = numbers.take(sb.iter().product());
        let graph = traced(|t| {
            let (a, b) = (t.input("a", DType::F32, sa.to_vec()), t.input("b", DType::F32, sb.to_vec()));
            t.output("y", a.matmul(b));
        });
        let got = run(&graph, &[("a", f32s(sa, &a)), ("b", f32s(sb, &b))]).remove(0);
        let expected = matmul_reference((sa, &a), (sb, &b));
        assert_eq!(got.0, expected.0, "{sa:?} {sb:?}");
        assert_close(&got.1, &expected.1);
    }
}

#[test]
fn an_outer_tensor_is_captured_once_through_every_level() {
    let graph = traced(|t| {
        let x = t.input("x", DType::F32, ("T", "S", 2));
        let w = t.parameter("w", DType::F32, (2,));
        let zero = t.zeros(DType::F32, (2,));
        let (sum, ()) = t.scan(zero, x, |sum, row| {
            let (sum, ()) = t.scan(sum, row, |sum, x| (sum + &w * x + &w, ()));
            (sum, ())
        });
        t.output("sum", sum);
    });
    let Some(Op::Scan(outer)) = graph.nodes().map(|(_, n)| &n.op).find(|op| matches!(op, Op::Scan(_))) else {
        panic!("no scan in\n{graph}");
    };
    let names: Vec<&str> = outer.body.inputs().iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["carry0", "x0", "w"]);
    let got = run(&graph, &[("x", f32s(&[2, 3, 2], &counting(12))), ("w", f32s(&[2], &[0.5, 2.0]))]);
    let sums: [f64; 2] =
        [(0..6).map(|i| 2.0 * f64::from(i)).sum(), (0..6).map(|i| 2.0 * f64::from(i) + 1.0).sum()];
    assert_close(&got[0].1, &[0.5 * (sums[0] + 6.0), 2.0 * (sums[1] + 6.0)]);
}

#[test]
fn a_scan_carries_and_stacks_any_structure() {
    let graph = traced(|t| {
        let x = t.input("x", DType::F32, ("T",));
        let zero = t.constant(DType::F32, 0.0);
        let one = t.constant(DType::F32, 1.0);
        let init = (vec![zero.clone(), one], Some([zero]));
        let ((sums, last), (x, y)) = t.scan(init, (x.clone(), [x.reverse(0)]), |(sums, last), (x, [r])| {
            let next = vec![&sums[0] + &x, &sums[1] * &x];
            ((next, last.map(|_| [r.clone()])), (x + &sums[0], r))
        });
        t.output("sum", &sums[0]);
        t.output("product", &sums[1]);
        t.output("last", &last.expect("given")[0]);
        t.output("x", x);
        t.output("y", y);
    });
    let got = run(&graph, &[("x", f32s(&[3], &[2.0, 3.0, 4.0]))]);
    let values: Vec<&[f64]> = got.iter().map(|g| g.1.as_slice()).collect();
    assert_eq!(values, [&[9.0][..], &[24.0], &[2.0], &[2.0, 5.0, 9.0], &[4.0, 3.0, 2.0]]);
}

#[test]
fn a_scan_can_count_without_scanning() {
    let graph = traced(|t| {
        let x = t.input("x", DType::F32, ("N", 2));
        let start = x.at(0, 0);
        let options = ScanOptions::new().steps(x.dim(0));
        let (last, powers) = t.scan_with(options, start, (), |x, ()| (&x * 2.0, x));
        t.output("last", last);
        t.output("powers", powers);
    });
    let got = run(&graph, &[("x", f32s(&[3, 2], &[1., 3., 0., 0., 0., 0.]))]);
    assert_eq!(got[0].1, [8., 24.]);
    assert_eq!(got[1], (vec![3, 2], vec![1., 3., 2., 6., 4., 12.]));
}

#[test]
fn a_reverse_scan_keeps_positions_and_lengths_hide_padding() {
    let graph = traced(|t| {
        let x = t.input("x", DType::F32, ("T", "B"));
        let lengths = t.input("lengths", DType::I64, ("B",));
        let zero = t.zeros(DType::F32, ("B",));
        let options = ScanOptions::new().reverse().lengths(&lengths);
        let (last, sums) = t.scan_with(options, zero, x, |sum, x| {
            let sum = sum + x;
            (sum.clone(), sum)
        });
        t.output("last", last);
        t.output("sums", sums);
    });
    let x = [1., 10., f64::NAN, 2., 20., f64::NAN, 4., f64::NAN, f64::NAN];
    let got = run(&graph, &[("x", f32s(&[3, 3], &x)), ("lengths", i64s(&[3], &[3, 2, 0]))]);
    assert_eq!(got[0].1, [7., 30., 0.]);
    assert_eq!(got[1].1, [7., 30., 0., 6., 20., 0., 4., 0., 0.]);
}

#[test]
fn a_parameter_may_be_declared_inside_a_body() {
    let graph = traced(|t| {
        let x = t.input("x", DType::F32, ("T", 2));
        let (_, y) = t.scan((), x, |(), x| ((), x * t.parameter("w", DType::F32, (2,))));
        t.output("y", y);
    });
    let names: Vec<&str> = graph.inputs().iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["x", "w"]);
    let got = run(&graph, &[("x", f32s(&[1, 2], &[3., 4.])), ("w", f32s(&[2], &[2., 0.5]))]);
    assert_eq!(got[0].1, [6., 2.]);
}

#[test]
fn nodes_know_the_line_that_made_them() {
    let mut line = 0;
    let graph = traced(|t| {
        let x = t.input("x", DType::F32, ("B", 2));
        line = line!() + 1;
        let y = x.softmax(-1);
        t.output("y", y);
    });
    for (_, node) in graph.nodes() {
        let location = node.location.expect("traced nodes have a location").0;
        assert!(location.file().ends_with("operations.rs"), "{location}");
        assert_eq!(location.line(), line);
    }
}

#[test]
fn what_is_traced_parses_back_to_the_same_graph() {
    let graph = traced(|t| {
        let x = t.input("x", DType::F16, ("T", "B", 6));
        let lengths = t.input("row lengths", DType::I32, ("B",));
        let zero = t.zeros(DType::F16, ("B", 2));
        let options = ScanOptions::new().reverse().lengths(&lengths);
        let (last, y) = t.scan_with(options, zero, x, |h, x| {
            let w = t.parameter("late.w", DType::F16, (6, 2));
            let h = (x.matmul(w) + h).layer_norm(-1, 1e-5).tanh();
            (h.clone(), h)
        });
        t.output("y", y.softmax(0).slice_by(1, 1.., 2).pad(0, "T", 1, 0.0));
        t.output("last", last.argmax(-1));
    });
    let text = graph.to_string();
    let parsed = fuse_ir::parse(&text).unwrap_or_else(|e| panic!("{}", e.render("traced", &text)));
    assert_eq!(parsed, graph);
}
