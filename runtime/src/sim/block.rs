//! One block: its warps take turns, and meet at barriers.

use super::clocks::Clocks;
use super::execute::{Context, Wrong, first};
use super::fault::Problem;
use super::order::Knowledge;
use super::warp::{Arrived, State, Warp};

/// Turns without a store, an ordinary load or a barrier, after which the block is taken to wait for ever: what spins
/// on a flag reads it as volatile, relaxed or acquiring.
const IDLE_TURNS: u32 = 1 << 10;

/// Turns that each warp of a block of a cooperative launch has before other blocks get theirs.
const VISIT_TURNS: u32 = 16;

/// Who was wrong: the warp's position, the lane, and how.
pub(super) type BlockFault = (usize, Wrong);

/// Runs the warps of a block to their ends.
pub(super) fn run(warps: &mut [Warp], context: &mut Context<'_>) -> Result<(), BlockFault> {
    let mut idle = 0;
    loop {
        let mut ran = false;
        for (at, warp) in warps.iter_mut().enumerate() {
            if matches!(warp.state, State::Ready | State::Yielding) {
                ran = true;
                warp.state = State::Ready;
                warp.run(context).map_err(|wrong| (at, wrong))?;
            }
        }
        if warps.iter().all(|w| w.state == State::Done) {
            return Ok(());
        }
        let released = release(warps);
        idle = if std::mem::take(&mut context.progress) { 0 } else { idle + 1 };
        if (!ran && !released) || idle > IDLE_TURNS {
            return Err(stuck(warps));
        }
    }
}

/// The first warp that waits for what never comes.
fn stuck(warps: &[Warp]) -> BlockFault {
    let stuck = warps.iter().position(|w| w.state != State::Done).unwrap_or(0);
    (stuck, (first(warps[stuck].current.lanes), Problem::Deadlock))
}

/// What became of a block of a cooperative launch in its turns.
pub(super) struct Visit {
    /// Whether all its warps have ended.
    pub ended: bool,
    /// Whether a warp is about to read flags.
    pub polls: bool,
    /// Whether a warp could go on at once, of this block or of its cluster.
    pub ready: bool,
    /// Turns in which a warp neither waited nor ended.
    pub turns: u32,
}

/// Runs the warps of a block of a cooperative launch until all of them end or wait, or for some turns; those that are
/// about to read flags, too, if they are admitted.
pub(super) fn visit(
    warps: &mut [Warp],
    context: &mut Context<'_>,
    admitted: bool,
) -> Result<Visit, BlockFault> {
    warps.iter_mut().for_each(|warp| {
        warp.admit(admitted);
        warp.gather(context);
    });
    let (mut turns, mut progress, mut gathered) = (0, true, false);
    for _ in 0..VISIT_TURNS {
        let mut busy = false;
        for (at, warp) in warps.iter_mut().enumerate() {
            // What the block did may be what a warp of it waits for.
            if warp.state == State::Ready || (warp.state == State::Yielding && progress) {
                warp.state = State::Ready;
                warp.run(context).map_err(|wrong| (at, wrong))?;
                busy |= warp.state == State::Ready;
            }
        }
        turns += u32::from(busy);
        if warps.iter().all(|w| w.state == State::Done) {
            break;
        }
        let mut released = release(warps);
        if std::mem::take(&mut context.gathered) {
            gathered = true;
            warps.iter_mut().for_each(|warp| released |= warp.gather(context));
        }
        progress = std::mem::take(&mut context.progress);
        if !released && warps.iter().all(|w| matches!(w.state, State::Waiting { .. } | State::Done)) {
            return Err(stuck(warps));
        }
        if !released && !progress {
            break;
        }
    }
    let has = |state| warps.iter().any(|w| w.state == state);
    let ended = warps.iter().all(|w| w.state == State::Done);
    let gathered = gathered || std::mem::take(&mut context.gathered);
    Ok(Visit { ended, polls: has(State::Polling), ready: gathered || has(State::Ready), turns })
}

/// Lets the warps go on whose barriers are complete.
fn release(warps: &mut [Warp]) -> bool {
    let mut released = false;
    for id in 0..16 {
        while complete(warps, id) {
            released = true;
        }
    }
    released
}

/// Lets warps go on that wait at a barrier of the block, as many as it takes.
fn complete(warps: &mut [Warp], id: u32) -> bool {
    let waits = |w: &Warp| matches!(w.state, State::Waiting { id: at, .. } if at == id);
    let count = warps.iter().find_map(|w| match w.state {
        State::Waiting { id: at, count } if at == id => Some(count),
        State::Waiting { .. }
        | State::Ready
        | State::Polling
        | State::Yielding
        | State::Gathering
        | State::Done => None,
    });
    let Some(count) = count else { return false };
    let everyone = warps.iter().filter(|w| w.state != State::Done).map(|w| w.live.count_ones()).sum();
    let wanted = count.unwrap_or(everyone);
    let mut left: Vec<Arrived> = Vec::new();
    for warp in warps.iter_mut() {
        left.extend(warp.arrived.extract_if(.., |arrived| arrived.id == id));
    }
    let mut arrived: u32 = left.iter().map(|a| a.threads).sum();
    let mut members = vec![false; warps.len()];
    for (member, warp) in members.iter_mut().zip(warps.iter()) {
        if arrived < wanted && waits(warp) {
            *member = true;
            arrived += warp.live.count_ones();
        }
    }
    if arrived < wanted || !members.contains(&true) {
        if let Some(first) = warps.first_mut() {
            first.arrived.extend(left);
        }
        return false;
    }
    let mut chosen: Vec<&mut Warp> =
        warps.iter_mut().zip(members).filter_map(|(warp, member)| member.then_some(warp)).collect();
    // Each knows from here on what any of them did before.
    let mut joined = Clocks::default();
    chosen.iter().for_each(|warp| joined.join(&warp.clocks));
    left.iter().for_each(|arrived| joined.join(&arrived.clocks));
    let knowing = chosen.iter_mut().filter_map(|w| w.knowledge.as_mut());
    Knowledge::meet_all(knowing, left.iter().map(|a| &a.known));
    for warp in chosen {
        warp.clocks.clone_from(&joined);
        warp.met = joined.known[warp.index as usize];
        warp.count_up();
        warp.state = State::Ready;
    }
    true
}
