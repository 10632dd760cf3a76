//! NVIDIA GPUs through the driver API, which is loaded at run time: one binary runs with and without it.
//!
//! A device uses the GPU's primary context, shared with other users of the process, and its default stream.
//! Nothing is allocated before a run needs it. One allocation a run holds arena, inputs and outputs, and is
//! kept for the next.

use std::ffi::{CString, c_void};
use std::panic::catch_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cudarc::driver::sys::{self, CUfunction_attribute, CUjit_option};
use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream, DevicePtr, DriverError, result};
use fuse_codegen::kernel_ir::{Function, Mapping};
use fuse_codegen::schedule::GpuLimits;
use fuse_ir::Tensor;
use fuse_ir::kernel::BufferKind;

use crate::device::DeviceError;
use crate::error::RunError;
use crate::plan::ALIGNMENT;
use crate::profile::{Notes, Profile};
use crate::program::{Launch, Program, RunState, StepRunner, walk};
use crate::version::Instance;

/// Bytes of the driver's compile log that an error shows.
const LOG_BYTES: usize = 8192;

/// The compute capability whose warp groups multiply matrices in shared memory.
const WITH_WARP_GROUPS: (u32, u32) = (9, 0);

/// The first driver that takes the version of PTX which knows sm_90a: that of CUDA 12.0.
const FIRST_DRIVER_FOR_GROUPS: i32 = 12000;

fn failed(action: &str) -> impl FnOnce(DriverError) -> DeviceError {
    let action = action.to_string();
    move |error| DeviceError::Driver { action, error: describe(error) }
}

/// The name and text of a driver's error on one line.
fn describe(error: DriverError) -> String {
    let text = |s: Result<&std::ffi::CStr, DriverError>| s.ok().map(|s| s.to_string_lossy().into_owned());
    match (text(error.error_name()), text(error.error_string())) {
        (Some(name), Some(string)) => format!("{name}: {string}"),
        _ => format!("error {}", error.0 as u32),
    }
}

/// A GPU: its primary context and default stream.
#[derive(Clone)]
pub(crate) struct CudaDevice {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
}

impl CudaDevice {
    pub fn new(ordinal: usize) -> Result<CudaDevice, DeviceError> {
        // SAFETY: loads and unloads the driver's library, which may be done at any time.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::NoDriver("the library libcuda is not installed".into()));
        }
        // The binding panics where a driver lacks a function that this version of it expects.
        catch_unwind(|| CudaDevice::open(ordinal)).unwrap_or_else(|_| {
            Err(DeviceError::NoDriver("the installed driver is too old for this program".into()))
        })
    }

    fn open(ordinal: usize) -> Result<CudaDevice, DeviceError> {
        let count = CudaContext::device_count().map_err(|e| DeviceError::NoDriver(describe(e)))?;
        if i32::try_from(ordinal).is_err() || ordinal as i32 >= count {
            return Err(DeviceError::NoSuchDevice { ordinal, count });
        }
        let context = CudaContext::new(ordinal).map_err(failed("open the device"))?;
        let stream = context.default_stream();
        Ok(CudaDevice { context, stream })
    }

    pub fn ordinal(&self) -> usize {
        self.context.ordinal()
    }

    pub fn total_memory(&self) -> Result<u64, DeviceError> {
        Ok(self.context.total_mem().map_err(failed("ask for the device's memory"))? as u64)
    }

    pub fn compute_capability(&self) -> Result<(u32, u32), DeviceError> {
        let (major, minor) =
            self.context.compute_capability().map_err(failed("ask for the compute capability"))?;
        Ok((major.unsigned_abs(), minor.unsigned_abs()))
    }

    /// Multiprocessors, the bytes of shared memory that a block may take, and whether there are tensor cores.
    pub fn limits(&self) -> Result<GpuLimits, DeviceError> {
        use sys::CUdevice_attribute as Attribute;
        let attribute = |attribute| -> Result<u32, DeviceError> {
            let value = self.context.attribute(attribute).map_err(failed("ask what the device has"))?;
            Ok(value.unsigned_abs())
        };
        let (major, minor) = self.compute_capability()?;
        Ok(GpuLimits {
            capability: 10 * major + minor,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            tensor_cores: GpuLimits::has_tensor_cores(10 * major + minor),
            cluster_blocks: match attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH)? {
                0 => 1,
                _ => GpuLimits::cluster_blocks_of(10 * major + minor),
            },
            warp_groups: (major, minor) == WITH_WARP_GROUPS && driver_version()? >= FIRST_DRIVER_FOR_GROUPS,
        })
    }

    /// Copies bytes to memory of their own on the device, at least one.
    pub fn upload(&self, bytes: &[u8]) -> Result<CudaSlice<u8>, DeviceError> {
        let copied = if bytes.is_empty() {
            self.stream.alloc_zeros(ALIGNMENT as usize)
        } else {
            self.stream.clone_htod(bytes)
        };
        copied.map_err(failed("copy a parameter to the device"))
    }

    /// Loads PTX modules and finds each function's entry point in them.
    pub fn load(&self, ptx: &[String], functions: &[Function]) -> Result<CudaCode, DeviceError> {
        self.context.bind_to_thread().map_err(failed("use the device"))?;
        let mut code = CudaCode {
            device: self.clone(),
            modules: Vec::new(),
            entries: Vec::new(),
            memory: Mutex::new(Vec::new()),
        };
        for text in ptx {
            code.modules.push(load_module(text)?);
        }
        for function in functions {
            let no_entry = || DeviceError::NoEntry(function.name.clone());
            let name = CString::new(function.name.as_str()).map_err(|_| no_entry())?;
            // SAFETY: the modules are loaded and stay so as long as `code` lives.
            let find = |m: &sys::CUmodule| unsafe { result::module::get_function(*m, name.clone()) }.ok();
            let entry = code.modules.iter().find_map(find).ok_or_else(no_entry)?;
            let shared = i32::try_from(function.shared_bytes()).unwrap_or(i32::MAX);
            if shared > 0 {
                let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                // SAFETY: the entry is one of a loaded module.
                let allowed = unsafe { result::function::set_function_attribute(entry, attribute, shared) };
                allowed
                    .map_err(failed(&format!("give `{}` {shared} bytes of shared memory", function.name)))?;
            }
            code.entries.push(entry);
        }
        Ok(code)
    }
}

/// The latest version of CUDA that the driver supports, its major number times 1000 and its minor number times 10.
fn driver_version() -> Result<i32, DeviceError> {
    let mut version = 0;
    // SAFETY: the driver's library is loaded, and writes one integer.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    asked.map_err(failed("ask for the driver's version"))?;
    Ok(version)
}

/// Hands PTX to the driver's compiler; its log is in the error.
fn load_module(ptx: &str) -> Result<sys::CUmodule, DeviceError> {
    let rejected = |error: String, log: String| DeviceError::Ptx { error, log };
    let text = CString::new(ptx).map_err(|_| rejected("not text".into(), "it has a zero byte".into()))?;
    let mut log = vec![0u8; LOG_BYTES];
    let mut options =
        [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    // The driver takes the size itself where it takes a pointer.
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), std::ptr::without_provenance_mut(LOG_BYTES)];
    let mut module = std::ptr::null_mut();
    // SAFETY: the text ends in a zero byte; there are as many options as values; the log buffer has the size that
    // is given and outlives the call; a context is current.
    let status = unsafe {
        sys::cuModuleLoadDataEx(
            &mut module,
            text.as_ptr().cast(),
            options.len() as u32,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    match status.result() {
        Ok(()) => Ok(module),
        Err(error) => {
            let written = log.split(|b| *b == 0).next().unwrap_or(&[]);
            Err(rejected(describe(error), String::from_utf8_lossy(written).trim().to_string()))
        }
    }
}

/// Loaded modules.
pub(crate) struct CudaCode {
    device: CudaDevice,
    modules: Vec<sys::CUmodule>,
    /// By position of the function.
    entries: Vec<sys::CUfunction>,
    /// Allocations of earlier runs.
    memory: Mutex<Vec<CudaSlice<u8>>>,
}

// SAFETY: handles of modules and functions may be used from any thread that has the context current; every use
// makes it so first.
unsafe impl Send for CudaCode {}
// SAFETY: as above; nothing behind a shared reference changes but the allocations under their lock.
unsafe impl Sync for CudaCode {}

impl Drop for CudaCode {
    fn drop(&mut self) {
        if let Err(e) = self.device.context.bind_to_thread() {
            tracing::warn!("cannot unload CUDA modules: {}", describe(e));
            return;
        }
        for module in &self.modules {
            // SAFETY: loaded by `load`, not unloaded before, and no run is under way, as runs borrow `self`.
            if let Err(e) = unsafe { result::module::unload(*module) } {
                tracing::warn!("cannot unload a CUDA module: {}", describe(e));
            }
        }
    }
}

/// What one run of loaded code works on.
pub(crate) struct CudaRun<'a> {
    pub program: &'a Program,
    pub instance: &'a Instance,
    /// The kind of each buffer of the kernel graph.
    pub kinds: &'a [BufferKind],
    /// By position of the graph input; `None` where a parameter is bound.
    pub inputs: &'a [Option<&'a Tensor>],
    /// By position of the graph input.
    pub parameters: &'a [Option<&'a CudaSlice<u8>>],
    pub outputs: &'a mut [Tensor],
    /// Where the times of launches are noted, if they are wanted.
    pub profile: Option<&'a Profile>,
}

impl CudaCode {
    /// How many blocks of a launch there is room for at once.
    pub fn room(&self, launch: &Launch) -> Result<u64, DeviceError> {
        self.device.context.bind_to_thread().map_err(failed("use the device"))?;
        let threads = launch.mapping.block_threads().and_then(|n| i32::try_from(n).ok()).unwrap_or(1);
        let (entry, shared) = (self.entries[launch.function], launch.shared_bytes as usize);
        if let Some(blocks) = launch.mapping.cluster_blocks() {
            let clusters = clusters_at_once(entry, launch, blocks);
            let clusters =
                clusters.map_err(failed(&format!("ask how many clusters of `{}` fit", launch.name)))?;
            return Ok(u64::from(clusters) * u64::from(blocks));
        }
        // SAFETY: the entry is one of a loaded module.
        let each = unsafe { result::occupancy::max_active_block_per_multiprocessor(entry, threads, shared) };
        let each = each.map_err(failed(&format!("ask how many blocks of `{}` fit", launch.name)))?;
        Ok(u64::from(each.unsigned_abs()) * u64::from(self.device.limits()?.multiprocessors))
    }

    /// Runs once: copies the inputs in, launches everything, copies the outputs out, waits.
    pub fn run(&self, run: CudaRun<'_>) -> Result<(), RunError> {
        self.device.context.bind_to_thread().map_err(failed("use the device"))?;
        let (offsets, total) = layout(&run);
        let mut memory = self.take_memory(total + ALIGNMENT as usize)?;
        let result = self.run_in(run, &offsets, &mut memory);
        // After a failure the device may still be working on it.
        if result.is_ok() {
            self.memory.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
        }
        result
    }

    fn run_in(
        &self,
        run: CudaRun<'_>,
        offsets: &[usize],
        memory: &mut CudaSlice<u8>,
    ) -> Result<(), RunError> {
        let stream = &self.device.stream;
        let base = memory.device_ptr(stream).0;
        let mut addresses = Vec::with_capacity(run.kinds.len());
        for (kind, offset) in run.kinds.iter().zip(offsets) {
            addresses.push(base + *offset as u64);
            let BufferKind::Input(i) = kind else { continue };
            if let Some(parameter) = run.parameters.get(*i).copied().flatten() {
                addresses.pop();
                addresses.push(parameter.device_ptr(stream).0);
            } else if let Some(tensor) = run.inputs.get(*i).copied().flatten() {
                let bytes = tensor.bytes();
                if let (false, Some(mut view)) =
                    (bytes.is_empty(), memory.try_slice_mut(*offset..*offset + bytes.len()))
                {
                    stream.memcpy_htod(bytes, &mut view).map_err(failed("copy an input to the device"))?;
                }
            }
        }
        let mut state = RunState::new(addresses, &run.instance.quantities);
        let counter = base + (memory.len() as u64 - ALIGNMENT);
        let marks = run.profile.map(|_| Vec::new());
        let mut runner = Launcher { code: self, arguments: Vec::new(), counter, marks };
        runner.mark(0)?;
        walk(run.program, &run.instance.quantities, &mut state, &mut runner)?;
        if let (Some(profile), Some(marks)) = (run.profile, &runner.marks) {
            stream.synchronize().map_err(failed("finish the launches"))?;
            profile.add(times(run.program, marks)?);
        }
        for (kind, offset) in run.kinds.iter().zip(offsets) {
            let BufferKind::Output(i) = kind else { continue };
            let Some(tensor) = run.outputs.get_mut(*i) else { continue };
            let bytes = tensor.bytes_mut();
            if let (false, Some(view)) = (bytes.is_empty(), memory.try_slice(*offset..*offset + bytes.len()))
            {
                stream.memcpy_dtoh(&view, bytes).map_err(failed("copy an output from the device"))?;
            }
        }
        Ok(stream.synchronize().map_err(failed("finish the run"))?)
    }

    /// An allocation of at least `bytes`, an earlier run's where one is large enough.
    fn take_memory(&self, bytes: usize) -> Result<CudaSlice<u8>, DeviceError> {
        let mut kept = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|m| m.len() >= bytes) {
            return Ok(kept.swap_remove(at));
        }
        // A larger one replaces the one that was too small.
        drop(kept.pop());
        drop(kept);
        self.device
            .stream
            .alloc_zeros(bytes)
            .map_err(failed(&format!("allocate {bytes} bytes on the device")))
    }
}

/// How many clusters of so many blocks of an entry of a loaded module there is room for at once.
fn clusters_at_once(entry: sys::CUfunction, launch: &Launch, blocks: u32) -> Result<u32, DriverError> {
    // SAFETY: an attribute is plain numbers, of which zeros are some.
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attribute.value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: blocks, y: 1, z: 1 };
    let config = sys::CUlaunchConfig {
        gridDimX: blocks,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: launch.mapping.block_threads().unwrap_or(1),
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: launch.shared_bytes,
        hStream: std::ptr::null_mut(),
        attrs: &raw mut attribute,
        numAttrs: 1,
    };
    let mut clusters = 0;
    // SAFETY: the entry is one of a loaded module, a context is current, and the attribute outlives the call.
    unsafe { sys::cuOccupancyMaxActiveClusters(&raw mut clusters, entry, &raw const config) }.result()?;
    Ok(clusters.unsigned_abs())
}

/// The offset of each buffer in the run's allocation, and its size: the arena first, then inputs and outputs.
fn layout(run: &CudaRun<'_>) -> (Vec<usize>, usize) {
    let plan = &run.instance.plan;
    let mut end = plan.arena_bytes;
    let mut offsets = vec![0; run.kinds.len()];
    for placement in &plan.placements {
        offsets[placement.buffer.index()] = placement.offset as usize;
    }
    for (b, kind) in run.kinds.iter().enumerate() {
        let own = match kind {
            BufferKind::Input(i) => run.parameters.get(*i).copied().flatten().is_none(),
            BufferKind::Output(_) => true,
            BufferKind::Temporary | BufferKind::State => false,
        };
        if own {
            offsets[b] = end as usize;
            // The plan has checked that the sum of all buffers is far from the limit.
            end += plan.buffer_bytes[b].next_multiple_of(ALIGNMENT);
        }
    }
    (offsets, end.max(ALIGNMENT) as usize)
}

/// Launches each kernel on the stream.
struct Launcher<'a> {
    code: &'a CudaCode,
    /// The arguments of one launch: addresses, then runtime integers; all are 8 bytes.
    arguments: Vec<u64>,
    /// The address of the counter by which blocks meet.
    counter: u64,
    /// What is recorded behind each launch, and before the first, where times are wanted.
    marks: Option<Vec<(usize, CudaEvent)>>,
}

impl Launcher<'_> {
    /// Records when everything so far is done, the last of it launch number `at`.
    fn mark(&mut self, at: usize) -> Result<(), DeviceError> {
        let Some(marks) = &mut self.marks else { return Ok(()) };
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let event = self.code.device.stream.record_event(timed).map_err(failed("record a time"))?;
        marks.push((at, event));
        Ok(())
    }
}

/// The times between marks.
fn times(program: &Program, marks: &[(usize, CudaEvent)]) -> Result<Notes, DeviceError> {
    let mut notes = Notes::new(0, program);
    for pair in marks.windows(2) {
        if let [(_, begin), (at, end)] = pair {
            let ms = begin.elapsed_ms(end).map_err(failed("read a time"))?;
            notes.launched(*at, Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1e3), Duration::ZERO);
        }
    }
    Ok(notes)
}

impl StepRunner for Launcher<'_> {
    fn launch(&mut self, at: usize, launch: &Launch, work: i64, state: &RunState) -> Result<(), RunError> {
        let Some(block) = launch.mapping.block_threads() else {
            return Err(DeviceError::NoEntry(launch.name.clone()).into());
        };
        let blocks = launch.mapping.blocks(work.unsigned_abs());
        let grid = u32::try_from(blocks).ok().filter(|g| *g <= i32::MAX as u32).ok_or_else(|| {
            DeviceError::GridTooLarge {
                kernel: launch.name.clone(),
                blocks: i64::try_from(blocks).unwrap_or(i64::MAX),
            }
        })?;
        self.arguments.clear();
        self.arguments.extend(launch.buffers.iter().map(|b| state.addresses[*b]));
        self.arguments.extend(launch.symbols.iter().map(|s| state.symbols[*s] as u64));
        let cooperative = matches!(launch.mapping, Mapping::Resident { .. });
        let stream = self.code.device.stream.cu_stream();
        if cooperative {
            self.arguments.push(self.counter);
            // SAFETY: the counter is within the run's allocation.
            let cleared = unsafe { result::memset_d8_async(self.counter, 0, 4, stream) };
            cleared.map_err(failed("clear the counter by which blocks meet"))?;
        }
        let mut pointers: Vec<*mut c_void> =
            self.arguments.iter_mut().map(|a| std::ptr::from_mut(a).cast()).collect();
        // SAFETY: the entry point takes one 8-byte value for each buffer and runtime integer of the function it was
        // compiled from, in that order, and behind them the counter if its blocks meet; the driver copies them before it returns. The addresses are those of
        // the run's allocation and of bound parameters, which outlive the run's synchronisation, at the sizes
        // of the memory plan; kernels of a verified graph access elements in bounds. Launches of one stream run
        // in order.
        let launched = unsafe {
            let entry = self.code.entries[launch.function];
            let (grid, block) = ((grid, 1, 1), (block, 1, 1));
            if cooperative {
                result::launch_cooperative_kernel(
                    entry,
                    grid,
                    block,
                    launch.shared_bytes,
                    stream,
                    &mut pointers,
                )
            } else {
                result::launch_kernel(entry, grid, block, launch.shared_bytes, stream, &mut pointers)
            }
        };
        launched.map_err(failed(&format!("launch kernel `{}`", launch.name)))?;
        Ok(self.mark(at)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The device, or a word in plain sight that there is none.
    fn device(test: &str) -> Option<CudaDevice> {
        match CudaDevice::new(0) {
            Ok(device) => Some(device),
            Err(DeviceError::NoDriver(reason)) => {
                println!("SKIPPED {test}: no CUDA driver here: {reason}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_machine_without_driver_gets_an_error_of_one_line() {
        // SAFETY: loads and unloads the driver's library, which may be done at any time.
        if unsafe { sys::is_culib_present() } {
            println!("SKIPPED a_machine_without_driver_gets_an_error_of_one_line: there is a driver");
            return;
        }
        let error = CudaDevice::new(0).err().map(|e| e.to_string());
        assert_eq!(error.as_deref(), Some("no CUDA driver here: the library libcuda is not installed"));
    }

    #[test]
    fn a_rejected_module_comes_with_the_log_of_the_driver() {
        let Some(device) = device("a_rejected_module_comes_with_the_log_of_the_driver") else { return };
        let error = device.load(&["not PTX".into()], &[]).err().expect("the driver takes only PTX");
        assert!(matches!(error, DeviceError::Ptx { .. }), "{error}");
    }

    #[test]
    fn a_device_that_does_not_exist_is_named() {
        if device("a_device_that_does_not_exist_is_named").is_none() {
            return;
        }
        let error = CudaDevice::new(4096).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.starts_with("there is no cuda:4096; the driver has "), "{error}");
    }
}
