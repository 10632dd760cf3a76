//! Products of matrices and of named axes, against loops.

use super::net::{Net, Random, assert_says};
use super::*;

/// `[n, k] @ [k, m]`
fn product(a: &[f64], b: &[f64], (n, k, m): (usize, usize, usize)) -> Vec<f64> {
    let at = |i: usize, j: usize| (0..k).map(|p| a[i * k + p] * b[p * m + j]).sum();
    (0..n * m).map(|p| at(p / m, p % m)).collect()
}

#[test]
fn matrices_and_vectors() {
    let mut random = Random(6);
    let (a, b) = (random.tensor(&[3, 4]), random.tensor(&[4, 2]));
    let expected = product(&a.to_f64(), &b.to_f64(), (3, 4, 2));
    assert_eq!(Model::new("MatMul", 13).values(&[a.clone(), b.clone()]), expected);
    let v = random.tensor(&[4]);
    let result = Model::new("MatMul", 13).run(&[a.clone(), v.clone()]).swap_remove(0);
    assert_eq!((result.shape(), result.to_f64()), (&[3][..], product(&a.to_f64(), &v.to_f64(), (3, 4, 1))));
    let result = Model::new("MatMul", 13).run(&[v.clone(), b.clone()]).swap_remove(0);
    assert_eq!((result.shape(), result.to_f64()), (&[2][..], product(&v.to_f64(), &b.to_f64(), (1, 4, 2))));
    let result = Model::new("MatMul", 13).run(&[v.clone(), v.clone()]).swap_remove(0);
    assert_eq!((result.shape(), result.to_f64()), (&[][..], product(&v.to_f64(), &v.to_f64(), (1, 4, 1))));
}

#[test]
fn batches_broadcast() {
    let net = Net::new(
        13,
        "x: f64[T, B, 1, 3]
         w: f64[H, 3, 2]
         v: f64[3, 2]
         y = MatMul(x, w)
         z = MatMul(x, v)
         return y, z",
    );
    let mut random = Random(7);
    let (x, w, v) = (random.tensor(&[2, 2, 1, 3]), random.tensor(&[2, 3, 2]), random.tensor(&[3, 2]));
    let got = net.run(&[x.clone(), w.clone(), v.clone()]);
    let of = |w: &[f64], p: usize| product(&x.to_f64()[p * 3..][..3], w, (1, 3, 2));
    let by_head: Vec<f64> = (0..4).flat_map(|p| of(&w.to_f64()[p % 2 * 6..][..6], p)).collect();
    assert_eq!((got[0].shape(), got[0].to_f64()), (&[2, 2, 1, 2][..], by_head));
    assert_eq!(got[1].to_f64(), (0..4).flat_map(|p| of(&v.to_f64(), p)).collect::<Vec<_>>());
}

#[test]
fn general_products() {
    let mut random = Random(8);
    let (a, b, c) = (random.tensor(&[2, 3]), random.tensor(&[3, 2]), random.tensor(&[2]));
    let plain = product(&a.to_f64(), &b.to_f64(), (2, 3, 2));
    let transposed = |x: &HostTensor| Model::new("Transpose", 13).run(std::slice::from_ref(x)).swap_remove(0);
    for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
        let turned = |x: &HostTensor, turn: bool| if turn { transposed(x) } else { x.clone() };
        let model = Model::new("Gemm", 13).float("alpha", 0.5).float("beta", -2.0);
        let model = model.int("transA", i64::from(ta)).int("transB", i64::from(tb));
        let expected: Vec<f64> = (0..4).map(|p| plain[p] * 0.5 - 2.0 * c.to_f64()[p % 2]).collect();
        assert_eq!(model.values(&[turned(&a, ta), turned(&b, tb), c.clone()]), expected);
        assert_eq!(model.values(&[turned(&a, ta), turned(&b, tb)])[3], plain[3] * 0.5);
    }
}

#[test]
fn general_products_of_integers() {
    let operands = [i32s(&[1, 2], &[3, 5]), i32s(&[2, 1], &[1, 2]), i32s(&[], &[7])];
    assert_eq!(Model::new("Gemm", 13).float("alpha", 2.0).integers(&operands), [33]);
    assert_eq!(Model::new("Gemm", 13).float("alpha", 0.5).integers(&operands), [13]);
}

#[test]
fn equations() {
    let mut random = Random(9);
    let (a, b) = (random.tensor(&[2, 3]), random.tensor(&[3, 4]));
    let einsum = |equation: &str, operands: &[HostTensor]| {
        Model::new("Einsum", 12).string("equation", equation).values(operands)
    };
    let both = [a.clone(), b.clone()];
    let (x, y) = (a.to_f64(), b.to_f64());
    let plain = product(&x, &y, (2, 3, 4));
    assert_eq!(einsum("ij,jk->ik", &both), plain);
    assert_eq!(einsum(" ij , jk ", &both), plain);
    let turned: Vec<f64> = (0..8).map(|p| plain[p % 2 * 4 + p / 2]).collect();
    assert_eq!(einsum("ij,jk->ki", &both), turned);
    assert_eq!(einsum("ij,jk->", &both), [plain.iter().sum::<f64>()]);
    assert_eq!(einsum("ba", std::slice::from_ref(&a)), [x[0], x[3], x[1], x[4], x[2], x[5]]);
    let outer: Vec<f64> = (0..9).map(|p| x[p / 3] * x[p % 3] + x[3 + p / 3] * x[3 + p % 3]).collect();
    assert_eq!(einsum("bi,bj->ij", &[a.clone(), a.clone()]), outer);
    let square = random.tensor(&[3, 3]);
    let s = square.to_f64();
    assert_eq!(einsum("ii", std::slice::from_ref(&square)), [s[0] + s[4] + s[8]]);
    assert_eq!(einsum("ii->i", std::slice::from_ref(&square)), [s[0], s[4], s[8]]);
    // Three operands, of which the first two share an index that the third needs too.
    let three = [a.clone(), b.clone(), square];
    let at = |i: usize, k: usize| -> f64 {
        (0..3).map(|j| x[i * 3 + j] * y[j * 4 + k] * (0..3).map(|l| s[j * 3 + l]).sum::<f64>()).sum()
    };
    assert_eq!(einsum("ij,jk,jl->ik", &three), (0..8).map(|p| at(p / 4, p % 4)).collect::<Vec<_>>());
}

/// An ellipsis stands for the batch, of which one operand has less.
#[test]
fn equations_of_symbolic_extents() {
    let net = Net::new(
        12,
        "x: f64[B, H, T, 2]
         k: f64[H, S, 2]
         y = Einsum(x, k) equation=...td,...sd->...ts
         z = Einsum(x) equation=bhtd->bthd
         w = Einsum(x) equation=b...->...b
         return y, z, w",
    );
    let mut random = Random(10);
    let (x, k) = (random.tensor(&[2, 2, 3, 2]), random.tensor(&[2, 1, 2]));
    let got = net.run(&[x.clone(), k.clone()]);
    let (v, u) = (x.to_f64(), k.to_f64());
    let expected: Vec<f64> =
        (0..12).map(|p| v[2 * p] * u[p / 3 % 2 * 2] + v[2 * p + 1] * u[p / 3 % 2 * 2 + 1]).collect();
    assert_eq!((got[0].shape(), got[0].to_f64()), (&[2, 2, 3, 1][..], expected));
    assert_eq!((got[1].shape(), got[1].to_f64()[2]), (&[2, 3, 2, 2][..], v[6]));
    assert_eq!((got[2].shape(), got[2].to_f64()[1]), (&[2, 3, 2, 2][..], v[12]));
}

#[test]
fn products_that_do_not_fit_are_refused() {
    let refusal = |text: &str| Net::new(13, text).refusal();
    let sizes = refusal("x: f32[T, 2]\n w: f32[3, 4]\n y = MatMul(x, w)\n return y");
    assert_says(&sizes, &["node `y` (MatMul, opset 13)", "sizes 2 and 3 differ"]);
    let scalar = refusal("x: f32[T, 2]\n w: f32[]\n y = MatMul(x, w)\n return y");
    assert_says(&scalar, &["node `y`", "a matrix product takes no scalars"]);
    let types = refusal("x: f32[T, 2]\n w: f64[2, 2]\n y = MatMul(x, w)\n return y");
    assert_says(&types, &["node `y`", "one element type"]);
    let rank = refusal("x: f32[T, 2, 2]\n w: f32[2, 2]\n y = Gemm(x, w)\n return y");
    assert_says(&rank, &["node `y`", "matrices are needed"]);
    let c = refusal("x: f32[T, 2]\n w: f32[2, 2]\n c: f32[3, 1, 2]\n y = Gemm(x, w, c)\n return y");
    assert_says(&c, &["node `y`", "does not broadcast"]);
    let equation =
        |e: &str| refusal(&format!("x: f32[T, 2]\n w: f32[2, 2]\n y = Einsum(x, w) equation={e}\n return y"));
    assert_says(&equation("ij->i"), &["node `y`", "has 1 operands, the node 2"]);
    assert_says(&equation("ij,jk->il"), &["which no operand has"]);
    assert_says(&equation("ij,jk->ii"), &["has an index twice"]);
    assert_says(&equation("ij,j1->i"), &["has a `1` where a letter is needed"]);
    assert_says(&equation("ijk,jk->i"), &["does not fit a tensor of rank 2"]);
}
