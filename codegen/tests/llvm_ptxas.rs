//! PTX of every operation through NVIDIA's assembler, one trial for each architecture.
//!
//! Where `ptxas` is absent, the trials say SKIPPED; `scripts/setup-ptxas.sh` fetches it.

mod llvm_support;

use fuse_codegen::kernel_ir::{Function, Mapping, MatrixFactors};
use fuse_codegen::llvm::ptx::ptx;
use fuse_codegen::llvm::ptxas::Ptxas;
use fuse_codegen::llvm::{Arch, PtxOptions};
use fuse_codegen::schedule::{GpuLimits, ScheduleTarget, schedule};
use libtest_mimic::{Arguments, Failed, Trial};
use llvm_support::{BLOCK, Case, cases};

/// The architectures on which every operation is assembled; the others get one kernel.
const THOROUGH: [Arch; 5] = [Arch::Sm75, Arch::Sm80, Arch::Sm90, Arch::Sm100, Arch::Sm120];

fn assemble(functions: &[Function], arch: Arch) -> Result<(), Failed> {
    let text = ptx(functions, &PtxOptions::new(arch)).map_err(|e| e.to_string())?;
    check_text(&text, arch)?;
    let Some(ptxas) = Ptxas::find() else {
        println!("SKIPPED: no ptxas; PTX for {arch} was emitted and not assembled");
        return Ok(());
    };
    let kernels = ptxas.assemble(&text, arch).map_err(|e| e.to_string())?;
    let assembled: std::collections::BTreeSet<_> = kernels.iter().map(|k| k.kernel.as_str()).collect();
    let expected: std::collections::BTreeSet<_> = functions.iter().map(|f| f.name.as_str()).collect();
    if assembled != expected {
        return Err(format!("assembled {assembled:?} of {expected:?}").into());
    }
    for kernel in kernels {
        if kernel.registers == 0 || kernel.spill_stores + kernel.spill_loads > 0 {
            return Err(format!("{kernel:?} spills, or uses no registers").into());
        }
        if kernel.serialized {
            return Err(format!("products of {kernel:?} wait for each other").into());
        }
    }
    Ok(())
}

/// The header is of the lowest version; nothing is approximated, flushed to zero, or left to `ptxas` to
/// contract (arithmetic without a rounding modifier may be).
fn check_text(text: &str, arch: Arch) -> Result<(), Failed> {
    for header in [format!(".version {}", arch.ptx_version()), format!(".target {arch}")] {
        if !text.lines().any(|line| line.trim() == header) {
            return Err(format!("no line `{header}`").into());
        }
    }
    for (number, line) in text.lines().enumerate() {
        let mnemonic = line.split_whitespace().next().unwrap_or_default();
        let float = mnemonic.contains(".f32") || mnemonic.contains(".f64");
        let rounded = mnemonic.contains(".rn") || mnemonic.contains(".rm") || mnemonic.contains(".rp");
        let arithmetic = ["add", "sub", "mul", "div", "sqrt", "fma"]
            .iter()
            .any(|op| mnemonic.strip_prefix(op).is_some_and(|rest| rest.starts_with('.')));
        let inexact = [".approx", ".ftz", ".full"].iter().any(|modifier| mnemonic.contains(modifier));
        if inexact || (float && arithmetic && !rounded) {
            return Err(format!("line {}: {line}", number + 1).into());
        }
    }
    Ok(())
}

/// The schedule for a GPU of the first kernel of a text.
fn first_kernel(text: &str) -> Result<Function, Failed> {
    first_kernel_for(text, ScheduleTarget::gpu())
}

fn first_kernel_for(text: &str, target: ScheduleTarget) -> Result<Function, Failed> {
    let graph = fuse_ir::parse_kernels(text).map_err(|e| format!("{e}\n{text}"))?;
    let kernels = graph.kernels();
    let (kernel, _) = kernels.first().ok_or("no kernel")?;
    Ok(schedule(&graph, kernel, target).map_err(|e| e.to_string())?)
}

/// A gated recurrence over 16-bit and 32-bit floats, as a thread a point of the other axes runs it.
fn recurrence(dtype: &str) -> Result<Function, Failed> {
    let text = format!(
        "kernels gated {{
  buffer gate: {dtype}[T, B, 64] input 0
  buffer new: {dtype}[T, B, 64] input 1
  buffer start: {dtype}[B, 64] input 2
  buffer y: {dtype}[T, B, 64] output 0
  buffer last: {dtype}[B, 64] output 1
  kernel gated [i0 < T, i1 < B, i2 < 64] {{
    start: {dtype} = load start[i1, i2]
    gate: {dtype} = load gate[i0, i1, i2]
    keep: {dtype} = sigmoid gate
    new: {dtype} = load new[i0, i1, i2]
    state: {dtype} = recurrence i0 from start by keep plus new
    store y[i0, i1, i2] = state
    store last[i1, i2] = state
  }}
}}"
    );
    first_kernel(&text)
}

/// The loop along the summed axis of a tile of 8 by 8 sums a thread: per position, four vectors of shared memory and one
/// multiply-add a sum.
fn has_tiles(functions: &[Function], arch: Arch) -> Result<(), Failed> {
    let text = ptx(&functions[..1], &PtxOptions::new(arch)).map_err(|e| e.to_string())?;
    let count = |what: &str| text.lines().filter(|line| line.trim_start().starts_with(what)).count();
    let (loads, products) = (count("ld.shared.v4"), count("fma.rn.f32"));
    let positions = loads / 4;
    if positions < 8 || products < 64 * positions || count("ld.local") + count("st.local") > 0 {
        return Err(format!("{loads} vectors of shared memory, {products} multiply-adds\n{text}").into());
    }
    Ok(())
}

/// A product of `[rows, depth]` and `[columns, depth]` with a bias and an activation.
fn contraction(
    name: &str,
    [rows, columns, depth]: [&str; 3],
    dtype: &str,
    target: ScheduleTarget,
) -> Result<Function, Failed> {
    let widened = |of: &str| match dtype {
        "f32" => format!("{of}: f32 = load {of}"),
        _ => format!("{of}_narrow: {dtype} = load {of}"),
    };
    let cast = |of: &str| match dtype {
        "f32" => String::new(),
        _ => format!("    {of}: f32 = cast {of}_narrow\n"),
    };
    let (x, w) = (widened("x"), widened("w"));
    let (cast_x, cast_w) = (cast("x"), cast("w"));
    let text = format!(
        "kernels product {{
  buffer x: {dtype}[{rows}, {depth}] input 0
  buffer w: {dtype}[{columns}, {depth}] input 1
  buffer bias: f32[{columns}] input 2
  buffer y: f32[{rows}, {columns}] output 0
  kernel {name} [i0 < {rows}, i1 < {columns}] {{
    {x}[i0, i2]
{cast_x}    {w}[i1, i2]
{cast_w}    product: f32 = mul x, w
    sum: f32 = sum [i2 < {depth}] product
    bias: f32 = load bias[i1]
    shifted: f32 = add sum, bias
    y: f32 = tanh shifted
    store y[i0, i1] = y
  }}
}}"
    );
    first_kernel_for(&text, target)
}

/// Rows of `columns`: the sum of two operands, normalised by the softmax and scaled by what all rows share.
fn normalised(name: &str, dtype: &str, columns: &str) -> Result<Function, Failed> {
    let sum = |axis: &str| {
        format!(
            "    x{axis}: {dtype} = load x[i0, {axis}]
    r{axis}: {dtype} = load r[i0, {axis}]
    s{axis}: {dtype} = add x{axis}, r{axis}
"
        )
    };
    let shifted = |axis: &str| {
        format!("    d{axis}: {dtype} = sub s{axis}, most\n    e{axis}: {dtype} = exp d{axis}\n")
    };
    let (first, second, own) = (sum("i2"), sum("i3"), sum("i1"));
    let (of_sum, of_point) = (shifted("i3"), shifted("i1"));
    first_kernel(&format!(
        "kernels rows {{
  buffer x: {dtype}[B, {columns}] input 0
  buffer r: {dtype}[B, {columns}] input 1
  buffer gain: {dtype}[{columns}] input 2
  buffer y: {dtype}[B, {columns}] output 0
  kernel {name} [i0 < B, i1 < {columns}] {{
{first}    most: {dtype} = max [i2 < {columns}] si2
{second}{of_sum}    total: {dtype} = sum [i3 < {columns}] ei3
{own}{of_point}    share: {dtype} = div ei1, total
    gain: {dtype} = load gain[i1]
    y: {dtype} = mul share, gain
    store y[i0, i1] = y
  }}
}}"
    ))
}

/// Where the largest element of each row is.
fn largest(name: &str, dtype: &str, columns: &str) -> Result<Function, Failed> {
    first_kernel(&format!(
        "kernels rows {{
  buffer x: {dtype}[B, {columns}] input 0
  buffer y: i64[B] output 0
  kernel {name} [i0 < B] {{
    x: {dtype} = load x[i0, i1]
    y: i64 = argmax [i1 < {columns}] x
    store y[i0] = y
  }}
}}"
    ))
}

/// Rows that registers hold, one that they hardly hold, ones that they do not, of whole vectors or not.
const ROW_LENGTHS: [&str; 9] = ["64", "333", "768", "1000", "8192", "8193", "16384", "50257", "N"];

fn all_rows() -> Result<Vec<Function>, Failed> {
    let mut functions = Vec::new();
    for columns in ROW_LENGTHS {
        for dtype in ["f32", "f64", "f16", "bf16"] {
            functions.push(normalised(&format!("softmax_{dtype}_{columns}"), dtype, columns)?);
        }
        for dtype in ["f32", "f64", "bf16", "i32", "i64", "u8"] {
            functions.push(largest(&format!("argmax_{dtype}_{columns}"), dtype, columns)?);
        }
    }
    let is_shared = |function: &Function| matches!(function.mapping, Mapping::Blocks { .. });
    if !functions.iter().all(is_shared) {
        return Err("a row is a thread's".into());
    }
    Ok(functions)
}

/// A product of 16-bit factors, each of which may lie across the summed axis.
fn layout(dtype: &str, [left, right]: [bool; 2], target: ScheduleTarget) -> Result<Function, Failed> {
    let across = |is_across: bool, side: &str| {
        if is_across { format!("1024, {side}") } else { format!("{side}, 1024") }
    };
    let at =
        |is_across: bool, side: &str| if is_across { format!("i2, {side}") } else { format!("{side}, i2") };
    first_kernel_for(
        &format!(
            "kernels layouts {{
  buffer x: {dtype}[{}] input 0
  buffer w: {dtype}[{}] input 1
  buffer y: {dtype}[1600, 2048] output 0
  kernel {dtype}_{left}_{right} [i0 < 1600, i1 < 2048] {{
    x: {dtype} = load x[{}]
    f: f32 = cast x
    w: {dtype} = load w[{}]
    g: f32 = cast w
    p: f32 = mul f, g
    sum: f32 = sum [i2 < 1024] p
    y: {dtype} = cast sum
    store y[i0, i1] = y
  }}
}}",
            across(left, "1600"),
            across(right, "2048"),
            at(left, "i0"),
            at(right, "i1")
        ),
        target,
    )
}

/// Several sums of one factor of the rows, from which one value follows.
fn gates(dtype: &str, count: usize, target: ScheduleTarget) -> Result<Function, Failed> {
    let weights: String =
        (0..count).map(|g| format!("  buffer w{g}: {dtype}[512, 1024] input {}\n", g + 1)).collect();
    let sums: String = (0..count)
        .map(|g| {
            let k = g + 2;
            format!(
                "    x{g}: {dtype} = load x[i0, i{k}]
    f{g}: f32 = cast x{g}
    w{g}: {dtype} = load w{g}[i1, i{k}]
    g{g}: f32 = cast w{g}
    p{g}: f32 = mul f{g}, g{g}
    s{g}: f32 = sum [i{k} < 1024] p{g}
    a{g}: f32 = sigmoid s{g}\n"
            )
        })
        .collect();
    let joined: String = (1..count)
        .map(|g| {
            let before = if g == 1 { "a0".to_owned() } else { format!("m{}", g - 1) };
            format!("    m{g}: f32 = mul {before}, a{g}\n")
        })
        .collect();
    first_kernel_for(
        &format!(
            "kernels gates {{
  buffer x: {dtype}[1600, 1024] input 0
{weights}  buffer y: f32[1600, 512] output 0
  kernel {dtype}_gates_{count} [i0 < 1600, i1 < 512] {{
{sums}{joined}    store y[i0, i1] = m{}
  }}
}}",
            count - 1
        ),
        target,
    )
}

/// The multiply-adds of products of f32, and the products of a GPU without tensor cores.
fn multiply_adds(arch: Arch) -> Result<(), Failed> {
    let target = ScheduleTarget::gpu();
    let without = GpuLimits { tensor_cores: false, ..GpuLimits::h100() };
    let functions = [
        contraction("whole", ["1600", "2048", "512"], "f32", target)?,
        contraction("odd", ["1601", "2047", "511"], "f32", target)?,
        contraction("symbolic", ["T*B", "2048", "I"], "f32", target)?,
        contraction("few_rows", ["B", "10000", "1024"], "f32", target)?,
        contraction("narrow", ["1600", "2048", "512"], "bf16", ScheduleTarget::gpu_of(without))?,
    ];
    has_tiles(&functions, arch)?;
    assemble(&functions, arch)
}

/// Products on tensor cores: factors copied 16 and 4 bytes at a time, computed one by one, rounded, and in small tiles.
fn matrices(arch: Arch) -> Result<(), Failed> {
    let limits = GpuLimits::of_capability(arch.capability());
    let target = |rounding| ScheduleTarget::Gpu { block: 256, limits, rounding };
    let mut functions = Vec::new();
    for dtype in ["f16", "bf16"] {
        let named = |name: &str| format!("{dtype}_{name}");
        let mut add = |name: &str, sizes, target| -> Result<(), Failed> {
            functions.push(contraction(&named(name), sizes, dtype, target)?);
            Ok(())
        };
        add("whole", ["1600", "2048", "512"], target(None))?;
        add("pairs", ["1601", "2046", "510"], target(None))?;
        add("symbolic", ["T*B", "2048", "I"], target(None))?;
        add("small", ["256", "256", "512"], target(None))?;
        add("divided", ["128", "256", "4096"], target(None))?;
        // Without clusters, threads of a block divide such sums, which are no products of matrices.
        if limits.cluster_blocks > 1 {
            add("few_rows", ["16", "512", "4095"], target(None))?;
        }
    }
    for factors in [MatrixFactors::F16, MatrixFactors::Bf16, MatrixFactors::Tf32] {
        let target = target(Some(factors));
        for (name, sizes) in [("whole", ["1600", "2048", "512"]), ("odd", ["T*B", "2047", "511"])] {
            functions.push(contraction(&format!("{name}_as_{factors:?}"), sizes, "f32", target)?);
        }
    }
    for function in &functions {
        let text = ptx(std::slice::from_ref(function), &PtxOptions::new(arch)).map_err(|e| e.to_string())?;
        if !text.contains("mma.sync") {
            return Err(format!("{} has no products of matrices\n{text}", function.name).into());
        }
    }
    assemble(&functions, arch)
}

/// Products of warp groups: factors copied 16 and 4 bytes at a time, in every layout, computed one by one, rounded; several sums;
/// sums that a cluster divides.
fn groups() -> Result<(), Failed> {
    let few = GpuLimits { multiprocessors: 4, ..Arch::Sm90a.limits() };
    let of = |limits, rounding| ScheduleTarget::Gpu { block: 256, limits, rounding };
    let all = of(Arch::Sm90a.limits(), None);
    let mut functions = Vec::new();
    for dtype in ["f16", "bf16"] {
        let mut add = |name: &str, sizes, target| -> Result<(), Failed> {
            functions.push(contraction(&format!("{dtype}_{name}"), sizes, dtype, target)?);
            Ok(())
        };
        add("whole", ["4096", "4096", "4096"], all)?;
        add("pairs", ["4098", "4098", "4098"], all)?;
        add("symbolic", ["T*B", "2048", "I"], of(few, None))?;
        add("divided", ["128", "256", "8192"], all)?;
    }
    for factors in [MatrixFactors::F16, MatrixFactors::Bf16, MatrixFactors::Tf32] {
        for (name, sizes) in [("whole", ["1600", "2048", "512"]), ("odd", ["T*B", "2047", "511"])] {
            let target = of(few, Some(factors));
            functions.push(contraction(&format!("{name}_as_{factors:?}"), sizes, "f32", target)?);
        }
    }
    for dtype in ["bf16", "f16"] {
        for transposed in [[false, true], [true, false], [true, true]] {
            functions.push(layout(dtype, transposed, of(few, None))?);
        }
        for count in 2..=4 {
            functions.push(gates(dtype, count, of(few, None))?);
        }
    }
    for function in &functions {
        let options = PtxOptions::new(Arch::Sm90a);
        let text = ptx(std::slice::from_ref(function), &options).map_err(|e| e.to_string())?;
        if !text.contains("wgmma.mma_async") {
            return Err(format!("{} has no products of warp groups", function.name).into());
        }
    }
    assemble(&functions, Arch::Sm90a)
}

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for arch in THOROUGH {
        trials.push(Trial::test(format!("every_operation_assembles_for_{arch}"), move || {
            // Schedules for GPUs have vectors of at most 16 bytes; of four times as many, quotients spill.
            let bytes = |case: &Case| usize::from(case.lanes) * case.output.size();
            let functions: Vec<_> = cases()
                .iter()
                .filter(|case| bytes(case) <= 32)
                .map(|case| case.function(Mapping::Threads { block: BLOCK }))
                .collect();
            assemble(&functions, arch)
        }));
    }
    for arch in THOROUGH {
        for dtype in ["f16", "bf16", "f32", "f64"] {
            trials.push(Trial::test(format!("a_recurrence_of_{dtype}_assembles_for_{arch}"), move || {
                assemble(&[recurrence(dtype)?], arch)
            }));
        }
    }
    for arch in THOROUGH {
        trials.push(Trial::test(format!("tiles_of_contractions_stay_in_registers_for_{arch}"), move || {
            multiply_adds(arch)
        }));
    }
    for arch in THOROUGH {
        trials.push(Trial::test(format!("rows_assemble_without_spills_for_{arch}"), move || {
            assemble(&all_rows()?, arch)
        }));
    }
    trials.push(Trial::test("warp_groups_stay_in_registers", groups));
    for arch in THOROUGH.into_iter().filter(|arch| arch.capability() >= 80) {
        trials
            .push(Trial::test(format!("matrices_of_contractions_stay_in_registers_for_{arch}"), move || {
                matrices(arch)
            }));
    }
    for arch in Arch::ALL.iter().copied() {
        trials.push(Trial::test(format!("the_lowest_ptx_version_suffices_for_{arch}"), move || {
            let case = cases().into_iter().find(|case| case.name == "fma_f32").ok_or("no such case")?;
            assemble(&[case.function(Mapping::Threads { block: BLOCK })], arch)
        }));
    }
    libtest_mimic::run(&arguments, trials).exit();
}
