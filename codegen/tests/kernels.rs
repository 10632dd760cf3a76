//! Schedules and Cranelift code against the interpreter of kernel graphs, kernel by kernel.

mod kernel_support;

use fuse_codegen::kernel_ir::Mapping;
use fuse_codegen::schedule::{ScheduleError, ScheduleTarget, schedule};
use fuse_ir::compare::Tolerance;
use fuse_ir::kernel::{Coordinate, Element, ElementId, Step};
use fuse_ir::{DType, Dim, Literal, ReduceOp, ScalarOp};
use kernel_support::{
    Maker, Weights, a, c, check, check_kernel_ir, check_large_blocks, check_products, env, inputs, lstm_step,
    s, tensor_of,
};

const CLOSE: Tolerance = Tolerance { ulp: 4.0, absolute: 2e-6, relative: 2e-6 };

fn check_at(graph: &fuse_ir::kernel::KernelGraph, dims: &[(&str, i64)], tolerance: Tolerance) {
    let env = env(dims);
    check(graph, &inputs(graph, &env), &env, tolerance);
}

#[test]
fn elementwise_chains_run_at_every_length() {
    let mut m = Maker::new(&[s("N")]);
    let x = m.input(DType::F32, &[s("N")]);
    let y = m.input(DType::F32, &[s("N")]);
    let (x, y) = (m.load(x, &[a(0)]), m.load(y, &[a(0)]));
    let sum = m.apply(ScalarOp::Add, &[x, y]);
    let t = m.apply(ScalarOp::Tanh, &[sum]);
    let half = m.push(DType::F32, Element::Constant(Literal::from_f64(DType::F32, 0.5)));
    let out = m.apply(ScalarOp::Mul, &[t, half]);
    m.store(out);
    let graph = m.finish();
    for n in [0, 1, 3, 4, 5, 17, 1024, 1030, 2500] {
        check_at(&graph, &[("N", n)], CLOSE);
    }
}

#[test]
fn a_space_without_axes_is_one_point() {
    let mut m = Maker::new(&[]);
    let x = m.input(DType::F64, &[]);
    let x = m.load(x, &[]);
    let e = m.apply(ScalarOp::Exp, &[x]);
    m.store(e);
    check_at(&m.finish(), &[], CLOSE);
}

#[test]
fn an_lstm_step_is_right_for_every_weight_layout_and_every_batch() {
    for layout in [Weights::Rows, Weights::Columns] {
        let graph = lstm_step(s("B"), 24, layout);
        for b in [0, 1, 2, 3, 4, 5, 7, 8] {
            check_at(&graph, &[("B", b)], CLOSE);
        }
        for batch in [1, 2, 3, 5, 6] {
            check_at(&lstm_step(c(batch), 8, layout), &[], CLOSE);
        }
        for hidden in [1, 3, 5, 18] {
            check_at(&lstm_step(c(1), hidden, layout), &[], CLOSE);
            check_at(&lstm_step(c(6), hidden, layout), &[], CLOSE);
        }
    }
}

#[test]
fn matrix_products_of_every_layout_and_shape_agree() {
    for (left, right) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut m = Maker::new(&[s("M"), s("N")]);
        let x_shape = if left { [s("K"), s("M")] } else { [s("M"), s("K")] };
        let y_shape = if right { [s("N"), s("K")] } else { [s("K"), s("N")] };
        let (x, y) = (m.input(DType::F32, &x_shape), m.input(DType::F32, &y_shape));
        let product = m.contract(
            s("K"),
            (x, &|k| if left { vec![k, a(0)] } else { vec![a(0), k] }),
            (y, &|k| if right { vec![a(1), k] } else { vec![k, a(1)] }),
        );
        m.store(product);
        let graph = m.finish();
        for (rows, columns, k) in
            [(1, 1, 1), (4, 16, 8), (5, 19, 7), (9, 33, 40), (3, 4, 0), (0, 4, 4), (4, 0, 4)]
        {
            check_at(&graph, &[("M", rows), ("N", columns), ("K", k)], CLOSE);
        }
    }
}

#[test]
fn layer_norm_computes_its_statistics_once_a_row() {
    let mut m = Maker::new(&[s("B"), s("N")]);
    let input = m.input(DType::F32, &[s("B"), s("N")]);
    let n = m.push(DType::F32, Element::Index(s("N")));
    let mean = {
        let axis = m.axis(s("N"));
        let x = m.load(input, &[a(0), a(axis.index())]);
        let sum = m.reduce(ReduceOp::Sum, &[axis], x);
        m.apply(ScalarOp::Div, &[sum, n])
    };
    let variance = {
        let axis = m.axis(s("N"));
        let x = m.load(input, &[a(0), a(axis.index())]);
        let d = m.apply(ScalarOp::Sub, &[x, mean]);
        let square = m.apply(ScalarOp::Mul, &[d, d]);
        let sum = m.reduce(ReduceOp::Sum, &[axis], square);
        m.apply(ScalarOp::Div, &[sum, n])
    };
    let x = m.load(input, &[a(0), a(1)]);
    let d = m.apply(ScalarOp::Sub, &[x, mean]);
    let epsilon = m.push(DType::F32, Element::Constant(Literal::from_f64(DType::F32, 1e-5)));
    let v = m.apply(ScalarOp::Add, &[variance, epsilon]);
    let scale = m.apply(ScalarOp::Rsqrt, &[v]);
    let out = m.apply(ScalarOp::Mul, &[d, scale]);
    m.store(out);
    let graph = m.finish();
    for (b, n) in [(1, 1), (3, 16), (2, 37), (0, 5), (5, 0), (4, 100)] {
        check_at(&graph, &[("B", b), ("N", n)], Tolerance { ulp: 8.0, absolute: 1e-5, relative: 1e-5 });
    }
    let Step::Kernel(kernel) = &graph.steps[0] else { panic!("one kernel") };
    let function = schedule(&graph, kernel, ScheduleTarget::cpu()).unwrap();
    // Both sums run in the body of the item loop, none in the loop over columns.
    assert_eq!(max_nesting(&function.body), 2, "{}", fuse_codegen::text::print(&function));
}

fn max_nesting(body: &[fuse_codegen::kernel_ir::Statement]) -> usize {
    use fuse_codegen::kernel_ir::Statement;
    let nesting = |s: &Statement| usize::from(matches!(s, Statement::For { .. })) + max_nesting(s.body());
    body.iter().map(nesting).max().unwrap_or(0)
}

#[test]
fn every_reduction_of_every_type_agrees() {
    for dtype in [DType::F32, DType::F64, DType::I32, DType::I64, DType::U8, DType::F16, DType::Bf16] {
        for op in ReduceOp::ALL {
            for along_rows in [false, true] {
                let mut m = Maker::new(&[s("M")]);
                let shape = if along_rows { [s("M"), s("K")] } else { [s("K"), s("M")] };
                let x = m.input(dtype, &shape);
                let k = m.axis(s("K"));
                let index = if along_rows { [a(0), a(k.index())] } else { [a(k.index()), a(0)] };
                let x = m.load(x, &index);
                let r = m.reduce(op, &[k], x);
                m.store(r);
                let graph = m.finish();
                let tolerance = match dtype {
                    DType::F16 | DType::Bf16 => Tolerance { ulp: 2.0, absolute: 2e-5, relative: 1e-4 },
                    _ => Tolerance { ulp: 32.0, absolute: 1e-6, relative: 1e-5 },
                };
                for (rows, k) in [(1, 1), (5, 7), (9, 50), (4, 0), (0, 3)] {
                    check_at(&graph, &[("M", rows), ("K", k)], tolerance);
                }
            }
        }
    }
}

#[test]
fn reductions_over_two_axes_nest() {
    let mut m = Maker::new(&[s("B")]);
    let x = m.input(DType::F32, &[s("P"), s("B"), s("Q")]);
    let (p, q) = (m.axis(s("P")), m.axis(s("Q")));
    let x = m.load(x, &[a(p.index()), a(0), a(q.index())]);
    let sum = m.reduce(ReduceOp::Sum, &[p, q], x);
    m.store(sum);
    let graph = m.finish();
    for (b, p, q) in [(3, 4, 5), (1, 1, 33), (6, 3, 0), (2, 0, 9)] {
        check_at(&graph, &[("B", b), ("P", p), ("Q", q)], CLOSE);
    }
}

#[test]
fn a_reduction_inside_a_reduction_is_computed_for_each_of_its_points() {
    // sum_j exp(sum_k x[i, k] y[k, j])
    let mut m = Maker::new(&[s("M")]);
    let x = m.input(DType::F32, &[s("M"), s("K")]);
    let y = m.input(DType::F32, &[s("K"), s("N")]);
    let j = m.axis(s("N"));
    let inner = m.contract(s("K"), (x, &|k| vec![a(0), k]), (y, &|k| vec![k, a(j.index())]));
    let quarter = m.push(DType::F32, Element::Constant(Literal::from_f64(DType::F32, 0.25)));
    let inner = m.apply(ScalarOp::Mul, &[inner, quarter]);
    let e = m.apply(ScalarOp::Exp, &[inner]);
    let sum = m.reduce(ReduceOp::Sum, &[j], e);
    m.store(sum);
    let graph = m.finish();
    for (rows, n, k) in [(3, 9, 5), (1, 4, 4), (2, 0, 3), (2, 3, 0)] {
        check_at(
            &graph,
            &[("M", rows), ("N", n), ("K", k)],
            Tolerance { ulp: 8.0, absolute: 1e-5, relative: 1e-5 },
        );
    }
}

#[test]
fn gathers_clamp_their_indices_and_read_nothing_of_an_empty_table() {
    let mut m = Maker::new(&[s("T"), s("E")]);
    let table = m.input(DType::F32, &[s("V"), s("E")]);
    let ids = m.input(DType::I64, &[s("T")]);
    let id = m.load(ids, &[a(0)]);
    let index = [Coordinate::Dynamic(id), Coordinate::Static(a(1))].into_iter().collect();
    let row = m.push(DType::F32, Element::Load { buffer: table, index });
    m.store(row);
    let graph = m.finish();
    for (t, v, e) in [(5, 4, 9), (3, 20, 1), (2, 1, 8)] {
        check_at(&graph, &[("T", t), ("V", v), ("E", e)], Tolerance::EXACT);
    }
    // The interpreter of kernel graphs refuses empty tables; here only the bounds are checked.
    let dims = env(&[("T", 3), ("V", 0), ("E", 6)]);
    let zeros = vec![0.0f64; 18];
    let mut data = inputs(&graph, &dims);
    data[0] = fuse_ir::Tensor::zeros(DType::F32, &[0, 6]).unwrap();
    let expected = [fuse_ir::Tensor::from_values(&[3, 6], &zeros).unwrap()];
    kernel_support::check_against(&graph, &data, &dims, &expected, Tolerance::EXACT);
}

#[test]
fn padding_clamps_and_selects() {
    // pad([N] -> [N + 3], 2 before, 1 after)
    let mut m = Maker::new(&[s("N") + c(3)]);
    let x = m.input(DType::F32, &[s("N")]);
    let inside = (a(0) - c(2)).minimum(&(s("N") - c(1))).maximum(&c(0));
    let x = m.load(x, &[inside]);
    let i = m.push(DType::I64, Element::Index(a(0)));
    let low = m.push(DType::I64, Element::Constant(Literal::from_i64(DType::I64, 2)));
    let high = m.push(DType::I64, Element::Index(s("N") + c(2)));
    let (from, below) = (m.apply(ScalarOp::Ge, &[i, low]), m.apply(ScalarOp::Lt, &[i, high]));
    let valid = m.apply(ScalarOp::And, &[from, below]);
    let fill = m.push(DType::F32, Element::Constant(Literal::from_f64(DType::F32, -1.0)));
    let out = m.apply(ScalarOp::Select, &[valid, x, fill]);
    m.store(out);
    let graph = m.finish();
    for n in [1, 2, 9, 40] {
        check_at(&graph, &[("N", n)], Tolerance::EXACT);
    }
}

#[test]
fn transposed_strided_and_reversed_views_are_indices() {
    let mut m = Maker::new(&[s("M"), s("N")]);
    let x = m.input(DType::F32, &[s("N"), s("M")]);
    let y = m.input(DType::F32, &[c(2) * s("M"), s("N")]);
    let z = m.input(DType::I32, &[s("M") * s("N")]);
    let x = m.load(x, &[a(1), a(0)]);
    let y = m.load(y, &[c(2) * a(0) + c(1), s("N") - c(1) - a(1)]);
    let flat = a(0) * s("N") + a(1);
    let z = m.load(z, std::slice::from_ref(&flat));
    let z = m.push(DType::F32, Element::Cast(z));
    let row = m.push(DType::F32, Element::Index(flat.floor_div(&c(3))));
    let sum = m.apply(ScalarOp::Add, &[x, y]);
    let sum = m.apply(ScalarOp::Add, &[sum, z]);
    let sum = m.apply(ScalarOp::Add, &[sum, row]);
    m.store_at(sum, &[s("N"), s("M")], &[a(1), a(0)]);
    let graph = m.finish();
    for (rows, n) in [(1, 1), (5, 6), (4, 17)] {
        check_at(&graph, &[("M", rows), ("N", n)], CLOSE);
    }
}

#[test]
fn every_elementwise_op_of_every_type_agrees() {
    for op in ScalarOp::ALL {
        for dtype in DType::ALL.into_iter().filter(|d| op.domain().contains(*d)) {
            let mut m = Maker::new(&[s("N")]);
            let mut operands = Vec::new();
            for position in 0..op.arity() {
                let boolean = *op == ScalarOp::Select && position == 0;
                let buffer = m.input(if boolean { DType::Bool } else { dtype }, &[s("N")]);
                operands.push(m.load(buffer, &[a(0)]));
            }
            let result = m.apply(*op, &operands);
            m.store(result);
            let ulp = op.tolerance_ulp().max(if dtype.is_float() { 0.5 } else { 0.0 });
            check_at(&m.finish(), &[("N", 21)], Tolerance::ulp(ulp));
        }
    }
}

#[test]
fn casts_between_all_types_agree() {
    for from in DType::ALL {
        for to in DType::ALL {
            let mut m = Maker::new(&[s("N")]);
            let x = m.input(from, &[s("N")]);
            let x = m.load(x, &[a(0)]);
            let y = m.push(to, Element::Cast(x));
            m.store(y);
            check_at(&m.finish(), &[("N", 13)], Tolerance::ulp(0.5));
        }
    }
}

#[test]
fn a_malformed_kernel_is_an_error() {
    let mut m = Maker::new(&[s("N")]);
    let x = m.input(DType::F32, &[s("N")]);
    let load = m.load(x, &[a(3)]);
    m.store(load);
    let graph = m.finish();
    let Step::Kernel(kernel) = &graph.steps[0] else { panic!("one kernel") };
    let result = schedule(&graph, kernel, ScheduleTarget::cpu());
    assert!(matches!(result, Err(ScheduleError::Malformed { .. })), "{result:?}");
}

/// As [`check_at`], with a warp a row, and with larger teams.
fn check_rows_at(graph: &fuse_ir::kernel::KernelGraph, dims: &[(&str, i64)], tolerance: Tolerance) {
    check_at(graph, dims, tolerance);
    let env = env(dims);
    check_large_blocks(graph, &inputs(graph, &env), &env, tolerance);
}

/// Softmax over rows of `columns`, with a factor that all rows share.
fn softmax(dtype: DType, columns: Dim) -> fuse_ir::kernel::KernelGraph {
    let mut m = Maker::new(&[s("B"), columns.clone()]);
    let input = m.input(dtype, &[s("B"), columns.clone()]);
    let shared = m.input(dtype, std::slice::from_ref(&columns));
    let scaled = |m: &mut Maker, column: fuse_ir::Expr| {
        let (x, factor) = (m.load(input, &[a(0), column.clone()]), m.load(shared, &[column]));
        m.apply(ScalarOp::Mul, &[x, factor])
    };
    softmax_of(m, columns, scaled)
}

/// The kernel that stores the softmax of what `element` makes at each of so many columns, the last axis of the space.
fn softmax_of(
    mut m: Maker,
    columns: Dim,
    element: impl Fn(&mut Maker, fuse_ir::Expr) -> ElementId,
) -> fuse_ir::kernel::KernelGraph {
    let axis = m.axis(columns.clone());
    let x = element(&mut m, a(axis.index()));
    let most = m.reduce(ReduceOp::Max, &[axis], x);
    let axis = m.axis(columns);
    let x = element(&mut m, a(axis.index()));
    let below = m.apply(ScalarOp::Sub, &[x, most]);
    let below = m.apply(ScalarOp::Exp, &[below]);
    let sum = m.reduce(ReduceOp::Sum, &[axis], below);
    let x = element(&mut m, a(1));
    let below = m.apply(ScalarOp::Sub, &[x, most]);
    let below = m.apply(ScalarOp::Exp, &[below]);
    let share = m.apply(ScalarOp::Div, &[below, sum]);
    m.store(share);
    m.finish()
}

#[test]
fn rows_of_every_length_are_right() {
    // Whole vectors, vectors and threads left over, odd lengths, and more than the registers of a small block hold.
    for columns in [64, 65, 96, 333, 512, 1036, 2100] {
        let graph = softmax(DType::F32, c(columns));
        for rows in [0, 1, if columns < 100 { 5 } else { 2 }] {
            check_rows_at(&graph, &[("B", rows)], Tolerance { ulp: 16.0, absolute: 1e-6, relative: 1e-5 });
        }
    }
    let graph = softmax(DType::F32, s("N"));
    for (rows, columns) in [(0, 3), (3, 0), (1, 1), (5, 63), (2, 513)] {
        let tolerance = Tolerance { ulp: 16.0, absolute: 1e-6, relative: 1e-5 };
        check_rows_at(&graph, &[("B", rows), ("N", columns)], tolerance);
    }
}

/// Softmax over so many positions of the products of a row with a row each, of that width: the scores of attention.
fn attention(dtype: DType, positions: Dim, width: Dim) -> fuse_ir::kernel::KernelGraph {
    let mut m = Maker::new(&[s("B"), positions.clone()]);
    let state = m.input(dtype, &[s("B"), width.clone()]);
    let keys = m.input(dtype, &[positions.clone(), s("B"), width.clone()]);
    let score = |m: &mut Maker, position: fuse_ir::Expr| {
        let k = m.axis(width.clone());
        let x = m.load(state, &[a(0), a(k.index())]);
        let y = m.load(keys, &[position, a(0), a(k.index())]);
        let product = m.apply(ScalarOp::Mul, &[x, y]);
        m.reduce(ReduceOp::Sum, &[k], product)
    };
    softmax_of(m, positions, score)
}

#[test]
fn rows_of_sums_are_right() {
    let tolerance = Tolerance { ulp: 64.0, absolute: 1e-5, relative: 1e-4 };
    // Sums that the lanes of a warp share, whole vectors and not, and sums that are a thread's.
    for width in [c(32), c(37), c(256), c(8), s("K")] {
        for (positions, lengths) in [(c(7), &[0][..]), (c(70), &[0]), (s("N"), &[0, 1, 33, 65])] {
            let graph = attention(DType::F32, positions, width.clone());
            for n in lengths {
                check_rows_at(&graph, &[("B", 2), ("N", *n), ("K", 40)], tolerance);
            }
        }
    }
    check_rows_at(&attention(DType::F64, c(9), c(40)), &[("B", 3)], tolerance);
    let near = Tolerance { ulp: 4.0, absolute: 1e-3, relative: 2e-2 };
    check_rows_at(&attention(DType::F16, c(9), c(40)), &[("B", 3)], near);
}

#[test]
fn the_scores_of_a_row_are_computed_by_a_block() {
    let graph = attention(DType::F32, s("N"), c(256));
    let Step::Kernel(kernel) = &graph.steps[0] else { panic!("one kernel") };
    let function = schedule(&graph, kernel, ScheduleTarget::gpu()).expect("schedules");
    assert_eq!(function.mapping, Mapping::Blocks { threads: 256 });
    assert_eq!(function.work, s("B"));
}

#[test]
fn rows_that_no_registers_hold_are_right() {
    for columns in [9000, 9001] {
        let mut m = Maker::new(&[s("M")]);
        let x = m.input(DType::F32, &[s("M"), c(columns)]);
        let k = m.axis(c(columns));
        let x = m.load(x, &[a(0), a(k.index())]);
        let most = m.reduce(ReduceOp::Max, &[k], x);
        m.store(most);
        check_rows_at(&m.finish(), &[("M", 2)], CLOSE);
    }
}

#[test]
fn rows_of_every_type_are_right() {
    for dtype in [DType::F16, DType::Bf16, DType::F64] {
        let tolerance = Tolerance { ulp: 4.0, absolute: 1e-4, relative: 1e-2 };
        check_rows_at(&softmax(dtype, c(72)), &[("B", 5)], tolerance);
        check_rows_at(&softmax(dtype, c(520)), &[("B", 2)], tolerance);
    }
    for dtype in [DType::F32, DType::F64, DType::I32, DType::I64, DType::U8, DType::F16, DType::Bf16] {
        for op in ReduceOp::ALL {
            for columns in [c(640), c(77), s("K")] {
                let mut m = Maker::new(&[s("M")]);
                let x = m.input(dtype, &[s("M"), columns.clone()]);
                let k = m.axis(columns);
                let x = m.load(x, &[a(0), a(k.index())]);
                let r = m.reduce(op, &[k], x);
                m.store(r);
                let tolerance = match dtype {
                    DType::F16 | DType::Bf16 => Tolerance { ulp: 2.0, absolute: 2e-3, relative: 1e-2 },
                    _ => Tolerance { ulp: 32.0, absolute: 1e-4, relative: 1e-4 },
                };
                check_rows_at(&m.finish(), &[("M", 5), ("K", 70)], tolerance);
            }
        }
    }
}

#[test]
fn a_team_of_threads_has_one_place_for_one_row() {
    for (columns, threads) in [(64, 128), (512, 128), (1024, 64), (4096, 256), (16384, 512)] {
        let graph = softmax(DType::F32, c(columns));
        let Step::Kernel(kernel) = &graph.steps[0] else { panic!("one kernel") };
        let function = schedule(&graph, kernel, ScheduleTarget::gpu()).unwrap();
        assert_eq!(function.mapping, Mapping::Blocks { threads }, "{columns} columns");
        // Each thread loads its part of a row and of the factors once for all passes.
        let text = fuse_codegen::text::print(&function);
        let loads = text.matches("load p").count() as i64;
        let team = if threads == 128 { 32 } else { i64::from(threads) };
        assert_eq!(loads, 2 * (columns / 4 / team).max(1), "{columns} columns\n{text}");
    }
}

/// Values repeat every eight columns, so that every extreme has equals in the same vector, in the lanes of other threads
/// and in other warps.
#[test]
fn the_first_of_equal_extremes_counts_and_so_does_the_first_nan() {
    let cases = [(640, None), (640, Some(f64::NAN)), (333, Some(f64::NAN)), (2560, Some(f64::NAN))];
    for ((columns, special), op) in
        cases.into_iter().flat_map(|c| [(c, ReduceOp::ArgMax), (c, ReduceOp::ArgMin)])
    {
        for dtype in [DType::F32, DType::F64, DType::Bf16] {
            let mut m = Maker::new(&[c(3)]);
            let x = m.input(dtype, &[c(3), c(columns)]);
            let k = m.axis(c(columns));
            let x = m.load(x, &[a(0), a(k.index())]);
            let position = m.reduce(op, &[k], x);
            m.store(position);
            let graph = m.finish();
            let mut values: Vec<f64> = (0..3 * columns).map(|i| ((i * 7) % 8) as f64 - 3.5).collect();
            // The last row is infinite throughout, as far from being chosen as a number can be.
            let last = 2 * columns as usize;
            let worst = if op == ReduceOp::ArgMax { f64::NEG_INFINITY } else { f64::INFINITY };
            values[last..].fill(worst);
            for at in [last - 1, last - 100] {
                values[at] = special.unwrap_or(values[at]);
            }
            let input = tensor_of(dtype, &[3, columns as usize], &values);
            let exact = Tolerance { ulp: 0.0, absolute: 0.0, relative: 0.0 };
            check(&graph, std::slice::from_ref(&input), &env(&[]), exact);
            check_large_blocks(&graph, &[input], &env(&[]), exact);
        }
    }
}

/// `y[p, b, n, l] = Σ_k x[p, b, k] · w[n, k, l]` with `p` of two and `n` of three, and the same over `v` beside it.
fn products_with_panels(rows: fuse_ir::Dim, inner: i64, width: i64) -> fuse_ir::kernel::KernelGraph {
    let space = [c(2), rows.clone(), c(3), c(width)];
    let mut m = Maker::new(&space);
    let x = m.input(DType::F32, &[c(2), rows, c(inner)]);
    let weights = [0, 1].map(|_| m.input(DType::F32, &[c(3), c(inner), c(width)]));
    for w in weights {
        let axis = m.axis(c(inner));
        let k = a(axis.index());
        let (x, w) = (m.load(x, &[a(0), a(1), k.clone()]), m.load(w, &[a(2), k, a(3)]));
        let product = m.apply(ScalarOp::Mul, &[x, w]);
        let sum = m.reduce(ReduceOp::Sum, &[axis], product);
        m.store(sum);
    }
    m.finish()
}

/// `y[b, n] = Σ_k x[b, k] · w[k, n]`, or of `w[n, k]`, in panels of `width` columns whose last one begins where it ends with
/// the last column.
fn products_with_a_matrix(
    rows: fuse_ir::Dim,
    (inner, columns): (i64, i64),
    width: i64,
    transposed: bool,
) -> fuse_ir::kernel::KernelGraph {
    let mut m = Maker::new(&[rows.clone(), c((columns + width - 1) / width), c(width)]);
    let x = m.input(DType::F32, &[rows.clone(), c(inner)]);
    let (k_axis, column) = (m.axis(c(inner)), (c(width) * a(1)).minimum(&c(columns - width)) + a(2));
    let (k, shape) = (a(k_axis.index()), if transposed { [columns, inner] } else { [inner, columns] });
    let w = m.input(DType::F32, &shape.map(c));
    let at = if transposed { [column.clone(), k.clone()] } else { [k.clone(), column.clone()] };
    let (x, w) = (m.load(x, &[a(0), k]), m.load(w, &at));
    let product = m.apply(ScalarOp::Mul, &[x, w]);
    let sum = m.reduce(ReduceOp::Sum, &[k_axis], product);
    m.store_at(sum, &[rows, c(columns)], &[a(0), column]);
    m.finish()
}

#[test]
fn products_with_a_matrix_as_it_is_are_right_for_every_number_of_rows() {
    for (size, width) in [((33, 32), 16), ((9, 50), 16), ((150, 96), 48)] {
        for (rows, transposed) in [1, 3, 18, 300].into_iter().flat_map(|r| [(r, false), (r, true)]) {
            let graph = products_with_a_matrix(s("B"), size, width, transposed);
            let env = env(&[("B", rows)]);
            let near = Tolerance { ulp: 0.0, absolute: 1e-4, relative: 1e-5 };
            check_products(&graph, &inputs(&graph, &env), &env, near);
        }
    }
}

#[test]
fn products_with_panels_are_right_for_every_number_of_rows() {
    let check = |graph: &fuse_ir::kernel::KernelGraph, dims: &[(&str, i64)]| {
        let env = env(dims);
        check_products(graph, &inputs(graph, &env), &env, CLOSE);
    };
    for (inner, width) in [(1, 16), (33, 16), (9, 48), (5, 12)] {
        for rows in [0, 1, 2, 3, 9, 17] {
            check(&products_with_panels(s("B"), inner, width), &[("B", rows)]);
        }
        check(&products_with_panels(c(1), inner, width), &[]);
    }
}

/// A CPU with 32 vector registers of 512 bits, whatever this machine is.
const WIDE: ScheduleTarget =
    ScheduleTarget::Cpu { vector_bits: 512, accumulators: 16, prefetches: true, panel_lanes: None };

/// The work items of a program's first kernel there.
fn work_items(graph: &fuse_ir::kernel::KernelGraph, dims: &fuse_ir::DimEnv) -> i64 {
    let Some(Step::Kernel(kernel)) = graph.steps.first() else { panic!("a kernel") };
    schedule(graph, kernel, WIDE).unwrap().work.eval_dim(dims).unwrap()
}

/// Eight sums of products of the rows of one input, of which pairs are multiplied: neighbours, or those four apart.
fn eight_gates(apart: usize) -> fuse_ir::kernel::KernelGraph {
    let mut m = Maker::new(&[s("B"), c(32)]);
    let x = m.input(DType::F32, &[s("B"), c(5)]);
    let weights = [0; 8].map(|_| m.input(DType::F32, &[c(5), c(32)]));
    let gates = weights.map(|w| {
        let sum = m.contract(c(5), (x, &|k| vec![a(0), k]), (w, &|k| vec![k, a(1)]));
        m.apply(ScalarOp::Tanh, &[sum])
    });
    let firsts = (0..8).filter(|gate| (gate / apart).is_multiple_of(2));
    let pairs: Vec<ElementId> =
        firsts.map(|first| m.apply(ScalarOp::Mul, &[gates[first], gates[first + apart]])).collect();
    let all = pairs.into_iter().reduce(|left, right| m.apply(ScalarOp::Add, &[left, right]));
    m.store(all.unwrap());
    m.finish()
}

#[test]
fn sums_of_which_little_is_left_have_loops_of_their_own() {
    // Of four neighbours one value is left, for which there are registers beside four rows; of the first four of others all.
    for (apart, rows) in [(1, 4), (4, 2)] {
        let graph = eight_gates(apart);
        for batch in [0, 1, 2, 3, 4, 7, 8, 13] {
            let env = env(&[("B", batch)]);
            check_kernel_ir(&graph, &env, WIDE, CLOSE);
            let tiles = (batch / rows).max(i64::from(batch > 0));
            assert_eq!(work_items(&graph, &env), tiles, "{batch} rows");
        }
    }
}

/// `y[t, b, n] = Σ_k x[T-1-t, b, k] · w[k, n]`: no step leads from the rows of one `t` to those of the next.
fn product_of_a_reversed_sequence(rows: fuse_ir::Dim) -> fuse_ir::kernel::KernelGraph {
    let mut m = Maker::new(&[s("T"), rows.clone(), c(64)]);
    let x = m.input(DType::F32, &[s("T"), rows, c(5)]);
    let w = m.input(DType::F32, &[c(5), c(64)]);
    let from_the_end = s("T") - c(1) - a(0);
    let sum = m.contract(c(5), (x, &|k| vec![from_the_end.clone(), a(1), k]), (w, &|k| vec![k, a(2)]));
    m.store(sum);
    m.finish()
}

#[test]
fn tiles_of_rows_go_on_where_the_rows_of_a_step_end() {
    let graph = product_of_a_reversed_sequence(s("B"));
    for (steps, rows) in [(0, 3), (3, 0), (1, 1), (3, 1), (1, 3), (2, 2), (3, 3), (4, 3), (5, 5), (2, 9)] {
        let env = env(&[("T", steps), ("B", rows)]);
        check_kernel_ir(&graph, &env, WIDE, CLOSE);
        // An item is a tile of four rows; those that are left over go with the last one.
        let tiles = (steps * rows / 4).max(i64::from(steps * rows > 0));
        assert_eq!(work_items(&graph, &env), tiles, "{steps} steps of {rows} rows");
    }
    // Where four rows fill tiles anyway, none has rows of two steps.
    let whole = product_of_a_reversed_sequence(c(8));
    check_kernel_ir(&whole, &env(&[("T", 3)]), WIDE, CLOSE);
    assert_eq!(work_items(&whole, &env(&[("T", 3)])), 6);
}

#[test]
fn the_routine_takes_products_alone() {
    let Some(lanes) = fuse_codegen::cranelift::panel_lanes() else { return };
    let is_product = |graph: &fuse_ir::kernel::KernelGraph| {
        let Some(Step::Kernel(kernel)) = graph.steps.first() else { panic!("a kernel") };
        let function = schedule(graph, kernel, ScheduleTarget::cpu_with_panels(lanes)).unwrap();
        fuse_codegen::text::print(&function).contains("  product ")
    };
    assert!(is_product(&products_with_panels(s("B"), 40, i64::from(lanes) * 2)));
    assert!(!is_product(&products_with_panels(s("B"), 40, i64::from(lanes) + 1)));
    let columns = |n: i64| n * i64::from(lanes);
    for transposed in [false, true] {
        let of = |n| products_with_a_matrix(s("B"), (40, n), columns(2), transposed);
        assert!(is_product(&of(columns(14))));
        assert!(!is_product(&of(columns(13))), "two panels have results in common");
    }
    assert!(!is_product(&lstm_step(s("B"), 24, Weights::Rows)));
}
