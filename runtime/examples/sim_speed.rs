//! How fast the simulated GPU is: thread instructions a second of a loop of multiply-adds and of one of loads.

use std::time::Instant;

use fuse_runtime::sim::{Content, Launch, Memory, Module};

fn main() {
    let arithmetic = "fma.rn.f32 %f1, %f1, %f2, %f2; add.s64 %y, %y, 4; mul.rn.f32 %f3, %f1, %f1;";
    let memory = "ld.global.b32 %r2, [%x]; fma.rn.f32 %f1, %f1, %f2, %f2; add.s64 %y, %y, 4;";
    for (name, body) in [("arithmetic", arithmetic), ("a load in five", memory)] {
        let text = format!(
            ".version 8.0\n.target sm_90\n.address_size 64\n
            .visible .entry k(.param .u64 in, .param .u64 out) {{
            .reg .pred %p; .reg .b32 %r<8>; .reg .b64 %x, %y, %z; .reg .f32 %f<4>;
            ld.param.u64 %x, [in]; ld.param.u64 %z, [out]; mov.u32 %r1, 0; mov.f32 %f1, 0f3F000000; mov.f32 %f2, %f1;
            mov.u32 %r3, %tid.x; mul.wide.u32 %y, %r3, 4; add.s64 %x, %x, %y; mov.b64 %y, 0;
            L: {body} add.u32 %r1, %r1, 1; setp.lt.u32 %p, %r1, 4000; @%p bra L; ret; }}"
        );
        let module = Module::parse(&text).expect("the kernel parses");
        let mut memory = Memory::new();
        let input = memory.allocate_with("in", &[0; 1024], 4, Content::Written);
        let out = memory.allocate("out", 1024, 4, Content::Unwritten);
        for threads in [1, 2] {
            let launch = Launch {
                kernel: "k",
                grid: [16, 1, 1],
                block: [256, 1, 1],
                shared_bytes: 0,
                arguments: &[input, out],
                threads,
                cooperative: false,
            };
            let start = Instant::now();
            let counters = module.launch(&memory, &launch).expect("the kernel runs");
            let rate = counters.instructions() as f64 / start.elapsed().as_secs_f64();
            println!("{name}, {threads} threads: {:.0} million thread instructions a second", rate / 1e6);
        }
    }
}
