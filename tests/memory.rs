//! The memory that a model takes on the CPU is what its plan says; by counting what is allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fuse::frontend::zoo::lstm_graph;
use fuse::ir::bytes::mapped_bytes;
use fuse::random::{by_kind, values_for};
use fuse::{CompileOptions, Device, DeviceOptions, DimEnv, Executable, Graph, HostTensor, Target, Tier};

/// Counts the bytes that are allocated, and the most there were. What LLVM allocates is not among them.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn took(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::SeqCst) + bytes;
    PEAK.fetch_max(live + mapped_bytes(), Ordering::SeqCst);
}

/// What is allocated, and what tensors have mapped.
fn live() -> usize {
    LIVE.load(Ordering::SeqCst) + mapped_bytes()
}

// SAFETY: the system's allocator does all the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller keeps the promises of this function, which are those of the other.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        took(size);
        LIVE.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time, since all of them count the same.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const MIB: usize = 1 << 20;
/// What all that is no tensor may take: graphs, kernels, functions, code.
const REST: usize = MIB;
/// The larger of an LSTM's two weights in the tests, both of `[4 * 512, 512]` f32.
const LARGEST_WEIGHT: usize = 4 * MIB;

/// So many steps that the MiB of a strip, which does not grow with them, is less than a tenth.
fn dims() -> DimEnv {
    DimEnv::new().with("T", 100).with("B", 16)
}

type Named = BTreeMap<String, HostTensor>;

struct Model {
    /// Loaded, without weights.
    executable: Executable,
    parameters: Named,
    inputs: Named,
    /// The bytes that were allocated without all of these but the inputs.
    base: usize,
}

fn load(tier: Tier) -> Model {
    let graph = lstm_graph(512, 512).expect("traces");
    let values = values_for(&graph, &dims(), 1).expect("dimensions are given");
    let (parameters, inputs) = by_kind(&graph, &values);
    drop(values);
    let weights: usize = parameters.values().map(|t| t.bytes().len()).sum();
    let base = live() - weights;
    Model { executable: executable(&graph, tier), parameters, inputs, base }
}

fn executable(graph: &Graph, tier: Tier) -> Executable {
    let device = Device::cpu(&DeviceOptions { threads: Some(2), ..DeviceOptions::default() });
    let options = CompileOptions { tier, ..CompileOptions::new(Target::Cpu) };
    let compiled = fuse::compile(graph, &options).expect("compiles");
    compiled.load(&device.expect("a team of threads starts")).expect("loads")
}

/// Compares what is allocated, beside the inputs, with the plan.
fn holds_what_is_planned(model: &Model, when: &str) {
    let plan = model.executable.plan(&dims()).expect("plans");
    let planned = (plan.peak_bytes() - plan.input_bytes) as usize;
    let held = live() - model.base;
    assert!(held.abs_diff(planned) < REST, "{when}: {held} bytes are held\n{plan}");
}

/// Weights, inputs, outputs, and the state of one step: four vectors of `[B, H]` with both halves of `h` and `c`.
fn least_bytes(model: &Model, weights: usize, outputs: &[HostTensor]) -> usize {
    let bytes =
        |tensors: &mut dyn Iterator<Item = &HostTensor>| tensors.map(|t| t.bytes().len()).sum::<usize>();
    weights + bytes(&mut model.inputs.values()) + bytes(&mut outputs.iter()) + 4 * 16 * 512 * 4
}

fn runs_within_its_plan(tier: Tier) {
    let mut model = load(tier);
    let parameters = std::mem::take(&mut model.parameters);
    let weights: usize = parameters.values().map(|t| t.bytes().len()).sum();
    PEAK.store(live(), Ordering::SeqCst);
    model.executable.bind(parameters).expect("binds");
    let outputs = model.executable.run(&model.inputs, &dims()).expect("runs");
    holds_what_is_planned(&model, "after a run");
    let plan = model.executable.plan(&dims()).expect("plans");
    assert_eq!(plan.kept_bytes, 0, "no other code will come\n{plan}");
    let peak = PEAK.load(Ordering::SeqCst) - model.base;
    let planned = (plan.peak_bytes() - plan.input_bytes) as usize;
    assert!(peak < planned + LARGEST_WEIGHT + REST, "at most {peak} bytes were held\n{plan}");
    let least = least_bytes(&model, weights, &outputs);
    assert!(plan.peak_bytes() as usize <= least * 11 / 10, "{least} bytes are the least\n{plan}");
}

#[test]
fn the_fast_tier_holds_a_tenth_more_than_the_least_at_most_as_its_plan_says() {
    let _alone = alone();
    runs_within_its_plan(Tier::Fast);
}

#[cfg(feature = "llvm")]
#[test]
fn the_peak_tier_holds_a_tenth_more_than_the_least_at_most_as_its_plan_says() {
    let _alone = alone();
    runs_within_its_plan(Tier::Peak);
}

#[cfg(feature = "llvm")]
#[test]
fn better_code_takes_the_place_of_what_was_prepared_before() {
    let _alone = alone();
    let mut model = load(Tier::Auto);
    let parameters = std::mem::take(&mut model.parameters);
    let weights: usize = parameters.values().map(|t| t.bytes().len()).sum();
    model.executable.bind(parameters).expect("binds");
    // One step, which is over before better code is there.
    let one = DimEnv::new().with("T", 1).with("B", 1);
    let graph = lstm_graph(512, 512).expect("traces");
    let (_, inputs) = by_kind(&graph, &values_for(&graph, &one, 1).expect("dimensions are given"));
    drop(model.executable.run(&inputs, &one).expect("runs"));
    PEAK.store(live(), Ordering::SeqCst);
    model.executable.wait_for_improvement();
    let mut outputs = model.executable.run(&model.inputs, &dims()).expect("runs");
    holds_what_is_planned(&model, "with better code");
    let peak = PEAK.load(Ordering::SeqCst) - model.base;
    // As given and in one other form; better code is compiled meanwhile.
    assert!(peak < 2 * weights + LARGEST_WEIGHT + 4 * REST, "at most {peak} bytes were held");
    let least = least_bytes(&model, weights, &outputs) as u64;
    let plan = model.executable.plan(&dims()).expect("plans");
    assert!(
        plan.kept_bytes == 0 && plan.peak_bytes() <= least * 11 / 10,
        "{least} bytes are the least\n{plan}"
    );
    let before = live();
    model.executable.run_into(&model.inputs, &dims(), &mut outputs).expect("runs");
    assert!(live().abs_diff(before) < 4096, "a run like the one before allocates");
}

#[test]
fn until_better_code_comes_the_plan_counts_weights_as_given_too() {
    let _alone = alone();
    let mut model = load(Tier::Fast);
    // It never comes, and is never known not to.
    model.executable.improve(std::time::Duration::MAX, |_| Some(fuse::runtime::improvement().0));
    let parameters = std::mem::take(&mut model.parameters);
    model.executable.bind(parameters).expect("binds");
    let _outputs = model.executable.run(&model.inputs, &dims()).expect("runs");
    holds_what_is_planned(&model, "with better code to come");
}

#[test]
fn a_weight_may_be_bound_again_when_the_others_are_let_go() {
    let _alone = alone();
    for tier in [Tier::Fast, Tier::default()] {
        let Model { mut executable, parameters, inputs, .. } = load(tier);
        let graph = executable.graph().clone();
        let other = by_kind(&graph, &values_for(&graph, &dims(), 2).expect("dimensions are given")).0;
        executable.bind(parameters.clone()).expect("binds");
        executable.wait_for_improvement();
        let first = executable.run(&inputs, &dims()).expect("runs");
        let mut parameters = parameters;
        for name in parameters.keys().cloned().collect::<Vec<_>>() {
            parameters.insert(name.clone(), other[&name].clone());
            executable.bind([(name.clone(), other[&name].clone())]).expect("binds");
            let again = executable.run(&inputs, &dims()).expect("runs");
            let mut fresh = self::executable(&graph, tier);
            fresh.bind(parameters.clone()).expect("binds");
            fresh.wait_for_improvement();
            assert_eq!(fresh.run(&inputs, &dims()).expect("runs"), again, "{tier:?}, {name}");
            assert_ne!(first, again, "{tier:?}, {name}");
        }
    }
}

#[test]
fn tensors_of_the_caller_stay_as_they_are() {
    let _alone = alone();
    let Model { mut executable, parameters, inputs, .. } = load(Tier::Fast);
    executable.bind(parameters.clone()).expect("binds");
    let mut outputs = executable.run(&inputs, &dims()).expect("runs");
    let kept = outputs.clone();
    let zeros =
        inputs.iter().map(|(n, t)| (n.clone(), HostTensor::zeros(t.dtype(), t.shape()).expect("fits")));
    executable.run_into(&zeros.collect::<Named>(), &dims(), &mut outputs).expect("runs");
    assert_ne!(outputs, kept);
    assert_eq!(executable.run(&inputs, &dims()).expect("runs"), kept);
    assert_eq!(
        by_kind(executable.graph(), &values_for(executable.graph(), &dims(), 1).expect("given")).0,
        parameters
    );
}
