//! Structures of tensors, such as the state of a scan.

use crate::tensor::Tensor;

/// A structure that holds tensors in a fixed order: a [`Tensor`], a tuple, an array, a vector or an option
/// of such structures. The carries, scanned tensors and outputs of a [`scan`](crate::Trace::scan) are of
/// these types, so that its body takes and returns the same structures.
pub trait TensorList: Sized {
    /// Calls `visit` with every tensor in order.
    fn visit(&self, visit: &mut dyn FnMut(&Tensor));

    /// The structure with every tensor replaced, in the same order.
    fn map(self, replace: &mut dyn FnMut(Tensor) -> Tensor) -> Self;

    /// The structure with `tensor` everywhere. Stands for the result of a failed operation; a vector is
    /// empty then.
    fn filled_with(tensor: &Tensor) -> Self;
}

impl TensorList for Tensor {
    fn visit(&self, visit: &mut dyn FnMut(&Tensor)) {
        visit(self);
    }

    fn map(self, replace: &mut dyn FnMut(Tensor) -> Tensor) -> Self {
        replace(self)
    }

    fn filled_with(tensor: &Tensor) -> Self {
        tensor.clone()
    }
}

impl<L: TensorList, const N: usize> TensorList for [L; N] {
    fn visit(&self, visit: &mut dyn FnMut(&Tensor)) {
        self.iter().for_each(|list| list.visit(visit));
    }

    fn map(self, replace: &mut dyn FnMut(Tensor) -> Tensor) -> Self {
        self.map(|list| list.map(replace))
    }

    fn filled_with(tensor: &Tensor) -> Self {
        std::array::from_fn(|_| L::filled_with(tensor))
    }
}

impl<L: TensorList> TensorList for Vec<L> {
    fn visit(&self, visit: &mut dyn FnMut(&Tensor)) {
        self.iter().for_each(|list| list.visit(visit));
    }

    fn map(self, replace: &mut dyn FnMut(Tensor) -> Tensor) -> Self {
        self.into_iter().map(|list| list.map(replace)).collect()
    }

    fn filled_with(_: &Tensor) -> Self {
        Vec::new()
    }
}

impl<L: TensorList> TensorList for Option<L> {
    fn visit(&self, visit: &mut dyn FnMut(&Tensor)) {
        self.iter().for_each(|list| list.visit(visit));
    }

    fn map(self, replace: &mut dyn FnMut(Tensor) -> Tensor) -> Self {
        Option::map(self, |list| list.map(replace))
    }

    fn filled_with(_: &Tensor) -> Self {
        None
    }
}

macro_rules! tuple {
    ($($name:ident $position:tt),*) => {
        impl<$($name: TensorList),*> TensorList for ($($name,)*) {
            #[allow(unused_variables)] // of the empty tuple
            fn visit(&self, visit: &mut dyn FnMut(&Tensor)) {
                $(self.$position.visit(visit);)*
            }

            #[allow(unused_variables, clippy::unused_unit)] // of the empty tuple
            fn map(self, replace: &mut dyn FnMut(Tensor) -> Tensor) -> Self {
                ($(self.$position.map(replace),)*)
            }

            #[allow(unused_variables, clippy::unused_unit)] // of the empty tuple
            fn filled_with(tensor: &Tensor) -> Self {
                ($($name::filled_with(tensor),)*)
            }
        }
    };
}

tuple!();
tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);

/// The tensors of a structure, in order.
pub(crate) fn tensors(list: &impl TensorList) -> Vec<Tensor> {
    let mut out = Vec::new();
    list.visit(&mut |tensor| out.push(tensor.clone()));
    out
}

/// The structure with its tensors replaced by `tensors`, in order; the tensors past the end of them stay.
pub(crate) fn rebuild<L: TensorList>(list: L, tensors: impl IntoIterator<Item = Tensor>) -> L {
    let mut tensors = tensors.into_iter();
    list.map(&mut |old| tensors.next().unwrap_or(old))
}
