//! Cooperative launches on the simulated GPU: blocks that wait for each other, what orders their accesses, and each
//! report with a kernel that provokes it.

mod common;

use common::module;
use fuse_runtime::sim::{Content, Counters, Launch, Memory, Problem, SimError};

/// A kernel with the parameters `in`, `out` and `flag` (addresses in `%in`, `%out`, `%flag`), the thread in `%t`, the
/// block in `%b`, the number of blocks in `%n`, and `%my`, the address of the thread's word of the output.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n
        .visible .entry k(.param .u64 in, .param .u64 out, .param .u64 flag) {{
        .reg .pred %p, %q, %first; .reg .b32 %t, %b, %n, %size, %g, %step, %r<16>;
        .reg .b64 %in, %out, %flag, %my, %x, %y; .shared .align 16 .b8 s[64];
        ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; ld.param.u64 %flag, [flag];
        mov.u32 %t, %tid.x; mov.u32 %b, %ctaid.x; mov.u32 %n, %nctaid.x; mov.u32 %size, %ntid.x;
        setp.eq.u32 %first, %t, 0;
        mad.lo.u32 %g, %b, %size, %t; mul.wide.u32 %x, %g, 4; add.s64 %my, %out, %x;
        {body}
        ret; }}"
    )
}

/// Where all threads of the grid meet for the `meeting`th time, as code generation writes it.
fn barrier(meeting: u32) -> String {
    format!(
        "bar.sync 0; @!%first bra B{meeting}; red.release.gpu.global.add.u32 [%flag], 1; mul.lo.u32 %r15, %n, {meeting};
         W{meeting}: ld.acquire.gpu.global.u32 %r14, [%flag]; sub.u32 %r14, %r14, %r15; setp.lt.s32 %p, %r14, 0;
         @%p bra W{meeting}; B{meeting}: bar.sync 0;"
    )
}

/// Writes the thread's number to its word, meets, and reads the word of the same thread in the next block.
fn exchange(between: &str) -> String {
    format!(
        "st.global.u32 [%my], %g; {between}
         add.u32 %r1, %b, 1; rem.u32 %r1, %r1, %n; mad.lo.u32 %r1, %r1, %size, %t; mul.wide.u32 %y, %r1, 4;
         add.s64 %y, %out, %y; ld.global.u32 %r2, [%y];"
    )
}

#[derive(Clone, Copy)]
struct Grid {
    blocks: u32,
    size: u32,
    threads: usize,
}

const TWO: Grid = Grid { blocks: 2, size: 64, threads: 1 };

fn run(body: &str, grid: Grid) -> Result<(Vec<u32>, Counters), SimError> {
    let module = module(&kernel(body));
    let mut memory = Memory::new();
    let words = (grid.blocks * grid.size) as usize;
    let given = memory.allocate_with("in", &vec![1; 4 * words], 4, Content::Constant);
    let out = memory.allocate("out", 4 * words as u64, 4, Content::Written);
    let flag = memory.allocate_with("flag", &[0; 64], 4, Content::Written);
    let launch = Launch {
        kernel: "k",
        grid: [grid.blocks, 1, 1],
        block: [grid.size, 1, 1],
        shared_bytes: 0,
        arguments: &[given, out, flag],
        threads: grid.threads,
        cooperative: true,
        clusters: None,
    };
    let counters = module.launch(&memory, &launch)?;
    let mut bytes = vec![0; 4 * words];
    memory.read(out, &mut bytes);
    Ok((bytes.chunks(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect(), counters))
}

fn problem(body: &str, grid: Grid) -> (Problem, String) {
    match run(body, grid) {
        Err(SimError::Fault(fault)) => (fault.problem.clone(), fault.to_string()),
        other => panic!("{body}: expected a report, got {other:?}"),
    }
}

fn is_race(body: &str) -> String {
    let (problem, text) = problem(body, TWO);
    assert!(matches!(problem, Problem::Race { .. }), "{body}: {text}");
    text
}

fn runs(body: &str) -> Counters {
    run(body, TWO).unwrap_or_else(|e| panic!("{body}: {e}")).1
}

#[test]
fn blocks_exchange_values_at_a_barrier_of_the_grid() {
    let body = format!("{} {} st.global.u32 [%my], %r2;", exchange(&barrier(1)), barrier(2));
    for threads in [1, 2, 5] {
        let grid = Grid { blocks: 7, size: 96, threads };
        let (words, _) = run(&body, grid).expect("runs");
        let next = |at: u32| (at + 96) % (7 * 96);
        assert_eq!(words, (0..7 * 96).map(next).collect::<Vec<_>>(), "{threads} threads");
    }
}

/// Each step reads what the last one wrote and overwrites what it read.
fn recurrence(steps: u32, second: bool) -> String {
    let meet = |factor: &str, at: &str, label: &str| {
        format!(
            "bar.sync 0; @!%first bra B{label}; red.release.gpu.global.add.u32 [%flag], 1;
             mad.lo.u32 %r15, %step, {factor}, {at}; mul.lo.u32 %r15, %r15, %n;
             W{label}: ld.acquire.gpu.global.u32 %r14, [%flag]; sub.u32 %r14, %r14, %r15; setp.lt.s32 %p, %r14, 0;
             @%p bra W{label}; B{label}: bar.sync 0;"
        )
    };
    let (each, last) = if second { ("2", meet("2", "2", "2")) } else { ("1", String::new()) };
    let first = meet(each, "1", "1");
    format!(
        "mov.u32 %step, 0; mov.u32 %r3, %g;
         L: st.global.u32 [%my], %r3; {first}
         add.u32 %r1, %b, 1; rem.u32 %r1, %r1, %n; mad.lo.u32 %r1, %r1, %size, %t; mul.wide.u32 %y, %r1, 4;
         add.s64 %y, %out, %y; ld.global.u32 %r3, [%y]; {last}
         add.u32 %step, %step, 1; setp.lt.u32 %p, %step, {steps}; @%p bra L;"
    )
}

#[test]
fn buffers_are_reused_over_hundreds_of_steps() {
    let grid = Grid { blocks: 5, size: 64, threads: 2 };
    let (words, _) = run(&recurrence(300, true), grid).expect("runs");
    // The last step writes what 299 steps moved on by a block each.
    assert_eq!(words, (0..320).map(|at| (at + 299 * 64) % 320).collect::<Vec<_>>());
    // With one barrier a step, what is read may be the next step's already.
    for (blocks, threads) in [(2, 1), (2, 2), (5, 1), (5, 2), (5, 3)] {
        let grid = Grid { blocks, threads, ..grid };
        assert!(matches!(problem(&recurrence(300, false), grid).0, Problem::Race { .. }), "{blocks} blocks");
    }
}

#[test]
fn a_full_device_makes_progress_on_two_threads() {
    let grid = Grid { blocks: 132, size: 512, threads: 2 };
    let (words, _) = run(&recurrence(3, true), grid).expect("runs");
    let all = 132 * 512;
    assert_eq!(words[..2], [2 * 512, 2 * 512 + 1]);
    assert_eq!(words[all - 1] as usize, 2 * 512 - 1);
}

#[test]
fn fences_with_relaxed_flags_order_blocks_as_releases_do() {
    let patterns = [
        // As cooperative groups write it.
        "bar.sync 0; @!%first bra B; membar.gl; atom.global.add.u32 %r3, [%flag], 1;
         W: ld.volatile.global.u32 %r3, [%flag]; setp.lt.u32 %p, %r3, %n; @%p bra W; fence.acq_rel.gpu; B: bar.sync 0;",
        "bar.sync 0; @!%first bra B; fence.sc.gpu; red.relaxed.gpu.global.add.u32 [%flag], 1;
         W: ld.relaxed.gpu.global.u32 %r3, [%flag]; setp.lt.u32 %p, %r3, %n; @%p bra W; fence.acq_rel.sys; B: bar.sync 0;",
        "bar.sync 0; @!%first bra B; atom.add.acq_rel.gpu.global.u32 %r3, [%flag], 1;
         W: atom.or.acquire.gpu.global.b32 %r3, [%flag], 0; setp.lt.u32 %p, %r3, %n; @%p bra W; B: bar.sync 0;",
        // Every thread of the block waits by itself.
        "bar.sync 0; @%first red.release.gpu.global.add.u32 [%flag], 1;
         W: ld.acquire.gpu.global.u32 %r3, [%flag]; setp.lt.u32 %p, %r3, %n; @%p bra W;",
        // A flag for each block; as many threads wait for one each.
        "bar.sync 0; mul.wide.u32 %x, %b, 4; add.s64 %x, %flag, %x; @%first st.release.gpu.global.u32 [%x], 1;
         setp.ge.u32 %p, %t, %n; @%p bra B; mul.wide.u32 %x, %t, 4; add.s64 %x, %flag, %x;
         W: ld.acquire.gpu.global.u32 %r3, [%x]; setp.eq.u32 %p, %r3, 0; @%p bra W; B: bar.sync 0;",
        // Every thread releases what it did itself.
        "red.release.gpu.global.add.u32 [%flag], 1; mul.lo.u32 %r4, %n, %size; @!%first bra B;
         W: ld.acquire.gpu.global.u32 %r3, [%flag]; setp.lt.u32 %p, %r3, %r4; @%p bra W; B: bar.sync 0;",
    ];
    for between in patterns {
        runs(&exchange(between));
    }
}

#[test]
fn what_a_block_learned_it_passes_on() {
    // Block 0 writes and tells block 1, which tells block 2, which reads.
    let body = "setp.eq.u32 %p, %b, 0; @!%p bra A; st.global.u32 [%my], 7; bar.sync 0;
        @%first st.release.gpu.global.u32 [%flag], 1; bra E;
        A: setp.eq.u32 %p, %b, 1; @!%p bra C; @!%first bra D;
        W: ld.acquire.gpu.global.u32 %r1, [%flag]; setp.eq.u32 %p, %r1, 0; @%p bra W; D: bar.sync 0;
        setp.eq.u32 %p, %t, 63; @%p st.release.gpu.global.u32 [%flag+4], 1; bra E;
        C: @!%first bra F; V: ld.acquire.gpu.global.u32 %r1, [%flag+4]; setp.eq.u32 %p, %r1, 0; @%p bra V; F: bar.sync 0;
        ld.global.u32 %r2, [%out]; E:";
    run(body, Grid { blocks: 3, ..TWO }).expect("runs");
    let alone = body.replace("D: bar.sync 0;", "D:");
    let (found, text) = problem(&alone, Grid { blocks: 3, ..TWO });
    assert!(matches!(found, Problem::Race { .. }), "the last thread of block 1 did not acquire: {text}");
}

#[test]
fn a_missing_barrier_of_the_grid_is_reported() {
    let text = is_race(&exchange(""));
    assert!(text.contains("race: ") && text.contains("`out`"), "{text}");
    is_race(&exchange("bar.sync 0;"));
}

#[test]
fn a_missing_barrier_of_the_block_is_reported() {
    let meeting = barrier(1);
    is_race(&exchange(meeting.trim_start_matches("bar.sync 0;")));
    is_race(&exchange(meeting.trim_end_matches("bar.sync 0;")));
    // In blocks of one warp, too: the first lane releases what it did itself, and only it knows.
    let one = Grid { size: 32, ..TWO };
    for between in [meeting.trim_start_matches("bar.sync 0;"), meeting.trim_end_matches("bar.sync 0;")] {
        let (found, text) = problem(&exchange(between), one);
        assert!(matches!(found, Problem::Race { .. }), "{text}");
    }
}

#[test]
fn a_missing_release_is_reported() {
    is_race(&exchange(&barrier(1).replace("red.release.gpu", "red.relaxed.gpu")));
    is_race(&exchange(&barrier(1).replace("red.release.gpu", "red.release.cta")));
}

#[test]
fn a_missing_acquire_is_reported() {
    is_race(&exchange(&barrier(1).replace("ld.acquire.gpu", "ld.relaxed.gpu")));
    is_race(&exchange(&barrier(1).replace("ld.acquire.gpu", "ld.volatile")));
    // A plain load of the flag races by itself.
    let text = is_race(&exchange(&barrier(1).replace("ld.acquire.gpu.global", "ld.global")));
    assert!(text.contains("`flag`"), "{text}");
}

#[test]
fn a_stale_flag_is_reported() {
    // The second meeting waits for no more than the first.
    let body = format!("{} {}", exchange(&barrier(1)), barrier(2).replace("%n, 2;", "%n, 1;"));
    is_race(&format!("{body} st.global.u32 [%my], %r2;"));
}

#[test]
fn a_count_that_is_too_small_is_reported() {
    is_race(&exchange(&barrier(1).replace("mul.lo.u32 %r15, %n, 1;", "mov.u32 %r15, 1;")));
}

#[test]
fn a_count_that_is_too_large_is_a_deadlock() {
    let body = exchange(&barrier(1).replace("mul.lo.u32 %r15, %n, 1;", "add.u32 %r15, %n, 1;"));
    for threads in [1, 2, 3] {
        let (found, text) = problem(&body, Grid { blocks: 40, threads, ..TWO });
        let Problem::GridDeadlock { of_cluster: false, ended: 0, blocks: 40, waits } = found else {
            panic!("{text}")
        };
        assert_eq!((waits.len(), waits[0].blocks), (1, 40));
        assert!(text.contains("`ld.acquire.gpu.global.u32 %r14, [%flag];`"), "{text}");
        assert!(text.contains("block [0, 0, 0], thread [0, 0, 0]"), "{text}");
    }
}

#[test]
fn a_barrier_that_one_block_skips_is_a_deadlock() {
    let body = format!("setp.eq.u32 %q, %b, 0; @%q ret; {}", barrier(1));
    for threads in [1, 2] {
        let (found, text) = problem(&body, Grid { blocks: 4, threads, ..TWO });
        assert!(matches!(found, Problem::GridDeadlock { ended: 1, blocks: 4, .. }), "{text}");
        assert!(text.contains("block [1, 0, 0]") && text.contains("1 of 4 blocks have ended"), "{text}");
    }
}

#[test]
fn a_deadlock_names_each_place_where_blocks_wait() {
    // Even blocks wait at one barrier of the grid, odd ones at another.
    let other = barrier(1).replace("[%flag]", "[%flag+4]").replace("W1", "V").replace("B1", "C");
    let body = format!(
        "and.b32 %r1, %b, 1; setp.eq.u32 %q, %r1, 0; @!%q bra O; {} bra E; O: {other} E:",
        barrier(1)
    );
    for threads in [1, 2, 3] {
        let (found, text) = problem(&body, Grid { blocks: 7, threads, ..TWO });
        let Problem::GridDeadlock { of_cluster: false, ended: 0, blocks: 7, waits } = found else {
            panic!("{text}")
        };
        assert_eq!(waits.iter().map(|w| w.blocks).collect::<Vec<_>>(), [4, 3], "{text}");
        assert_eq!((waits[0].block, waits[1].block), ([0; 3], [1, 0, 0]));
        assert!(text.contains("3 wait at line") && text.contains("[%flag+4]"), "{text}");
    }
}

#[test]
fn a_long_computation_is_no_deadlock() {
    // Block 0 computes without a store for longer than the others' patience with each other would be.
    let work = "setp.eq.u32 %q, %b, 0; @!%q bra M; mov.u32 %r1, 0;
        L: add.u32 %r1, %r1, 1; setp.lt.u32 %p, %r1, 1000000; @%p bra L; M:";
    let grid = Grid { blocks: 2, size: 1, threads: 1 };
    run(&format!("{work} {}", exchange(&barrier(1))), grid).expect("runs");
}

#[test]
fn a_flag_before_its_data_is_reported() {
    // The flag is written, then the data; the consumer waits as it should.
    let early = "setp.eq.u32 %q, %b, 0; @!%q bra C; bar.sync 0; @%first st.release.gpu.global.u32 [%flag], 1;
        st.global.u32 [%my], %g; bra E; C: @!%first bra D; W: ld.acquire.gpu.global.u32 %r1, [%flag];
        setp.eq.u32 %p, %r1, 0; @%p bra W; D: bar.sync 0; mul.wide.u32 %y, %t, 4; add.s64 %y, %out, %y;
        ld.global.u32 %r2, [%y]; E:";
    is_race(early);
    let data = "st.global.u32 [%my], %g;";
    runs(&early.replace(data, "").replace("C; bar.sync 0;", &format!("C; {data} bar.sync 0;")));
}

#[test]
fn scopes_below_the_device_order_no_blocks() {
    let meeting = barrier(1);
    is_race(&exchange(&meeting.replace("ld.acquire.gpu", "ld.acquire.cta")));
    is_race(&exchange(&meeting.replace("red.release.gpu", "red.release.cluster")));
    let fenced = |scope: &str| {
        let fence = format!("fence.acq_rel.{scope}; red.relaxed.gpu");
        exchange(&meeting.replace("red.release.gpu", &fence))
    };
    is_race(&fenced("cta"));
    is_race(&fenced("cluster"));
    runs(&fenced("gpu"));
    runs(&fenced("sys"));
}

#[test]
fn a_store_ends_a_release_sequence_and_an_atomic_operation_continues_it() {
    // Block 0 releases; block 1 changes the flag without a release of its own; block 2 acquires what that left.
    let body = |change: &str| {
        format!(
            "setp.eq.u32 %p, %b, 0; @!%p bra A; st.global.u32 [%my], 7; bar.sync 0;
             @%first st.release.gpu.global.u32 [%flag], 1; bra E;
             A: setp.eq.u32 %p, %b, 1; @!%p bra C; @!%first bra E;
             W: ld.relaxed.gpu.global.u32 %r1, [%flag]; setp.eq.u32 %p, %r1, 0; @%p bra W; {change} bra E;
             C: @!%first bra F; V: ld.acquire.gpu.global.u32 %r1, [%flag]; setp.ne.u32 %p, %r1, 2; @%p bra V;
             F: bar.sync 0; ld.global.u32 %r2, [%out]; E:"
        )
    };
    let grid = Grid { blocks: 3, ..TWO };
    run(&body("red.relaxed.gpu.global.add.u32 [%flag], 1;"), grid).expect("runs");
    let (found, text) = problem(&body("st.relaxed.gpu.global.u32 [%flag], 2;"), grid);
    assert!(matches!(found, Problem::Race { .. }), "{text}");
}

#[test]
fn blocks_of_a_cooperative_launch_know_their_multiprocessors() {
    let body =
        "mov.u32 %r1, %smid; mov.u32 %r2, %nsmid; mad.lo.u32 %r1, %r2, 1000, %r1; st.global.u32 [%my], %r1;";
    let (words, _) = run(body, Grid { blocks: 134, size: 1, threads: 1 }).expect("runs");
    assert_eq!([words[0], words[131], words[132]], [132_000, 132_131, 132_000]);
}

#[test]
fn loops_that_wait_for_ever_in_other_ways_are_deadlocks() {
    // All threads at a barrier of their block in each turn, a compare-and-swap, a barrier in shared memory.
    for wait in [
        "W: @%first ld.acquire.gpu.global.u32 %r1, [%flag]; @%first st.shared.u32 [s], %r1; bar.sync 0;
         ld.shared.u32 %r1, [s]; bar.sync 0; setp.eq.u32 %p, %r1, 0; @%p bra W;",
        "W: atom.cas.global.b32 %r1, [%flag], 1, 2; setp.eq.u32 %p, %r1, 0; nanosleep.u32 20; @%p bra W;",
        "@%first mbarrier.init.shared.b64 [s], 65; bar.sync 0; mbarrier.arrive.shared.b64 %x, [s];
         W: mbarrier.try_wait.shared.b64 %p, [s], %x; @!%p bra W;",
    ] {
        let (found, text) = problem(wait, TWO);
        assert!(matches!(found, Problem::GridDeadlock { .. }), "{text}");
    }
    // Plain loads are taken for work, for a while.
    let plain = "W: ld.global.u32 %r1, [%flag]; setp.eq.u32 %p, %r1, 0; @%p bra W;";
    assert!(matches!(problem(plain, Grid { size: 1, ..TWO }).0, Problem::GridDeadlock { .. }));
    let missing = "setp.eq.u32 %p, %b, 1; setp.lt.and.u32 %p, %t, 32, %p; @%p bar.sync 1, 64;";
    assert_eq!(problem(missing, TWO).0, Problem::Deadlock);
}

#[test]
fn waiting_counts_as_one_turn_of_its_loop() {
    // Whatever the order in which blocks take turns, and however often they look.
    let body = exchange(&barrier(1));
    let count = |threads| run(&body, Grid { blocks: 9, threads, ..TWO }).expect("runs").1;
    let (one, three) = (count(1), count(3));
    assert_eq!(one, three);
    // Each block: two words a thread, the counter read and written, and seen once.
    assert_eq!(one.global_read, 9 * (64 * 4 + 4 + 4));
    assert_eq!(one.global_written, 9 * (64 * 4 + 4));
    assert_eq!(one.barriers, 9 * 2 * 2);
}

#[test]
fn grids_that_a_device_has_no_room_for_are_refused() {
    let text = kernel("").replace(".shared .align 16 .b8 s[64];", "");
    let module = module(&text);
    let memory = Memory::new();
    let launch = |blocks, size, shared_bytes| {
        let launch = Launch {
            kernel: "k",
            grid: [blocks, 1, 1],
            block: [size, 1, 1],
            shared_bytes,
            arguments: &[0; 3],
            threads: 2,
            cooperative: true,
            clusters: None,
        };
        module.launch(&memory, &launch).map_err(|e| e.to_string())
    };
    let refused = |blocks, size, shared| launch(blocks, size, shared).expect_err("refuses");
    let text = refused(133, 1024, 200 << 10);
    assert!(
        text.contains("133 blocks; 132 are resident at once, 1 on each of 132 multiprocessors"),
        "{text}"
    );
    assert!(text.contains("bytes of shared memory, of which a block takes 204800"), "{text}");
    assert!(
        refused(529, 512, 0).contains(
            "528 are resident at once, 4 on each of 132 multiprocessors with room for 2048 threads"
        )
    );
    assert!(refused(4225, 32, 0).contains("room for 32 blocks"));
    assert!(launch(132, 32, 0).is_ok());
}
