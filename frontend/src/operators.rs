//! Operators: `+ - * / %`, negation, and logic with `& | ^ !`, of tensors and numbers on either side.

use std::ops::{
    Add, AddAssign, BitAnd, BitOr, BitXor, Div, DivAssign, Mul, MulAssign, Neg, Not, Rem, Sub, SubAssign,
};

use fuse_ir::ScalarOp;

use crate::elementwise::{Operand, elementwise};
use crate::tensor::Tensor;

macro_rules! binary {
    ($($trait:ident $method:ident $op:ident [$($number:ty)*];)*) => {
        $(
            impl<R: Into<Operand>> $trait<R> for Tensor {
                type Output = Tensor;
                #[track_caller]
                fn $method(self, right: R) -> Tensor {
                    Tensor::$method(&self, right)
                }
            }

            impl<R: Into<Operand>> $trait<R> for &Tensor {
                type Output = Tensor;
                #[track_caller]
                fn $method(self, right: R) -> Tensor {
                    Tensor::$method(self, right)
                }
            }

            $(
                impl $trait<Tensor> for $number {
                    type Output = Tensor;
                    #[track_caller]
                    fn $method(self, right: Tensor) -> Tensor {
                        self.$method(&right)
                    }
                }

                impl $trait<&Tensor> for $number {
                    type Output = Tensor;
                    #[track_caller]
                    fn $method(self, right: &Tensor) -> Tensor {
                        let operands = [Operand::from(self), Operand::from(right)];
                        right.traced(stringify!($method), || elementwise(right, ScalarOp::$op, &operands))
                    }
                }
            )*
        )*
    };
}

// Numbers on the left are f64 and i64 only: with one type for each kind of literal, `2 * x` needs no annotation.
binary! {
    Add add Add [f64 i64];
    Sub sub Sub [f64 i64];
    Mul mul Mul [f64 i64];
    Div div Div [f64 i64];
    Rem rem Rem [f64 i64];
}

macro_rules! logic {
    ($($trait:ident $method:ident $inherent:ident;)*) => {
        $(
            impl<R: Into<Operand>> $trait<R> for Tensor {
                type Output = Tensor;
                #[track_caller]
                fn $method(self, right: R) -> Tensor {
                    self.$inherent(right)
                }
            }

            impl<R: Into<Operand>> $trait<R> for &Tensor {
                type Output = Tensor;
                #[track_caller]
                fn $method(self, right: R) -> Tensor {
                    self.$inherent(right)
                }
            }
        )*
    };
}

logic! {
    BitAnd bitand and;
    BitOr bitor or;
    BitXor bitxor xor;
}

macro_rules! assign {
    ($($trait:ident $method:ident $inherent:ident;)*) => {
        $(
            /// Makes the handle that of the result.
            impl<R: Into<Operand>> $trait<R> for Tensor {
                #[track_caller]
                fn $method(&mut self, right: R) {
                    *self = Tensor::$inherent(self, right);
                }
            }
        )*
    };
}

assign! {
    AddAssign add_assign add;
    SubAssign sub_assign sub;
    MulAssign mul_assign mul;
    DivAssign div_assign div;
}

macro_rules! unary {
    ($($trait:ident $method:ident;)*) => {
        $(
            impl $trait for Tensor {
                type Output = Tensor;
                #[track_caller]
                fn $method(self) -> Tensor {
                    Tensor::$method(&self)
                }
            }

            impl $trait for &Tensor {
                type Output = Tensor;
                #[track_caller]
                fn $method(self) -> Tensor {
                    Tensor::$method(self)
                }
            }
        )*
    };
}

unary! {
    Neg neg;
    Not not;
}
