//! How fast the simulated GPU is: thread instructions a second of a loop of multiply-adds and of one of loads, and
//! meetings a second of all blocks that a device has room for. Seconds are those that processors worked, where Linux counts
//! them, divided among the threads: what else the machine does is left out.

use std::time::Instant;

use fuse_runtime::sim::{Content, Counters, Launch, Memory, Module};

fn main() {
    let arithmetic = "fma.rn.f32 %f1, %f1, %f2, %f2; add.s64 %y, %y, 4; mul.rn.f32 %f3, %f1, %f1;";
    let memory = "ld.global.b32 %r2, [%x]; fma.rn.f32 %f1, %f1, %f2, %f2; add.s64 %y, %y, 4;";
    for threads in [1, 2] {
        for (name, body) in [("arithmetic", arithmetic), ("a load in five", memory)] {
            let (counters, seconds) = time(&looped(body, 20_000), 16, 256, threads);
            let rate = counters.instructions() as f64 / seconds;
            println!("{name}, {threads} threads: {:.0} million thread instructions a second", rate / 1e6);
        }
        let meetings = 100;
        let (_, seconds) = time(&looped(MEETING, meetings), 132, 512, threads);
        let rate = f64::from(meetings) / seconds;
        println!("132 blocks of 512, {threads} threads: {rate:.0} meetings of the grid a second");
    }
}

/// All blocks meet, by a counter at `%z`.
const MEETING: &str = "bar.sync 0; add.u32 %r4, %r4, %r5; @!%q bra B; red.release.gpu.global.add.u32 [%z], 1;
    W: ld.acquire.gpu.global.u32 %r6, [%z]; sub.u32 %r6, %r6, %r4; setp.lt.s32 %p, %r6, 0; @%p bra W; B: bar.sync 0;";

fn looped(body: &str, times: u32) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n
        .visible .entry k(.param .u64 in, .param .u64 out) {{
        .reg .pred %p, %q; .reg .b32 %r<8>; .reg .b64 %x, %y, %z; .reg .f32 %f<4>;
        ld.param.u64 %x, [in]; ld.param.u64 %z, [out]; mov.u32 %r1, 0; mov.f32 %f1, 0f3F000000; mov.f32 %f2, %f1;
        mov.u32 %r3, %tid.x; setp.eq.u32 %q, %r3, 0; mov.u32 %r4, 0; mov.u32 %r5, %nctaid.x;
        mul.wide.u32 %y, %r3, 4; add.s64 %x, %x, %y; mov.b64 %y, 0;
        L: {body} add.u32 %r1, %r1, 1; setp.lt.u32 %p, %r1, {times}; @%p bra L; ret; }}"
    )
}

/// Seconds that processors worked for this process so far, in units of 10 ms.
fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let [user, system] = [fields.next()?, fields.next()?].map(|ticks| ticks.parse::<f64>().ok());
    Some((user? + system?) / 100.0)
}

/// What a launch counted, and how many seconds it took.
fn time(text: &str, blocks: u32, block: u32, threads: usize) -> (Counters, f64) {
    let module = Module::parse(text).expect("the kernel parses");
    let mut memory = Memory::new();
    let input = memory.allocate_with("in", &[0; 2048], 4, Content::Written);
    let out = memory.allocate_with("out", &[0; 4], 4, Content::Written);
    let launch = Launch {
        kernel: "k",
        grid: [blocks, 1, 1],
        block: [block, 1, 1],
        shared_bytes: 0,
        arguments: &[input, out],
        threads,
        cooperative: text.contains("acquire"),
        clusters: None,
    };
    let (start, worked) = (Instant::now(), processor_seconds());
    let counters = module.launch(&memory, &launch).expect("the kernel runs");
    let elapsed = start.elapsed().as_secs_f64();
    let worked = worked.and_then(|before| Some(processor_seconds()? - before)).filter(|worked| *worked > 0.0);
    (counters, worked.map_or(elapsed, |worked| worked / threads as f64))
}
