//! How a kernel of a PTX module is launched.

use fuse_ir::DType;
use fuse_ir::expr::{Dim, DimEnv, EvalError, Symbol};
use fuse_ir::kernel::BufferId;
use serde::{Serialize, Serializer};

use super::LlvmError;
use super::ptx::{BUFFER_ALIGNMENT, block_size};
use crate::kernel_ir::{Access, Function, Mapping};

/// The most blocks that a grid has along its first axis.
pub const MAX_GRID: i64 = i32::MAX as i64;

/// What a launcher needs to know of one entry of a PTX module. Serialises to one object of `manifest.json`,
/// expressions as text.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PtxKernel {
    /// The name of the entry.
    pub name: String,
    /// The parameters, in order; each takes 8 bytes.
    pub parameters: Vec<PtxParameter>,
    /// The number of work items, one thread (or, of kernels of blocks, one block) each.
    #[serde(serialize_with = "text")]
    pub work: Dim,
    /// Threads a block, along x, y and z.
    pub block: [u32; 3],
    /// Blocks, along x, y and z. Nothing is to be launched where one of them is 0.
    #[serde(serialize_with = "texts")]
    pub grid: [Dim; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// Whether all blocks must run at the same time, which a cooperative launch sees to.
    pub cooperative: bool,
    /// Blocks of a cluster along x, y and z, which the entry says itself (`.reqnctapercluster`): no attribute of the launch is
    /// needed. `None` where blocks are in none.
    pub cluster: Option<[u32; 3]>,
}

/// A parameter of an entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PtxParameter {
    /// The name of the buffer or symbol.
    pub name: String,
    /// What is passed.
    #[serde(flatten)]
    pub kind: ParameterKind,
}

/// What is passed for a parameter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ParameterKind {
    /// A device pointer.
    Buffer {
        /// The element type.
        #[serde(serialize_with = "text")]
        dtype: DType,
        /// Whether the kernel reads or writes it.
        #[serde(serialize_with = "access_name")]
        access: Access,
        /// What its address must be a multiple of, in bytes.
        alignment: u32,
        /// The buffer of the kernel graph.
        #[serde(skip)]
        buffer: BufferId,
    },
    /// The value of a symbol, as a 64-bit integer.
    Symbol,
    /// A device pointer to a 32-bit counter that is 0 at the launch: where the blocks of a cooperative launch meet.
    Barrier,
}

/// The shape of one launch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Launch {
    /// Blocks, along x, y and z.
    pub grid: [u32; 3],
    /// Threads a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
}

impl Launch {
    /// Whether there is nothing to do; the driver refuses an empty grid, so the launch is to be left out.
    pub fn is_empty(&self) -> bool {
        self.grid.contains(&0)
    }
}

/// Why a kernel cannot be launched at some dimensions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// A dimension has no value or overflows.
    #[error("kernel `{kernel}`: {source}")]
    Dimension {
        /// The kernel.
        kernel: String,
        /// Why.
        source: EvalError,
    },
    /// More blocks than a grid has, or fewer than none.
    #[error("kernel `{kernel}` needs {blocks} blocks of {block} threads; a grid has 0 to {MAX_GRID}")]
    Grid {
        /// The kernel.
        kernel: String,
        /// The number of blocks.
        blocks: i64,
        /// Threads a block.
        block: u32,
    },
}

impl PtxKernel {
    /// The description of the entry that [`crate::llvm::ptx::ptx`] makes from `function`.
    ///
    /// # Errors
    /// If the function is not scheduled for GPU threads, or its block has no legal size.
    pub fn of(function: &Function) -> Result<PtxKernel, LlvmError> {
        let block = block_size(function)?;
        let buffers = function.buffers.iter().map(|b| PtxParameter {
            name: b.name.clone(),
            kind: ParameterKind::Buffer {
                dtype: b.dtype,
                access: b.access,
                alignment: BUFFER_ALIGNMENT,
                buffer: b.buffer,
            },
        });
        let symbols = function
            .symbols
            .iter()
            .map(|s| PtxParameter { name: s.name().to_string(), kind: ParameterKind::Symbol });
        let barrier = matches!(function.mapping, Mapping::Resident { .. })
            .then(|| PtxParameter { name: "barrier".into(), kind: ParameterKind::Barrier });
        let blocks = if function.mapping.is_by_block() {
            function.work.clone()
        } else {
            function.work.ceil_div(&Dim::constant(i64::from(block)))
        };
        Ok(PtxKernel {
            name: function.name.clone(),
            parameters: buffers.chain(symbols).chain(barrier).collect(),
            work: function.work.clone(),
            block: [block, 1, 1],
            grid: [blocks, Dim::constant(1), Dim::constant(1)],
            shared_bytes: function.shared_bytes(),
            cooperative: matches!(function.mapping, Mapping::Resident { .. }),
            cluster: function.mapping.cluster_blocks().map(|blocks| [blocks, 1, 1]),
        })
    }

    /// The shape of a launch where the symbols have the values `dims`.
    ///
    /// # Errors
    /// If a symbol has no value, or the grid is larger than a GPU has.
    pub fn launch(&self, dims: &DimEnv) -> Result<Launch, LaunchError> {
        let mut grid = [0; 3];
        for (size, dim) in grid.iter_mut().zip(&self.grid) {
            let blocks = dim.eval_dim(dims).map_err(|e| self.unbound(e))?;
            let legal = (0..=MAX_GRID).contains(&blocks).then(|| u32::try_from(blocks).ok()).flatten();
            *size = legal.ok_or_else(|| LaunchError::Grid {
                kernel: self.name.clone(),
                blocks,
                block: self.block[0],
            })?;
        }
        Ok(Launch { grid, block: self.block, shared_bytes: self.shared_bytes })
    }

    /// The values of the symbol parameters, in order.
    ///
    /// # Errors
    /// If a symbol has no value.
    pub fn symbol_values(&self, dims: &DimEnv) -> Result<Vec<i64>, LaunchError> {
        let symbols = self.parameters.iter().filter(|p| p.kind == ParameterKind::Symbol);
        symbols
            .map(|p| {
                let symbol = Symbol::new(&p.name);
                dims.get(&symbol).ok_or_else(|| self.unbound(EvalError::Unbound(symbol)))
            })
            .collect()
    }

    fn unbound(&self, source: EvalError) -> LaunchError {
        LaunchError::Dimension { kernel: self.name.clone(), source }
    }
}

fn text<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

fn texts<S: Serializer>(values: &[Dim; 3], serializer: S) -> Result<S::Ok, S::Error> {
    values.each_ref().map(ToString::to_string).serialize(serializer)
}

fn access_name<S: Serializer>(access: &Access, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match access {
        Access::Read => "read",
        Access::Write => "write",
        Access::ReadWrite => "update",
    })
}
