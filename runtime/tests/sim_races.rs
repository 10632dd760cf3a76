//! Random accesses to shared memory on the simulated GPU: it reports a race where, and only where, two threads access a
//! byte, one of them writes, and nothing orders them. Order is computed here thread by thread, from every access.

use std::fmt::Write;

use fuse_runtime::sim::{Launch, Memory, Module, Problem, SimError};
use proptest::prelude::*;

const WARPS: usize = 3;
const LANES: usize = 32;
const THREADS: usize = WARPS * LANES;
/// The bytes that threads access.
const BYTES: usize = 32;

#[derive(Clone, Debug)]
enum Op {
    /// The lanes of a warp from one on, so many, each so many bytes behind the one before, wrapping around.
    Access {
        warp: usize,
        first: usize,
        lanes: usize,
        stride: usize,
        offset: usize,
        bytes: usize,
        writes: bool,
    },
    /// All lanes of a warp meet.
    Warp(usize),
    /// All warps but one meet.
    Others(usize),
    /// All threads meet.
    Block,
}

fn op() -> impl Strategy<Value = Op> {
    let bytes = prop_oneof![Just(4usize), Just(8), Just(16)];
    let lanes = prop_oneof![4 => Just(1usize), 1 => Just(2), 1 => Just(LANES)];
    // Mostly the same few threads access the same bytes.
    let first = prop_oneof![4 => 0..2usize, 1 => 0..LANES];
    let stride = prop_oneof![2 => Just(0usize), 1 => 0..5usize];
    let offset = prop_oneof![3 => Just(0usize), 1 => 0..BYTES];
    let access = (0..WARPS, first, lanes, stride, offset, bytes, prop::bool::weighted(0.15)).prop_map(
        |(warp, first, lanes, stride, offset, bytes, writes)| {
            let first = first.min(LANES - lanes);
            Op::Access {
                warp,
                first,
                lanes,
                stride: stride * bytes,
                offset: offset / bytes * bytes,
                bytes,
                writes,
            }
        },
    );
    prop_oneof![
        8 => access,
        1 => (0..WARPS).prop_map(Op::Warp),
        2 => (0..WARPS).prop_map(Op::Others),
        1 => Just(Op::Block),
    ]
}

impl Op {
    /// The threads that execute it.
    fn threads(&self) -> Vec<usize> {
        match self {
            Op::Access { warp, first, lanes, .. } => (warp * LANES + first..).take(*lanes).collect(),
            Op::Warp(warp) => (warp * LANES..).take(LANES).collect(),
            Op::Others(absent) => (0..THREADS).filter(|thread| thread / LANES != *absent).collect(),
            Op::Block => (0..THREADS).collect(),
        }
    }
}

/// What a thread did, and how much it had done before.
struct Access {
    thread: usize,
    clock: u32,
    bytes: std::ops::Range<usize>,
    writes: bool,
}

/// Whether two threads access a byte, one of them writes, and nothing orders them.
fn races(ops: &[Op]) -> bool {
    // Of each thread, how much it knows that the others have done.
    let mut known = vec![[0u32; THREADS]; THREADS];
    let mut accesses: Vec<Access> = Vec::new();
    for op in ops {
        let threads = op.threads();
        let Op::Access { warp, stride, offset, bytes, writes, .. } = *op else {
            let mut all = [0; THREADS];
            for thread in &threads {
                all.iter_mut().zip(&known[*thread]).for_each(|(all, own)| *all = (*all).max(*own));
            }
            threads.iter().for_each(|thread| known[*thread] = all);
            continue;
        };
        for thread in threads {
            let start = (offset + (thread - warp * LANES) * stride) % BYTES;
            let own = start..start + bytes;
            let conflicts = accesses.iter().any(|other| {
                let overlap = other.bytes.start < own.end && own.start < other.bytes.end;
                overlap && (other.writes || writes) && known[thread][other.thread] < other.clock
            });
            if conflicts {
                return true;
            }
            known[thread][thread] += 1;
            accesses.push(Access { thread, clock: known[thread][thread], bytes: own, writes });
        }
    }
    false
}

/// The operations as a kernel whose threads wrote all of the memory before.
fn kernel(ops: &[Op]) -> String {
    let mut text = format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k() {{
        .reg .pred %p, %q; .reg .b32 %t, %lane, %s, %a, %v<4>; .shared .align 16 .b8 s[{BYTES}];
        mov.u32 %t, %tid.x; and.b32 %lane, %t, 31; mov.u32 %s, s; mov.b32 %v0, 0; mov.b32 %v1, 0;
        mov.b32 %v2, 0; mov.b32 %v3, 0; shl.b32 %a, %t, 4; add.u32 %a, %s, %a;
        setp.lt.u32 %p, %t, {}; @%p st.shared.v4.b32 [%a], {{%v0, %v1, %v2, %v3}}; bar.sync 0;\n",
        BYTES / 16
    );
    // Each barrier has an identifier of its own.
    let mut barriers = 1..16;
    for (at, op) in ops.iter().enumerate() {
        let (threads, past) = (op.threads(), format!("L{at}"));
        let (first, last) = (threads[0], threads[threads.len() - 1]);
        let _ = match op {
            Op::Access { stride, offset, bytes, writes, .. } => {
                let vector = ["", ".v2", ".v4"][bytes.trailing_zeros() as usize - 2];
                let values =
                    ["%v0", "{%v0, %v1}", "{%v0, %v1, %v2, %v3}"][bytes.trailing_zeros() as usize - 2];
                let access = match writes {
                    true => format!("st.shared{vector}.b32 [%a], {values};"),
                    false => format!("ld.shared{vector}.b32 {values}, [%a];"),
                };
                writeln!(
                    text,
                    "setp.lt.u32 %p, %t, {first}; setp.gt.or.u32 %p, %t, {last}, %p; @%p bra {past};
                    mad.lo.u32 %a, %lane, {stride}, {offset}; and.b32 %a, %a, {}; add.u32 %a, %a, %s; {access} {past}:",
                    BYTES - 1
                )
            }
            Op::Warp(warp) => {
                writeln!(
                    text,
                    "shr.u32 %a, %t, 5; setp.ne.u32 %p, %a, {warp}; @%p bra {past}; bar.warp.sync -1; {past}:"
                )
            }
            Op::Others(absent) => {
                let (id, count) = (barriers.next().expect("no more than 15"), THREADS - LANES);
                writeln!(
                    text,
                    "shr.u32 %a, %t, 5; setp.eq.u32 %p, %a, {absent}; @%p bra {past}; bar.sync {id}, {count}; {past}:"
                )
            }
            Op::Block => writeln!(text, "bar.sync 0;"),
        };
    }
    text + "ret; }\n"
}

/// What the simulated GPU says of the operations.
fn run(ops: &[Op]) -> Result<(), SimError> {
    let module = Module::parse(&kernel(ops)).expect("PTX");
    let launch = Launch {
        kernel: "k",
        grid: [1; 3],
        block: [THREADS as u32, 1, 1],
        shared_bytes: 0,
        arguments: &[],
        threads: 1,
        cooperative: false,
        clusters: None,
    };
    module.launch(&Memory::new(), &launch).map(|_| ())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20000))]
    #[test]
    fn races_are_reported_where_nothing_orders_accesses(ops in prop::collection::vec(op(), 1..25)) {
        prop_assume!(ops.iter().filter(|op| matches!(op, Op::Others(_))).count() <= 15);
        match run(&ops) {
            Ok(()) => prop_assert!(!races(&ops), "a race was not found"),
            Err(SimError::Fault(fault)) => {
                prop_assert!(matches!(fault.problem, Problem::Race { .. }), "{fault}");
                prop_assert!(races(&ops), "no race: {fault}");
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
