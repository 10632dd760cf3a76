//! One block: its warps take turns, and meet at barriers.

use super::execute::{Context, Wrong, first};
use super::fault::Problem;
use super::order::Knowledge;
use super::warp::{State, Warp};

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
            if warp.state == State::Ready {
                ran = true;
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

/// Runs the warps of a block of a cooperative launch until all of them end or wait, or for some turns; whether all have
/// ended.
pub(super) fn visit(warps: &mut [Warp], context: &mut Context<'_>) -> Result<bool, BlockFault> {
    for _ in 0..VISIT_TURNS {
        let mut busy = false;
        for (at, warp) in warps.iter_mut().enumerate() {
            if matches!(warp.state, State::Ready | State::Polling) {
                warp.state = State::Ready;
                warp.run(context).map_err(|wrong| (at, wrong))?;
                busy |= warp.state == State::Ready;
            }
        }
        if warps.iter().all(|w| w.state == State::Done) {
            return Ok(true);
        }
        let released = release(warps);
        let progress = std::mem::take(&mut context.progress);
        if !released && warps.iter().all(|w| matches!(w.state, State::Waiting { .. } | State::Done)) {
            return Err(stuck(warps));
        }
        if !released && (!busy || !progress) {
            break;
        }
    }
    Ok(false)
}

/// Lets the warps go on whose barriers are complete.
fn release(warps: &mut [Warp]) -> bool {
    let mut released = false;
    for id in 0..16 {
        let waits = |w: &Warp| matches!(w.state, State::Waiting { id: at, .. } if at == id);
        let arrived: u32 = warps.iter().filter(|w| waits(w)).map(|w| w.live.count_ones()).sum();
        let count = warps.iter().find_map(|w| match w.state {
            State::Waiting { id: at, count } if at == id => Some(count),
            State::Waiting { .. } | State::Ready | State::Polling | State::Done => None,
        });
        let Some(count) = count else { continue };
        let everyone = warps.iter().filter(|w| w.state != State::Done).map(|w| w.live.count_ones()).sum();
        if arrived < count.unwrap_or(everyone) {
            continue;
        }
        // Each knows from here on what any of them did before.
        let mut joined = vec![0; warps.len()];
        for warp in warps.iter().filter(|w| waits(w)) {
            joined.iter_mut().zip(&warp.clocks).for_each(|(all, own)| *all = (*all).max(*own));
        }
        Knowledge::meet_all(warps.iter_mut().filter(|w| waits(w)).filter_map(|w| w.knowledge.as_mut()));
        for warp in warps.iter_mut().filter(|w| waits(w)) {
            warp.clocks.copy_from_slice(&joined);
            warp.met = joined[warp.index as usize];
            warp.count_up();
            warp.state = State::Ready;
        }
        released = true;
    }
    released
}
