//! Loads and stores of states that only their own points read ([`OwnPlace`]).

use super::{Access, Emitted, Emitter, OwnPlace, Point, axis_bit};
use crate::kernel_ir::{LaneType, Type, ValueId};

impl Emitter<'_> {
    /// What a step reads of such a state, as memory has it.
    pub(super) fn load_own(
        &mut self,
        access: &Access,
        own: OwnPlace,
        lanes: u8,
        point: &Point,
    ) -> Emitted<ValueId> {
        let at = self.place_of(access, own, point);
        let key = (access.buffer, at, lanes);
        if let Some(loaded) = self.own_loaded.get(&key).copied().filter(|v| self.b.is_visible(*v)) {
            return Ok(loaded);
        }
        let loaded = match own.in_memory {
            None => self.b.load_shared(own.array, lanes, at),
            Some(in_memory) => {
                // A condition gives no values; a loop that runs once or never does.
                let ty = Type { lane: LaneType::of_memory(access.dtype), lanes };
                let nothing = self.b.number(ty, 0.0);
                let (zero, one) = (self.b.index(0), self.b.index(1));
                let times = self.b.select(in_memory, one, zero);
                let once = self.b.open_loop(&[nothing], true);
                let position = self.position(access, point)?;
                let floor = self.floor(&access.symbols);
                let loaded = self.b.load_updated(ty, access.buffer, position, floor);
                let loaded = self.b.close_loop(once, zero, times, 1, &[loaded]);
                let times = self.b.select(in_memory, zero, one);
                let once = self.b.open_loop(&loaded, true);
                let kept = self.b.load_shared(own.array, lanes, at);
                self.b.close_loop(once, zero, times, 1, &[kept])[0]
            }
        };
        self.own_loaded.insert(key, loaded);
        Ok(loaded)
    }

    /// Stores what the next step reads, as memory has it.
    pub(super) fn store_own(
        &mut self,
        access: &Access,
        own: OwnPlace,
        value: ValueId,
        point: &Point,
    ) -> Emitted<()> {
        let at = self.place_of(access, own, point);
        match own.is_there {
            None => self.b.store_shared(own.array, at, value),
            Some(is_there) => {
                self.b.open_if();
                self.b.store_shared(own.array, at, value);
                self.b.close_if(is_there);
            }
        }
        let Some(in_memory) = own.in_memory else { return Ok(()) };
        self.b.open_if();
        let position = self.position(access, point)?;
        self.b.store(access.buffer, position, value);
        self.b.close_if(in_memory);
        Ok(())
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
