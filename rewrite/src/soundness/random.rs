//! Random graphs under the rules.

use std::time::{Duration, Instant};

use egg::{Rewrite, Runner};
use fuse_ir::testing::{GraphConfig, arb_dims, arb_graph, dims_for, inputs_for};
use fuse_ir::{DType, DimEnv, Graph, Literal, Tensor};
use proptest::prelude::*;

use super::evaluate::{Agreement, Evaluator};
use super::trials;
use crate::analysis::{Context, Terms};
use crate::ingest::ingest;
use crate::language::Term;
use crate::optimize::{Options, saturate};
use crate::provenance::Record;
use crate::push::{Pusher, look_through_table_views};
use crate::rules::{Contract, Limits, catalogue, rewrites, rule_name};

/// A graph that prints as text.
struct Shown(Graph);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

fn graphs(config: GraphConfig) -> impl Strategy<Value = Shown> {
    arb_graph(config).prop_map(Shown)
}

/// Inputs of all kinds for floats: zeros of both signs, infinities, NaN, numbers at the ends of the range.
pub fn special_inputs(graph: &Graph, dims: &DimEnv, seed: u64) -> Vec<Tensor> {
    let special =
        [0.0, -0.0, 1.0, -1.0, 0.5, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-40, 3e38, 1e-310];
    let mut inputs = inputs_for(graph, dims, seed).expect("small inputs");
    for (k, tensor) in inputs.iter_mut().enumerate() {
        let dtype = tensor.dtype();
        if !dtype.is_float() {
            continue;
        }
        for (i, chunk) in tensor.bytes_mut().chunks_exact_mut(dtype.size()).enumerate() {
            let draw = (seed as usize).wrapping_mul(31).wrapping_add(k * 17 + i * 7);
            if let Some(value) = special.get(draw % 16) {
                let bits = Literal::from_f64(dtype, *value).bits().to_le_bytes();
                chunk.copy_from_slice(&bits[..dtype.size()]);
            }
        }
    }
    inputs
}

/// The e-graph of a graph under some rules and the pushing of views.
pub fn under_rules(graph: &Graph, rules: &[&Rewrite<Term, Context>]) -> Terms {
    let ingested = ingest(graph).expect("a small graph");
    let mut pusher = Pusher::new(&ingested.stacked);
    let mut terms = ingested.terms;
    let limits = Limits { nodes: 4000, deadline: Instant::now() + Duration::from_secs(60) };
    terms.analysis.limits = Some(limits);
    for _ in 0..2 {
        look_through_table_views(&mut terms);
        pusher.run(&mut terms, limits.nodes);
        let runner = Runner::<_, _, ()>::new(Context::default()).with_egraph(terms).with_iter_limit(6);
        terms = runner.with_node_limit(limits.nodes).run(rules.iter().copied()).egraph;
    }
    terms
}

fn exact_rules() -> Vec<&'static Rewrite<Term, Context>> {
    let exact: Vec<_> = catalogue().into_iter().filter(|r| r.contract == Contract::Exact).collect();
    let is_exact =
        |rewrite: &&Rewrite<Term, Context>| exact.iter().any(|r| r.name == rule_name(rewrite.name.as_str()));
    rewrites(true).expect("the rules compile").iter().filter(is_exact).collect()
}

fn agrees(terms: &Terms, dims: &DimEnv, inputs: &[Tensor], how: Agreement) -> Result<(), TestCaseError> {
    let problems = Evaluator::new(terms, dims, inputs).disagreements(how);
    if problems.is_empty() { Ok(()) } else { Err(TestCaseError::fail(problems.join("\n"))) }
}

/// Types whose constants fold to what is computed: folding rounds to the declared type.
fn wide() -> GraphConfig {
    GraphConfig { dtypes: vec![DType::F64, DType::I32, DType::I64, DType::U8], ..GraphConfig::default() }
}

/// Whether a graph that grows much saturates within the limits of every compilation, and how far: a sum of a product
/// of tensors that are padded again and again is as many sums as the product has parts, over a space each.
fn comes_to_an_end(graph: &Graph) -> bool {
    let (_, stats) = saturate(graph, &Options::default(), Record::default()).expect("a small graph");
    stats.stop == "Saturated" && stats.nodes <= 60 * stats.nodes_before + 200
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: trials(100) as u32,
        max_shrink_iters: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn exact_rules_keep_every_value_of_random_graphs(
        graph in graphs(GraphConfig::default()),
        dims in arb_dims(),
        seed in 0u64..1000,
    ) {
        let dims = dims_for(&graph.0, &dims);
        let terms = under_rules(&graph.0, &exact_rules());
        agrees(&terms, &dims, &special_inputs(&graph.0, &dims, seed), Agreement::Exact)?;
    }

    #[test]
    fn all_rules_keep_the_values_of_random_graphs_within_tolerances(
        graph in graphs(wide()),
        dims in arb_dims(),
        seed in 0u64..1000,
    ) {
        let dims = dims_for(&graph.0, &dims);
        let inputs = inputs_for(&graph.0, &dims, seed).expect("small inputs");
        let (ingested, stats) =
            saturate(&graph.0, &Options { node_limit: 3000, ..Options::default() }, Record::default()).expect("a small graph");
        // Rules that feed each other without end show here.
        let is_small = stats.nodes <= 20 * stats.nodes_before + 200;
        prop_assert!(is_small || comes_to_an_end(&graph.0), "{stats:?}");
        agrees(&ingested.terms, &dims, &inputs, Agreement::Within(1e-7))?;
    }
}

/// What a graph reads of an empty tensor, in a part of a concatenation that is never taken, is a constant; it must not
/// make that constant equal to what the empty tensor is a view of.
#[test]
fn constants_are_no_views_of_what_an_empty_tensor_is_a_view_of() {
    let graph = fuse_ir::parse(
        "graph g(x: bool[2, B], n: i32[B]) -> (y: bool[2, B], z: bool[2, B]) {
           %1 = xor x, x
           %2 = gather %1, n axis=1
           %3 = slice %1 start=[0, 0] length=[0, B]
           %4 = concat %1, %3 axis=0
           return y = %4, z = %2
         }",
    )
    .expect("the graph is well-formed");
    for b in 0..4 {
        let dims = DimEnv::new().with("B", b);
        let terms = under_rules(&graph, &exact_rules());
        let inputs = special_inputs(&graph, &dims, 5);
        agrees(&terms, &dims, &inputs, Agreement::Exact).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// Where there is a row there is one to gather, and comparisons with itself hold, but rows padded to an empty tensor are
/// gathered from nothing.
#[test]
fn what_holds_for_every_row_of_an_empty_tensor_does_not_hold_for_its_padding() {
    let padded_rows = "graph g(x: i32[T, 5]) -> (y: i32[T + 2, 5, 5]) {
       %1 = relu x
       %2 = gather %1, x axis=0
       %3 = pad %2 low=[1, 0, 0] high=[1, 0, 0] value=1
       return y = %3
     }";
    let padded_truth = "graph g(x: i32[T, B]) -> (y: bf16[T + 4, B + 3, B + 2]) {
       %1 = gather x, x axis=0
       %2 = le %1, %1
       %3 = cast %2 : bf16[T, B, B]
       %4 = pad %3 low=[2, 1, 2] high=[2, 2, 0] value=0.25
       return y = %4
     }";
    for graph in [padded_rows, padded_truth].map(|text| fuse_ir::parse(text).expect("well-formed")) {
        for t in 0..3 {
            let dims = DimEnv::new().with("T", t).with("B", 3);
            let terms = under_rules(&graph, &exact_rules());
            let inputs = special_inputs(&graph, &dims, 5);
            agrees(&terms, &dims, &inputs, Agreement::Exact).unwrap_or_else(|e| panic!("{e}"));
        }
    }
}
