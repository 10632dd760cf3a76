//! What orders blocks of a cooperative launch on the simulated GPU, told from what only looks so: every fault is
//! reported, whichever blocks it is between, whatever the order in which they take turns.

mod common;

use common::accepted;
use fuse_runtime::sim::{Content, Launch, Memory, Module, Problem, SimError};

/// A kernel with the block in `%b`, blocks in `%n`, the thread in `%t`, its word of the output at `%my` and a flag, all
/// of whose words are 0, at `%flag`.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n
        .visible .entry k(.param .u64 out, .param .u64 flag) {{
        .reg .pred %p, %q, %first; .reg .b32 %t, %b, %n, %size, %g, %r<16>; .reg .b64 %out, %flag, %my, %x, %y;
        ld.param.u64 %out, [out]; ld.param.u64 %flag, [flag];
        mov.u32 %t, %tid.x; mov.u32 %b, %ctaid.x; mov.u32 %n, %nctaid.x; mov.u32 %size, %ntid.x;
        setp.eq.u32 %first, %t, 0;
        mad.lo.u32 %g, %b, %size, %t; mul.wide.u32 %x, %g, 4; add.s64 %my, %out, %x;
        {body}
        ret; }}"
    )
}

#[derive(Clone, Copy, Debug)]
struct Grid {
    blocks: u32,
    size: u32,
    threads: usize,
    cooperative: bool,
}

fn run(body: &str, grid: Grid) -> Result<(), SimError> {
    let text = kernel(body);
    // Kernels for more blocks are of the same instructions.
    if grid.blocks == 2 {
        accepted(&text);
    }
    let module = Module::parse(&text).unwrap_or_else(|e| panic!("{body}: {e}"));
    let mut memory = Memory::new();
    let out = memory.allocate("out", u64::from(8 * grid.blocks * grid.size), 4, Content::Written);
    let flag = memory.allocate_with("flag", &[0; 64], 4, Content::Written);
    let launch = Launch {
        kernel: "k",
        grid: [grid.blocks, 1, 1],
        block: [grid.size, 1, 1],
        shared_bytes: 0,
        arguments: &[out, flag],
        threads: grid.threads,
        cooperative: grid.cooperative,
        clusters: None,
    };
    module.launch(&memory, &launch).map(|_| ())
}

fn is_race(body: &str, grid: Grid, what: &str) {
    match run(body, grid) {
        Err(SimError::Fault(fault)) if matches!(fault.problem, Problem::Race { .. }) => {}
        other => panic!("{what}, {grid:?}: expected a race, got {other:?}\n{body}"),
    }
}

fn runs(body: &str, grid: Grid, what: &str) {
    run(body, grid).unwrap_or_else(|e| panic!("{what}, {grid:?}: {e}\n{body}"));
}

/// Grids of some blocks, on one and more threads of the host.
fn grids() -> impl Iterator<Item = Grid> {
    let grid = |(blocks, threads)| Grid { blocks, size: 64, threads, cooperative: true };
    [(2, 1), (3, 1), (5, 1), (5, 3)].into_iter().map(grid)
}

fn pairs(blocks: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..blocks).flat_map(move |a| (0..blocks).map(move |b| (a, b))).filter(|(a, b)| a != b)
}

/// Where all blocks meet, by a counter that has to reach `count`.
fn meet(label: &str, count: &str) -> String {
    format!(
        "bar.sync 0; @!%first bra B{label}; red.release.gpu.global.add.u32 [%flag], 1; {count}
         W{label}: ld.acquire.gpu.global.u32 %r14, [%flag]; setp.lt.u32 %p, %r14, %r15; @%p bra W{label};
         B{label}: bar.sync 0;"
    )
}

/// Where they meet for the `times`th time.
fn meeting(times: u32) -> String {
    meet(&format!("m{times}"), &format!("mul.lo.u32 %r15, %n, {times};"))
}

/// The same by fences, as cooperative groups have it, where one thread of the block waits or all do.
fn fenced(label: &str, count: &str, all: bool) -> String {
    let wait = format!(
        "W{label}: ld.relaxed.gpu.global.u32 %r14, [%flag]; setp.lt.u32 %p, %r14, %r15; @%p bra W{label};
         fence.acq_rel.gpu;"
    );
    let (one, each) = if all { (String::new(), wait) } else { (wait, "bar.sync 0;".to_string()) };
    format!(
        "bar.sync 0; {count} @!%first bra B{label}; fence.acq_rel.gpu; red.relaxed.gpu.global.add.u32 [%flag], 1; {one}
         B{label}: {each}"
    )
}

/// A barrier of which each block has a flag, that all blocks read.
fn flags(label: &str, value: u32, wanted: u32) -> String {
    format!(
        "bar.sync 0; mul.wide.u32 %x, %b, 4; add.s64 %x, %flag, %x; @%first st.release.gpu.global.u32 [%x], {value};
         setp.ge.u32 %p, %t, %n; @%p bra B{label}; mul.wide.u32 %x, %t, 4; add.s64 %x, %flag, %x;
         W{label}: ld.acquire.gpu.global.u32 %r14, [%x]; setp.lt.u32 %p, %r14, {wanted}; @%p bra W{label};
         B{label}: bar.sync 0;"
    )
}

/// Every thread writes its word.
const WRITE: &str = "st.global.u32 [%my], %g;";

/// The threads of one block read the words of another.
fn read(by: u32, of: u32) -> String {
    format!(
        "setp.ne.u32 %q, %b, {by}; @%q bra R{by}; mad.lo.u32 %r1, %size, {of}, %t; mul.wide.u32 %y, %r1, 4;
         add.s64 %y, %out, %y; ld.global.u32 %r2, [%y]; R{by}:"
    )
}

/// All blocks read the words of one.
fn read_all(of: u32) -> String {
    format!(
        "mad.lo.u32 %r1, %size, {of}, %t; mul.wide.u32 %y, %r1, 4; add.s64 %y, %out, %y; ld.global.u32 %r2, [%y];"
    )
}

/// The threads of one block write their words again.
fn rewrite(by: u32) -> String {
    format!("setp.eq.u32 %q, %b, {by}; @%q st.global.u32 [%my], 1;")
}

/// Text that only one block executes as it was meant to be in all others.
fn unlike(block: u32, text: &str, from: &str, to: &str) -> String {
    let (at, rest) = text.split_once(from).unwrap_or_else(|| panic!("no {from} in {text}"));
    format!("setp.eq.u32 %q, %b, {block}; {at} @!%q {from} @%q {to} {rest}")
}

#[test]
fn meetings_order_each_pair_of_blocks() {
    for grid in grids() {
        for (by, of) in pairs(grid.blocks) {
            runs(&format!("{WRITE} {} {}", meeting(1), read(by, of)), grid, "a counter");
            runs(&format!("{WRITE} {} {}", flags("f", 1, 1), read(by, of)), grid, "flags");
            let again = format!("{WRITE} {} {} {} {}", meeting(1), read_all(of), meeting(2), rewrite(of));
            runs(&again, grid, "two meetings");
            let late = format!("{} {WRITE} {} {}", meeting(1), meeting(2), read(by, of));
            runs(&late, grid, "a second meeting");
            let late = format!("{} {WRITE} {} {}", flags("f", 1, 1), flags("g", 2, 2), read(by, of));
            runs(&late, grid, "flags of a second meeting");
        }
    }
}

#[test]
fn counts_that_are_too_small_order_no_pair() {
    for grid in grids() {
        for (by, of) in pairs(grid.blocks) {
            for count in 1..grid.blocks {
                let small = meet("s", &format!("mov.u32 %r15, {count};"));
                is_race(
                    &format!("{WRITE} {small} {}", read(by, of)),
                    grid,
                    &format!("{by} reads {of} after {count}"),
                );
                let second = meet("s", &format!("add.u32 %r15, %n, {count};"));
                let body = format!("{} {WRITE} {second} {}", meeting(1), read(by, of));
                is_race(&body, grid, &format!("{by} reads {of} after {count} more"));
                let body = format!("{WRITE} {} {} {second} {}", meeting(1), read(by, of), rewrite(of));
                is_race(&body, grid, &format!("{of} overwrites what {by} read after {count} more"));
            }
        }
    }
}

#[test]
fn fences_order_blocks_that_wait_for_all_and_no_others() {
    for grid in grids() {
        for ((by, of), all) in pairs(grid.blocks).flat_map(|pair| [(pair, false), (pair, true)]) {
            let right = fenced("f", "mov.u32 %r15, %n;", all);
            runs(&format!("{WRITE} {right} {}", read(by, of)), grid, "fences");
            for count in 1..grid.blocks {
                let small = fenced("s", &format!("mov.u32 %r15, {count};"), all);
                let what = format!("{by} reads {of} after {count}");
                is_race(&format!("{WRITE} {small} {}", read(by, of)), grid, &what);
                let second = fenced("s", &format!("add.u32 %r15, %n, {count};"), all);
                is_race(&format!("{right} {WRITE} {second} {}", read(by, of)), grid, &what);
            }
            let lacking = right.replacen("fence.acq_rel.gpu;", "", 1);
            is_race(&format!("{WRITE} {lacking} {}", read(by, of)), grid, "no fence before");
            let at = right.rfind("fence.acq_rel.gpu;").expect("a fence");
            let lacking = format!("{}{}", &right[..at], &right[at + "fence.acq_rel.gpu;".len()..]);
            is_race(&format!("{WRITE} {lacking} {}", read(by, of)), grid, "no fence behind");
        }
    }
}

#[test]
fn stale_flags_order_no_pair() {
    let stale = meet("s", "mov.u32 %r15, %n;");
    for grid in grids() {
        for (by, of) in pairs(grid.blocks) {
            let body = format!("{} {WRITE} {stale} {}", meeting(1), read(by, of));
            is_race(&body, grid, &format!("{by} reads {of}, a counter"));
            let body = format!("{} {WRITE} {} {}", flags("f", 1, 1), flags("s", 2, 1), read(by, of));
            is_race(&body, grid, &format!("{by} reads {of}, flags"));
        }
    }
}

#[test]
fn a_block_that_does_not_release_is_not_ordered() {
    for grid in grids() {
        for (by, of) in pairs(grid.blocks) {
            let relaxed = |block, text: &str| {
                unlike(
                    block,
                    text,
                    "red.release.gpu.global.add.u32 [%flag], 1;",
                    "red.relaxed.gpu.global.add.u32 [%flag], 1;",
                )
            };
            let body = format!("{WRITE} {} {}", relaxed(of, &meeting(1)), read(by, of));
            is_race(&body, grid, &format!("{by} reads {of}"));
            // All blocks read; only one of them does not say so.
            let second = relaxed(by, &meeting(2));
            let body = format!("{WRITE} {} {} {second} {}", meeting(1), read_all(of), rewrite(of));
            is_race(&body, grid, &format!("{of} overwrites what all and {by} read"));
        }
    }
}

#[test]
fn a_block_that_does_not_acquire_is_not_ordered() {
    let (acquire, relaxed) =
        ("ld.acquire.gpu.global.u32 %r14, [%flag];", "ld.relaxed.gpu.global.u32 %r14, [%flag];");
    for grid in grids() {
        for (by, of) in pairs(grid.blocks) {
            let body = format!("{WRITE} {} {}", unlike(by, &meeting(1), acquire, relaxed), read(by, of));
            is_race(&body, grid, &format!("{by} reads {of}"));
        }
    }
}

#[test]
fn a_missing_meeting_orders_no_pair() {
    for grid in grids() {
        for (by, of) in pairs(grid.blocks) {
            is_race(&format!("{WRITE} {}", read(by, of)), grid, &format!("{by} reads {of}"));
            let body = format!("{WRITE} {} {} {}", meeting(1), read_all(of), rewrite(of));
            is_race(&body, grid, &format!("{of} overwrites what all read"));
            let body = format!("{WRITE} {} {} {}", meeting(1), read(by, of), rewrite(of));
            is_race(&body, grid, &format!("{of} overwrites what {by} read"));
        }
    }
}

#[test]
fn a_block_that_leaves_out_its_own_barrier_is_not_ordered() {
    for grid in grids() {
        for (by, of) in pairs(grid.blocks) {
            let before = unlike(of, &meeting(1), "bar.sync 0;", "bar.warp.sync -1;");
            is_race(&format!("{WRITE} {before} {}", read(by, of)), grid, &format!("{by} reads {of}"));
        }
    }
}

#[test]
fn no_reader_among_many_blocks_is_forgotten() {
    // All threads of all blocks read a word, and one block writes it, whose own threads met.
    for grid in grids() {
        for cooperative in [false, true] {
            for writer in 0..grid.blocks {
                let body = format!(
                    "ld.global.u32 %r1, [%out]; bar.sync 0; setp.eq.and.u32 %q, %b, {writer}, %first;
                     @%q st.global.u32 [%out], 1;"
                );
                is_race(&body, Grid { cooperative, ..grid }, &format!("{writer} writes"));
            }
        }
    }
}

#[test]
fn steps_that_meet_once_are_not_ordered() {
    // Each step reads what all blocks wrote in the last one, into one buffer or two in turn; one meeting a step is enough
    // for two.
    let step = |buffers: u32| {
        format!(
            "mov.u32 %r5, 0; mov.u32 %r15, 0; mul.lo.u32 %r6, %n, %size; mul.wide.u32 %x, %r6, 4;
             L: rem.u32 %r7, %r5, {buffers}; cvt.u64.u32 %y, %r7; mad.lo.s64 %my, %x, %y, %out;
             mul.wide.u32 %y, %g, 4; add.s64 %y, %my, %y; st.global.u32 [%y], %r5;
             {}
             mov.u32 %r1, %t; M: mul.wide.u32 %y, %r1, 4; add.s64 %y, %my, %y; ld.global.u32 %r2, [%y];
             add.u32 %r1, %r1, %size; setp.lt.u32 %p, %r1, %r6; @%p bra M;
             add.u32 %r5, %r5, 1; setp.lt.u32 %p, %r5, 20; @%p bra L;",
            meet("s", "add.u32 %r15, %r15, %n;")
        )
    };
    for (blocks, threads) in [(2, 1), (3, 2), (5, 1), (9, 3)] {
        let grid = Grid { blocks, size: 64, threads, cooperative: true };
        is_race(&step(1), grid, "one buffer");
        runs(&step(2), grid, "two buffers");
    }
}
