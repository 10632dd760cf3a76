//! Functions that are the same but for names, which are compiled once.

use std::hash::{Hash, Hasher};

use rustc_hash::FxHashMap;

use crate::kernel_ir::{BufferParameter, Function, SharedArray};

/// The different ones of some functions.
#[derive(Debug)]
pub struct Distinct<'f> {
    /// One of each, in the order of the first ones.
    pub functions: Vec<&'f Function>,
    /// By position of a function: its own among them.
    pub places: Vec<usize>,
}

impl<'f> Distinct<'f> {
    /// Of these functions. Those of one kind take as many buffers and symbols, and do the same with them.
    pub fn of(functions: &'f [Function]) -> Distinct<'f> {
        let mut known: FxHashMap<Code<'f>, usize> = FxHashMap::default();
        let mut distinct = Distinct { functions: Vec::new(), places: Vec::with_capacity(functions.len()) };
        for function in functions {
            let place = *known.entry(Code(function)).or_insert_with(|| {
                distinct.functions.push(function);
                distinct.functions.len() - 1
            });
            distinct.places.push(place);
        }
        distinct
    }
}

/// A function without the names of its own, its buffers and arrays, and without which buffers of the kernel graph it is
/// launched with.
struct Code<'f>(&'f Function);

impl PartialEq for Code<'_> {
    fn eq(&self, other: &Self) -> bool {
        let Function { name: _, buffers, symbols, work, mapping, shared, types, body } = self.0;
        let other = other.0;
        let same_buffer = |(a, b): (&BufferParameter, &BufferParameter)| {
            let BufferParameter { name: _, buffer: _, dtype, access, divisor } = a;
            (*dtype, *access, *divisor) == (b.dtype, b.access, b.divisor)
        };
        let same_array = |(a, b): (&SharedArray, &SharedArray)| {
            let SharedArray { name: _, lane, elements } = a;
            (*lane, *elements) == (b.lane, b.elements)
        };
        buffers.len() == other.buffers.len()
            && shared.len() == other.shared.len()
            && (mapping, symbols, work, types) == (&other.mapping, &other.symbols, &other.work, &other.types)
            && buffers.iter().zip(&other.buffers).all(same_buffer)
            && shared.iter().zip(&other.shared).all(same_array)
            && *body == other.body
    }
}

impl Eq for Code<'_> {}

impl Hash for Code<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Enough to tell most functions apart.
        let Function { buffers, types, body, .. } = self.0;
        (buffers.len(), types, body.len()).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    const DOUBLE: &str = "function double range {
  read p0 \"x\": f32 = b0
  write p1 \"y\": f32 = b1
  symbols N
  work N
  v0: i64 = work_begin
  v1: i64 = work_end
  for v2 = v0 to v1 step 1 {
    v3: f32 = load p0[v2]
    v4: f32 = add v3, v3
    store p1[v2] = v4
  }
}";

    fn places(changes: &[(&str, &str)]) -> Vec<usize> {
        let changed = changes.iter().map(|(from, to)| {
            assert!(DOUBLE.contains(from), "{from}");
            DOUBLE.replace(from, to)
        });
        let texts: Vec<String> = std::iter::once(DOUBLE.to_owned()).chain(changed).collect();
        let functions: Vec<Function> =
            texts.iter().map(|t| parse(t).unwrap_or_else(|e| panic!("{e}\n{t}"))).collect();
        let distinct = Distinct::of(&functions);
        for (function, place) in functions.iter().zip(&distinct.places) {
            assert_eq!(function.body, distinct.functions[*place].body);
        }
        distinct.places
    }

    #[test]
    fn names_and_the_buffers_of_a_launch_make_no_difference() {
        assert_eq!(places(&[("double", "twice"), ("\"x\"", "\"z\""), ("b0", "b7")]), [0, 0, 0, 0]);
    }

    #[test]
    fn what_runs_and_what_may_be_assumed_do() {
        let changes = [
            ("add v3, v3", "mul v3, v3"),
            ("b0", "b0 multiple 4"),
            ("N", "M"),
            ("work N", "work 2*N"),
            ("N", "M"),
        ];
        assert_eq!(places(&changes), [0, 1, 2, 3, 4, 3]);
    }
}
