//! Loops over a leading axis with carried state.

use std::panic::Location;

use fuse_ir::limits::MAX_SCAN_DEPTH;
use fuse_ir::ops::Direction;
use fuse_ir::{DType, Dim, Op, Scan, TensorType, ValueId};
use smallvec::SmallVec;

use crate::elementwise::labelled;
use crate::error::{ErrorKind, Fault, argument};
use crate::session::{Trace, inputs_first};
use crate::shape::IntoDim;
use crate::tensor::{Origin, Tensor};
use crate::tensor_list::{TensorList, rebuild, tensors};

/// How a [scan](Trace::scan_with) runs.
///
/// ```
/// # use fuse_frontend::{DType, ScanOptions, trace};
/// # trace("example", |t| {
/// # let x = t.input("x", DType::F32, ("T", "B"));
/// # let lengths = t.input("lengths", DType::I32, ("B",));
/// let options = ScanOptions::new().reverse().lengths(&lengths);
/// # let zero = t.zeros(DType::F32, ("B",));
/// # let (sum, ()) = t.scan_with(options, zero, x, |sum, x| (sum + x, ()));
/// # t.output("y", sum);
/// # })?;
/// # Ok::<(), fuse_frontend::TraceError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ScanOptions {
    direction: Direction,
    lengths: Option<Tensor>,
    trip: Option<Result<Dim, String>>,
}

impl ScanOptions {
    /// Forward over all positions.
    pub fn new() -> Self {
        ScanOptions::default()
    }

    /// From the last position down to the first; outputs keep the positions they were computed from.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.direction = Direction::Reverse;
        self
    }

    /// Reverse if `reverse`, otherwise forward.
    #[must_use]
    pub fn reverse_if(mut self, reverse: bool) -> Self {
        self.direction = if reverse { Direction::Reverse } else { Direction::Forward };
        self
    }

    /// Gives every row `b` of the batch its own number of steps, `lengths[b]` (i32 or i64, shape `[B]`).
    ///
    /// Every carry and every output of the body then needs the leading axis `B`. At positions from
    /// `lengths[b]` on, row `b` of the carries stays as it is and row `b` of the outputs is zero, whatever
    /// the padding of the scanned tensors holds. A reverse scan starts row `b` at position `lengths[b] - 1`.
    #[must_use]
    pub fn lengths(mut self, lengths: impl AsRef<Tensor>) -> Self {
        self.lengths = Some(lengths.as_ref().clone());
        self
    }

    /// The lengths of the rows, if there are any.
    #[must_use]
    pub fn lengths_if(mut self, lengths: Option<&Tensor>) -> Self {
        self.lengths = lengths.cloned();
        self
    }

    /// The number of steps. Needed only where nothing is scanned; otherwise it is the scanned tensors'
    /// leading axis, which this must then equal.
    #[must_use]
    pub fn steps(mut self, trip: impl IntoDim) -> Self {
        self.trip = Some(trip.into_dim());
        self
    }
}

/// What a scan needs of the level around it.
struct Frame {
    operands: SmallVec<[ValueId; 4]>,
    lengths: Option<ValueId>,
    trip: Dim,
}

impl Trace {
    /// Runs `body` once for each position along the leading axis of the tensors in `scanned`.
    ///
    /// `body` gets the carried state and one slice of each scanned tensor (without the leading axis), and
    /// returns the new state and the step's outputs. The result is the state after the last step and the
    /// outputs stacked along a new leading axis. The state keeps its structure and types. Carries, scanned
    /// tensors and outputs can be tensors, tuples, arrays or vectors of them ([`TensorList`]).
    ///
    /// Tensors of the program around the body can be used in it freely. Tensors made in the body cannot
    /// be used after it except through what it returns.
    ///
    /// ```
    /// use fuse_frontend::{DType, trace};
    ///
    /// let graph = trace("leaky", |t| {
    ///     let x = t.input("x", DType::F32, ("T", "B", 8));
    ///     let h0 = t.input("h0", DType::F32, ("B", 8));
    ///     let decay = t.parameter("decay", DType::F32, (8,));
    ///     let (h, y) = t.scan(h0, x, |h, x| {
    ///         let h = &decay * h + x;
    ///         (h.clone(), h.tanh())
    ///     });
    ///     t.output("y", y);
    ///     t.output("h", h);
    /// })?;
    /// # Ok::<(), fuse_frontend::TraceError>(())
    /// ```
    #[track_caller]
    pub fn scan<C: TensorList, X: TensorList, Y: TensorList>(
        &self,
        init: C,
        scanned: X,
        body: impl FnOnce(C, X) -> (C, Y),
    ) -> (C, Y) {
        self.scan_with(ScanOptions::new(), init, scanned, body)
    }

    /// A [scan](Trace::scan) in reverse, over rows of different lengths, or over nothing but a count.
    #[track_caller]
    pub fn scan_with<C: TensorList, X: TensorList, Y: TensorList>(
        &self,
        options: ScanOptions,
        init: C,
        scanned: X,
        body: impl FnOnce(C, X) -> (C, Y),
    ) -> (C, Y) {
        let place = Location::caller();
        let guess = TensorType::scalar(DType::F32);
        let (carries, inputs) = (tensors(&init), tensors(&scanned));
        // Scopes are not held while the body runs: its ops are placed where it makes them.
        let frame = self.attempt("scan", place, || self.frame(&options, &carries, &inputs));
        let depth = self.enter_scan();
        let _depth = DepthGuard(self);
        if depth > MAX_SCAN_DEPTH {
            return self
                .traced("scan", place, &guess, || Err(ErrorKind::Depth { limit: MAX_SCAN_DEPTH }.into()));
        }
        let Some(frame) = frame else {
            // The body still runs, for the structure of its outputs.
            let (carry, y) = body(self.poison(init), self.poison(scanned));
            return (self.poison(carry), self.poison(y));
        };
        self.push_level("step");
        let (carry_in, x_in) = self.body_inputs(&carries, &inputs);
        let (carry, y) = body(rebuild(init, carry_in), rebuild(scanned, x_in));
        let (carries_out, outputs) = (tensors(&carry), tensors(&y));
        let results = self.attempt("scan", place, || {
            self.close_scan(&options, frame, &carries, inputs.len(), &carries_out, &outputs)
        });
        let Some(results) = results else {
            return (self.poison(carry), self.poison(y));
        };
        let (last, stacked) = results.split_at(carries.len().min(results.len()));
        (rebuild(carry, last.to_vec()), rebuild(y, stacked.to_vec()))
    }

    /// Checks the operands of a scan and finds its number of steps.
    fn frame(&self, options: &ScanOptions, carries: &[Tensor], scanned: &[Tensor]) -> Result<Frame, Fault> {
        let operands: Vec<&Tensor> = carries.iter().chain(scanned).collect();
        let values = self.resolve(&operands)?;
        let lengths = match &options.lengths {
            Some(lengths) => Some(self.resolve(&[lengths])?[0]),
            None => None,
        };
        let given = match &options.trip {
            Some(Ok(trip)) => Some(trip.clone()),
            Some(Err(problem)) => return Err(argument("steps", "not a dimension", problem)),
            None => None,
        };
        let trip = trip_count(given, scanned)?;
        Ok(Frame { operands: values, lengths, trip })
    }

    fn body_inputs(&self, carries: &[Tensor], scanned: &[Tensor]) -> (Vec<Tensor>, Vec<Tensor>) {
        let poisoned = |ty: &TensorType| Tensor::new(self, Origin::Poisoned, ty.clone());
        let input = |name: String, ty: TensorType| {
            self.add_level_input(&name, ty.clone()).unwrap_or_else(|_| poisoned(&ty))
        };
        let carry = |(i, t): (usize, &Tensor)| input(format!("carry{i}"), t.ty().clone());
        let slice = |(i, t): (usize, &Tensor)| {
            let shape = t.shape().iter().skip(1).cloned();
            input(format!("x{i}"), TensorType::new(t.dtype(), shape))
        };
        (carries.iter().enumerate().map(carry).collect(), scanned.iter().enumerate().map(slice).collect())
    }

    /// Closes the body's level and applies the scan. The level is closed whatever happens.
    fn close_scan(
        &self,
        options: &ScanOptions,
        frame: Frame,
        carries: &[Tensor],
        scanned: usize,
        carries_out: &[Tensor],
        outputs: &[Tensor],
    ) -> Result<Vec<Tensor>, Fault> {
        let returned: Vec<&Tensor> = carries_out.iter().chain(outputs).collect();
        let values = self.resolve(&returned);
        let level = self.pop_level()?;
        let values = values?;
        check_carries(carries, carries_out)?;
        let mut body = level.graph;
        for (i, value) in values.iter().enumerate() {
            let name = match i.checked_sub(carries.len()) {
                None => format!("carry{i}"),
                Some(k) => format!("y{k}"),
            };
            body.add_output(name, *value);
        }
        let mut operands = frame.operands;
        operands.extend(level.captures.iter().map(|(outer, _)| *outer));
        operands.extend(frame.lengths);
        let scan = Scan {
            body: inputs_first(body)?,
            carries: carries.len(),
            scanned,
            trip: frame.trip,
            direction: options.direction,
            lengths: frame.lengths.is_some(),
        };
        self.apply_values(Op::Scan(Box::new(scan)), &operands)
    }

    /// The structure with poisoned tensors.
    fn poison<L: TensorList>(&self, list: L) -> L {
        list.map(&mut |tensor| Tensor::new(self, Origin::Poisoned, tensor.ty().clone()))
    }
}

fn trip_count(given: Option<Dim>, scanned: &[Tensor]) -> Result<Dim, Fault> {
    let scalar = scanned.iter().enumerate().find(|(_, t)| t.rank() == 0);
    if let Some((i, tensor)) = scalar {
        let name = labelled(&format!("scanned {i}"), tensor);
        return Err(argument(name, tensor.ty(), "a scanned tensor needs a leading axis"));
    }
    let leading = scanned.first().map(|t| t.shape()[0].clone());
    let Some(trip) = given.or(leading) else {
        return Err(argument("scanned", "empty", "scan a tensor, or give the number of steps"));
    };
    match scanned.iter().enumerate().find(|(_, t)| t.shape()[0] != trip) {
        Some((0, tensor)) => {
            let name = labelled("scanned 0", tensor);
            Err(argument(name, tensor.ty(), format!("its leading axis must be the {trip} steps")))
        }
        Some((i, tensor)) => Err(ErrorKind::Mismatch {
            left: labelled("scanned 0", &scanned[0]),
            left_ty: scanned[0].ty().clone(),
            right: labelled(&format!("scanned {i}"), tensor),
            right_ty: tensor.ty().clone(),
            requirement: "their leading axes must be equal".into(),
        }
        .into()),
        None => Ok(trip),
    }
}

fn check_carries(initial: &[Tensor], returned: &[Tensor]) -> Result<(), Fault> {
    if initial.len() != returned.len() {
        let text = format!("the scan starts with {}", initial.len());
        return Err(argument("carries", format!("{} from the body", returned.len()), text));
    }
    match (0..initial.len()).find(|i| initial[*i].ty() != returned[*i].ty()) {
        Some(i) => Err(ErrorKind::Mismatch {
            left: labelled(&format!("carry {i} at the start"), &initial[i]),
            left_ty: initial[i].ty().clone(),
            right: format!("carry {i} from the body"),
            right_ty: returned[i].ty().clone(),
            requirement: "a carry keeps its type".into(),
        }
        .into()),
        None => Ok(()),
    }
}

/// Counts a scan as ended, also when the body panics.
struct DepthGuard<'a>(&'a Trace);

impl Drop for DepthGuard<'_> {
    fn drop(&mut self) {
        self.0.leave_scan();
    }
}
