//! Loads and stores of states that their own points read.

use super::{Access, AxisSet, Emitted, Emitter, Point, ToMemory, axis_bit};
use crate::kernel_ir::{LaneType, SharedId, Type, ValueId};

/// Where a block keeps elements of a state that its own points read.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct OwnPlace {
    pub(in super::super) array: SharedId,
    /// The element of the array; of an access that goes along one of the axes, that of its first position.
    pub(in super::super) first: ValueId,
    pub(in super::super) along: AxisSet,
}

/// What a step loads of such a state.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct OwnLoad {
    pub(in super::super) place: OwnPlace,
    /// Whether it is in memory still.
    pub(in super::super) in_memory: ValueId,
}

/// What a step stores of it.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct OwnStore {
    pub(in super::super) place: OwnPlace,
    /// Whether the array has an element for it, if that is not sure.
    pub(in super::super) is_there: Option<ValueId>,
    pub(in super::super) to_memory: ToMemory,
}

impl Emitter<'_> {
    /// What a step reads of such a state, as memory has it.
    pub(super) fn load_own(
        &mut self,
        access: &Access,
        own: OwnLoad,
        lanes: u8,
        point: &Point,
    ) -> Emitted<ValueId> {
        let at = self.place_of(access, own.place, point);
        let key = (own.place.array, at, lanes);
        if let Some(loaded) = self.loaded.get(&key).copied().filter(|v| self.b.is_visible(*v)) {
            return Ok(loaded);
        }
        // A condition gives no values; a loop that runs once or never does.
        let ty = Type { lane: LaneType::of_memory(access.dtype), lanes };
        let nothing = self.b.number(ty, 0.0);
        let (zero, one) = (self.b.index(0), self.b.index(1));
        let times = self.b.select(own.in_memory, one, zero);
        let once = self.b.open_loop(&[nothing], true);
        let position = self.position(access, point)?;
        let floor = self.floor(&access.symbols);
        let loaded = self.b.load_updated(ty, access.buffer, position, floor);
        let loaded = self.b.close_loop(once, zero, times, 1, &[loaded]);
        let times = self.b.select(own.in_memory, zero, one);
        let once = self.b.open_loop(&loaded, true);
        let kept = self.b.load_shared(own.place.array, lanes, at);
        let loaded = self.b.close_loop(once, zero, times, 1, &[kept])[0];
        self.loaded.insert(key, loaded);
        Ok(loaded)
    }

    /// Stores what the next step reads, as memory has it.
    pub(super) fn store_own(
        &mut self,
        access: &Access,
        own: OwnStore,
        value: ValueId,
        point: &Point,
    ) -> Emitted<()> {
        let at = self.place_of(access, own.place, point);
        match own.is_there {
            None => self.b.store_shared(own.place.array, at, value),
            Some(is_there) => {
                self.b.open_if();
                self.b.store_shared(own.place.array, at, value);
                self.b.close_if(is_there);
            }
        }
        self.store_memory(access, value, point, own.to_memory)
    }

    /// The element of the array, or the first of a vector.
    fn place_of(&mut self, access: &Access, own: OwnPlace, point: &Point) -> ValueId {
        let mut axes = access.position.axes().into_iter().filter(|axis| own.along & axis_bit(*axis) != 0);
        match axes.next().and_then(|axis| point.axis(axis)) {
            Some(position) => self.b.add(own.first, position),
            None => own.first,
        }
    }
}
