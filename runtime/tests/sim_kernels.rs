//! Kernels of several threads on the simulated GPU: exchanges, matrices, asynchronous copies, divergence, counters, and
//! each report with a kernel that provokes it.

use fuse_runtime::sim::{Content, Counters, Launch, Memory, Module, Problem, SimError};

/// A kernel with the parameters `in` and `out` (addresses in `%in` and `%out`), the thread in `%tid`, and `%my`, the
/// address of the thread's word of the output.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n
        .visible .entry k(.param .u64 in, .param .u64 out) {{
        .reg .pred %p, %q; .reg .b32 %tid, %r<16>; .reg .b64 %in, %out, %my, %x, %y; .reg .f32 %f<16>;
        .shared .align 16 .b8 s[4096];
        ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; mov.u32 %tid, %tid.x;
        mul.wide.u32 %x, %tid, 4; add.s64 %my, %out, %x;
        {body}
        ret; }}"
    )
}

/// Runs the kernel in `blocks` blocks of `threads` threads on words of the output.
fn run(body: &str, blocks: u32, threads: u32, input: &[u32]) -> Result<(Vec<u32>, Counters), SimError> {
    let module = Module::parse(&kernel(body)).unwrap_or_else(|e| panic!("{body}: {e}"));
    let mut memory = Memory::new();
    let bytes: Vec<u8> = input.iter().flat_map(|w| w.to_le_bytes()).collect();
    let given = memory.allocate_with("in", &bytes, 4, Content::Constant);
    let words = 64.max(threads as usize);
    let out = memory.allocate("out", 4 * words as u64, 4, Content::Unwritten);
    let launch = Launch {
        kernel: "k",
        grid: [blocks, 1, 1],
        block: [threads, 1, 1],
        shared_bytes: 0,
        arguments: &[given, out],
        threads: 1,
        cooperative: false,
    };
    let counters = module.launch(&memory, &launch)?;
    let mut bytes = vec![0; 4 * words];
    memory.read(out, &mut bytes);
    let words = bytes.chunks(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
    Ok((words, counters))
}

fn values(body: &str, threads: u32, input: &[u32]) -> Vec<u32> {
    let (words, _) = run(body, 1, threads, input).unwrap_or_else(|e| panic!("{body}: {e}"));
    words
}

/// The report of a kernel that does something wrong.
fn problem(body: &str, blocks: u32, threads: u32) -> (Problem, String) {
    match run(body, blocks, threads, &[1; 64]) {
        Err(SimError::Fault(fault)) => (fault.problem.clone(), fault.to_string()),
        other => panic!("{body}: expected a report, got {other:?}"),
    }
}

#[test]
fn lanes_exchange_values() {
    for (line, expected) in [
        ("shfl.sync.bfly.b32 %r1, %tid, 1, 31, -1;", [1, 0, 3]),
        ("shfl.sync.down.b32 %r1, %tid, 2, 31, -1;", [2, 3, 4]),
        ("shfl.sync.up.b32 %r1|%p, %tid, 1, 0, -1;", [0, 0, 1]),
        ("shfl.sync.idx.b32 %r1, %tid, 5, 31, -1;", [5, 5, 5]),
        ("shfl.sync.idx.b32 %r1, %tid, 1, 7199, -1;", [1, 1, 1]),
        ("setp.lt.u32 %p, %tid, 3; vote.sync.ballot.b32 %r1, %p, -1;", [7, 7, 7]),
        ("setp.lt.u32 %p, %tid, 3; vote.sync.any.pred %q, %p, -1; selp.u32 %r1, 1, 0, %q;", [1, 1, 1]),
        ("setp.lt.u32 %p, %tid, 3; vote.sync.all.pred %q, %p, -1; selp.u32 %r1, 1, 0, %q;", [0, 0, 0]),
        ("setp.lt.u32 %p, %tid, 3; vote.sync.uni.pred %q, %p, -1; selp.u32 %r1, 1, 0, %q;", [0, 0, 0]),
        ("redux.sync.add.u32 %r1, %tid, -1;", [496, 496, 496]),
        ("activemask.b32 %r1;", [u32::MAX; 3]),
        ("elect.sync _|%p, -1; selp.u32 %r1, 1, 0, %p;", [1, 0, 0]),
    ] {
        let got = values(&format!("{line} st.global.b32 [%my], %r1;"), 32, &[]);
        assert_eq!(got[..3], expected, "{line}");
    }
}

#[test]
fn lanes_that_part_meet_again() {
    let body = "setp.lt.u32 %p, %tid, 5; @%p bra A; mov.u32 %r1, 2; bra B;
        A: mov.u32 %r1, 1; B: activemask.b32 %r2; add.s32 %r3, %r1, %r2; st.global.b32 [%my], %r3;";
    let got = values(body, 32, &[]);
    assert_eq!((got[0], got[31]), (0, 1), "all lanes are together again: the mask is -1");
    let body = "mov.u32 %r1, 0; L: add.u32 %r1, %r1, 1; setp.le.u32 %p, %r1, %tid; @%p bra L;
        activemask.b32 %r2; not.b32 %r2, %r2; add.u32 %r1, %r1, %r2; st.global.b32 [%my], %r1;";
    assert_eq!(values(body, 32, &[])[..32], (1..=32).collect::<Vec<u32>>());
    let table = "and.b32 %r2, %tid, 1; T: .branchtargets A, B; brx.idx %r2, T; A: mov.u32 %r1, 10; bra E;
        B: mov.u32 %r1, 20; E: activemask.b32 %r3; add.u32 %r1, %r1, %r3; st.global.b32 [%my], %r1;";
    assert_eq!(values(table, 32, &[])[..3], [9, 19, 9]);
}

#[test]
fn barriers_make_other_warps_writes_visible() {
    let body = "shl.b32 %r1, %tid, 2; mov.u32 %r2, s; add.u32 %r1, %r1, %r2; st.shared.b32 [%r1], %tid;
        bar.sync 0; xor.b32 %r3, %tid, 32; shl.b32 %r3, %r3, 2; add.u32 %r3, %r3, %r2;
        ld.shared.b32 %r4, [%r3]; st.global.b32 [%my], %r4;";
    let (words, counters) = run(body, 1, 64, &[]).expect("runs");
    assert_eq!((words[0], words[63], counters.barriers), (32, 31, 2));
}

#[test]
fn copies_arrive_when_they_are_waited_for() {
    let body = "shl.b32 %r1, %tid, 4; mov.u32 %r2, s; add.u32 %r1, %r1, %r2; mul.wide.u32 %x, %tid, 16;
        add.s64 %y, %in, %x; cp.async.cg.shared.global [%r1], [%y], 16, 8; cp.async.commit_group;
        cp.async.wait_group 0; ld.shared.v4.b32 {%r3, %r4, %r5, %r6}, [%r1];
        add.u32 %r3, %r4, %r5; st.global.b32 [%my], %r3;";
    let input: Vec<u32> = (0..32).collect();
    assert_eq!(values(body, 8, &input)[..3], [1, 5, 9], "the third word is filled with zero");
    let early = body.replace("cp.async.wait_group 0;", "");
    assert!(matches!(problem(&early, 1, 8).0, Problem::NeverWritten { .. }));
}

#[test]
fn matrices_are_loaded_and_multiplied() {
    // Rows of eight halves, 16 bytes each: element (row, column) is 8 · row + column, as an integer.
    let fill = "shl.b32 %r1, %tid, 2; mov.u32 %r2, s; add.u32 %r1, %r1, %r2; shl.b32 %r3, %tid, 1;
        add.u32 %r4, %r3, 1; shl.b32 %r4, %r4, 16; or.b32 %r3, %r3, %r4; st.shared.b32 [%r1], %r3;
        bar.warp.sync -1; and.b32 %r5, %tid, 7; shl.b32 %r5, %r5, 4; add.u32 %r5, %r5, %r2;";
    let plain =
        format!("{fill} ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r6}}, [%r5]; st.global.b32 [%my], %r6;");
    assert_eq!(values(&plain, 32, &[])[..2], [0x1_0000, 0x3_0002]);
    let turned = plain.replace("x1.shared", "x1.trans.shared");
    assert_eq!(values(&turned, 32, &[])[..2], [0x8_0000, 0x18_0010]);
    // Ones times ones, with an inner dimension of 16 and then 8, plus 1.
    for (product, ones) in [
        (
            "m16n8k16.row.col.f32.f16.f16.f32 {%f0, %f1, %f2, %f3}, {%r1, %r1, %r1, %r1}, {%r1, %r1},",
            "0x3C003C00",
        ),
        (
            "m16n8k16.row.col.f32.bf16.bf16.f32 {%f0, %f1, %f2, %f3}, {%r1, %r1, %r1, %r1}, {%r1, %r1},",
            "0x3F803F80",
        ),
        ("m16n8k8.row.col.f32.f16.f16.f32 {%f0, %f1, %f2, %f3}, {%r1, %r1}, {%r1},", "0x3C003C00"),
        (
            "m16n8k8.row.col.f32.tf32.tf32.f32 {%f0, %f1, %f2, %f3}, {%r1, %r1, %r1, %r1}, {%r1, %r1},",
            "0x3F800000",
        ),
        ("m16n8k4.row.col.f32.tf32.tf32.f32 {%f0, %f1, %f2, %f3}, {%r1, %r1}, {%r1},", "0x3F800000"),
    ] {
        let body = format!(
            "mov.u32 %r1, {ones}; mov.f32 %f4, 0f3F800000; mma.sync.aligned.{product} {{%f4, %f4, %f4, %f4}};
             st.global.f32 [%my], %f3;"
        );
        let expected = match &product[..8] {
            "m16n8k16" => 17f32,
            _ if product.starts_with("m16n8k8") => 9.0,
            _ => 5.0,
        };
        assert_eq!(values(&body, 32, &[])[31], expected.to_bits(), "{product}");
    }
}

#[test]
fn accesses_are_counted_as_the_hardware_serves_them() {
    let body = "add.s64 %y, %in, %x; ld.global.b32 %r1, [%y]; st.global.b32 [%my], %r1;";
    let (_, coalesced) = run(body, 1, 32, &[3; 64]).expect("runs");
    assert_eq!((coalesced.global_read, coalesced.global_written, coalesced.global_sectors), (128, 128, 8));
    let strided = "and.b32 %r2, %tid, 7; mul.wide.u32 %y, %r2, 32; add.s64 %y, %in, %y;
        ld.global.b32 %r1, [%y]; st.global.b32 [%my], %r1;";
    let (_, strided) = run(strided, 1, 32, &[3; 64]).expect("runs");
    assert_eq!(strided.global_sectors, 8 + 4);
    let store = |stride: u32| {
        format!(
            "mul.lo.u32 %r1, %tid, {stride}; mov.u32 %r2, s; add.u32 %r1, %r1, %r2; st.shared.b32 [%r1], %tid;"
        )
    };
    let conflicts = |stride| run(&store(stride), 1, 32, &[]).expect("runs").1.bank_conflicts;
    assert_eq!((conflicts(4), conflicts(8), conflicts(128)), (0, 1, 31));
}

#[test]
fn accesses_out_of_bounds_are_reported() {
    let (problem_, text) = problem("ld.global.b32 %r1, [%in+256]; st.global.b32 [%my], %r1;", 1, 1);
    assert!(matches!(problem_, Problem::OutOfBounds { .. }));
    assert!(text.contains("4 bytes at offset 256 of `in`, which has 256 bytes"), "{text}");
    assert!(
        text.starts_with("kernel `k`, PTX line ") && text.contains("`ld.global.b32 %r1, [%in+256];`"),
        "{text}"
    );
    // Only the last thread of an edge tile.
    let (_, text) = problem("add.s64 %my, %my, 132; st.global.b32 [%my], %tid;", 1, 32);
    assert!(text.contains("thread [31, 0, 0]"), "{text}");
    assert!(matches!(problem("ld.global.b32 %r1, [%in+-4];", 1, 1).0, Problem::OutOfBounds { .. }));
    assert!(matches!(
        problem("mov.u64 %y, 0; ld.b32 %r1, [%y];", 1, 1).0,
        Problem::OutOfBounds { buffer: None, .. }
    ));
    assert!(matches!(problem("st.shared.b32 [s+4096], %tid;", 1, 1).0, Problem::OutOfBounds { .. }));
}

#[test]
fn misaligned_accesses_are_reported() {
    assert!(matches!(
        problem("ld.global.b32 %r1, [%in+2];", 1, 1).0,
        Problem::Misaligned { alignment: 4, .. }
    ));
    let vector = "ld.global.v2.b32 {%r1, %r2}, [%in+4];";
    assert!(matches!(problem(vector, 1, 1).0, Problem::Misaligned { alignment: 8, .. }));
}

#[test]
fn reads_of_what_was_never_written_are_reported() {
    assert!(matches!(problem("ld.global.b32 %r1, [%my];", 1, 1).0, Problem::NeverWritten { .. }));
    assert!(matches!(problem("ld.shared.b32 %r1, [s];", 1, 1).0, Problem::NeverWritten { .. }));
    let half = "st.shared.b32 [s], %tid; ld.shared.v2.b32 {%r1, %r2}, [s];";
    assert!(matches!(problem(half, 1, 1).0, Problem::NeverWritten { .. }));
    let local = ".local .align 4 .b8 l[4]; ld.local.b32 %r1, [l];";
    assert!(matches!(problem(local, 1, 1).0, Problem::NeverWritten { .. }));
}

#[test]
fn writes_to_what_may_only_be_read_are_reported() {
    assert!(matches!(problem("st.global.b32 [%in], 1;", 1, 1).0, Problem::ReadOnly { .. }));
}

#[test]
fn races_on_shared_memory_are_reported() {
    let exchange = |between: &str| {
        format!(
            "shl.b32 %r1, %tid, 2; mov.u32 %r2, s; add.u32 %r1, %r1, %r2; st.shared.b32 [%r1], %tid; {between}
             xor.b32 %r3, %tid, 32; shl.b32 %r3, %r3, 2; add.u32 %r3, %r3, %r2; ld.shared.b32 %r4, [%r3];"
        )
    };
    // The other warp wrote, or has not yet written.
    assert!(matches!(problem(&exchange(""), 1, 64).0, Problem::Race { .. } | Problem::NeverWritten { .. }));
    let again = format!("{} st.shared.b32 [%r1], %tid;", exchange("bar.sync 0;"));
    let (problem_, text) = problem(&again, 1, 64);
    assert!(matches!(problem_, Problem::Race { .. }), "{text}");
    assert!(
        run(&again.replace("ld.shared.b32 %r4, [%r3];", "ld.shared.b32 %r4, [%r3]; bar.sync 0;"), 1, 64, &[])
            .is_ok()
    );
    // Within a warp, lanes need a barrier too.
    let lanes = exchange("").replace("%tid, 32", "%tid, 1");
    assert!(matches!(problem(&lanes, 1, 32).0, Problem::Race { .. }));
    assert!(run(&exchange("bar.warp.sync -1;").replace("%tid, 32", "%tid, 1"), 1, 32, &[]).is_ok());
    let all = "st.shared.b32 [s], %tid;";
    assert!(matches!(problem(all, 1, 32).0, Problem::Race { writes: true, .. }));
}

#[test]
fn races_on_global_memory_are_reported() {
    assert!(matches!(problem("st.global.b32 [%out], 1;", 2, 1).0, Problem::Race { .. }));
    let read = "mov.u32 %r1, %ctaid.x; setp.eq.u32 %p, %r1, 0; @%p st.global.b32 [%out], 1;
        @!%p ld.global.b32 %r2, [%out];";
    let (found, text) = problem(read, 2, 1);
    assert!(matches!(found, Problem::Race { writes: false, .. }), "{text}");
    assert!(text.contains("which thread 0 of block 0 wrote"), "{text}");
    // Neighbours do not race, and neither do atomic operations.
    assert!(run("st.global.b32 [%my], 1;", 1, 64, &[]).is_ok());
    let atomic =
        "setp.eq.u32 %p, %tid, 0; @%p st.global.b32 [%out], 0; bar.sync 0; red.global.add.u32 [%out], 1;";
    assert_eq!(values(atomic, 64, &[])[0], 64);
}

#[test]
fn divergent_barriers_and_deadlocks_are_reported() {
    let some = "setp.lt.u32 %p, %tid, 5; @%p bar.sync 0;";
    assert!(matches!(problem(some, 1, 32).0, Problem::DivergentBarrier { here: 31, .. }));
    let other = "setp.lt.u32 %p, %tid, 32; @%p bar.sync 0; @!%p bar.sync 1;";
    assert_eq!(problem(other, 1, 64).0, Problem::Deadlock);
    let flag =
        "st.global.b32 [%my], 0; L: ld.volatile.global.b32 %r1, [%my]; setp.eq.u32 %p, %r1, 0; @%p bra L;";
    assert_eq!(problem(flag, 1, 32).0, Problem::Deadlock);
    // Threads that have returned are not waited for.
    assert!(run("setp.ge.u32 %p, %tid, 32; @%p ret; bar.sync 0;", 1, 64, &[]).is_ok());
}

#[test]
fn exchanges_with_absent_lanes_are_reported() {
    let some = "setp.lt.u32 %p, %tid, 5; @%p shfl.sync.bfly.b32 %r1, %tid, 1, 31, -1;";
    assert!(matches!(problem(some, 1, 32).0, Problem::WrongMembers { here: 31, named: u32::MAX }));
    assert!(matches!(problem("bar.warp.sync 1;", 1, 32).0, Problem::WrongMembers { .. }));
}

#[test]
fn traps_are_reported() {
    assert_eq!(problem("trap;", 1, 1).0, Problem::Trap);
}

#[test]
fn launches_that_a_device_would_refuse_are_refused() {
    let text = kernel("").replace("s[4096]", "s[50000]");
    let module = Module::parse(&text).expect("parses");
    let memory = Memory::new();
    let launch = |block, arguments| Launch {
        kernel: "k",
        grid: [1; 3],
        block: [block, 1, 1],
        shared_bytes: 0,
        arguments,
        threads: 1,
        cooperative: false,
    };
    let refused = |launch: &Launch<'_>| module.launch(&memory, launch).expect_err("refuses").to_string();
    assert!(refused(&launch(1, &[0, 0])).contains("declared"));
    assert!(refused(&launch(2048, &[0, 0])).contains("1 to 1024 threads"));
    assert!(refused(&launch(1, &[0])).contains("takes 2 parameters"));
    assert!(refused(&Launch { kernel: "x", ..launch(1, &[]) }).contains("no kernel `x`"));
}
