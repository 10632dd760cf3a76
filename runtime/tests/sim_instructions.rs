//! Each instruction of the simulated GPU by itself: a line of PTX, operands, and the result that the PTX ISA document
//! gives.

mod common;

use common::module;
use fuse_runtime::sim::{Content, Launch, Memory, Module};

/// Runs a line in one thread, in some threads of a warp, and in one warp and a part of another, which all have to agree. Its
/// operands are `%a`, `%b`, `%c` (64 bits), `%ra`, `%rb`, `%rc` (their low 32) and
/// `%ha`, `%hb`, `%hc` (their low 16); it leaves its result in `%d`, `%rd` or `%hd`, or in the predicate `%p`.
fn evaluate(line: &str, operands: [u64; 3]) -> u64 {
    let results: Vec<u64> =
        [1, 20, 35].iter().flat_map(|threads| in_threads(line, operands, *threads)).collect();
    assert!(results.iter().all(|other| *other == results[0]), "{line} of {operands:x?}: {results:x?}");
    results[0]
}

/// The results of a line in so many threads of a block.
fn in_threads(line: &str, operands: [u64; 3], threads: u32) -> Vec<u64> {
    let text = format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n
        .visible .entry k(.param .u64 out, .param .u64 pa, .param .u64 pb, .param .u64 pc) {{
        .reg .pred %p, %q; .reg .b16 %ha, %hb, %hc, %hd, %he; .reg .b32 %ra, %rb, %rc, %rd, %re;
        .reg .b64 %a, %b, %c, %d, %o, %x;
        ld.param.b64 %a, [pa]; ld.param.b64 %b, [pb]; ld.param.b64 %c, [pc]; ld.param.b64 %o, [out];
        cvt.u32.u64 %ra, %a; cvt.u32.u64 %rb, %b; cvt.u32.u64 %rc, %c;
        cvt.u16.u64 %ha, %a; cvt.u16.u64 %hb, %b; cvt.u16.u64 %hc, %c;
        setp.ne.b64 %q, %b, 0;
        mov.u32 %re, %tid.x; mad.wide.u32 %o, %re, 8, %o;
        {line}
        {} st.global.b64 [%o], %d; ret; }}",
        if line.contains("%rd") {
            "cvt.u64.u32 %d, %rd;"
        } else if line.contains("%hd") {
            "cvt.u64.u16 %d, %hd;"
        } else if line.contains("%p") {
            "selp.b64 %d, 1, 0, %p;"
        } else {
            ""
        }
    );
    let module = module(&text);
    let mut memory = Memory::new();
    let out = memory.allocate("out", 8 * u64::from(threads), 4, Content::Unwritten);
    let arguments = [out, operands[0], operands[1], operands[2]];
    let launch = Launch {
        kernel: "k",
        grid: [1; 3],
        block: [threads, 1, 1],
        shared_bytes: 0,
        arguments: &arguments,
        threads: 1,
        cooperative: false,
        clusters: None,
    };
    module.launch(&memory, &launch).unwrap_or_else(|e| panic!("{line}: {e}"));
    let mut bytes = vec![0; 8 * threads as usize];
    memory.read(out, &mut bytes);
    bytes.as_chunks().0.iter().map(|result| u64::from_le_bytes(*result)).collect()
}

fn check(cases: &[(&str, [u64; 3], u64)]) {
    for (line, operands, expected) in cases {
        let got = evaluate(line, *operands);
        assert_eq!(got, *expected, "{line} of {operands:x?}: got {got:#x}, expected {expected:#x}");
    }
}

fn f(x: f32) -> u64 {
    u64::from(x.to_bits())
}

fn d(x: f64) -> u64 {
    x.to_bits()
}

const MINUS: u64 = 0xFFFF_FFFF;

#[test]
fn integers() {
    check(&[
        ("add.s32 %rd, %ra, %rb;", [MINUS, 2, 0], 1),
        ("add.s64 %d, %a, -1;", [0, 0, 0], u64::MAX),
        ("add.s16 %hd, %ha, %hb;", [0xFFFF, 2, 0], 1),
        ("sub.s32 %rd, %ra, %rb;", [1, 2, 0], MINUS),
        ("mul.lo.s32 %rd, %ra, %rb;", [0x10001, 0x10001, 0], 0x20001),
        ("mul.hi.u32 %rd, %ra, %rb;", [MINUS, MINUS, 0], 0xFFFF_FFFE),
        ("mul.hi.s32 %rd, %ra, %rb;", [MINUS, 1, 0], MINUS),
        ("mul.hi.u64 %d, %a, -2049638230412172401;", [9 << 32, 0, 0], 34_359_738_368),
        ("mul.wide.u32 %d, %ra, %rb;", [MINUS, MINUS, 0], 0xFFFF_FFFE_0000_0001),
        ("mul.wide.s32 %d, %ra, %rb;", [MINUS, 5, 0], (-5i64) as u64),
        ("mul.wide.s16 %rd, %ha, %hb;", [0xFFFF, 3, 0], 0xFFFF_FFFD),
        ("mad.lo.s32 %rd, %ra, %rb, %rc;", [3, 4, 5], 17),
        ("mad.lo.s64 %d, %a, -36, %b;", [2, 100, 0], 28),
        ("mad.hi.u32 %rd, %ra, %rb, %rc;", [MINUS, 2, 7], 8),
        ("mad.wide.u32 %d, %ra, %rb, %c;", [MINUS, 2, 5], 0x2_0000_0003),
        ("div.s32 %rd, %ra, %rb;", [(-7i32) as u32 as u64, 2, 0], (-3i32) as u32 as u64),
        ("div.u64 %d, %a, %b;", [u64::MAX, 2, 0], u64::MAX / 2),
        ("rem.s32 %rd, %ra, %rb;", [(-7i32) as u32 as u64, 2, 0], MINUS),
        ("rem.u32 %rd, %ra, %rb;", [7, 4, 0], 3),
        ("min.s32 %rd, %ra, %rb;", [MINUS, 1, 0], MINUS),
        ("max.u32 %rd, %ra, %rb;", [MINUS, 1, 0], MINUS),
        ("max.s64 %d, %a, %b;", [u64::MAX, 1, 0], 1),
        ("neg.s32 %rd, %ra;", [1, 0, 0], MINUS),
        ("abs.s32 %rd, %ra;", [MINUS, 0, 0], 1),
        ("sad.u32 %rd, %ra, %rb, %rc;", [3, 10, 1], 8),
        ("popc.b64 %rd, %a;", [u64::MAX, 0, 0], 64),
        ("clz.b32 %rd, %ra;", [0xFF, 0, 0], 24),
        ("clz.b64 %rd, %a;", [0, 0, 0], 64),
        ("bfind.u32 %rd, %ra;", [0x100, 0, 0], 8),
        ("bfind.s32 %rd, %ra;", [MINUS, 0, 0], MINUS),
        ("bfind.shiftamt.u32 %rd, %ra;", [1, 0, 0], 31),
        ("brev.b32 %rd, %ra;", [1, 0, 0], 1 << 31),
        ("bfe.u32 %rd, %ra, 4, 8;", [0xABCD, 0, 0], 0xBC),
        ("bfe.s32 %rd, %ra, 4, 4;", [0x80, 0, 0], 0xFFFF_FFF8),
        ("bfi.b32 %rd, %ra, %rb, 8, 4;", [0xF, 0, 0], 0xF00),
        ("add.cc.u32 %re, %ra, %rb; addc.u32 %rd, %rc, 0;", [MINUS, 1, 5], 6),
        ("sub.cc.u32 %re, %ra, %rb; subc.u32 %rd, %rc, 0;", [0, 1, 5], 4),
    ]);
}

#[test]
fn bits() {
    check(&[
        ("and.b32 %rd, %ra, %rb;", [0xFF, 0xF0F, 0], 0xF),
        ("or.b64 %d, %a, %b;", [1 << 40, 1, 0], (1 << 40) | 1),
        ("xor.b16 %hd, %ha, %hb;", [0xFF, 0xF0, 0], 0xF),
        ("not.b32 %rd, %ra;", [0, 0, 0], MINUS),
        ("cnot.b32 %rd, %ra;", [0, 0, 0], 1),
        ("shl.b32 %rd, %ra, 33;", [1, 0, 0], 0),
        ("shl.b64 %d, %a, 33;", [1, 0, 0], 1 << 33),
        ("shr.u32 %rd, %ra, %rb;", [MINUS, 4, 0], 0x0FFF_FFFF),
        ("shr.s32 %rd, %ra, 40;", [0x8000_0000, 0, 0], MINUS),
        ("shr.s64 %d, %a, 63;", [1 << 63, 0, 0], u64::MAX),
        ("shf.l.wrap.b32 %rd, %ra, %rb, 8;", [0xAABB_CCDD, 0x1122_3344, 0], 0x2233_44AA),
        ("shf.r.wrap.b32 %rd, %ra, %rb, 8;", [0xAABB_CCDD, 0x1122_3344, 0], 0x44AA_BBCC),
        ("shf.r.clamp.b32 %rd, %ra, %rb, 40;", [1, 2, 0], 2),
        ("prmt.b32 %rd, %ra, %rb, 0x5410;", [0x1111_2222, 0x3333_4444, 0], 0x4444_2222),
        ("prmt.b32 %rd, %ra, %rb, 0x8888;", [0x80, 0, 0], MINUS),
        ("lop3.b32 %rd, %ra, %rb, %rc, 0x96;", [0xF0, 0xCC, 0xAA], 0x96),
        ("lop3.b32 %rd, %ra, %rb, %rc, 0xE8;", [0xF0, 0xCC, 0xAA], 0xE8),
    ]);
}

#[test]
fn floats() {
    let tiny = f32::from_bits(1);
    check(&[
        ("add.rn.f32 %rd, %ra, %rb;", [f(1.5), f(2.25), 0], f(3.75)),
        ("add.f32 %rd, %ra, %rb;", [f(f32::NAN), f(1.0), 0], 0x7FFF_FFFF),
        ("add.rz.f32 %rd, %ra, %rb;", [f(1.0), f(1e-9), 0], f(1.0)),
        ("add.rp.f32 %rd, %ra, %rb;", [f(1.0), f(1e-9), 0], f(1.0 + f32::EPSILON)),
        ("add.rn.ftz.f32 %rd, %ra, %rb;", [f(tiny), f(0.0), 0], 0),
        ("add.rn.sat.f32 %rd, %ra, %rb;", [f(1.0), f(1.0), 0], f(1.0)),
        ("sub.rn.f64 %d, %a, %b;", [d(1.0), d(0.25), 0], d(0.75)),
        ("mul.rn.f32 %rd, %ra, 0fC0000000;", [f(3.0), 0, 0], f(-6.0)),
        (
            "fma.rn.f32 %rd, %ra, %rb, %rc;",
            [f(1.0 + f32::EPSILON), f(1.0 - f32::EPSILON), f(-1.0)],
            f(-f32::EPSILON * f32::EPSILON),
        ),
        ("fma.rn.f64 %d, %a, %b, %c;", [d(2.0), d(3.0), d(1.0)], d(7.0)),
        ("div.rn.f32 %rd, %ra, %rb;", [f(1.0), f(3.0), 0], f(1.0 / 3.0)),
        ("div.full.f32 %rd, %ra, %rb;", [f(1.0), f(4.0), 0], f(0.25)),
        ("min.f32 %rd, %ra, %rb;", [f(f32::NAN), f(2.0), 0], f(2.0)),
        ("min.NaN.f32 %rd, %ra, %rb;", [f(f32::NAN), f(2.0), 0], 0x7FFF_FFFF),
        ("max.f32 %rd, %ra, %rb;", [f(-0.0), f(0.0), 0], f(0.0)),
        ("max.f64 %d, %a, %b;", [d(-1.0), d(3.0), 0], d(3.0)),
        ("neg.f32 %rd, %ra;", [f(1.0), 0, 0], f(-1.0)),
        ("abs.f64 %d, %a;", [d(-1.0), 0, 0], d(1.0)),
        ("copysign.f32 %rd, %ra, %rb;", [f(-1.0), f(2.0), 0], f(-2.0)),
        ("sqrt.rn.f32 %rd, %ra;", [f(2.0), 0, 0], f(2f32.sqrt())),
        ("rcp.approx.f32 %rd, %ra;", [f(4.0), 0, 0], f(0.25)),
        ("rsqrt.approx.f32 %rd, %ra;", [f(4.0), 0, 0], f(0.5)),
        ("ex2.approx.f32 %rd, %ra;", [f(3.0), 0, 0], f(8.0)),
        ("lg2.approx.f32 %rd, %ra;", [f(8.0), 0, 0], f(3.0)),
        ("sin.approx.f32 %rd, %ra;", [f(0.0), 0, 0], f(0.0)),
        ("cos.approx.f32 %rd, %ra;", [f(0.0), 0, 0], f(1.0)),
        ("tanh.approx.f32 %rd, %ra;", [f(40.0), 0, 0], f(1.0)),
    ]);
}

#[test]
fn half_floats() {
    check(&[
        ("add.rn.f16 %hd, %ha, %hb;", [0x3C00, 0x3C00, 0], 0x4000),
        ("mul.f16 %hd, %ha, %hb;", [0x4200, 0x4000, 0], 0x4600),
        // 1.001₂ · 1.001₂ + tiny: the tie is decided by what is added.
        ("fma.rn.f16 %hd, %ha, %hb, %hc;", [0x3C00, 0x3C01, 0x0001], 0x3C01),
        ("fma.rn.bf16 %hd, %ha, %hb, %hc;", [0x3F81, 0x3F80, 0x0001], 0x3F81),
        ("add.rn.f16x2 %rd, %ra, %rb;", [0x3C00_4000, 0x3C00_3C00, 0], 0x4000_4200),
        ("fma.rn.bf16x2 %rd, %ra, %rb, %rc;", [0x3F80_4000, 0x4000_4000, 0x3F80_3F80], 0x4040_40A0),
        ("max.bf16 %hd, %ha, %hb;", [0x3F80, 0x4000, 0], 0x4000),
        ("neg.f16x2 %rd, %ra;", [0x3C00_3C00, 0, 0], 0xBC00_BC00),
        ("ex2.approx.f16 %hd, %ha;", [0x4000, 0, 0], 0x4400),
        ("tanh.approx.bf16 %hd, %ha;", [0x4200, 0, 0], 0x3F80),
        ("setp.lt.f16 %p, %ha, %hb;", [0x3C00, 0x4000, 0], 1),
    ]);
}

#[test]
fn conversions() {
    check(&[
        ("cvt.u64.u32 %d, %ra;", [MINUS, 0, 0], MINUS),
        ("cvt.s64.s32 %d, %ra;", [MINUS, 0, 0], u64::MAX),
        ("cvt.s32.s8 %rd, %ra;", [0x80, 0, 0], 0xFFFF_FF80),
        ("cvt.u32.u16 %rd, %ha;", [0x1_FFFF, 0, 0], 0xFFFF),
        ("cvt.sat.s8.s32 %rd, %ra;", [1000, 0, 0], 127),
        ("cvt.rn.f32.s32 %rd, %ra;", [MINUS, 0, 0], f(-1.0)),
        ("cvt.rn.f32.u64 %rd, %a;", [u64::MAX, 0, 0], f(18446744073709551616.0)),
        ("cvt.rn.f64.s64 %d, %a;", [u64::MAX, 0, 0], d(-1.0)),
        ("cvt.rzi.s32.f32 %rd, %ra;", [f(-1.9), 0, 0], MINUS),
        ("cvt.rni.s32.f32 %rd, %ra;", [f(2.5), 0, 0], 2),
        ("cvt.rmi.s64.f64 %d, %a;", [d(-1.5), 0, 0], (-2i64) as u64),
        ("cvt.rpi.u32.f32 %rd, %ra;", [f(1.1), 0, 0], 2),
        ("cvt.rzi.s32.f32 %rd, %ra;", [f(1e20), 0, 0], 0x7FFF_FFFF),
        ("cvt.rzi.u32.f32 %rd, %ra;", [f(-5.0), 0, 0], 0),
        ("cvt.rzi.s32.f32 %rd, %ra;", [f(f32::NAN), 0, 0], 0),
        ("cvt.rzi.s64.f32 %d, %ra;", [f(f32::NAN), 0, 0], 1 << 63),
        ("cvt.rmi.f32.f32 %rd, %ra;", [f(-1.5), 0, 0], f(-2.0)),
        ("cvt.rni.f32.f32 %rd, %ra;", [f(0.5), 0, 0], f(0.0)),
        ("cvt.rn.f32.f64 %rd, %a;", [d(0.1), 0, 0], f(0.1)),
        ("cvt.f64.f32 %d, %ra;", [f(0.1), 0, 0], d(f64::from(0.1f32))),
        ("cvt.rn.f16.f32 %hd, %ra;", [f(1.0 + 1.0 / 2048.0), 0, 0], 0x3C00),
        ("cvt.rz.f16.f32 %hd, %ra;", [f(1e9), 0, 0], 0x7BFF),
        ("cvt.rn.bf16.f32 %hd, %ra;", [f(1.0 + 1.0 / 128.0), 0, 0], 0x3F81),
        ("cvt.f32.f16 %rd, %ha;", [0x0001, 0, 0], f(2f32.powi(-24))),
        ("cvt.f32.bf16 %rd, %ha;", [0x4049, 0, 0], 0x4049_0000),
        ("cvt.rn.bf16x2.f32 %rd, %ra, %rb;", [f(1.0), f(2.0), 0], 0x3F80_4000),
        ("cvt.rn.f16x2.f32 %rd, %ra, %rb;", [f(1.0), f(2.0), 0], 0x3C00_4000),
        ("cvt.rna.tf32.f32 %rd, %ra;", [0x3F80_1000, 0, 0], 0x3F80_2000),
        ("cvt.rna.tf32.f32 %rd, %ra;", [0xBF80_0FFF, 0, 0], 0xBF80_0000),
    ]);
}

#[test]
fn comparisons_and_choices() {
    check(&[
        ("setp.lt.s32 %p, %ra, %rb;", [MINUS, 0, 0], 1),
        ("setp.lo.u32 %p, %ra, %rb;", [MINUS, 0, 0], 0),
        ("setp.ge.u64 %p, %a, %b;", [u64::MAX, 1, 0], 1),
        ("setp.eq.f32 %p, %ra, %rb;", [f(0.0), f(-0.0), 0], 1),
        ("setp.ne.f32 %p, %ra, %rb;", [f(f32::NAN), f(1.0), 0], 0),
        ("setp.neu.f32 %p, %ra, %rb;", [f(f32::NAN), f(1.0), 0], 1),
        ("setp.nan.f32 %p, %ra, %rb;", [f(f32::NAN), f(1.0), 0], 1),
        ("setp.num.f64 %p, %a, %b;", [d(1.0), d(1.0), 0], 1),
        ("setp.gtu.f64 %p, %a, %b;", [d(1.0), d(2.0), 0], 0),
        ("setp.eq.and.s32 %p, %ra, 1, %q;", [1, 1, 0], 1),
        ("setp.eq.and.s32 %p, %ra, 1, !%q;", [1, 1, 0], 0),
        ("setp.eq.s32 %q|%p, %ra, 1;", [2, 0, 0], 1),
        ("set.lt.u32.s32 %rd, %ra, %rb;", [1, 2, 0], MINUS),
        ("set.lt.f32.s32 %rd, %ra, %rb;", [1, 2, 0], f(1.0)),
        ("selp.b32 %rd, %ra, %rb, %q;", [5, 1, 0], 5),
        ("slct.s32.s32 %rd, %ra, %rb, %rc;", [5, 6, MINUS], 6),
        ("not.pred %p, %q;", [0, 1, 0], 0),
        ("mov.pred %p, -1;", [0, 0, 0], 1),
        ("mov.pred %p, 0; or.pred %p, %p, %q;", [0, 1, 0], 1),
        ("xor.pred %p, %q, %q;", [0, 1, 0], 0),
    ]);
}

#[test]
fn moves() {
    check(&[
        ("mov.b32 %rd, 0f3F800000;", [0, 0, 0], f(1.0)),
        ("mov.f64 %d, 0d3FF0000000000000;", [0, 0, 0], d(1.0)),
        ("mov.b64 %d, {%ra, %rb};", [1, 2, 0], 0x2_0000_0001),
        ("mov.b64 {%re, %rd}, %a;", [0x2_0000_0001, 0, 0], 2),
        ("mov.b64 {_, %rd}, %a;", [0x3_0000_0001, 0, 0], 3),
        ("mov.b32 %rd, {%ha, %hb};", [1, 2, 0], 0x2_0001),
        ("mov.b32 {%hd, %he}, %ra;", [0x2_0001, 0, 0], 1),
        ("@%q mov.u32 %rd, 7;", [0, 1, 0], 7),
        ("mov.u32 %rd, 3; @!%q mov.u32 %rd, 7;", [0, 1, 0], 3),
        ("{ .reg .b32 %ra; mov.b32 %ra, 9; mov.b32 %rd, %ra; }", [1, 0, 0], 9),
    ]);
    let of_threads = |line| in_threads(line, [0; 3], 34);
    assert_eq!(of_threads("mov.u32 %rd, %ntid.x;"), [34; 34]);
    assert!(of_threads("mov.u32 %rd, %laneid;").into_iter().eq((0..32).chain(0..2)));
    let from = |lane: u32| u64::from(u32::MAX << lane);
    assert!(of_threads("mov.u32 %rd, %lanemask_ge;").into_iter().eq((0..32).chain(0..2).map(from)));
}

#[test]
fn memory() {
    let shared = ".shared .align 16 .b8 s[64]; mov.u32 %re, s;";
    let with = |line: &str| format!("{shared} {line}");
    for (line, operands, expected) in [
        ("st.shared.b32 [%re+4], %ra; ld.shared.b32 %rd, [s+4];", [7, 0, 0], 7),
        ("st.shared.v2.b32 [s], {%ra, %rb}; ld.shared.b64 %d, [s];", [1, 2, 0], 0x2_0000_0001),
        ("st.shared.b8 [s], %ra; ld.shared.s8 %rd, [s];", [0x80, 0, 0], 0xFFFF_FF80),
        ("st.shared::cta.b16 [s+2], %ha; ld.volatile.shared.u16 %rd, [s+2];", [0x18000, 0, 0], 0x8000),
        ("st.shared.b32 [s], %ra; atom.shared.add.u32 %re, [s], %rb; ld.shared.b32 %rd, [s];", [7, 3, 0], 10),
        ("st.shared.b32 [s], %ra; atom.shared.exch.b32 %rd, [s], %rb;", [7, 3, 0], 7),
        ("st.shared.b32 [s], %ra; atom.shared.cas.b32 %re, [s], 7, 9; ld.shared.b32 %rd, [s];", [7, 3, 0], 9),
        ("st.shared.b32 [s], %ra; red.shared.max.s32 [s], %rb; ld.shared.b32 %rd, [s];", [MINUS, 3, 0], 3),
        ("st.shared.b32 [s], %ra; red.shared.inc.u32 [s], 7; ld.shared.b32 %rd, [s];", [7, 0, 0], 0),
        ("st.shared.b32 [s], %ra; red.shared.dec.u32 [s], 7; ld.shared.b32 %rd, [s];", [0, 0, 0], 7),
        (
            "st.shared.b32 [s], %ra; red.shared.add.f32 [s], %rb; ld.shared.b32 %rd, [s];",
            [f(1.0), f(2.0), 0],
            f(3.0),
        ),
        (
            "st.shared.b64 [s], %a; red.shared.or.b64 [s], %b; ld.shared.b64 %d, [s];",
            [1, 1 << 40, 0],
            (1 << 40) | 1,
        ),
        (
            "cvt.u64.u32 %x, %re; cvta.shared.u64 %x, %x; st.b32 [%x+8], %ra; ld.shared.b32 %rd, [s+8];",
            [5, 0, 0],
            5,
        ),
        ("cvt.u64.u32 %x, %re; cvta.shared.u64 %x, %x; isspacep.shared %p, %x;", [5, 0, 0], 1),
    ] {
        // Threads share this memory.
        assert_eq!(in_threads(&with(line), operands, 1), [expected], "{line}");
    }
    check(&[
        (
            ".local .align 8 .b8 l[16]; mov.b64 %x, l; st.local.b64 [%x+8], %a; ld.local.b64 %d, [l+8];",
            [9, 0, 0],
            9,
        ),
        (
            "st.global.b64 [%o], %a; fence.acq_rel.gpu; membar.gl; ld.relaxed.gpu.global.b64 %d, [%o];",
            [9, 0, 0],
            9,
        ),
        ("cvta.to.global.u64 %x, %o; st.b64 [%x], %a; ld.global.b64 %d, [%o];", [4, 0, 0], 4),
        ("st.global.b64 [%o], %a; prefetch.global.L2 [%o]; atom.global.add.u64 %d, [%o], 1;", [4, 0, 0], 4),
    ]);
}

#[test]
fn clocks_go_forward_and_waits_end() {
    for clock in ["%clock64", "%globaltimer"] {
        check(&[(
            &format!(
                "mov.u64 %x, {clock}; nanosleep.u32 100; mov.u64 %d, {clock}; setp.gt.u64 %p, %d, %x; selp.b64 %d, 1, 0, %p;"
            ),
            [0; 3],
            1,
        )]);
    }
    check(&[("mov.u32 %ra, %clock; mov.u32 %rb, %clock; setp.gt.u32 %p, %rb, %ra;", [0; 3], 1)]);
    check(&[("mov.u32 %rd, %smid;", [0; 3], 0), ("mov.u32 %rd, %nsmid;", [0; 3], 132)]);
}

#[test]
fn branches() {
    check(&[
        ("mov.u32 %rd, 0; L: add.s32 %rd, %rd, 2; setp.lt.s32 %p, %rd, %ra; @%p bra L;", [9, 0, 0], 10),
        ("bra.uni E; mov.u32 %rd, 1; E: mov.u32 %rd, 2;", [0, 0, 0], 2),
        (
            "T: .branchtargets A, B; brx.idx %ra, T; A: mov.u32 %rd, 1; bra E; B: mov.u32 %rd, 2; E:",
            [1, 0, 0],
            2,
        ),
    ]);
}

#[test]
fn unknown_instructions_are_refused_with_their_line() {
    let text =
        ".version 8.0\n.target sm_90\n.visible .entry k() {\n.reg .b32 %r<2>;\nfrob.b32 %r0, %r1;\nret;\n}";
    let error = Module::parse(text).err().map(|e| e.to_string());
    assert_eq!(error.as_deref(), Some("PTX line 5: `frob.b32 %r0, %r1;`: unknown instruction"));
}
