//! Kernels of several threads on the simulated GPU: exchanges, matrices, asynchronous copies, divergence, counters, and
//! each report with a kernel that provokes it.

mod common;

use common::{kernel, problem, run, values};
use fuse_runtime::sim::{Launch, Memory, Module, Problem};

#[test]
fn lanes_exchange_values() {
    for (line, expected) in [
        ("shfl.sync.bfly.b32 %r1, %t, 1, 31, -1;", [1, 0, 3]),
        ("shfl.sync.down.b32 %r1, %t, 2, 31, -1;", [2, 3, 4]),
        ("shfl.sync.up.b32 %r1|%p, %t, 1, 0, -1;", [0, 0, 1]),
        ("shfl.sync.idx.b32 %r1, %t, 5, 31, -1;", [5, 5, 5]),
        ("shfl.sync.idx.b32 %r1, %t, 1, 7199, -1;", [1, 1, 1]),
        ("setp.lt.u32 %p, %t, 3; vote.sync.ballot.b32 %r1, %p, -1;", [7, 7, 7]),
        ("setp.lt.u32 %p, %t, 3; vote.sync.any.pred %q, %p, -1; selp.u32 %r1, 1, 0, %q;", [1, 1, 1]),
        ("setp.lt.u32 %p, %t, 3; vote.sync.all.pred %q, %p, -1; selp.u32 %r1, 1, 0, %q;", [0, 0, 0]),
        ("setp.lt.u32 %p, %t, 3; vote.sync.uni.pred %q, %p, -1; selp.u32 %r1, 1, 0, %q;", [0, 0, 0]),
        ("redux.sync.add.u32 %r1, %t, -1;", [496, 496, 496]),
        ("activemask.b32 %r1;", [u32::MAX; 3]),
        ("elect.sync _|%p, -1; selp.u32 %r1, 1, 0, %p;", [1, 0, 0]),
    ] {
        let got = values(&format!("{line} st.global.b32 [%my], %r1;"), 32, &[]);
        assert_eq!(got[..3], expected, "{line}");
    }
}

#[test]
fn lanes_that_part_meet_again() {
    let body = "setp.lt.u32 %p, %t, 5; @%p bra A; mov.u32 %r1, 2; bra B;
        A: mov.u32 %r1, 1; B: activemask.b32 %r2; add.s32 %r3, %r1, %r2; st.global.b32 [%my], %r3;";
    let got = values(body, 32, &[]);
    assert_eq!((got[0], got[31]), (0, 1), "all lanes are together again: the mask is -1");
    let body = "mov.u32 %r1, 0; L: add.u32 %r1, %r1, 1; setp.le.u32 %p, %r1, %t; @%p bra L;
        activemask.b32 %r2; not.b32 %r2, %r2; add.u32 %r1, %r1, %r2; st.global.b32 [%my], %r1;";
    assert_eq!(values(body, 32, &[])[..32], (1..=32).collect::<Vec<u32>>());
    let table = "and.b32 %r2, %t, 1; T: .branchtargets A, B; brx.idx %r2, T; A: mov.u32 %r1, 10; bra E;
        B: mov.u32 %r1, 20; E: activemask.b32 %r3; add.u32 %r1, %r1, %r3; st.global.b32 [%my], %r1;";
    assert_eq!(values(table, 32, &[])[..3], [9, 19, 9]);
}

#[test]
fn barriers_make_other_warps_writes_visible() {
    let body = "shl.b32 %r1, %t, 2; mov.u32 %r2, s; add.u32 %r1, %r1, %r2; st.shared.b32 [%r1], %t;
        bar.sync 0; xor.b32 %r3, %t, 32; shl.b32 %r3, %r3, 2; add.u32 %r3, %r3, %r2;
        ld.shared.b32 %r4, [%r3]; st.global.b32 [%my], %r4;";
    let (words, counters) = run(body, 1, 64, &[]).expect("runs");
    assert_eq!((words[0], words[63], counters.barriers), (32, 31, 2));
}

#[test]
fn copies_arrive_when_they_are_waited_for() {
    let body = "shl.b32 %r1, %t, 4; mov.u32 %r2, s; add.u32 %r1, %r1, %r2; mul.wide.u32 %x, %t, 16;
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
    let fill = "shl.b32 %r1, %t, 2; mov.u32 %r2, s; add.u32 %r1, %r1, %r2; shl.b32 %r3, %t, 1;
        add.u32 %r4, %r3, 1; shl.b32 %r4, %r4, 16; or.b32 %r3, %r3, %r4; st.shared.b32 [%r1], %r3;
        bar.warp.sync -1; and.b32 %r5, %t, 7; shl.b32 %r5, %r5, 4; add.u32 %r5, %r5, %r2;";
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
fn hints_to_caches_change_no_values() {
    let input: Vec<u32> = (100..132).collect();
    for load in [
        "ld.global.nc.b32 %r1, [%y];",
        "ld.global.nc.L1::no_allocate.b32 %r1, [%y];",
        "ld.global.nc.L1::no_allocate.L2::128B.v4.f32 {%f1, %f2, %f3, %f4}, [%in+16]; mov.b32 %r1, %f1; add.u32 %r1, %r1, %t; sub.u32 %r1, %r1, 4;",
        "ld.global.ca.u32 %r1, [%y];",
        "ld.global.cg.u32 %r1, [%y];",
        "ld.global.cs.u32 %r1, [%y];",
        "ld.global.L1::evict_last.u32 %r1, [%y];",
        "prefetch.global.L2 [%y]; prefetch.global.L2::evict_last [%y]; ld.global.lu.u32 %r1, [%y];",
        "ld.global.v4.f32 {%f1, %f2, %f3, _}, [%in]; mov.b32 %r1, %f3; add.u32 %r1, %r1, %t; sub.u32 %r1, %r1, 2;",
        "mov.u32 %r2, s; mad.lo.u32 %r2, %t, 16, %r2; ld.global.u32 %r3, [%y]; st.shared.v4.u32 [%r2], {0, 1, %r3, 2};
         ld.shared.v4.f32 {%f1, %f2, %f3, %f4}, [%r2]; mov.b32 %r1, %f3;",
    ] {
        let got = values(&format!("add.s64 %y, %in, %x; {load} st.global.cg.u32 [%my], %r1;"), 32, &input);
        assert_eq!(got[..32], input, "{load}");
    }
}

#[test]
fn all_threads_update_a_word() {
    let word = |first: &str, update: &str| {
        let body = format!(
            "setp.eq.u32 %p, %t, 0; @%p st.global.b32 [%out], {first}; bar.sync 0; cvt.rn.f32.u32 %f1, %t; {update}"
        );
        values(&body, 64, &[])[0]
    };
    assert_eq!(word("0", "red.global.add.f32 [%out], %f1;"), 2016f32.to_bits());
    assert_eq!(word("0", "red.release.gpu.global.add.u32 [%out], 2;"), 128);
    assert_eq!(word("0", "atom.add.acq_rel.gpu.global.u32 %r1, [%out], 1;"), 64);
    assert_eq!(word("0", "atom.global.inc.u32 %r1, [%out], 9;"), 4);
    assert_eq!(word("7", "atom.global.exch.b32 %r1, [%out], 8;"), 8);
    assert_eq!(word("7", "atom.global.cas.b32 %r1, [%out], 7, %t;"), 0);
    assert_eq!(word("7", "red.global.max.u32 [%out], %t;"), 63);
}

#[test]
fn several_matrices_are_loaded_and_stored() {
    // Row i of the 32 rows of four matrices holds 8 · i, 8 · i + 1 and so on, as integers of 16 bits.
    let fill = "shl.b32 %r1, %t, 4; mov.u32 %r2, s; add.u32 %r1, %r1, %r2; shl.b32 %r3, %t, 3;
        mad.lo.u32 %r3, %r3, 65537, 65536; add.u32 %r4, %r3, 131074; add.u32 %r5, %r4, 131074; add.u32 %r6, %r5, 131074;
        st.shared.v4.b32 [%r1], {%r3, %r4, %r5, %r6}; bar.warp.sync -1;";
    let load = |shape: &str, registers: &str, wanted: &str| {
        let body = format!(
            "{fill} ldmatrix.sync.aligned.m8n8.{shape}.shared.b16 {{{registers}}}, [%r1]; st.global.b32 [%my], {wanted};"
        );
        values(&body, 32, &[])
    };
    let pair = |low: u32, high: u32| low | high << 16;
    let two = load("x2", "%r7, %r8", "%r8");
    assert_eq!([two[0], two[5]], [pair(64, 65), pair(74, 75)]);
    let four = load("x4", "%r7, %r8, %r9, %r10", "%r10");
    assert_eq!([four[0], four[31]], [pair(192, 193), pair(254, 255)]);
    let turned = load("x4.trans", "%r7, %r8, %r9, %r10", "%r9");
    assert_eq!([turned[0], turned[5]], [pair(128, 136), pair(145, 153)]);
    // What is stored as it was loaded changes nothing; transposed once, a lane finds its column.
    for (store, expected) in [("x4", [pair(0, 1), pair(72, 73)]), ("x4.trans", [pair(0, 8), pair(65, 73)])] {
        let body = format!(
            "{fill} ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r7, %r8, %r9, %r10}}, [%r1]; bar.warp.sync -1;
             stmatrix.sync.aligned.m8n8.{store}.shared.b16 [%r1], {{%r7, %r8, %r9, %r10}}; bar.warp.sync -1;
             ld.shared.b32 %r3, [%r1]; st.global.b32 [%my], %r3;"
        );
        let got = values(&body, 32, &[]);
        assert_eq!([got[0], got[9]], expected, "{store}");
    }
    let crooked =
        format!("{fill} add.u32 %r1, %r1, 8; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r7}}, [%r1];");
    assert!(matches!(problem(&crooked, 1, 32).0, Problem::Misaligned { alignment: 16, .. }));
}

#[test]
fn copies_may_read_nothing() {
    let body = |last: &str| {
        format!(
            "shl.b32 %r1, %t, 4; mov.u32 %r2, s; add.u32 %r1, %r1, %r2; mul.wide.u32 %x, %t, 16;
             add.s64 %y, %in, %x; setp.eq.u32 %p, %t, 1; @%p mov.b64 %y, 0; {last} cp.async.commit_group;
             cp.async.wait_group 0; ld.shared.v4.b32 {{%r3, %r4, %r5, %r6}}, [%r1]; st.global.b32 [%my], %r6;"
        )
    };
    let input: Vec<u32> = (10..42).collect();
    for copy in [
        "cp.async.cg.shared.global.L2::128B [%r1], [%y], 16, %p;",
        "cp.async.ca.shared::cta.global [%r1], [%y], 16, %p;",
        "selp.u32 %r7, 0, 16, %p; cp.async.ca.shared.global [%r1], [%y], 16, %r7;",
    ] {
        assert_eq!(values(&body(copy), 3, &input)[..3], [13, 0, 21], "{copy}");
    }
    let whole = body("cp.async.ca.shared.global [%r1], [%y], 16;");
    assert!(matches!(problem(&whole, 1, 3).0, Problem::OutOfBounds { .. }));
}

#[test]
fn groups_of_copies_arrive_in_order() {
    let body = |pending: u32, read: u32| {
        format!(
            "cp.async.ca.shared.global [s], [%in], 4; cp.async.commit_group;
             cp.async.ca.shared.global [s+4], [%in+4], 4; cp.async.commit_group; cp.async.wait_group {pending};
             ld.shared.b32 %r1, [s+{read}]; st.global.b32 [%out], %r1;"
        )
    };
    assert_eq!(values(&body(1, 0), 1, &[5, 6])[0], 5);
    assert_eq!(values(&body(0, 4), 1, &[5, 6])[0], 6);
    assert!(matches!(problem(&body(1, 4), 1, 1).0, Problem::NeverWritten { .. }));
}

#[test]
fn barriers_of_some_warps_leave_the_others_alone() {
    // Warps 0 and 1 exchange values at barrier 1; warp 2 goes on; warp 3 only says that it is there.
    let body = |count: u32| {
        format!(
            "shl.b32 %r1, %t, 2; mov.u32 %r2, s; add.u32 %r1, %r1, %r2; st.shared.b32 [%r1], %t;
             setp.ge.u32 %p, %t, 96; @%p bra A; setp.ge.u32 %p, %t, 64; @%p bra E;
             barrier.sync.aligned 1, {count}; xor.b32 %r3, %t, 32; shl.b32 %r3, %r3, 2; add.u32 %r3, %r3, %r2;
             ld.shared.b32 %r4, [%r3]; st.global.b32 [%my], %r4; bra E; A: bar.arrive 2, 128; E:"
        )
    };
    let got = values(&body(64), 128, &[]);
    assert_eq!((got[0], got[63]), (32, 31));
    // No warp waits for the other; both wait for one that never comes.
    assert!(matches!(problem(&body(32), 1, 128).0, Problem::Race { .. }));
    assert_eq!(problem(&body(96), 1, 128).0, Problem::Deadlock);
}

#[test]
fn warps_that_only_arrive_order_those_that_wait() {
    let body = |arrive: &str| {
        format!(
            "mov.u32 %r2, s; mad.lo.u32 %r1, %t, 4, %r2; setp.ge.u32 %p, %t, 32; @!%p bra C;
             st.shared.b32 [%r1], %t; {arrive} bra E;
             C: bar.sync 3, 64; ld.shared.b32 %r4, [%r1+128]; st.global.b32 [%my], %r4; E:"
        )
    };
    assert_eq!(values(&body("bar.arrive 3, 64;"), 64, &[])[..2], [32, 33]);
    assert_eq!(problem(&body(""), 1, 64).0, Problem::Deadlock);
    let late = body("bar.arrive 3, 64; st.shared.b32 [%r1], %t;");
    assert!(matches!(problem(&late, 1, 64).0, Problem::Race { .. }));
}

/// Each thread writes a word, arrives at a barrier in shared memory, waits and reads the word of the other warp.
fn meet_in_memory(count: u32, arrive: &str, wait: &str) -> String {
    format!(
        "setp.eq.u32 %p, %t, 63; @%p mbarrier.init.shared::cta.b64 [s], {count}; bar.sync 0; mov.u32 %r5, 0;
         mov.u32 %r2, s; mad.lo.u32 %r1, %t, 4, %r2; xor.b32 %r3, %t, 32; mad.lo.u32 %r3, %r3, 4, %r2;
         L: add.u32 %r7, %t, %r5; st.shared.b32 [%r1+8], %r7; {arrive} {wait}
         ld.shared.b32 %r4, [%r3+8]; {arrive} {wait} add.u32 %r5, %r5, 1; setp.lt.u32 %p, %r5, 5; @%p bra L;
         st.global.b32 [%my], %r4;"
    )
}

#[test]
fn threads_meet_at_barriers_in_shared_memory() {
    let arrive = "mbarrier.arrive.shared.b64 %x, [s];";
    // Labels are the second use's own.
    let twice = |body: String| {
        let at = body.rfind("W:").expect("a loop");
        format!("{}{}", &body[..at], body[at..].replacen("W:", "V:", 1).replacen("bra W", "bra V", 1))
    };
    let wait = "W: mbarrier.try_wait.shared.b64 %p, [s], %x; @!%p bra W;";
    let got = values(&twice(meet_in_memory(64, arrive, wait)), 64, &[]);
    assert_eq!((got[0], got[63]), (36, 35));
    // By parity: an even phase, then an odd one; arrivals of one thread a warp for all of it.
    let parity =
        "W: mbarrier.test_wait.parity.shared::cta.b64 %q, [s], %r6; @!%q bra W; xor.b32 %r6, %r6, 1;";
    let leader = "bar.warp.sync -1; and.b32 %r8, %t, 31; setp.eq.u32 %q, %r8, 0;
        @%q mbarrier.arrive.release.cta.shared::cta.b64 _, [s], 32;";
    let body = twice(meet_in_memory(64, leader, parity))
        .replace("mov.u32 %r5, 0;", "mov.u32 %r5, 0; mov.u32 %r6, 0;");
    let got = values(&body, 64, &[]);
    assert_eq!((got[0], got[63]), (36, 35));
    // Without a wait for the others the exchange races; one arrival too few and none goes on.
    let (found, text) = problem(&meet_in_memory(64, arrive, ""), 1, 64);
    assert!(matches!(found, Problem::Race { .. } | Problem::NeverWritten { .. }), "{text}");
    assert_eq!(problem(&twice(meet_in_memory(65, arrive, wait)), 1, 64).0, Problem::Deadlock);
    assert!(matches!(problem("mbarrier.arrive.shared.b64 %x, [s];", 1, 1).0, Problem::NeverWritten { .. }));
    // Its word must be there for all before they arrive.
    let bare = twice(meet_in_memory(64, arrive, wait)).replacen("bar.sync 0;", "", 1);
    assert!(run(&bare, 1, 64, &[]).is_err());
}

#[test]
fn accesses_are_counted_as_the_hardware_serves_them() {
    let body = "add.s64 %y, %in, %x; ld.global.b32 %r1, [%y]; st.global.b32 [%my], %r1;";
    let (_, coalesced) = run(body, 1, 32, &[3; 64]).expect("runs");
    assert_eq!((coalesced.global_read, coalesced.global_written, coalesced.global_sectors), (128, 128, 8));
    let strided = "and.b32 %r2, %t, 7; mul.wide.u32 %y, %r2, 32; add.s64 %y, %in, %y;
        ld.global.b32 %r1, [%y]; st.global.b32 [%my], %r1;";
    let (_, strided) = run(strided, 1, 32, &[3; 64]).expect("runs");
    assert_eq!(strided.global_sectors, 8 + 4);
    let store = |stride: u32| {
        format!(
            "mul.lo.u32 %r1, %t, {stride}; mov.u32 %r2, s; add.u32 %r1, %r1, %r2; st.shared.b32 [%r1], %t;"
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
    let (_, text) = problem("add.s64 %my, %my, 132; st.global.b32 [%my], %t;", 1, 32);
    assert!(text.contains("thread [31, 0, 0]"), "{text}");
    assert!(matches!(problem("ld.global.b32 %r1, [%in+-4];", 1, 1).0, Problem::OutOfBounds { .. }));
    assert!(matches!(
        problem("mov.u64 %y, 0; ld.b32 %r1, [%y];", 1, 1).0,
        Problem::OutOfBounds { buffer: None, .. }
    ));
    assert!(matches!(problem("st.shared.b32 [s+4096], %t;", 1, 1).0, Problem::OutOfBounds { .. }));
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
    let half = "st.shared.b32 [s], %t; ld.shared.v2.b32 {%r1, %r2}, [s];";
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
            "shl.b32 %r1, %t, 2; mov.u32 %r2, s; add.u32 %r1, %r1, %r2; st.shared.b32 [%r1], %t; {between}
             xor.b32 %r3, %t, 32; shl.b32 %r3, %r3, 2; add.u32 %r3, %r3, %r2; ld.shared.b32 %r4, [%r3];"
        )
    };
    // The other warp wrote, or has not yet written.
    assert!(matches!(problem(&exchange(""), 1, 64).0, Problem::Race { .. } | Problem::NeverWritten { .. }));
    let again = format!("{} st.shared.b32 [%r1], %t;", exchange("bar.sync 0;"));
    let (problem_, text) = problem(&again, 1, 64);
    assert!(matches!(problem_, Problem::Race { .. }), "{text}");
    assert!(
        run(&again.replace("ld.shared.b32 %r4, [%r3];", "ld.shared.b32 %r4, [%r3]; bar.sync 0;"), 1, 64, &[])
            .is_ok()
    );
    // Within a warp, lanes need a barrier too.
    let lanes = exchange("").replace("%t, 32", "%t, 1");
    assert!(matches!(problem(&lanes, 1, 32).0, Problem::Race { .. }));
    assert!(run(&exchange("bar.warp.sync -1;").replace("%t, 32", "%t, 1"), 1, 32, &[]).is_ok());
    let all = "st.shared.b32 [s], %t;";
    assert!(matches!(problem(all, 1, 32).0, Problem::Race { writes: true, .. }));
}

/// Accesses to whole lines of 16 bytes and to parts of them are remembered apart.
#[test]
fn races_are_found_whatever_the_widths_of_accesses() {
    let access = |write: bool, bytes: usize, offset: usize| match (write, bytes) {
        (true, 4) => format!("st.shared.b32 [%r1+{offset}], %t;"),
        (true, 8) => format!("st.shared.v2.b32 [%r1+{offset}], {{%t, %t}};"),
        (true, _) => format!("st.shared.v4.b32 [%r1+{offset}], {{%t, %t, %t, %t}};"),
        (false, 4) => format!("ld.shared.b32 %r3, [%r1+{offset}];"),
        (false, 8) => format!("ld.shared.v2.b32 {{%r3, %r4}}, [%r1+{offset}];"),
        (false, _) => format!("ld.shared.v4.b32 {{%r3, %r4, %r5, %r6}}, [%r1+{offset}];"),
    };
    let places = [(4, 0), (4, 12), (8, 8), (16, 0)];
    for writes in [[true, true], [true, false], [false, true], [false, false]] {
        for ((bytes, offset), (other_bytes, other_offset)) in
            places.iter().flat_map(|place| places.map(|other| (*place, other)))
        {
            // Two warps, after all was written.
            let [first, second] = [(writes[0], bytes, offset), (writes[1], other_bytes, other_offset)]
                .map(|(w, b, o)| access(w, b, o));
            let body = |between: &str| {
                format!(
                    "mov.u32 %r1, s; shl.b32 %r2, %t, 4; add.u32 %r2, %r2, %r1; mov.u32 %r3, 0;
                    st.shared.v4.b32 [%r2], {{%r3, %r3, %r3, %r3}}; bar.sync 0;
                    setp.ne.u32 %p, %t, 0; @%p bra A; {first} A: {between}
                    setp.ne.u32 %p, %t, 32; @%p bra B; {second} B: st.global.b32 [%my], %r3;"
                )
            };
            let overlap = offset < other_offset + other_bytes && other_offset < offset + bytes;
            let races = overlap && writes.contains(&true);
            let ran = run(&body(""), 1, 64, &[]);
            assert_eq!(ran.is_err(), races, "{first} {second}");
            run(&body("bar.sync 0;"), 1, 64, &[]).unwrap_or_else(|e| panic!("{first} {second}: {e}"));
        }
    }
}

#[test]
fn no_reader_among_many_is_forgotten() {
    // Four warps read a word, and all but one of them meet before the first one writes it.
    for absent in [1, 2, 3] {
        let body = format!(
            "setp.eq.u32 %p, %t, 0; @%p st.shared.u32 [s], 1; bar.sync 0; ld.shared.u32 %r1, [s]; shr.u32 %r2, %t, 5;
             setp.ne.u32 %q, %r2, {absent}; @%q bar.sync 1, 96; @%p st.shared.u32 [s], 2; st.global.u32 [%my], %r1;"
        );
        assert!(matches!(problem(&body, 1, 128).0, Problem::Race { .. }), "warp {absent}");
        let all = body.replace("@%q bar.sync 1, 96;", "bar.sync 1, 128;");
        assert_eq!(values(&all, 128, &[])[127], 1);
    }
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
        "setp.eq.u32 %p, %t, 0; @%p st.global.b32 [%out], 0; bar.sync 0; red.global.add.u32 [%out], 1;";
    assert_eq!(values(atomic, 64, &[])[0], 64);
}

#[test]
fn divergent_barriers_and_deadlocks_are_reported() {
    let some = "setp.lt.u32 %p, %t, 5; @%p bar.sync 0;";
    assert!(matches!(problem(some, 1, 32).0, Problem::DivergentBarrier { here: 31, .. }));
    let other = "setp.lt.u32 %p, %t, 32; @%p bar.sync 0; @!%p bar.sync 1;";
    assert_eq!(problem(other, 1, 64).0, Problem::Deadlock);
    let flag =
        "st.global.b32 [%my], 0; L: ld.volatile.global.b32 %r1, [%my]; setp.eq.u32 %p, %r1, 0; @%p bra L;";
    assert_eq!(problem(flag, 1, 32).0, Problem::Deadlock);
    // Threads that have returned are not waited for.
    assert!(run("setp.ge.u32 %p, %t, 32; @%p ret; bar.sync 0;", 1, 64, &[]).is_ok());
}

#[test]
fn exchanges_with_absent_lanes_are_reported() {
    let some = "setp.lt.u32 %p, %t, 5; @%p shfl.sync.bfly.b32 %r1, %t, 1, 31, -1;";
    assert!(matches!(problem(some, 1, 32).0, Problem::WrongMembers { here: 31, named: u32::MAX }));
    assert!(matches!(problem("bar.warp.sync 1;", 1, 32).0, Problem::WrongMembers { .. }));
}

#[test]
fn traps_are_reported() {
    assert_eq!(problem("trap;", 1, 1).0, Problem::Trap);
}

#[test]
fn launches_that_a_device_would_refuse_are_refused() {
    // The assembler refuses it, too.
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
        clusters: None,
    };
    let refused = |launch: &Launch<'_>| module.launch(&memory, launch).expect_err("refuses").to_string();
    assert!(refused(&launch(1, &[0, 0])).contains("declared"));
    assert!(refused(&launch(2048, &[0, 0])).contains("1 to 1024 threads"));
    assert!(refused(&launch(1, &[0])).contains("takes 2 parameters"));
    assert!(refused(&Launch { kernel: "x", ..launch(1, &[]) }).contains("no kernel `x`"));
}
