//! Windows that slide along the spatial axes of `[N, C, ...]`: what convolutions and pooling read. They are gathers at
//! positions that are arithmetic on coordinates, so nothing is copied.

use fuse_ir::{DType, Dim};

use super::super::call::Call;
use super::super::error::{Built, Problem, refuse};
use crate::elementwise::Operand;
use crate::tensor::Tensor;

/// How windows slide along one axis.
pub(super) struct Axis {
    /// The number of positions in a window.
    kernel: i64,
    stride: i64,
    dilation: i64,
    /// Positions before the first and behind the last, as the model asks for them.
    low: Dim,
    high: Dim,
    /// Further positions behind the last, which only a window that is rounded up needs.
    extra: Dim,
    /// The number of windows.
    count: Dim,
}

/// The windows of a node.
pub(super) struct Windows(Vec<Axis>);

impl Windows {
    /// From the attributes of a node, for an operand `[N, C, ...]` and windows of `kernel` positions along each axis.
    pub(super) fn of(call: &Call<'_>, x: &Tensor, kernel: &[i64]) -> Built<Windows> {
        let axes = kernel.len();
        if x.rank() != axes + 2 {
            return refuse(format!("windows of {axes} axes do not slide over {}", x.ty()));
        }
        let list = |name: &str, count: usize, default: i64, least: i64| -> Built<Vec<i64>> {
            let values = call.attributes.ints(name)?.map_or_else(|| vec![default; count], <[i64]>::to_vec);
            let fits = values.len() == count && values.iter().all(|v| (least..=MOST).contains(v));
            if fits { Ok(values) } else { refuse(format!("attribute `{name}` is {values:?}")) }
        };
        if kernel.iter().any(|k| !(1..=MOST).contains(k)) {
            return refuse(format!("windows of {kernel:?} positions are not supported"));
        }
        let strides = list("strides", axes, 1, 1)?;
        let dilations = list("dilations", axes, 1, 1)?;
        let pads = list("pads", 2 * axes, 0, 0)?;
        let rounds_up = call.attributes.flag("ceil_mode", false)?;
        let mut out = Vec::with_capacity(axes);
        for i in 0..axes {
            let along = Along {
                extent: x.shape()[i + 2].clone(),
                kernel: kernel[i],
                stride: strides[i],
                dilation: dilations[i],
            };
            out.push(match call.attributes.string_or("auto_pad", "NOTSET")? {
                "NOTSET" => along.padded(pads[i], pads[axes + i], rounds_up)?,
                "VALID" => along.padded(0, 0, rounds_up)?,
                "SAME_UPPER" => along.same(true),
                "SAME_LOWER" => along.same(false),
                other => return refuse(format!("attribute `auto_pad` is `{other}`")),
            });
        }
        Ok(Windows(out))
    }

    /// The number of spatial axes.
    pub(super) fn axes(&self) -> usize {
        self.0.len()
    }

    /// The number of positions in a window.
    pub(super) fn positions(&self) -> i64 {
        self.0.iter().map(|axis| axis.kernel).product()
    }

    /// Whether all windows lie within the operand.
    pub(super) fn lie_within(&self) -> bool {
        self.0.iter().all(|a| a.low.is_zero() && a.high.is_zero() && a.extra.is_zero())
    }

    /// `[N, C, O1, K1, O2, K2, ...]`: the windows of an operand, `O` of them with `K` positions each, where positions
    /// outside of the operand hold `padding`, and those that only rounding up needs `beyond`.
    pub(super) fn read(&self, x: &Tensor, padding: impl Into<Operand>, beyond: impl Into<Operand>) -> Tensor {
        let (padding, beyond) = (padding.into(), beyond.into());
        let mut out = x.clone();
        for (i, axis) in (2..).zip(&self.0).filter(|(_, a)| !a.low.is_zero() || !a.high.is_zero()) {
            out = out.pad(i, &axis.low, &axis.high, padding.clone());
        }
        // After the padding of all axes, so that none of it lies beyond another.
        for (i, axis) in (2..).zip(&self.0).filter(|(_, a)| !a.extra.is_zero()) {
            out = out.pad(i, 0, &axis.extra, beyond.clone());
        }
        // The last first, so that the axes before it stay where they are.
        for (i, axis) in self.0.iter().enumerate().rev() {
            let grid = [axis.count.clone(), Dim::constant(axis.kernel)];
            let (window, offset) =
                (x.trace().iota(DType::I64, &grid[..], 0), x.trace().iota(DType::I64, &grid[..], 1));
            out = out.gather(i as i64 + 2, scaled(window, axis.stride) + scaled(offset, axis.dilation));
        }
        out
    }

    /// The axes of [`Windows::read`] that lie within windows.
    pub(super) fn inner_axes(&self) -> Vec<i64> {
        (0..self.0.len()).map(|i| 2 * i as i64 + 3).collect()
    }
}

/// The most positions of a window, and the largest distance between them.
const MOST: i64 = 1 << 20;

fn scaled(coordinate: Tensor, by: i64) -> Tensor {
    if by == 1 { coordinate } else { coordinate * by }
}

/// An axis that windows are to slide along.
struct Along {
    extent: Dim,
    kernel: i64,
    stride: i64,
    dilation: i64,
}

impl Along {
    /// From the first position of a window to its last, both included.
    fn span(&self) -> Dim {
        Dim::constant((self.kernel - 1) * self.dilation + 1)
    }

    fn axis(&self, low: Dim, high: Dim, extra: Dim, count: Dim) -> Axis {
        let Along { kernel, stride, dilation, .. } = *self;
        Axis { kernel, stride, dilation, low, high, extra, count }
    }

    /// As many windows as fit.
    fn padded(&self, low: i64, high: i64, rounds_up: bool) -> Built<Axis> {
        let (low, high, stride) = (Dim::constant(low), Dim::constant(high), Dim::constant(self.stride));
        let room = self.extent.clone() + low.clone() + high.clone() - self.span();
        let one = Dim::constant(1);
        if !rounds_up || self.stride == 1 {
            return Ok(self.axis(low, high, Dim::constant(0), room.floor_div(&stride) + one));
        }
        let (Some(room), Some(extent), Some(start)) =
            (room.as_constant(), self.extent.as_constant(), low.as_constant())
        else {
            let what = format!("the extent {} must be known for ceil_mode", self.extent);
            return Err(Problem::NeedsDims { what, symbols: self.extent.symbols().into_iter().collect() });
        };
        let mut count = (room + self.stride - 1).div_euclid(self.stride) + 1;
        // No window begins behind the operand and its padding at the start.
        if (count - 1) * self.stride >= extent + start {
            count -= 1;
        }
        let extra = ((count - 1) * self.stride - room).max(0);
        Ok(self.axis(low, high, Dim::constant(extra), Dim::constant(count)))
    }

    /// A window for each position, or for each `stride`-th; the odd position of padding stands at the end or at the
    /// start.
    fn same(&self, odd_at_end: bool) -> Axis {
        let count = self.extent.ceil_div(&Dim::constant(self.stride));
        let needed = (count.clone() - Dim::constant(1)) * Dim::constant(self.stride) + self.span();
        let total = (needed - self.extent.clone()).maximum(&Dim::constant(0));
        let half = total.floor_div(&Dim::constant(2));
        let rest = total - half.clone();
        let (low, high) = if odd_at_end { (half, rest) } else { (rest, half) };
        self.axis(low, high, Dim::constant(0), count)
    }
}
