//! NVIDIA's PTX assembler, where it is installed: the check that what we emit is PTX.
//!
//! No GPU is needed. Compilation itself never calls it; tests do, and say SKIPPED where it is absent.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Arch;

/// The environment variable that names the assembler.
pub const VARIABLE: &str = "FUSE_PTXAS";
/// Where `scripts/setup-ptxas.sh` puts it, below the repository's root.
const FETCHED: &str = ".cache/ptxas/bin/ptxas";

/// An assembler that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ptxas {
    path: PathBuf,
}

/// What a kernel takes of a GPU's resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// The entry point.
    pub kernel: String,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes a thread writes to local memory because registers ran out.
    pub spill_stores: u32,
    /// Bytes a thread reads back.
    pub spill_loads: u32,
    /// Bytes of shared memory a block, without what a launch adds.
    pub shared: u32,
    /// Whether products of warp groups wait for each other where they need not.
    pub serialized: bool,
}

/// Why PTX was not assembled.
#[derive(Debug, thiserror::Error)]
pub enum PtxasError {
    /// The assembler did not run.
    #[error("{path}: {source}")]
    Run {
        /// The assembler.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The assembler refuses the text.
    #[error("ptxas refuses the PTX for {arch}:\n{message}")]
    Refused {
        /// The architecture.
        arch: Arch,
        /// What it says.
        message: String,
    },
}

impl Ptxas {
    /// The assembler that `FUSE_PTXAS` names, otherwise the fetched one of this directory or one above it,
    /// otherwise the one on `PATH`.
    pub fn find() -> Option<Ptxas> {
        let named = std::env::var_os(VARIABLE).map(PathBuf::from);
        let here = std::env::current_dir().unwrap_or_default();
        let fetched = here.ancestors().map(|folder| folder.join(FETCHED));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path: Vec<PathBuf> = std::env::split_paths(&path).map(|folder| folder.join("ptxas")).collect();
        let found = named.into_iter().chain(fetched).chain(on_path).find(|candidate| candidate.is_file())?;
        Some(Ptxas { path: found })
    }

    /// Where the assembler is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Assembles a module for `arch` and reports each kernel's resources, in order.
    ///
    /// # Errors
    /// If the assembler cannot run or refuses the text.
    pub fn assemble(&self, ptx: &str, arch: Arch) -> Result<Vec<Resources>, PtxasError> {
        let failed = |source| PtxasError::Run { path: self.path.display().to_string(), source };
        let mut file = Scratch::create().map_err(failed)?;
        file.file.write_all(ptx.as_bytes()).map_err(failed)?;
        let output = Command::new(&self.path)
            .arg(format!("-arch={arch}"))
            .args(["--verbose", "--output-file", "/dev/null"])
            .arg(&file.path)
            .output()
            .map_err(failed)?;
        let message =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            Ok(resources(&message))
        } else {
            Err(PtxasError::Refused { arch, message })
        }
    }
}

/// A file of this process that goes away with its owner.
struct Scratch {
    path: PathBuf,
    file: std::fs::File,
}

impl Scratch {
    fn create() -> std::io::Result<Scratch> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("fuse-{}-{number}.ptx", std::process::id()));
        // `create_new` refuses a link that someone else put there.
        let file = std::fs::File::options().write(true).create_new(true).open(&path)?;
        Ok(Scratch { path, file })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nobody is left to tell if a scratch file stays behind.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Reads what `--verbose` prints:
/// `Compiling entry function 'f' for 'sm_90'`, `… 0 bytes spill stores, 0 bytes spill loads`,
/// `Used 10 registers, …`.
fn resources(message: &str) -> Vec<Resources> {
    let mut kernels: Vec<Resources> = Vec::new();
    let before = |line: &str, what: &str| -> Option<u32> {
        line[..line.find(what)?].trim_end().rsplit(' ').next()?.parse().ok()
    };
    for line in message.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let kernel = rest.split('\'').next().unwrap_or_default().to_string();
            let serialized = is_serialized(message, &kernel);
            let (registers, spill_stores, spill_loads, shared) = (0, 0, 0, 0);
            kernels.push(Resources { kernel, registers, spill_stores, spill_loads, shared, serialized });
        }
        let Some(kernel) = kernels.last_mut() else { continue };
        kernel.spill_stores = before(line, "bytes spill stores").unwrap_or(kernel.spill_stores);
        kernel.spill_loads = before(line, "bytes spill loads").unwrap_or(kernel.spill_loads);
        kernel.registers = before(line, "registers").unwrap_or(kernel.registers);
        kernel.shared = before(line, "bytes smem").unwrap_or(kernel.shared);
    }
    kernels
}

/// Whether the assembler says so of a kernel: `… wgmma.mma_async instructions are serialized due to … in the function 'f' …`,
/// before it says anything else of it.
fn is_serialized(message: &str, kernel: &str) -> bool {
    let function = format!("the function '{kernel}'");
    message.lines().any(|line| line.contains("instructions are serialized") && line.contains(&function))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_read_for_each_kernel() {
        let message = "ptxas info    : (C7515) Potential Performance Loss: wgmma.mma_async instructions are serialized due \
            to non wgmma instructions defining accumulator registers of a wgmma between start and end of the pipeline \
            stage in the function 'b' in line 325\n\
            ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'a' for 'sm_90'\n\
            ptxas info    : Function properties for a\n    \
            16 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads\n\
            ptxas info    : Used 255 registers, used 0 barriers\n\
            ptxas info    : Compiling entry function 'b' for 'sm_90'\n\
            ptxas info    : Used 8 registers, used 0 barriers, 4096 bytes smem";
        let of = |kernel: &str, registers, spill_stores, spill_loads, shared| Resources {
            kernel: kernel.into(),
            registers,
            spill_stores,
            spill_loads,
            shared,
            serialized: kernel == "b",
        };
        assert_eq!(resources(message), [of("a", 255, 12, 20, 0), of("b", 8, 0, 0, 4096)]);
    }
}
