//! Clusters of blocks on the simulated GPU: each instruction, what orders blocks of a cluster, and each report with a
//! kernel that provokes it.

mod common;

use common::{accepted, module};
use fuse_runtime::sim::{Clusters, Content, Counters, Launch, Memory, Misuse, Module, Problem, SimError};

/// A kernel of blocks with 256 bytes of shared memory at `s`, with the parameter `out`: the thread in `%t`, the block's
/// rank in `%rank`, the cluster's blocks in `%ranks`, `%own` and `%next` the addresses in `s` of the thread's word in its own
/// block and in the next one of the cluster, and `%my` the address of the thread's word of the output.
fn kernel(directives: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n
        .visible .entry k(.param .u64 out) {directives} {{
        .reg .pred %p, %q, %first; .reg .b32 %t, %b, %rank, %ranks, %size, %own, %next, %other, %r<16>;
        .reg .b64 %out, %my, %x, %y; .shared .align 16 .b8 s[256];
        ld.param.u64 %out, [out]; mov.u32 %t, %tid.x; mov.u32 %b, %ctaid.x; mov.u32 %size, %ntid.x;
        mov.u32 %rank, %cluster_ctarank; mov.u32 %ranks, %cluster_nctarank;
        setp.eq.u32 %first, %t, 0; shl.b32 %own, %t, 2; mov.u32 %r0, s; add.u32 %own, %own, %r0;
        add.u32 %other, %rank, 1; rem.u32 %other, %other, %ranks; mapa.shared::cluster.u32 %next, %own, %other;
        mad.lo.u32 %r0, %b, %size, %t; mul.wide.u32 %x, %r0, 4; add.s64 %my, %out, %x;
        {body}
        ret; }}"
    )
}

/// All blocks of the cluster meet.
const MEET: &str = "barrier.cluster.arrive.release; barrier.cluster.wait.acquire;";

#[derive(Clone, Copy)]
struct Grid {
    blocks: u32,
    cluster: u32,
    size: u32,
    threads: usize,
    nonportable: bool,
    cooperative: bool,
}

const FOUR: Grid =
    Grid { blocks: 4, cluster: 4, size: 32, threads: 1, nonportable: false, cooperative: false };

fn launch(module: &Module, grid: Grid) -> Result<(Vec<u32>, Counters), SimError> {
    let words = (grid.blocks * grid.size) as usize;
    let mut memory = Memory::new();
    let out = memory.allocate("out", 4 * words as u64, 4, Content::Unwritten);
    let launch = Launch {
        kernel: "k",
        grid: [grid.blocks, 1, 1],
        block: [grid.size, 1, 1],
        shared_bytes: 0,
        arguments: &[out],
        threads: grid.threads,
        cooperative: grid.cooperative,
        clusters: Some(Clusters { blocks: [grid.cluster, 1, 1], nonportable: grid.nonportable }),
    };
    let counters = module.launch(&memory, &launch)?;
    let mut bytes = vec![0; 4 * words];
    memory.read(out, &mut bytes);
    Ok((bytes.chunks(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect(), counters))
}

fn run(body: &str, grid: Grid) -> Result<(Vec<u32>, Counters), SimError> {
    launch(&module(&kernel("", body)), grid)
}

fn values(body: &str, grid: Grid) -> Vec<u32> {
    run(body, grid).unwrap_or_else(|e| panic!("{body}: {e}")).0
}

fn problem(body: &str) -> (Problem, String) {
    match run(body, FOUR) {
        Err(SimError::Fault(fault)) => (fault.problem.clone(), fault.to_string()),
        other => panic!("{body}: expected a report, got {other:?}"),
    }
}

fn refused(directives: &str, grid: Grid) -> String {
    match launch(&module(&kernel(directives, "")), grid) {
        Err(SimError::Launch { problem, .. }) => problem,
        other => panic!("{directives}: expected a refusal, got {other:?}"),
    }
}

/// Numbers of blocks, by the block and thread that they are for.
fn by_block(grid: Grid, f: impl Fn(u32, u32) -> u32) -> Vec<u32> {
    (0..grid.blocks * grid.size).map(|i| f(i / grid.size, i % grid.size)).collect()
}

/// Meets, writes 100 times the rank and the thread to the next block's memory, meets, reads what the one before wrote.
fn exchange() -> String {
    format!(
        "{MEET} mad.lo.u32 %r1, %rank, 100, %t; st.shared::cluster.u32 [%next], %r1; {MEET}
         ld.shared.u32 %r2, [%own]; st.global.u32 [%my], %r2;"
    )
}

/// What [`exchange`] finds.
fn exchanged(grid: Grid) -> Vec<u32> {
    by_block(grid, |block, thread| (block % grid.cluster + grid.cluster - 1) % grid.cluster * 100 + thread)
}

#[test]
fn blocks_of_a_cluster_write_into_each_others_memory() {
    for (blocks, cluster, size) in [(4, 4, 32), (4, 2, 32), (8, 8, 64), (3, 3, 40), (6, 3, 33), (5, 1, 32)] {
        for threads in [1, 2] {
            for cooperative in [false, true] {
                let grid = Grid { blocks, cluster, size, threads, cooperative, ..FOUR };
                assert_eq!(values(&exchange(), grid), exchanged(grid), "{blocks} {cluster} {size}");
            }
        }
    }
}

#[test]
fn distributed_accesses_are_counted() {
    let (_, counters) = run(&exchange(), FOUR).expect("runs");
    assert_eq!(counters.distributed_requests, 4);
    assert_eq!(counters.distributed_bytes, 4 * 32 * 4);
    assert_eq!(counters.cluster_barriers, 4 * 2);
    assert_eq!(counters.shared_requests, 4, "the loads");
    let (_, alone) = run(&exchange(), Grid { cluster: 1, ..FOUR }).expect("runs");
    assert_eq!((alone.distributed_requests, alone.shared_requests), (0, 8));
    // However long a block waits, it executes the barrier once.
    assert_eq!(counters.control, alone.control);
}

#[test]
fn ld_shared_cluster_reads_another_blocks_memory() {
    let body = format!(
        "mad.lo.u32 %r1, %rank, 100, %t; st.shared.u32 [%own], %r1; {MEET}
         ld.shared::cluster.u32 %r2, [%next]; {MEET} st.global.u32 [%my], %r2;"
    );
    assert_eq!(values(&body, FOUR), by_block(FOUR, |block, thread| (block + 1) % 4 * 100 + thread));
}

#[test]
fn vectors_are_read_and_written_in_another_blocks_memory() {
    let body = format!(
        "{MEET} and.b32 %r3, %t, 7; shl.b32 %r3, %r3, 4; mov.u32 %r4, s; add.u32 %r4, %r4, %r3;
         mapa.shared::cluster.u32 %r4, %r4, %other; setp.lt.u32 %p, %t, 8; add.u32 %r5, %t, %rank;
         @%p st.shared::cluster.v4.u32 [%r4], {{%r5, %r5, %t, %rank}}; {MEET}
         ld.shared::cluster.v2.u32 {{%r6, %r7}}, [%r4]; {MEET} st.global.u32 [%my], %r6;"
    );
    assert_eq!(values(&body, FOUR), by_block(FOUR, |block, thread| thread % 8 + block));
}

#[test]
fn atom_and_red_add_in_another_blocks_memory() {
    let body = format!(
        "@%first st.shared.u32 [s], 7; {MEET} mov.u32 %r1, s; mapa.shared::cluster.u32 %r1, %r1, %other;
         red.relaxed.cluster.shared::cluster.add.u32 [%r1], 2;
         atom.relaxed.cluster.shared::cluster.add.u32 %r3, [%r1], 1;
         {MEET} ld.shared.u32 %r2, [s]; st.global.u32 [%my], %r2;"
    );
    assert_eq!(values(&body, FOUR), [7 + 3 * 32; 4 * 32]);
}

#[test]
fn atom_cas_exchanges_in_another_blocks_memory() {
    let body = format!(
        "st.shared.u32 [%own], %t; {MEET} atom.relaxed.cluster.shared::cluster.cas.b32 %r3, [%next], 5, 50; {MEET}
         ld.shared.u32 %r2, [%own]; add.u32 %r2, %r2, %r3; st.global.u32 [%my], %r2;"
    );
    assert_eq!(values(&body, FOUR), by_block(FOUR, |_, thread| if thread == 5 { 55 } else { 2 * thread }));
}

#[test]
fn mapa_gives_generic_addresses_too() {
    let body = format!(
        "{MEET} cvt.u64.u32 %x, %own; cvta.shared.u64 %x, %x; mapa.u64 %x, %x, %other; st.u32 [%x], %rank; {MEET}
         ld.shared.u32 %r2, [%own]; st.global.u32 [%my], %r2;"
    );
    assert_eq!(values(&body, FOUR), by_block(FOUR, |block, _| (block + 3) % 4));
}

#[test]
fn cvta_converts_addresses_of_the_cluster() {
    let body = format!(
        "{MEET} cvt.u64.u32 %x, %next; cvta.shared::cluster.u64 %x, %x; st.u32 [%x], %rank; {MEET}
         cvta.to.shared::cluster.u64 %y, %x; cvt.u32.u64 %r3, %y; ld.shared::cluster.u32 %r2, [%r3]; {MEET}
         st.global.u32 [%my], %r2;"
    );
    assert_eq!(values(&body, FOUR), by_block(FOUR, |block, _| block));
}

#[test]
fn isspacep_tells_the_clusters_memory_from_the_blocks_own() {
    let body = "cvt.u64.u32 %x, %own; cvta.shared.u64 %x, %x; mapa.u64 %y, %x, %other;
        isspacep.shared::cluster %p, %x; selp.u32 %r1, 1, 0, %p; isspacep.shared::cta %p, %x; selp.u32 %r2, 2, 0, %p;
        isspacep.shared::cluster %p, %y; selp.u32 %r3, 4, 0, %p; isspacep.shared::cta %p, %y; selp.u32 %r4, 8, 0, %p;
        isspacep.shared::cluster %p, %out; selp.u32 %r5, 16, 0, %p;
        add.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3; add.u32 %r1, %r1, %r4; add.u32 %r1, %r1, %r5;
        st.global.u32 [%my], %r1;";
    assert_eq!(values(body, FOUR), [7; 4 * 32]);
}

#[test]
fn getctarank_tells_the_block_of_an_address() {
    let body = "getctarank.shared::cluster.u32 %r1, %next; getctarank.shared::cluster.u32 %r2, %own;
        mad.lo.u32 %r1, %r1, 10, %r2; st.global.u32 [%my], %r1;";
    assert_eq!(values(body, FOUR), by_block(FOUR, |block, _| (block + 1) % 4 * 10 + block));
}

#[test]
fn special_registers_tell_the_place_in_the_cluster() {
    let number = |registers: [&str; 4]| {
        let [a, b, c, d] = registers;
        let body = format!(
            "mov.u32 %r1, {a}; mov.u32 %r2, {b}; mov.u32 %r3, {c}; mov.u32 %r4, {d};
             mad.lo.u32 %r1, %r1, 10, %r2; mad.lo.u32 %r1, %r1, 10, %r3; mad.lo.u32 %r1, %r1, 10, %r4;
             st.global.u32 [%my], %r1;"
        );
        values(&body, Grid { cluster: 2, size: 1, ..FOUR })
    };
    let ranks = ["%cluster_ctarank", "%cluster_nctarank", "%clusterid.x", "%nclusterid.x"];
    assert_eq!(number(ranks), [202, 1202, 212, 1212]);
    let x = ["%cluster_ctaid.x", "%cluster_nctaid.x", "%cluster_ctaid.y", "%cluster_nctaid.z"];
    assert_eq!(number(x), [201, 1201, 201, 1201]);
}

#[test]
fn clusters_lie_along_three_axes() {
    let text = kernel(
        ".reqnctapercluster 2, 1, 3",
        "mov.u32 %r1, %ctaid.y; mov.u32 %r2, %ctaid.z; mov.u32 %r3, %nctaid.x; mov.u32 %r4, %nctaid.y;
         mad.lo.u32 %r5, %r2, %r4, %r1; mad.lo.u32 %r5, %r5, %r3, %b; mul.wide.u32 %x, %r5, 4; add.s64 %my, %out, %x;
         mov.u32 %r6, %cluster_ctaid.x; mov.u32 %r7, %cluster_ctaid.z; mov.u32 %r8, %clusterid.z;
         mad.lo.u32 %r6, %r6, 10, %r7; mad.lo.u32 %r6, %r6, 10, %r8; mad.lo.u32 %r6, %rank, 1000, %r6;
         st.global.u32 [%my], %r6;",
    );
    let module = module(&text);
    let mut memory = Memory::new();
    let out = memory.allocate("out", 4 * 4 * 2 * 6, 4, Content::Unwritten);
    let grid = Launch {
        kernel: "k",
        grid: [4, 2, 6],
        block: [1, 1, 1],
        shared_bytes: 0,
        arguments: &[out],
        threads: 1,
        cooperative: false,
        clusters: None,
    };
    module.launch(&memory, &grid).expect("runs");
    let mut bytes = vec![0; 4 * 48];
    memory.read(out, &mut bytes);
    let found = bytes.chunks(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]));
    let expected = (0..48).map(|at| {
        let (x, z) = (at % 4, at / 8);
        ((z % 3) * 2 + x % 2) * 1000 + (x % 2) * 100 + (z % 3) * 10 + z / 3
    });
    assert_eq!(found.collect::<Vec<u32>>(), expected.collect::<Vec<u32>>());
}

#[test]
fn relaxed_arrivals_make_blocks_wait_and_order_nothing() {
    let relaxed = "barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;";
    let body = format!("st.shared.u32 [%own], %t; {MEET} ld.shared::cluster.u32 %r2, [%next]; {MEET}");
    run(&body, FOUR).expect("runs");
    // Where nobody reads what others wrote, it is enough.
    run(&format!("st.shared.u32 [%own], %t; {relaxed} ld.shared.u32 %r2, [%own];"), FOUR).expect("runs");
    let (found, text) = problem(&body.replacen(MEET, relaxed, 1));
    assert!(matches!(found, Problem::Race { writes: false, .. }), "{text}");
    let (found, text) =
        problem(&format!("st.shared.u32 [%own], %t; {MEET} ld.shared::cluster.u32 %r2, [%next]; {relaxed}"));
    assert!(matches!(found, Problem::EndsEarly { .. }), "{text}");
}

#[test]
fn what_stands_between_arrival_and_wait_is_not_ordered() {
    let ordered = "st.shared.u32 [%own], %t; barrier.cluster.arrive; barrier.cluster.wait;";
    let late = "barrier.cluster.arrive; st.shared.u32 [%own], %t; barrier.cluster.wait;";
    let rest = format!("ld.shared::cluster.u32 %r2, [%next]; {MEET}");
    run(&format!("{ordered}{rest}"), FOUR).expect("runs");
    let (found, text) = problem(&format!("{late}{rest}"));
    assert!(matches!(found, Problem::Race { .. }), "{text}");
}

#[test]
fn a_barrier_orders_global_memory_of_the_cluster_and_not_of_the_grid() {
    let body = format!(
        "st.global.u32 [%my], %t; {MEET} xor.b32 %r1, %b, DISTANCE; mad.lo.u32 %r1, %r1, %size, %t;
         mul.wide.u32 %y, %r1, 4; add.s64 %y, %out, %y; ld.global.u32 %r2, [%y];"
    );
    let grid = Grid { cluster: 2, ..FOUR };
    run(&body.replace("DISTANCE", "1"), grid).expect("runs");
    match run(&body.replace("DISTANCE", "2"), grid) {
        Err(SimError::Fault(fault)) => {
            assert!(matches!(fault.problem, Problem::Race { .. } | Problem::NeverWritten { .. }), "{fault}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn states_of_two_halves_need_one_barrier_a_step() {
    // Each block writes its rank plus the step to half `step % 2` of the next one, and reads its own.
    let step = |half: u32| {
        format!(
            "add.u32 %r1, %r1, 1; st.shared::cluster.u32 [%next+{half}], %r1; {MEET} ld.shared.u32 %r1, [%own+{half}];"
        )
    };
    let steps = |halves: [u32; 4]| format!("mov.u32 %r1, %rank; {MEET} {}", halves.map(step).concat());
    let body = format!("{} {MEET} st.global.u32 [%my], %r1;", steps([0, 128, 0, 128]));
    assert_eq!(values(&body, FOUR), by_block(FOUR, |block, _| block + 4));
    let (found, text) = problem(&steps([0, 0, 0, 0]));
    assert!(matches!(found, Problem::Race { .. }), "{text}");
}

#[test]
fn an_offset_beyond_the_shared_memory_is_reported() {
    let (found, text) = problem(&format!("{MEET} st.shared::cluster.u32 [%next+256], %t; {MEET}"));
    let Problem::OutOfBounds { buffer: Some((name, 256, 256)), .. } = found else { panic!("{text}") };
    assert_eq!(name, "shared memory");
    // An address of another block is none of the block's own window.
    let (found, text) = problem(&format!("{MEET} st.shared.u32 [%next], %t; {MEET}"));
    assert!(matches!(found, Problem::OutOfBounds { .. }), "{text}");
}

#[test]
fn a_rank_outside_of_the_cluster_is_reported() {
    let (found, text) = problem("mapa.shared::cluster.u32 %r1, %own, 4;");
    assert_eq!(found, Problem::OutsideCluster { rank: 4, blocks: 4 });
    assert!(text.contains("rank 4 is outside of the cluster, which has 4 blocks"), "{text}");
}

#[test]
fn what_no_block_wrote_is_reported() {
    let (found, text) = problem(&format!("{MEET} ld.shared::cluster.u32 %r1, [%next]; {MEET}"));
    assert!(matches!(found, Problem::NeverWritten { .. }), "{text}");
}

#[test]
fn a_misaligned_distant_access_is_reported() {
    let (found, text) = problem(&format!("{MEET} st.shared::cluster.u32 [%next+2], %t; {MEET}"));
    assert!(matches!(found, Problem::Misaligned { alignment: 4, .. }), "{text}");
}

#[test]
fn a_race_of_two_blocks_for_a_thirds_memory_is_reported() {
    let body = format!(
        "{MEET} mapa.shared::cluster.u32 %r1, %own, 0; setp.ne.u32 %p, %rank, 0;
         @%p st.shared::cluster.u32 [%r1], %rank; {MEET}"
    );
    let (found, text) = problem(&body);
    assert!(matches!(found, Problem::Race { writes: true, .. }), "{text}");
    assert!(text.contains("`shared memory`"), "{text}");
}

#[test]
fn a_write_that_no_barrier_orders_before_a_read_is_reported() {
    for threads in [1, 2] {
        let body = format!(
            "st.shared.u32 [%own], %t; ld.shared::cluster.u32 %r2, [%own]; {MEET}
            st.shared::cluster.u32 [%next], %t; ld.shared.u32 %r2, [%own]; {MEET}"
        );
        match run(&body, Grid { threads, cooperative: true, ..FOUR }) {
            Err(SimError::Fault(fault)) => {
                assert!(matches!(fault.problem, Problem::Race { .. }), "{fault}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn barriers_of_blocks_do_not_order_clusters() {
    let body = format!(
        "st.shared.u32 [%own], %t; {MEET} bar.sync 0; st.shared.u32 [%own], %t; bar.sync 0;
         ld.shared::cluster.u32 %r2, [%next]; {MEET}"
    );
    let (found, text) = problem(&body);
    assert!(matches!(found, Problem::Race { .. }), "{text}");
}

#[test]
fn an_access_to_a_block_that_has_ended_is_reported() {
    // Block 0 ends while the others wait for their own memory.
    let body = format!(
        "st.shared.u32 [%own], %t; {MEET} setp.eq.u32 %p, %rank, 0; @%p ret; mov.u32 %r3, 0;
         L: add.u32 %r3, %r3, 1; setp.lt.u32 %q, %r3, 40000; @%q bra L;
         mapa.shared::cluster.u32 %r1, %own, 0; ld.shared::cluster.u32 %r2, [%r1];"
    );
    let (found, text) = problem(&body);
    assert!(matches!(found, Problem::BlockEnded { rank: 0 } | Problem::EndsEarly { .. }), "{text}");
}

#[test]
fn a_block_that_ends_while_others_may_access_it_is_reported() {
    let body = format!("{MEET} st.shared::cluster.u32 [%next], %t;");
    let (found, text) = problem(&body);
    assert!(matches!(found, Problem::EndsEarly { .. } | Problem::BlockEnded { .. }), "{text}");
    run(&format!("{body}{MEET}"), FOUR).expect("runs");
}

#[test]
fn a_divergent_barrier_is_reported() {
    for half in ["arrive", "wait"] {
        let whole = if half == "wait" { "barrier.cluster.arrive;" } else { "" };
        let (found, text) = problem(&format!("{whole} setp.lt.u32 %p, %t, 16; @%p barrier.cluster.{half};"));
        assert_eq!(found, Problem::DivergentBarrier { here: 0xFFFF, expected: u32::MAX }, "{text}");
    }
}

#[test]
fn a_barrier_out_of_order_is_reported() {
    let (found, _) = problem("barrier.cluster.arrive; barrier.cluster.arrive; barrier.cluster.wait;");
    assert_eq!(found, Problem::ClusterBarrier(Misuse::ArrivesTwice));
    let (found, text) = problem("barrier.cluster.wait;");
    assert_eq!(found, Problem::ClusterBarrier(Misuse::WaitsWithoutArrival));
    assert!(text.contains("has not arrived there"), "{text}");
}

#[test]
fn a_cluster_that_waits_for_ever_is_reported() {
    // The first block waits for a flag that the second would set after the barrier.
    let body = "st.shared.u32 [%own], 0; setp.eq.u32 %p, %rank, 0; @!%p bra B;
        W: ld.relaxed.cluster.shared::cluster.u32 %r1, [%own]; setp.eq.u32 %q, %r1, 0; @%q bra W;
        B: barrier.cluster.arrive; barrier.cluster.wait;";
    let (found, text) = problem(body);
    let Problem::GridDeadlock { of_cluster: true, ended: 0, blocks: 4, waits } = found else {
        panic!("{text}")
    };
    assert_eq!(waits.iter().map(|wait| wait.blocks).collect::<Vec<u64>>(), [1, 3]);
    assert!(waits[1].text.contains("barrier.cluster.wait"), "{text}");
    assert!(text.contains("deadlock of the cluster: 0 of 4 blocks have ended"), "{text}");
}

#[test]
fn threads_that_have_ended_are_not_waited_for() {
    let body = format!("setp.eq.u32 %p, %rank, 2; @%p ret; {MEET} st.global.u32 [%my], %rank;");
    run(&body, FOUR).expect("runs");
    // An arrival of a warp that ends counts no more.
    let body = format!("setp.eq.u32 %p, %rank, 2; @!%p bra B; barrier.cluster.arrive; ret; B: {MEET} {MEET}");
    run(&body, FOUR).expect("runs");
}

#[test]
fn clusters_that_devices_do_not_take_are_refused() {
    let grid = |blocks, cluster| Grid { blocks, cluster, ..FOUR };
    assert_eq!(refused("", grid(9, 9)), "a cluster has 1 to 8 blocks here, not 9");
    assert_eq!(refused("", grid(6, 4)), "clusters of [4, 1, 1] blocks do not divide a grid of [6, 1, 1]");
    let nonportable = |n| Grid { nonportable: true, ..grid(n, n) };
    assert_eq!(refused("", nonportable(17)), "a cluster has 1 to 16 blocks here, not 17");
    assert_eq!(values(&exchange(), nonportable(16)), exchanged(nonportable(16)));
    let exact = refused(".reqnctapercluster 2", grid(4, 4));
    assert_eq!(exact, "it was compiled for clusters of [2, 1, 1] blocks, not [4, 1, 1]");
    assert_eq!(refused(".maxclusterrank 2", grid(4, 4)), "a cluster has 1 to 2 blocks here, not 4");
}

#[test]
fn a_kernel_that_asks_for_clusters_is_launched_in_clusters() {
    let text = kernel(".explicitcluster", "");
    let module = module(&text);
    let memory = Memory::new();
    let launch = Launch {
        kernel: "k",
        grid: [4, 1, 1],
        block: [32, 1, 1],
        shared_bytes: 0,
        arguments: &[0],
        threads: 1,
        cooperative: false,
        clusters: None,
    };
    let error = module.launch(&memory, &launch).expect_err("there are no clusters");
    assert!(error.to_string().contains("it has to be launched in clusters"), "{error}");
    let clusters = Some(Clusters { blocks: [2, 1, 1], nonportable: false });
    module.launch(&memory, &Launch { clusters, ..launch }).expect("runs");
}

#[test]
fn instructions_of_clusters_are_refused_on_older_devices() {
    let older = |directives: &str, body: &str| {
        let text = format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k() {directives} {{
             .reg .b32 %r<4>; .shared .align 4 .b8 s[4]; {body} ret; }}"
        );
        Module::parse(&text).err().map(|e| e.problem).unwrap_or_default()
    };
    assert_eq!(older("", ""), "");
    for body in [
        "barrier.cluster.arrive;",
        "barrier.cluster.wait;",
        "mapa.shared::cluster.u32 %r1, %r0, 0;",
        "getctarank.shared::cluster.u32 %r1, %r0;",
        "ld.shared::cluster.u32 %r1, [%r0];",
        "st.shared::cluster.u32 [%r0], %r1;",
        "red.relaxed.cluster.shared::cluster.add.u32 [%r0], %r1;",
        "mov.u32 %r1, %cluster_ctarank;",
    ] {
        assert_eq!(older("", body), "clusters need sm_90", "{body}");
    }
    assert_eq!(older(".reqnctapercluster 2", ""), "clusters need sm_90");
}

#[test]
fn asynchronous_stores_to_other_blocks_are_refused() {
    let text = kernel(
        "",
        "mov.u32 %r1, s; st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [%next], %t, [%r1];",
    )
    .replace(".version 8.0", ".version 8.1");
    accepted(&text);
    let error = Module::parse(&text).err().expect("it is not simulated");
    assert_eq!(error.problem, "this store is not simulated");
}
