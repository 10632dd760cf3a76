//! Products of warp groups on the simulated GPU: what they give, and what is reported where a kernel misuses them.

mod common;

use std::ops::Range;

use common::module;
use fuse_runtime::sim::{Content, Counters, GroupMisuse, Launch, Memory, Module, Problem, SimError};

/// Threads of a warp group.
const THREADS: usize = 128;
/// Rows of the left factor.
const ROWS: usize = 64;

/// How a factor lies in shared memory.
#[derive(Clone, Copy)]
struct Layout {
    /// Rows of the left factor, or columns of the right one.
    rows: usize,
    /// Elements along the summed axis.
    depth: usize,
    bytes: usize,
    transposed: bool,
    swizzled: bool,
}

impl Layout {
    /// Where an element lies, in bytes, as the PTX ISA document draws it for these modes.
    fn offset(&self, row: usize, k: usize) -> usize {
        let (outer, inner) = if self.transposed { (k, row) } else { (row, k) };
        let (chunk, within) = (inner * self.bytes / 16, inner * self.bytes % 16);
        let line = outer % 8;
        if self.swizzled {
            // Eight lines of 128 bytes are a square of 1024, and squares are side by side.
            let squares = self.across().div_ceil(128);
            let square = outer / 8 * squares + chunk / 8;
            return square * 1024 + line * 128 + ((chunk % 8) ^ line) * 16 + within;
        }
        (outer / 8 * (self.across() / 16) + chunk) * 128 + line * 16 + within
    }

    /// Bytes of a line of the matrix.
    fn across(&self) -> usize {
        if self.transposed { self.rows * self.bytes } else { self.depth * self.bytes }
    }

    fn size(&self) -> usize {
        let lines = if self.transposed { self.depth } else { self.rows };
        lines.next_multiple_of(8) * self.across().next_multiple_of(if self.swizzled { 128 } else { 16 })
    }

    /// The descriptor of the part that begins at a place of the summed axis, of a matrix at an offset.
    fn descriptor(&self, at: usize, k: usize) -> u64 {
        let next_lines = if self.swizzled { self.across().div_ceil(128) * 1024 } else { self.across() * 8 };
        let next_chunks = if self.swizzled { 1024 } else { 128 };
        // Across the summed axis and without swizzling, the two strides change their roles.
        let [leading, stride] = match (self.transposed, self.swizzled) {
            (true, false) => [next_lines, next_chunks],
            _ => [next_chunks, next_lines],
        };
        let start = if self.transposed {
            at + self.offset(0, k)
        } else if self.swizzled {
            at + k * self.bytes / 128 * 1024 + k * self.bytes % 128
        } else {
            at + self.offset(0, k)
        };
        let field = |bytes: usize| (bytes >> 4) as u64;
        field(start) | field(leading) << 16 | field(stride) << 32 | u64::from(self.swizzled) << 62
    }
}

/// A product of a warp group, in as many instructions as its summed axis takes.
#[derive(Clone, Copy, Debug)]
struct Product {
    ty: &'static str,
    columns: usize,
    depth: usize,
    transposed: [bool; 2],
    swizzled: bool,
    signs: [i32; 2],
    /// The first place along the summed axis.
    first: usize,
}

const PLAIN: Product = Product {
    ty: "bf16",
    columns: 16,
    depth: 64,
    transposed: [false; 2],
    swizzled: true,
    signs: [1; 2],
    first: 0,
};

fn left(row: usize, k: usize) -> f32 {
    ((row * 3 + k * 5) % 17) as f32 - 8.0
}

fn right(k: usize, column: usize) -> f32 {
    ((k * 7 + column * 2) % 13) as f32 - 6.0
}

impl Product {
    fn bytes(&self) -> usize {
        if self.ty == "tf32" { 4 } else { 2 }
    }

    fn layouts(&self) -> [Layout; 2] {
        [(ROWS, self.transposed[0]), (self.columns, self.transposed[1])].map(|(rows, transposed)| Layout {
            rows,
            depth: self.depth,
            bytes: self.bytes(),
            transposed,
            swizzled: self.swizzled,
        })
    }

    /// Where the right factor lies.
    fn second(&self) -> usize {
        self.layouts()[0].size().next_multiple_of(1024)
    }

    /// Shared memory as the product wants it.
    fn image(&self) -> Vec<u8> {
        let [a, b] = self.layouts();
        let mut image = vec![0; self.second() + b.size()];
        let mut put = |at: usize, value: f32| {
            let bits = value.to_bits();
            match self.ty {
                "tf32" => image[at..at + 4].copy_from_slice(&bits.to_le_bytes()),
                "bf16" => image[at..at + 2].copy_from_slice(&((bits >> 16) as u16).to_le_bytes()),
                _ => image[at..at + 2].copy_from_slice(&half(value).to_le_bytes()),
            }
        };
        for k in 0..self.depth {
            (0..ROWS).for_each(|row| put(a.offset(row, k), left(row, self.first + k)));
            (0..self.columns)
                .for_each(|column| put(self.second() + b.offset(column, k), right(self.first + k, column)));
        }
        image
    }

    /// The instructions, from one fence to what waits for them.
    fn instructions(&self) -> String {
        let [a, b] = self.layouts();
        let depth = 32 / self.bytes();
        let sums: Vec<String> = (0..self.columns / 2).map(|at| format!("%f{at}")).collect();
        let turns = match self.ty {
            "tf32" => String::new(),
            _ => format!(", {}, {}", u8::from(self.transposed[0]), u8::from(self.transposed[1])),
        };
        let mut out = "wgmma.fence.sync.aligned;\n".to_string();
        for k in (0..self.depth).step_by(depth) {
            out += &format!(
                "add.s64 %da, %base, {}; add.s64 %db, %base, {};
                 wgmma.mma_async.sync.aligned.m64n{}k{depth}.f32.{ty}.{ty} {{{}}}, %da, %db, {}, {}, {}{turns};\n",
                a.descriptor(0, k) as i64,
                b.descriptor(self.second(), k) as i64,
                self.columns,
                sums.join(", "),
                if k == 0 { "%no" } else { "%yes" },
                self.signs[0],
                self.signs[1],
                ty = self.ty,
            );
        }
        out + "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n"
    }

    /// A kernel that copies the image to shared memory, multiplies, and stores each thread's sums.
    fn kernel(&self) -> String {
        let registers = self.columns / 2;
        let stores: String =
            (0..registers).map(|at| format!("st.global.f32 [%my+{}], %f{at};\n", 4 * at)).collect();
        format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n
            .visible .entry k(.param .u64 in, .param .u64 out) {{
            .reg .pred %p, %q, %no, %yes; .reg .b32 %t, %s, %r<16>; .reg .b64 %in, %out, %my, %x, %y, %base, %da, %db;
            .reg .f32 %f<{registers}>, %g;
            .shared .align 1024 .b8 s[{SHARED}];
            ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; mov.u32 %t, %tid.x; mov.u32 %s, s;
            setp.ne.u32 %no, %t, %t; setp.eq.u32 %yes, %t, %t; shr.u32 %r0, %s, 4; cvt.u64.u32 %base, %r0;
            mul.wide.u32 %x, %t, {}; add.s64 %my, %out, %x; mov.u32 %r0, %t;
            L: mul.wide.u32 %x, %r0, 4; add.s64 %y, %in, %x; ld.global.u32 %r1, [%y];
            shl.b32 %r2, %r0, 2; add.u32 %r2, %r2, %s; st.shared.u32 [%r2], %r1;
            add.u32 %r0, %r0, {THREADS}; setp.lt.u32 %p, %r0, {}; @%p bra L;
            fence.proxy.async;
            bar.sync 0;
            {}{stores} ret; }}",
            4 * registers,
            self.image().len() / 4,
            self.instructions(),
        )
    }

    /// Runs the kernel on what is to lie in shared memory; each thread's sums.
    fn run(&self, module: &Module, image: &[u8], threads: usize) -> Result<(Vec<f32>, Counters), SimError> {
        let mut memory = Memory::new();
        let given = memory.allocate_with("in", image, 4, Content::Constant);
        let bytes = 2 * self.columns * threads.max(THREADS);
        let out = memory.allocate("out", bytes as u64, 4, Content::Unwritten);
        let launch = Launch {
            kernel: "k",
            grid: [1; 3],
            block: [threads as u32, 1, 1],
            shared_bytes: 0,
            arguments: &[given, out],
            threads: 1,
            cooperative: false,
            clusters: None,
        };
        let counters = module.launch(&memory, &launch)?;
        let mut all = vec![0; bytes];
        memory.read(out, &mut all);
        let values = all.chunks(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        Ok((values, counters))
    }

    fn check(&self, text: &str) -> Counters {
        self.compare(text, &self.image(), 0..self.depth)
    }

    /// Compares the sums with products of whole numbers, which are exact.
    fn compare(&self, text: &str, image: &[u8], ks: Range<usize>) -> Counters {
        let (got, counters) =
            self.run(&module(text), image, THREADS).unwrap_or_else(|e| panic!("{text}: {e}"));
        let sign = (self.signs[0] * self.signs[1]) as f32;
        for (at, value) in got.into_iter().enumerate() {
            let (thread, register) = (at / (self.columns / 2), at % (self.columns / 2));
            let row = thread / 32 * 16 + thread % 32 / 4 + register / 2 % 2 * 8;
            let column = register / 4 * 8 + thread % 4 * 2 + register % 2;
            let sum: f32 = ks.clone().map(|k| left(row, k) * right(k, column)).sum();
            assert_eq!(value, sign * sum, "{self:?}, row {row}, column {column}");
        }
        counters
    }

    /// What is reported of the kernel with a part replaced. The assembler is not asked: it sees some of these mistakes.
    fn problem(&self, part: &str, by: &str) -> Problem {
        let text = self.kernel();
        assert!(text.contains(part), "{text} has no `{part}`");
        fault(self, &text.replacen(part, by, 1), THREADS)
    }
}

fn fault(product: &Product, text: &str, threads: usize) -> Problem {
    report(product, text, &product.image(), threads)
}

fn report(product: &Product, text: &str, image: &[u8], threads: usize) -> Problem {
    let module = Module::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    match product.run(&module, image, threads) {
        Err(SimError::Fault(fault)) => fault.problem,
        other => panic!("{text}: expected a report, got {:?}", other.map(|(_, counters)| counters)),
    }
}

fn misuse(problem: Problem) -> GroupMisuse {
    match problem {
        Problem::WarpGroup(misuse) => misuse,
        other => panic!("expected a misuse, got {other:?}"),
    }
}

/// Bytes of shared memory.
const SHARED: usize = 40960;

/// A small whole number as f16.
fn half(value: f32) -> u16 {
    let bits = value.to_bits();
    if value == 0.0 {
        return 0;
    }
    let exponent = (bits >> 23 & 0xFF) as i32 - 127 + 15;
    ((bits >> 16 & 0x8000) as i32 | exponent << 10 | (bits >> 13 & 0x3FF) as i32) as u16
}

#[test]
fn warp_groups_multiply_what_descriptors_tell_of() {
    for (ty, columns, depth) in
        [("bf16", 8, 16), ("f16", 24, 64), ("bf16", 256, 64), ("tf32", 16, 32), ("tf32", 72, 8)]
    {
        for swizzled in [false, true] {
            let product = Product { ty, columns, depth, swizzled, ..PLAIN };
            product.check(&product.kernel());
        }
    }
}

#[test]
fn halves_are_multiplied_transposed_too() {
    for transposed in [[true, false], [false, true], [true, true]] {
        for (swizzled, columns) in [(false, 24), (true, 64), (true, 128)] {
            let product = Product { transposed, swizzled, columns, ..PLAIN };
            product.check(&product.kernel());
        }
    }
}

#[test]
fn factors_change_their_signs() {
    for signs in [[-1, 1], [1, -1], [-1, -1]] {
        let product = Product { signs, ..PLAIN };
        product.check(&product.kernel());
    }
}

#[test]
fn pieces_of_matrices_have_no_bank_conflicts() {
    // A warp reads 2 pieces of 8 rows by 2 of 16 bytes in each of 4 steps, and one warp the right factor for all.
    for swizzled in [false, true] {
        let product = Product { swizzled, ..PLAIN };
        let counters = product.check(&product.kernel());
        let stores = product.image().len() as u64 / 128;
        assert_eq!(counters.shared_requests - stores, 4 * (4 * 2 * 2 + 2 * 2), "{swizzled}");
        assert_eq!(counters.bank_conflicts, 0, "{swizzled}");
    }
}

#[test]
fn groups_of_products_are_waited_for_in_order() {
    // Two products that do not share sums; the first is stored while the second is under way.
    let text = PLAIN.kernel();
    let first = text.rfind("wgmma.commit_group").expect("a commit");
    let (before, after) = text.split_at(first);
    let second = PLAIN.instructions();
    let second = second.strip_prefix("wgmma.fence.sync.aligned;").expect("a fence");
    let second = second.replace("%f", "%h").replace("wait_group.sync.aligned 0", "wait_group.sync.aligned 1");
    let declared = before.replace(".reg .f32 %f", ".reg .f32 %h<8>; .reg .f32 %f");
    let stored = after.split_once("aligned 0;").expect("a wait").1;
    let end = stored.replace("ret;", "wgmma.wait_group.sync.aligned 0; ret;");
    let both = format!("{declared}wgmma.commit_group.sync.aligned;\n{second}{end}");
    PLAIN.check(&both);
    let early = both.replace("wait_group.sync.aligned 1", "wait_group.sync.aligned 2");
    assert_eq!(misuse(fault(&PLAIN, &early, THREADS)), GroupMisuse::SumsUnderWay);
}

#[test]
fn sums_are_not_accessed_before_they_are_waited_for() {
    let wait = "wgmma.wait_group.sync.aligned 0;";
    assert_eq!(misuse(PLAIN.problem(wait, "")), GroupMisuse::SumsUnderWay);
    assert_eq!(misuse(PLAIN.problem(wait, "wgmma.wait_group.sync.aligned 1;")), GroupMisuse::SumsUnderWay);
    assert_eq!(
        misuse(PLAIN.problem(wait, &format!("mov.f32 %f3, 0f00000000; {wait}"))),
        GroupMisuse::SumsUnderWay
    );
    // What is not committed is not waited for.
    assert_eq!(misuse(PLAIN.problem("wgmma.commit_group.sync.aligned;", "")), GroupMisuse::SumsUnderWay);
    assert_eq!(misuse(PLAIN.problem(wait, "ret;")), GroupMisuse::NotAwaited);
}

#[test]
fn sums_are_fenced_behind_what_accesses_them() {
    let fence = "wgmma.fence.sync.aligned;";
    assert_eq!(misuse(PLAIN.problem(fence, "")), GroupMisuse::NoFence);
    let clear = format!("{fence} mov.f32 %f3, 0f00000000;");
    assert_eq!(misuse(PLAIN.problem(fence, &clear)), GroupMisuse::NoFence);
    let fenced = PLAIN.kernel().replace(fence, &format!("mov.f32 %f3, 0f00000000; {fence}"));
    PLAIN.check(&fenced);
    // Products of another shape into the same sums.
    let narrow = PLAIN.instructions().lines().nth(2).expect("a product").replace("m64n16k16", "m64n8k16");
    let narrow = narrow.replace("%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7", "%f0, %f1, %f2, %f3");
    let commit = "wgmma.commit_group.sync.aligned;";
    assert_eq!(misuse(PLAIN.problem(commit, &format!("{narrow} {commit}"))), GroupMisuse::NoFence);
}

#[test]
fn what_threads_wrote_is_read_behind_a_proxy_fence() {
    let fence = "fence.proxy.async;";
    assert!(matches!(PLAIN.problem(fence, ""), Problem::NoProxyFence { .. }));
    // A fence before the writes; one that stands for global memory; one of a single thread before the barrier.
    let early =
        PLAIN.kernel().replace(fence, "").replace("mov.u32 %r0, %t;", &format!("{fence} mov.u32 %r0, %t;"));
    assert!(matches!(fault(&PLAIN, &early, THREADS), Problem::NoProxyFence { .. }));
    assert!(matches!(PLAIN.problem(fence, "fence.proxy.async.global;"), Problem::NoProxyFence { .. }));
    let one = "setp.eq.u32 %p, %t, 0; @%p fence.proxy.async;";
    assert!(matches!(PLAIN.problem(fence, one), Problem::NoProxyFence { .. }));
    // Behind the barrier each warp may fence what all wrote.
    let behind = PLAIN
        .kernel()
        .replace(fence, "")
        .replace("bar.sync 0;", "bar.sync 0; fence.proxy.async.shared::cta;");
    PLAIN.check(&behind);
}

/// The report where so much is added to the descriptor of the right factor.
fn shifted(bits: u64) -> Problem {
    PLAIN.problem("wgmma.mma_async", &format!("add.s64 %db, %db, {bits}; wgmma.mma_async"))
}

#[test]
fn what_products_read_is_there_and_stays() {
    // Another warp may not have written yet, and nothing was written here.
    assert!(matches!(
        PLAIN.problem("bar.sync 0;", "bar.warp.sync -1;"),
        Problem::NeverWritten { .. } | Problem::Race { .. }
    ));
    assert!(matches!(shifted(4096 >> 4), Problem::NeverWritten { .. }));
    // A product is under way when the warp, or one that it meets, writes there.
    let wait = "wgmma.wait_group.sync.aligned 0;";
    let written = format!("st.shared.u32 [%s+{}], %t; {wait}", PLAIN.second());
    assert!(matches!(PLAIN.problem(wait, &written), Problem::Race { .. }));
    let other = format!(
        "bar.sync 0; setp.eq.u32 %p, %t, 127; @%p st.shared.u32 [%s+{}], %t; bar.sync 0; {wait}",
        PLAIN.second()
    );
    assert!(matches!(PLAIN.problem(wait, &other), Problem::Race { .. }));
    // A thread writes when its own warp has multiplied, and others may not have.
    let unmet = format!("{wait} setp.eq.u32 %p, %t, 0; @%p st.shared.u32 [%s+{}], %t;", PLAIN.second());
    assert!(matches!(PLAIN.problem(wait, &unmet), Problem::Race { .. }));
    let met = format!("{wait} bar.sync 0; st.shared.u32 [%s+{}], 0; ", PLAIN.second());
    let met = met.replace("st.shared", "setp.eq.u32 %p, %t, 0; @%p st.shared");
    PLAIN.check(&PLAIN.kernel().replace(wait, &met));
}

#[test]
fn descriptors_are_checked() {
    assert!(matches!(shifted((SHARED as u64 - 8192) >> 4), Problem::OutOfBounds { .. }));
    assert!(matches!(shifted(128 >> 4), Problem::Misaligned { alignment: 1024, .. }));
    for bits in [1 << 14, 1 << 49, 1 << 62] {
        assert!(matches!(misuse(shifted(bits)), GroupMisuse::Descriptor(_)), "{bits:x}");
    }
}

#[test]
fn all_threads_of_a_group_multiply_the_same() {
    let fence = "wgmma.fence.sync.aligned;";
    let shifted = |threads: &str| {
        let text =
            PLAIN.kernel().replace(fence, &format!("{fence} setp.{threads}; @%p add.s64 %base, %base, 64;"));
        fault(&PLAIN, &text, THREADS)
    };
    assert_eq!(misuse(shifted("eq.u32 %p, %t, 40")), GroupMisuse::Differs);
    assert_eq!(misuse(shifted("ge.u32 %p, %t, 96")), GroupMisuse::Differs);
    // A warp has ended; one adds and others do not; the group has no four warps; a warp has parted.
    let ends = PLAIN.kernel().replace(fence, &format!("setp.ge.u32 %p, %t, 96; @%p ret; {fence}"));
    assert_eq!(misuse(fault(&PLAIN, &ends, THREADS)), GroupMisuse::Incomplete);
    let adds = PLAIN.kernel().replace(fence, &format!("{fence} setp.lt.u32 %no, %t, 32;"));
    assert_eq!(misuse(fault(&PLAIN, &adds, THREADS)), GroupMisuse::Differs);
    assert_eq!(misuse(fault(&PLAIN, &PLAIN.kernel(), 96)), GroupMisuse::Incomplete);
    let parted = PLAIN.problem(fence, &format!("setp.ne.u32 %p, %t, 7; @%p {fence}"));
    assert!(matches!(parted, Problem::WrongMembers { .. }));
}

/// A kernel of which one thread copies both factors in bulk, rather than all of them by loads and stores.
fn copied(bytes: usize) -> String {
    let text = PLAIN.kernel();
    let (from, to) =
        (text.find("mov.u32 %r0, %t;").expect("a loop"), text.find("wgmma.fence").expect("a fence"));
    let size = PLAIN.image().len();
    let copy = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes";
    let loads = format!(
        "setp.eq.u32 %p, %t, 0; @%p mbarrier.init.shared.b64 [b], 1; @%p fence.proxy.async.shared::cta; bar.sync 0; @!%p bra W;
         mbarrier.arrive.expect_tx.shared.b64 %x, [b], {bytes}; {copy} [%s], [%in], {size}, [b];
         W: mbarrier.try_wait.parity.shared.b64 %q, [b], 0; @!%q bra W;\n"
    );
    let declared = ".shared .align 8 .b8 b[8]; .shared .align 1024 .b8 s[";
    format!("{}{loads}{}", &text[..from], &text[to..]).replace(".shared .align 1024 .b8 s[", declared)
}

#[test]
fn bulk_copies_need_no_proxy_fence() {
    let size = PLAIN.image().len();
    PLAIN.check(&copied(size));
    // What a thread wrote over the copy does.
    let over = copied(size).replace("wgmma.fence", "st.shared.u32 [%s], %t; bar.sync 0; wgmma.fence");
    let over = over.replace("st.shared", "setp.eq.u32 %p, %t, 0; @%p st.shared");
    assert!(matches!(fault(&PLAIN, &over, THREADS), Problem::NoProxyFence { .. }));
    // Bytes that never come; nobody waits.
    assert_eq!(fault(&PLAIN, &copied(size + 16), THREADS), Problem::Deadlock);
    let unwaited = copied(size)
        .replace("@!%q bra W;", "")
        .replace("mbarrier.try_wait.parity.shared.b64 %q, [b], 0;", "");
    assert!(matches!(fault(&PLAIN, &unwaited, THREADS), Problem::NeverWritten { .. }));
}

/// Steps along the summed axis, and stages of shared memory that they take turns in.
const STEPS: usize = 5;
const STAGES: usize = 2;

/// A kernel that copies each step ahead of its turn, in bulk, and what it copies.
fn ring() -> (String, Vec<u8>) {
    let text = PLAIN.kernel();
    let (from, to) =
        (text.find("mov.u32 %r0, %t;").expect("a loop"), text.find("wgmma.fence").expect("a fence"));
    let end = text.find("st.global").expect("a store");
    let size = PLAIN.image().len();
    let copy = |step: usize| {
        let (stage, at) = (step % STAGES, step * size);
        let instruction = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes";
        format!(
            "@%p mbarrier.arrive.expect_tx.shared.b64 %x, [b+{0}], {size};
             @%p {instruction} [%s+{1}], [%in+{at}], {size}, [b+{0}];\n",
            8 * stage,
            stage * size
        )
    };
    let step = |step: usize| {
        let (stage, phase) = (step % STAGES, step / STAGES % 2);
        let products = PLAIN.instructions().replace("%base", "%stage");
        let products = if step > 0 { products.replace("%no", "%yes") } else { products };
        let next = if step + STAGES < STEPS { copy(step + STAGES) } else { String::new() };
        format!(
            "W{step}: mbarrier.try_wait.parity.shared.b64 %q, [b+{}], {phase}; @!%q bra W{step};
             add.s64 %stage, %base, {}; {products} bar.sync 0; {next}\n",
            8 * stage,
            stage * size / 16
        )
    };
    let begin =
        "setp.eq.u32 %p, %t, 0; @%p mbarrier.init.shared.b64 [b], 1; @%p mbarrier.init.shared.b64 [b+8], 1;
        @%p fence.proxy.async.shared::cta; bar.sync 0;\n";
    let body: String = (0..STAGES).map(copy).chain((0..STEPS).map(step)).collect();
    let declared = ".reg .b64 %stage; .shared .align 8 .b8 b[16]; .shared .align 1024 .b8 s[";
    let head = text[..from].replace(".shared .align 1024 .b8 s[", declared);
    assert!(to > from && end > to);
    let steps = (0..STEPS).map(|step| Product { first: step * PLAIN.depth, ..PLAIN }.image());
    (format!("{head}{begin}{body}{}", &text[end..]), steps.flatten().collect())
}

#[test]
fn stages_take_turns() {
    let (text, image) = ring();
    PLAIN.compare(&text, &image, 0..STEPS * PLAIN.depth);
    let problem = |text: &str| report(&PLAIN, text, &image, THREADS);
    // The next copy begins when not all warps have multiplied, or even when the own one has not.
    let unmet = text.replacen("aligned 0;\n bar.sync 0;", "aligned 0;\n", 1);
    assert_ne!(unmet, text);
    assert!(matches!(problem(&unmet), Problem::Race { .. }));
    let early = text.replacen("wgmma.wait_group.sync.aligned 0;", "", 1);
    assert!(matches!(problem(&early), Problem::Race { .. }));
    // A phase that is over is waited for; a copy is never begun.
    let over = text.replace("[b+0], 1;", "[b+0], 0;");
    assert_ne!(over, text);
    assert!(matches!(problem(&over), Problem::NeverWritten { .. }));
    let last = text.rfind("@%p cp.async").expect("a copy");
    let missing = format!("{}{}", &text[..last], &text[last + text[last..].find(';').expect("an end") + 1..]);
    assert_eq!(problem(&missing), Problem::Deadlock);
}

#[test]
fn copies_of_threads_are_writes_of_theirs() {
    let text = PLAIN.kernel();
    let (load, store) = ("ld.global.u32 %r1, [%y];", "st.shared.u32 [%r2], %r1;");
    let text = text.replace(load, "").replace(store, "cp.async.ca.shared.global [%r2], [%y], 4;");
    let text = text.replace("fence.proxy.async;", "cp.async.wait_all; fence.proxy.async;");
    PLAIN.check(&text);
    let unfenced = text.replace("fence.proxy.async;", "");
    assert!(matches!(fault(&PLAIN, &unfenced, THREADS), Problem::NoProxyFence { .. }));
}

#[test]
fn other_architectures_have_no_warp_groups() {
    let text = PLAIN.kernel();
    for target in ["sm_90", "sm_80", "sm_100a"] {
        let error = Module::parse(&text.replace("sm_90a", target)).err().expect("refuses").to_string();
        assert!(error.contains("need sm_90a"), "{error}");
    }
    for (part, by) in [
        ("m64n16k16", "m64n12k16"),
        ("f32.bf16.bf16", "f16.bf16.bf16"),
        ("%da, %db, %no", "{%r0, %r1, %r2, %r3}, %db, %no"),
        ("%f6, %f7}", "%f6}"),
    ] {
        assert!(Module::parse(&text.replace(part, by)).is_err(), "{by}");
    }
}
