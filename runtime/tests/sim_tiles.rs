//! Data on its way through blocks on the simulated GPU: vectors, copies, numbered barriers, fragments of matrices.

mod common;

use common::{kernel, module, problem, run, values};
use fuse_runtime::sim::{Content, Launch, Memory, Problem};

/// Fills the words of shared memory with 0, 1, 2, … and leaves the address of the first in `%r2`.
const FILL: &str =
    "shl.b32 %r1, %t, 2; mov.u32 %r2, s; add.u32 %r1, %r1, %r2; st.shared.u32 [%r1], %t; bar.sync 0;";

#[test]
fn vectors_of_four_words_go_through_global_memory() {
    let input: Vec<u32> = (0..64).map(|w: u16| f32::from(w).to_bits()).collect();
    let body = "and.b32 %r1, %t, 7; mul.wide.u32 %y, %r1, 16; add.s64 %y, %in, %y;
        ld.global.nc.v4.f32 {%f0, %f1, %f2, %f3}, [%y]; mul.wide.u32 %y, %t, 16; add.s64 %y, %out, %y;
        setp.lt.u32 %p, %t, 8; @%p st.global.v4.f32 [%y], {%f3, %f2, %f1, %f0};";
    let got = values(body, 32, &input);
    assert_eq!(got[..5], [3f32, 2.0, 1.0, 0.0, 7.0].map(f32::to_bits));
}

#[test]
fn vectors_of_four_words_go_through_shared_memory() {
    let body = "shl.b32 %r1, %t, 4; mov.u32 %r2, s; add.u32 %r1, %r1, %r2; cvt.rn.f32.u32 %f0, %t;
        add.f32 %f1, %f0, 0f3F800000; st.shared.v4.f32 [%r1], {%f0, %f1, %f0, %f1}; bar.sync 0; xor.b32 %r3, %t, 1;
        shl.b32 %r3, %r3, 4; add.u32 %r3, %r3, %r2; ld.shared.v4.f32 {%f4, %f5, %f6, %f7}, [%r3];
        add.f32 %f4, %f4, %f7; st.global.f32 [%my], %f4;";
    assert_eq!(values(body, 64, &[])[..3], [3f32, 1.0, 7.0].map(f32::to_bits));
}

#[test]
fn asynchronous_copies_take_a_size_of_what_is_there() {
    // Of 16 bytes as many are copied as the fourth operand says; the others become zero.
    for (given, expected) in [(16, [0, 1, 2, 3]), (8, [0, 1, 0, 0]), (4, [0, 0, 0, 0]), (0, [0, 0, 0, 0])] {
        for copy in ["cp.async.cg.shared.global.L2::128B", "cp.async.ca.shared.global"] {
            let body = format!(
                "mov.u32 %r1, {given}; @!%first bra E; {copy} [s], [%in], 16, %r1; cp.async.commit_group;
                 cp.async.wait_group 0; E: bar.sync 0; and.b32 %r3, %t, 3; shl.b32 %r3, %r3, 2; mov.u32 %r2, s;
                 add.u32 %r3, %r3, %r2; ld.shared.u32 %r4, [%r3]; st.global.u32 [%my], %r4;"
            );
            let body = body.replace("@!%first", "setp.ne.u32 %p, %t, 0; @%p");
            let input: Vec<u32> = (0..64).collect();
            assert_eq!(values(&body, 32, &input)[..4], expected, "{copy}, {given}");
        }
    }
}

#[test]
fn barriers_have_numbers_and_counts() {
    for barrier in [
        "bar.sync 0;",
        "bar.sync 3;",
        "bar.sync 15, 64;",
        "barrier.sync 1;",
        "barrier.sync.aligned 2, 64;",
        "barrier.cta.sync.aligned 0;",
        "mov.u32 %r9, 5; bar.sync %r9, 64;",
    ] {
        let body = format!(
            "{} xor.b32 %r3, %t, 32; shl.b32 %r3, %r3, 2; add.u32 %r3, %r3, %r2; ld.shared.u32 %r4, [%r3];
             st.global.u32 [%my], %r4;",
            FILL.replace("bar.sync 0;", barrier)
        );
        let got = values(&body, 64, &[]);
        assert_eq!((got[0], got[63]), (32, 31), "{barrier}");
    }
    // Half of the block meets at one barrier, half at another.
    let halves = format!(
        "setp.lt.u32 %p, %t, 64; {} xor.b32 %r3, %t, 32; shl.b32 %r3, %r3, 2; add.u32 %r3, %r3, %r2;
         ld.shared.u32 %r4, [%r3]; st.global.u32 [%my], %r4;",
        FILL.replace("bar.sync 0;", "@%p bar.sync 1, 64; @!%p bar.sync 2, 64;")
    );
    assert_eq!(values(&halves, 128, &[])[96], 64);
    // One warp arrives and goes on; the other waits for it.
    let handover = format!(
        "setp.lt.u32 %p, %t, 32; {} @%p bra E; sub.u32 %r3, %r1, 128; ld.shared.u32 %r4, [%r3];
         st.global.u32 [%my], %r4; E:",
        FILL.replace("bar.sync 0;", "@%p bar.arrive 4, 64; @!%p bar.sync 4, 64;")
    );
    assert_eq!(run(&handover, 1, 64, &[]).expect("runs").0[32..34], [0, 1]);
    let early = handover.replace("@%p bar.arrive 4, 64; @!%p bar.sync 4, 64;", "@!%p bar.sync 4, 32;");
    assert!(matches!(problem(&early, 1, 64).0, Problem::Race { .. }));
}

#[test]
fn warps_meet_by_themselves() {
    let body = format!(
        "{} xor.b32 %r3, %t, 1; shl.b32 %r3, %r3, 2; add.u32 %r3, %r3, %r2; ld.shared.u32 %r4, [%r3];
         st.global.u32 [%my], %r4;",
        FILL.replace("bar.sync 0;", "bar.warp.sync 0xffffffff;")
    );
    assert_eq!(values(&body, 64, &[])[..3], [1, 0, 3]);
}

#[test]
fn external_shared_memory_has_the_size_of_the_launch() {
    let declared = ".extern .shared .align 16 .b8 dynamic[];";
    let text = kernel("mov.u32 %r1, dynamic; st.shared.u32 [%r1+12], 7; ld.shared.u32 %r2, [dynamic+12]; st.global.u32 [%my], %r2;")
        .replace(".visible", &format!("{declared}\n.visible"));
    let module = module(&text);
    let launch = |bytes| {
        let mut memory = Memory::new();
        let out = memory.allocate("out", 4, 4, Content::Unwritten);
        let launch = Launch {
            kernel: "k",
            grid: [1; 3],
            block: [1; 3],
            shared_bytes: bytes,
            arguments: &[out, out],
            threads: 1,
            cooperative: false,
            clusters: None,
        };
        module.launch(&memory, &launch)
    };
    assert!(launch(16).is_ok());
    assert!(launch(8).expect_err("refuses").to_string().contains("out of bounds"));
}

/// Each element of a product, computed from the layouts of fragments in the PTX ISA document: `A[i][k] = (i + 2k) mod 16`
/// and `B[k][j] = k + 3j`, plus one.
fn product(shape: &str, k: u32, ty: &str) -> Vec<f32> {
    let half = ty != "tf32";
    let (row, column) = ("shr.u32 %r10, %t, 2;", "and.b32 %r11, %t, 3;");
    // Numbers go through f32 in %r12 (row) and %r13 (column) to the format.
    let number = |formula: &str, out: &str| match ty {
        "tf32" => format!("{formula} cvt.rn.f32.u32 %f8, %r14; cvt.rna.tf32.f32 {out}, %f8;"),
        _ => format!("{formula} cvt.rn.f32.u32 %f8, %r14; cvt.rn.{ty}.f32 {out}, %f8;"),
    };
    let left = "shl.b32 %r14, %r13, 1; add.u32 %r14, %r14, %r12; and.b32 %r14, %r14, 15;";
    let right = "mul.lo.u32 %r14, %r13, 3; add.u32 %r14, %r14, %r12;";
    let per = if half { 2 } else { 1 };
    let mut body = format!("{row} {column}\n");
    let registers = k * 16 / 32 / per;
    let mut fragment = |register: String, at: &dyn Fn(u32) -> String, formula: &str| {
        if half {
            for part in 0..2 {
                body += &format!("{} {}\n", at(part), number(formula, &format!("%h{part}")));
            }
            body += &format!("mov.b32 {register}, {{%h0, %h1}};\n");
        } else {
            body += &format!("{} {}\n", at(0), number(formula, &register));
        }
    };
    for register in 0..registers {
        let at = |part: u32| {
            format!(
                "add.u32 %r12, %r10, {}; mul.lo.u32 %r13, %r11, {per}; add.u32 %r13, %r13, {};",
                register % 2 * 8,
                register / 2 * 4 * per + part
            )
        };
        fragment(format!("%r{register}"), &at, left);
    }
    for register in 0..registers / 2 {
        let at = |part: u32| {
            let start = register * 4 * per + part;
            format!("mul.lo.u32 %r12, %r11, {per}; add.u32 %r12, %r12, {start}; mov.u32 %r13, %r10;")
        };
        fragment(format!("%r{}", 4 + register), &at, right);
    }
    let list =
        |from: u32, count| (from..from + count).map(|r| format!("%r{r}")).collect::<Vec<_>>().join(", ");
    body += &format!(
        "mov.f32 %f4, 0f3F800000; mma.sync.aligned.{shape}.row.col.f32.{ty}.{ty}.f32 {{%f0, %f1, %f2, %f3}}, {{{}}},
         {{{}}}, {{%f4, %f4, %f4, %f4}};
         mul.lo.u32 %r14, %r10, 8; mad.lo.u32 %r14, %r11, 2, %r14; mul.wide.u32 %y, %r14, 4; add.s64 %y, %out, %y;
         st.global.v2.f32 [%y], {{%f0, %f1}}; st.global.v2.f32 [%y+256], {{%f2, %f3}};",
        list(0, registers),
        list(4, registers / 2)
    );
    let body = format!(".reg .b16 %h<2>; {body}");
    // 16 by 8 words; the output has as many as threads, so more blocks' worth is asked for.
    let module = module(&kernel(&body));
    let mut memory = Memory::new();
    let out = memory.allocate("out", 4 * 128, 4, Content::Unwritten);
    let launch = Launch {
        kernel: "k",
        grid: [1; 3],
        block: [32, 1, 1],
        shared_bytes: 0,
        arguments: &[out, out],
        threads: 1,
        cooperative: false,
        clusters: None,
    };
    module.launch(&memory, &launch).unwrap_or_else(|e| panic!("{body}: {e}"));
    let mut bytes = vec![0; 512];
    memory.read(out, &mut bytes);
    bytes.chunks(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}

#[test]
fn fragments_of_matrices_lie_as_the_isa_says() {
    for (shape, k, ty) in [
        ("m16n8k4", 4, "tf32"),
        ("m16n8k8", 8, "tf32"),
        ("m16n8k8", 8, "f16"),
        ("m16n8k16", 16, "f16"),
        ("m16n8k16", 16, "bf16"),
    ] {
        let got = product(shape, k, ty);
        for (at, value) in (0..128).zip(got) {
            let (i, j) = (at / 8, at % 8);
            let expected: u32 = (0..k).map(|k| (i + 2 * k) % 16 * (k + 3 * j)).sum();
            assert_eq!(value, (expected + 1) as f32, "{shape} of {ty}, row {i}, column {j}");
        }
    }
}

#[test]
fn matrices_are_stored_as_they_are_loaded() {
    // Each lane holds the elements 2 · lane and 2 · lane + 1 of 64, row by row.
    let fill =
        "shl.b32 %r3, %t, 1; add.u32 %r4, %r3, 1; shl.b32 %r4, %r4, 16; or.b32 %r3, %r3, %r4; mov.u32 %r2, s;
        and.b32 %r5, %t, 7; shl.b32 %r5, %r5, 4; add.u32 %r5, %r5, %r2;";
    let read = "bar.warp.sync -1; shl.b32 %r1, %t, 2; add.u32 %r1, %r1, %r2; ld.shared.u32 %r6, [%r1];
        st.global.u32 [%my], %r6;";
    let plain = format!("{fill} stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r5], {{%r3}}; {read}");
    assert_eq!(values(&plain, 32, &[])[..5], [0x1_0000, 0x3_0002, 0x5_0004, 0x7_0006, 0x9_0008]);
    let turned = plain.replace("x1.shared", "x1.trans.shared");
    assert_eq!(values(&turned, 32, &[])[..2], [0x8_0000, 0x18_0010]);
    let four = "shl.b32 %r5, %t, 4; mov.u32 %r2, s; add.u32 %r5, %r5, %r2; add.u32 %r6, %t, 100;
        stmatrix.sync.aligned.x4.m8n8.shared::cta.b16 [%r5], {%t, %t, %r6, %t}; bar.warp.sync -1;
        ldmatrix.sync.aligned.m8n8.x4.shared::cta.b16 {%r7, %r8, %r9, %r10}, [%r5]; st.global.u32 [%my], %r9;";
    assert_eq!(values(four, 32, &[])[..3], [100, 101, 102]);
    let races = plain.replace("bar.warp.sync -1;", "");
    assert!(matches!(problem(&races, 1, 32).0, Problem::Race { .. }));
}

#[test]
fn atomic_operations_change_global_memory() {
    let first = "setp.eq.u32 %p, %t, 0; @%p st.global.u32 [%out], 0; bar.sync 0;";
    for (line, expected) in [
        ("atom.global.exch.b32 %r1, [%out], 9;", 9),
        ("atom.global.cas.b32 %r1, [%out], 0, 5;", 5),
        ("atom.global.inc.u32 %r1, [%out], 39;", 24),
        ("atom.relaxed.gpu.global.add.u32 %r1, [%out], 2;", 128),
        ("atom.global.max.u32 %r1, [%out], %t;", 63),
        ("atom.global.min.s32 %r1, [%out], -5;", -5i32 as u32),
        ("atom.global.or.b32 %r1, [%out], %t;", 63),
        ("atom.global.xor.b32 %r1, [%out], %t;", 0),
        ("red.global.or.b32 [%out], 12; bar.sync 0; atom.global.and.b32 %r1, [%out], 6;", 4),
        ("atom.global.dec.u32 %r1, [%out], 9;", 6),
        ("red.global.add.f32 [%out], 0f3F800000;", 64f32.to_bits()),
        ("red.relaxed.gpu.global.add.f32 [%out], 0f3F800000;", 64f32.to_bits()),
        ("atom.global.add.f32 %f1, [%out], 0f40000000;", 128f32.to_bits()),
    ] {
        assert_eq!(values(&format!("{first} {line}"), 64, &[])[0], expected, "{line}");
    }
}

#[test]
fn blocks_know_the_size_of_their_grid() {
    let body =
        "mov.u32 %r1, %nctaid.x; mov.u32 %r2, %nctaid.y; mad.lo.u32 %r1, %r1, 10, %r2; mov.u32 %r3, %ctaid.x;
        setp.eq.u32 %p, %r3, 2; @%p st.global.u32 [%my], %r1;";
    assert_eq!(run(body, 3, 1, &[]).expect("runs").0[0], 31);
}

#[test]
fn lanes_reduce_what_they_have() {
    for (line, expected) in [
        ("redux.sync.min.u32 %r1, %t, -1;", 0),
        ("redux.sync.max.u32 %r1, %t, -1;", 31),
        ("neg.s32 %r1, %t; redux.sync.min.s32 %r1, %r1, -1;", -31i32 as u32),
        ("or.b32 %r1, %t, 64; redux.sync.and.b32 %r1, %r1, -1;", 64),
        ("redux.sync.or.b32 %r1, %t, -1;", 31),
        ("redux.sync.xor.b32 %r1, %t, -1;", 0),
    ] {
        assert_eq!(values(&format!("{line} st.global.u32 [%my], %r1;"), 32, &[])[9], expected, "{line}");
    }
}

#[test]
fn threads_know_their_places() {
    for (register, expected) in [
        ("%laneid", 5),
        ("%warpid", 1),
        ("%nwarpid", 2),
        ("%lanemask_eq", 1 << 5),
        ("%lanemask_lt", (1 << 5) - 1),
        ("%lanemask_le", (1 << 6) - 1),
        ("%lanemask_gt", u32::MAX << 6),
        ("%lanemask_ge", u32::MAX << 5),
        ("%total_smem_size", 4096),
        ("%cluster_ctarank", 0),
        ("%cluster_nctarank", 1),
    ] {
        let body = format!("mov.u32 %r1, {register}; st.global.u32 [%my], %r1;");
        assert_eq!(values(&body, 64, &[])[37], expected, "{register}");
    }
}

#[test]
fn hints_and_events_change_nothing() {
    for line in [
        "prefetchu.L1 [%in];",
        "applypriority.global.L2::evict_normal [%in], 128;",
        "griddepcontrol.launch_dependents; griddepcontrol.wait;",
        "pmevent 1;",
        "nanosleep.u32 7;",
        "fence.proxy.async;",
    ] {
        let body = format!("{line} ldu.global.u32 %r1, [%in+8]; st.global.u32 [%my], %r1;");
        assert_eq!(values(&body, 1, &[7, 8, 9, 10])[0], 9, "{line}");
    }
}

#[test]
fn threads_leave_early() {
    let body = "st.global.u32 [%my], 1; setp.lt.u32 %p, %t, 4; @%p exit; st.global.u32 [%my], 2;";
    assert_eq!(values(body, 32, &[])[3..5], [1, 2]);
}

#[test]
fn all_copies_are_waited_for() {
    let body = "mov.u32 %r2, s; shl.b32 %r1, %t, 2; add.u32 %r1, %r1, %r2; add.s64 %y, %in, %x;
        cp.async.ca.shared.global [%r1], [%y], 4; cp.async.wait_all; ld.shared.u32 %r3, [%r1]; st.global.u32 [%my], %r3;";
    assert_eq!(values(body, 32, &(5..69).collect::<Vec<_>>())[..2], [5, 6]);
}

#[test]
fn what_was_a_barrier_is_memory_again() {
    let body = "mbarrier.init.shared.b64 [s], 1; mbarrier.inval.shared.b64 [s]; st.shared.u32 [s], 3; ld.shared.u32 %r1, [s];
        st.global.u32 [%my], %r1;";
    assert_eq!(values(body, 1, &[])[0], 3);
    let unwritten = body.replace("st.shared.u32 [s], 3;", "");
    assert!(matches!(problem(&unwritten, 1, 1).0, Problem::NeverWritten { .. }));
}

/// One thread copies the input in two parts; all wait for them at a barrier, and write what came.
fn copy_in_bulk(wait: &str) -> String {
    let copy = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes";
    format!(
        "setp.eq.u32 %p, %t, 0; mov.u32 %r2, s; @%p mbarrier.init.shared.b64 [s], 1; bar.sync 0; @!%p bra E;
         mbarrier.arrive.expect_tx.shared.b64 %y, [s], 256; mov.u32 %r4, 192; {copy} [%r2+16], [%in], 64, [s];
         {copy} [%r2+80], [%in+64], %r4, [s]; E: {wait}
         mad.lo.u32 %r1, %t, 4, %r2; ld.shared.u32 %r3, [%r1+16]; st.global.u32 [%my], %r3;"
    )
}

/// Waits for the barrier's first phase.
const FIRST: &str = "W: mbarrier.try_wait.parity.shared.b64 %q, [s], 0; @!%q bra W;";

#[test]
fn bulk_copies_arrive_when_their_barrier_says_so() {
    let input: Vec<u32> = (100..164).collect();
    assert_eq!(values(&copy_in_bulk(FIRST), 64, &input), input);
    // Bytes are expected in their own instruction, too.
    let apart = copy_in_bulk(FIRST).replace(
        "mbarrier.arrive.expect_tx.shared.b64 %y, [s], 256;",
        "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [s], 256; mbarrier.arrive.shared.b64 _, [s];",
    );
    assert_eq!(values(&apart, 64, &input), input);
    // Nobody waits; one warp waits and others only meet it before; the barrier's word is none yet.
    assert!(matches!(problem(&copy_in_bulk(""), 1, 64).0, Problem::NeverWritten { .. }));
    let other = copy_in_bulk(
        "setp.lt.u32 %q, %t, 32; bar.sync 0; @!%q bra X; W: mbarrier.try_wait.parity.shared.b64 %q, [s], 0; @!%q bra W; X:",
    );
    let (found, text) = problem(&other, 1, 64);
    assert!(matches!(found, Problem::NeverWritten { .. } | Problem::Race { .. }), "{text}");
    let early = copy_in_bulk(FIRST).replace("mbarrier.init.shared.b64 [s], 1;", "ld.global.u32 %r5, [%in];");
    assert!(matches!(problem(&early, 1, 64).0, Problem::NeverWritten { .. }));
}

#[test]
fn barriers_wait_for_all_bytes_of_bulk_copies() {
    let more = copy_in_bulk(FIRST).replace("[s], 256;", "[s], 272;");
    assert_eq!(problem(&more, 1, 64).0, Problem::Deadlock);
    let told = format!("@%p mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [s], 16; {FIRST}");
    let told = copy_in_bulk(&told).replace("[s], 256;", "[s], 272;");
    assert_eq!(values(&told, 64, &(0..64).collect::<Vec<_>>())[63], 63);
}

#[test]
fn bulk_copies_are_checked() {
    let body = |from: &str, to: &str| copy_in_bulk(FIRST).replace(from, to);
    assert!(matches!(
        problem(&body("[%in],", "[%in+8],"), 1, 64).0,
        Problem::Misaligned { alignment: 16, .. }
    ));
    assert!(matches!(problem(&body("%r4, 192", "%r4, 208"), 1, 64).0, Problem::OutOfBounds { .. }));
    assert!(matches!(problem(&body("[%r2+80]", "[%r2+4080]"), 1, 64).0, Problem::OutOfBounds { .. }));
    // Another thread reads what a copy overwrites, without a barrier in between.
    let read = body("mov.u32 %r2, s;", "mov.u32 %r2, s; st.shared.u32 [%r2+2048], %t;");
    let read =
        read.replace("@!%p bra E;", "setp.eq.u32 %q, %t, 40; @%q st.shared.u32 [%r2+80], 1; @!%p bra E;");
    assert!(problem(&read, 1, 64).1.contains("race"));
}
