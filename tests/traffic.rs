//! What a step of a loop that is one launch moves and what it loses to shared memory, counted on the simulated GPU: the
//! projected inputs, the state once a block, and what it writes; no weights, and no bank conflicts.
#![cfg(feature = "llvm")]

use std::collections::BTreeSet;

use fuse::codegen::kernel_ir::{Function, Operation, Statement};
use fuse::codegen::schedule::LoopForm;
use fuse::frontend::zoo::cells::{
    Gru, LayerNormLstm, Lstm, MultiplicativeLstm, PeepholeLstm, Sru, StabilisedLstm,
};
use fuse::frontend::zoo::{Cell, StackForm, stack_of};
use fuse::ir::{Graph, InputKind};
use fuse::runtime::sim::Counters;
use fuse::{CompileOptions, Compiled, Device, DimEnv, ProductPrecision, Target};

const F32: i64 = 4;
const SECTOR: i64 = 32;
const BOTH: StackForm = StackForm { bidirectional: true, ..StackForm::ONE_LAYER };

fn compiled(graph: &Graph, precision: ProductPrecision, loops: LoopForm) -> Compiled {
    let options = CompileOptions { precision, loops, ..CompileOptions::new(Target::Cuda) };
    fuse::compile(graph, &options).expect("compiles")
}

fn cell<const N: usize, C: Cell<N>>(hidden: i64, form: StackForm) -> Graph {
    stack_of::<N, C>("cell", 4, hidden, form).expect("traces")
}

/// The same model with all its numbers in bf16.
fn in_bf16(graph: &Graph) -> Graph {
    fuse::ir::parse(&graph.to_string().replace("f32", "bf16")).expect("parses")
}

/// What the only loop counts on the simulated GPU.
fn counted(compiled: &Compiled, rows: i64, steps: i64) -> Counters {
    let device = Device::sim(&Default::default()).expect("a simulated GPU is always there");
    let mut executable = compiled.load(&device).expect("loads");
    let dims = DimEnv::new().with("T", steps).with("B", rows);
    let values = fuse::random::values_for(&compiled.graph, &dims, 1).expect("dimensions are given");
    let (parameters, inputs) = fuse::random::by_kind(&compiled.graph, &values);
    executable.bind(parameters).expect("binds");
    executable.run(&inputs, &dims).expect("runs");
    let counters = device.counters().expect("the simulated GPU counts");
    let (_, of_loop) = counters.into_iter().find(|(name, _)| name.starts_with("steps_")).expect("one loop");
    of_loop
}

/// What one more step than `last` adds: sectors of 32 bytes, bytes read, bytes written, turns lost to shared memory.
fn traffic_of_a_step(compiled: &Compiled, rows: i64, last: i64) -> [i64; 4] {
    let [before, after] = [last, last + 1].map(|steps| {
        let c = counted(compiled, rows, steps);
        [c.global_sectors, c.global_read, c.global_written, c.bank_conflicts].map(|n| n as i64)
    });
    std::array::from_fn(|i| after[i] - before[i])
}

/// A step of an LSTM reads the projected inputs once and the state once a block, and writes the state and the output; the
/// blocks meet with an addition and a look each. That is all of its traffic, on tensor cores or not, also where a block has
/// no rows for all its threads or no products for all its warps: the memory cell stays on chip.
#[test]
fn a_step_moves_its_inputs_the_state_once_a_block_and_its_output() {
    // The first step reads the memory cell, and the last one writes it, in both runs.
    let last = 2;
    // Three columns a block are parts of one sector or of two; 272 are 17 products of 16.
    for (hidden, rows, precision) in [
        (272, 16, ProductPrecision::F32),
        (256, 3, ProductPrecision::F32),
        (272, 4, ProductPrecision::F32),
        (272, 16, ProductPrecision::Bf16),
        (256, 3, ProductPrecision::Bf16),
        (256, 16, ProductPrecision::Tf32),
    ] {
        let compiled = compiled(&cell::<2, Lstm>(hidden, StackForm::ONE_LAYER), precision, LoopForm::Grid);
        let multiprocessors = i64::from(compiled.gpu.multiprocessors);
        // The columns of a block, in the last one fewer.
        let units = (hidden + multiprocessors - 1) / multiprocessors;
        let firsts: Vec<i64> = (0..hidden).step_by(units as usize).collect();
        // Of rows that begin at some elements, and have so many of each column side by side.
        let sectors_of = |row_starts: &mut dyn Iterator<Item = i64>, of_column: i64| {
            let of_block = |start: i64, first: i64| {
                let (begin, end) = (first * of_column, (first + units).min(hidden) * of_column);
                ((start + end) * F32 - 1) / SECTOR - (start + begin) * F32 / SECTOR + 1
            };
            row_starts
                .map(|start| firsts.iter().map(|first| of_block(start, *first)).sum::<i64>())
                .sum::<i64>()
        };
        let of_states = sectors_of(&mut (0..rows).map(|row| row * hidden), 1);
        let of_inputs = sectors_of(&mut (0..rows).map(|row| (last * rows + row) * 4 * hidden), 4);
        let of_outputs = sectors_of(&mut (0..rows).map(|row| (last * rows + row) * hidden), 1);
        let state = rows * hidden * F32;
        let blocks = firsts.len() as i64;
        let [sectors, read, written, conflicts] = traffic_of_a_step(&compiled, rows, last);
        let least = blocks * state / SECTOR + of_inputs + of_states + of_outputs + 2 * multiprocessors;
        let what = format!("{rows} rows of {hidden} with factors of {precision}");
        assert_eq!(sectors, least, "sectors, {what}");
        assert_eq!(conflicts, 0, "bank conflicts, {what}");
        assert_eq!(written, 2 * state + F32 * multiprocessors, "bytes written, {what}");
        // Lanes that sum up neighbouring columns ask for the same bytes, which count for each; tensor cores share them.
        if precision != ProductPrecision::F32 {
            assert_eq!(read, blocks * state + 4 * state + 2 * F32 * multiprocessors, "bytes read, {what}");
        }
    }
}

/// What a cell carries beside the state that it multiplies costs no traffic: a step with four states moves as much as one
/// with two, whatever numbers are rounded to.
#[test]
fn states_that_points_read_alone_cost_no_traffic() {
    let (hidden, rows) = (272, 4);
    let one = StackForm::ONE_LAYER;
    let lstm = cell::<2, Lstm>(hidden, one);
    for precision in [ProductPrecision::F32, ProductPrecision::Tf32, ProductPrecision::Bf16] {
        let [expected, others @ ..] = [
            lstm.clone(),
            cell::<4, StabilisedLstm>(hidden, one),
            cell::<2, MultiplicativeLstm>(hidden, one),
            in_bf16(&lstm),
            in_bf16(&cell::<4, StabilisedLstm>(hidden, one)),
        ]
        .map(|graph| traffic_of_a_step(&compiled(&graph, precision, LoopForm::Grid), rows, 2));
        let [slstm, multiplicative, narrow, narrow_slstm] = others;
        assert_eq!([slstm, multiplicative], [expected; 2], "with factors of {precision}");
        assert_eq!(narrow_slstm, narrow, "in bf16");
    }
    // A thread a point: what is written is the output and what the blocks meet with.
    let sru = stack_of::<1, Sru>("cell", hidden, hidden, one).expect("traces");
    let compiled = compiled(&sru, ProductPrecision::F32, LoopForm::Grid);
    let [_, _, written, _] = traffic_of_a_step(&compiled, rows, 2);
    assert_eq!(written, F32 * (rows * hidden + i64::from(compiled.gpu.multiprocessors)));
}

/// Blocks of a cluster have what they exchange on chip: a step writes the output, and nothing of states.
#[test]
fn a_step_of_a_cluster_writes_its_output_alone() {
    let (hidden, rows) = (80, 5);
    for graph in [cell::<2, Lstm>(hidden, StackForm::ONE_LAYER), cell::<1, Gru>(hidden, StackForm::ONE_LAYER)]
    {
        let compiled = compiled(&graph, ProductPrecision::F32, LoopForm::Clusters);
        let [_, _, written, _] = traffic_of_a_step(&compiled, rows, 2);
        assert_eq!(written, F32 * rows * hidden, "{graph}");
    }
}

/// One, two, three, four and eight columns a block, of sums that are whole vectors and of others.
#[test]
fn steps_have_no_bank_conflicts() {
    let one = StackForm::ONE_LAYER;
    let lstm = |hidden| cell::<2, Lstm>(hidden, one);
    let graphs = [
        (lstm(48), LoopForm::Grid),
        (lstm(256), LoopForm::Grid),
        (lstm(333), LoopForm::Grid),
        (lstm(512), LoopForm::Grid),
        (cell::<1, Gru>(80, one), LoopForm::Grid),
        (cell::<1, Gru>(700, one), LoopForm::Grid),
        // Sixteen columns a block in the sums ahead of the normalisation.
        (cell::<2, LayerNormLstm>(333, one), LoopForm::Grid),
        (cell::<2, Lstm>(300, BOTH), LoopForm::Grid),
        (cell::<1, Gru>(250, one), LoopForm::Clusters),
    ];
    for (graph, loops) in graphs {
        for (graph, precision) in [
            (graph.clone(), ProductPrecision::F32),
            (graph.clone(), ProductPrecision::Tf32),
            (graph.clone(), ProductPrecision::Bf16),
            (in_bf16(&graph), ProductPrecision::F32),
        ] {
            let [.., conflicts] = traffic_of_a_step(&compiled(&graph, precision, loops), 3, 1);
            assert_eq!(conflicts, 0, "with factors of {precision}, {graph}");
        }
    }
}

/// The buffers that a step loads.
fn loaded_in_steps(function: &Function) -> BTreeSet<&str> {
    fn collect<'f>(
        function: &'f Function,
        body: &'f [Statement],
        is_step: bool,
        out: &mut BTreeSet<&'f str>,
    ) {
        for statement in body {
            if let (true, Statement::Let { operation: Operation::Load { buffer, .. }, .. }) =
                (is_step, statement)
            {
                out.insert(&function.buffers[buffer.0 as usize].name);
            }
            let is_loop = matches!(statement, Statement::For { exchanged, .. } if !exchanged.is_empty());
            collect(function, statement.body(), is_step || is_loop, out);
        }
    }
    let mut out = BTreeSet::new();
    collect(function, &function.body, false, &mut out);
    out
}

/// Weights, biases, and the gains and biases of a normalisation wait in shared memory.
#[test]
fn steps_load_no_parameters() {
    let one = StackForm::ONE_LAYER;
    for graph in [
        cell::<2, Lstm>(333, one),
        cell::<1, Gru>(80, one),
        cell::<2, LayerNormLstm>(70, one),
        cell::<2, LayerNormLstm>(512, one),
        cell::<2, MultiplicativeLstm>(48, one),
        cell::<2, PeepholeLstm>(256, one),
        cell::<4, StabilisedLstm>(100, one),
    ] {
        for loops in [LoopForm::Grid, LoopForm::Clusters] {
            for precision in [ProductPrecision::F32, ProductPrecision::Bf16] {
                let compiled = compiled(&graph, precision, loops);
                let steps =
                    compiled.functions().expect("schedules").iter().find(|f| f.name.starts_with("steps_"));
                let loaded = loaded_in_steps(steps.expect("one loop"));
                let is_parameter = |name: &str| {
                    graph.inputs().iter().any(|i| i.kind == InputKind::Parameter && name.starts_with(&i.name))
                };
                assert!(loaded.contains("v"), "the projected inputs are not known by their name: {loaded:?}");
                assert!(!loaded.iter().any(|name| is_parameter(name)), "{loaded:?} in steps of {graph}");
            }
        }
    }
}
