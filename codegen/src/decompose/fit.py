#!/usr/bin/env python3
"""Fits the polynomials of coefficients.rs: `python3 fit.py | rustfmt > coefficients.rs` (needs mpmath).

A sum of given powers is fitted by least squares of the weighted error at Chebyshev points, in 60 digits: within
a factor of about two of the best possible greatest error (Trefethen, "Approximation Theory and Approximation
Practice", chapter 16), which one more coefficient outweighs. Coefficients are rounded one by one, lowest
first, and the rest is fitted again, so that what rounding one loses is made up for by the others.
"""
import mpmath as mp
import struct

mp.mp.dps = 60


def least_squares(f, weight, powers, low, high):
    """Coefficients c minimising the sum of (weight(x) * (sum c_i x^powers_i - f(x)))², and the greatest error."""
    points = 5 * len(powers) + 4
    grid = [(low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * (i + mp.mpf('0.5')) / points)
            for i in range(points)]
    a = mp.matrix(points, len(powers))
    b = mp.matrix(points, 1)
    for i, x in enumerate(grid):
        w = weight(x)
        b[i] = w * f(x)
        for j, p in enumerate(powers):
            a[i, j] = w * x ** p
    c, _ = mp.qr_solve(a, b)
    error = a * c - b
    return [c[j] for j in range(len(powers))], max(abs(e) for e in error)


def rounded(x, double):
    return float(x) if double else struct.unpack('<f', struct.pack('<f', float(x)))[0]


def fit(name, doc, f, weight, powers, low, high, double, refit=True):
    low, high = mp.mpf(low), mp.mpf(high)
    fixed = []
    _, bound = least_squares(f, weight, powers, low, high)
    if refit:
        for k in range(len(powers)):
            rest = lambda x: f(x) - sum(c * x ** p for c, p in zip(fixed, powers))
            c, worst = least_squares(rest, weight, powers[k:], low, high)
            fixed.append(mp.mpf(rounded(c[0], double)))
            bound = worst
    else:
        c, bound = least_squares(f, weight, powers, low, high)
        fixed = [mp.mpf(rounded(x, double)) for x in c]
    bits = float(-mp.log(bound, 2)) if bound else 999
    print(f"/// {doc} Error below 2^-{bits:.1f}.")
    print(f"pub(super) const {name}: [f64; {len(powers)}] = [")
    for c in fixed:
        print(f"    {float(c)!r},")
    print("];\n")


def series(numerator, small):
    """A quotient that is 0/0 at zero, by its limit there."""
    return lambda x: numerator(x) if abs(x) > mp.mpf('1e-20') else small


half = mp.log(2) / 2
half_wide = half * mp.mpf('1.002')
root = mp.sqrt(mp.mpf(1) / 2)

print("""//! Polynomials fitted by `fit.py`; do not edit.

// Each coefficient is written with the digits that identify it.
#![allow(clippy::excessive_precision, clippy::approx_constant)]
""")

quarter_wide, whole_wide = half_wide / 2, half_wide * 2
over_r = series(lambda r: mp.expm1(r) / r, mp.mpf(1))
over_r_2 = series(lambda r: mp.expm1(r * mp.log(2)) / r, mp.log(2))
for suffix, double, terms in (("F32", False, (6, 7, 6, 6, 7, 5)), ("F64", True, (12, 14, 11, 12, 14, 11))):
    exp_terms, wide_terms, expm1_terms, exp2_terms, exp2_wide_terms, tanh_terms = terms
    fit(f"EXP_{suffix}", "`(exp(r) - 1) / r`, relative to `exp(r)`; |r| up to ln(2)/2.",
        over_r, lambda r: r / mp.exp(r), list(range(exp_terms)), -half_wide, half_wide, double)
    fit(f"EXP_WIDE_{suffix}", "`(exp(r) - 1) / r`, relative to `exp(r)`; |r| up to ln(2).",
        over_r, lambda r: r / mp.exp(r), list(range(wide_terms)), -whole_wide, whole_wide, double)
    fit(f"EXPM1_{suffix}", "`(exp(r) - 1 - r) / r²`, relative to `exp(r) - 1`; |r| up to ln(2)/2.",
        series(lambda r: (mp.expm1(r) - r) / r ** 2, mp.mpf(1) / 2),
        series(lambda r: r ** 2 / mp.expm1(r), mp.mpf('1e-20')), list(range(expm1_terms)),
        -half_wide, half_wide, double)
    fit(f"EXP2_{suffix}", "`(2^r - 1) / r`, relative to `2^r`; |r| up to 1/2.",
        over_r_2, lambda r: r / 2 ** r, list(range(exp2_terms)), mp.mpf('-0.501'), mp.mpf('0.501'), double)
    fit(f"EXP2_WIDE_{suffix}", "`(2^r - 1) / r`, relative to `2^r`; |r| up to 1.",
        over_r_2, lambda r: r / 2 ** r, list(range(exp2_wide_terms)), mp.mpf('-1.002'), mp.mpf('1.002'), double)
    fit(f"TANH_{suffix}", "`((exp(2r) - 1) / 2 - r) / r²`, relative to `(exp(2r) - 1) / 2`; |r| up to ln(2)/4.",
        series(lambda r: (mp.expm1(2 * r) / 2 - r) / r ** 2, mp.mpf(1)),
        series(lambda r: 2 * r ** 2 / mp.expm1(2 * r), mp.mpf('1e-20')), list(range(tanh_terms)),
        -quarter_wide, quarter_wide, double)

fit("LOG_F32", "`(log(1 + f) - f + f²/2) / f³`, relative to `log(1 + f)`; 1 + f from √½ to √2.",
    series(lambda f: (mp.log1p(f) - f + f ** 2 / 2) / f ** 3, mp.mpf(1) / 3),
    series(lambda f: f ** 3 / mp.log1p(f), mp.mpf('1e-40')), list(range(9)),
    root - 1 - mp.mpf('1e-4'), 1 / root - 1 + mp.mpf('1e-4'), False)
s_max = (mp.sqrt(2) - 1) / (mp.sqrt(2) + 1) * mp.mpf('1.001')
fit("LOG_F64", "`(log((1 + s) / (1 - s)) - 2s) / s³` as a polynomial of z = s², relative to 2; s up to √2's.",
    series(lambda z: (2 * mp.atanh(mp.sqrt(z)) - 2 * mp.sqrt(z)) / mp.sqrt(z) ** 3, mp.mpf(2) / 3),
    lambda z: z / 2, list(range(8)), mp.mpf('1e-30'), s_max ** 2, True)
fit("LOG_TAIL", "`(atanh(s) - s - s³/3) / s⁵` as a polynomial of z = s², relative to 1.",
    series(lambda z: (mp.atanh(mp.sqrt(z)) - mp.sqrt(z) - mp.sqrt(z) ** 3 / 3) / mp.sqrt(z) ** 5,
           mp.mpf(1) / 5),
    lambda z: z ** 2, list(range(8)), mp.mpf('1e-24'), s_max ** 2, True)

quarter = mp.pi / 4 * mp.mpf('1.0005')
for suffix, sin_terms, cos_terms in (("F32", 4, 4), ("F64", 7, 7)):
    fit(f"SIN_{suffix}", "`(sin(r) - r) / r³` as a polynomial of z = r², relative to `sin(r)`; |r| up to π/4.",
        series(lambda z: (mp.sin(mp.sqrt(z)) - mp.sqrt(z)) / mp.sqrt(z) ** 3, -mp.mpf(1) / 6),
        lambda z: z, list(range(sin_terms)), mp.mpf('1e-24'), quarter ** 2, True)
    fit(f"COS_{suffix}", "`(cos(r) - 1 + r²/2) / r⁴` as a polynomial of z = r²; |r| up to π/4.",
        series(lambda z: (mp.cos(mp.sqrt(z)) - 1 + z / 2) / z ** 2, mp.mpf(1) / 24),
        lambda z: z ** 2, list(range(cos_terms)), mp.mpf('1e-15'), quarter ** 2, True)

ERF_SPLIT32, ERF_SPLIT64 = mp.mpf('0.875'), mp.mpf(1)
over_x = series(lambda z: mp.erf(mp.sqrt(z)) / mp.sqrt(z) - 1, 2 / mp.sqrt(mp.pi) - 1)
fit("ERF_NEAR_F32", "`erf(x)/x - 1` as a polynomial of z = x², relative to `erf(x)/x`; x up to 0.875.",
    over_x, lambda z: 1, list(range(7)), mp.mpf('1e-24'), ERF_SPLIT32 ** 2, False)
fit("ERF_NEAR_F64", "`erf(x)/x - 1` as a polynomial of z = x², relative to `erf(x)/x`; x up to 1.",
    over_x, lambda z: 1, list(range(13)), mp.mpf('1e-24'), ERF_SPLIT64 ** 2, True)
# In the distance from the near end, where the terms are small while erfc is not.
fit("ERF_FAR_F32", "`-log(erfc(t + 0.875))`, error times `erfc`; t up to 3.125.",
    lambda t: -mp.log(mp.erfc(t + ERF_SPLIT32)), lambda t: mp.erfc(t + ERF_SPLIT32), list(range(10)),
    mp.mpf(0), mp.mpf('3.125'), False)
fit("ERF_FAR_F64", "`-log(erfc(t + 1))`, error times `erfc`; t up to 5.",
    lambda t: -mp.log(mp.erfc(t + 1)), lambda t: mp.erfc(t + 1), list(range(21)), mp.mpf(0), mp.mpf(5), True,
    refit=False)

mp.mp.dps = 420
words = int(mp.floor(2 / mp.pi * mp.mpf(2) ** (64 * 20)))
words = [(words >> (64 * (19 - i))) & (2 ** 64 - 1) for i in range(20)]
print("/// The binary digits of 2/π after the point, 64 a word, most significant first.")
print("pub(super) const TWO_OVER_PI: [u64; 20] = [")
for w in words:
    print(f"    0x{w:016x},")
print("];")

mp.mp.dps = 60


def chopped(x, bits):
    return mp.mpf(int(mp.floor(x * mp.mpf(2) ** (bits - 1)))) / mp.mpf(2) ** (bits - 1)


def constant(name, doc, *parts):
    values = ", ".join(repr(float(p)) for p in parts)
    print(f"/// {doc}")
    if len(parts) == 1:
        print(f"pub(super) const {name}: f64 = {values};")
    else:
        print(f"pub(super) const {name}: [f64; {len(parts)}] = [{values}];")


print()
ln2 = mp.log(2)
constant("LN_2_F32", "ln(2) as a part of 15 bits and the rest.", chopped(ln2, 16), ln2 - chopped(ln2, 16))
constant("LN_2_F64", "ln(2) as a part of 33 bits and the rest.", chopped(ln2, 34), ln2 - chopped(ln2, 34))
log2e = 1 / ln2
single = mp.mpf(rounded(log2e, False))
constant("LOG2_E_F32", "log2(e) as an f32 and the rest.", single, log2e - single)
double = mp.mpf(float(log2e))
constant("LOG2_E_F64", "log2(e) as an f64 and the rest.", double, log2e - double)
twice = mp.mpf(float(2 * log2e))
constant("TWO_LOG2_E", "2 log2(e) as an f64 and the rest.", twice, 2 * log2e - twice)
third = mp.mpf(float(mp.mpf(1) / 3))
constant("THIRD", "1/3 as an f64 and the rest.", third, mp.mpf(1) / 3 - third)
right = mp.pi / 2
first = chopped(right, 33)
second = chopped((right - first) * mp.mpf(2) ** 32, 33) / mp.mpf(2) ** 32
constant("HALF_PI_SPLIT", "π/2 as two parts of 33 bits and the rest.", first, second, right - first - second)
full = mp.mpf(float(right))
constant("HALF_PI", "π/2 as an f64 and the rest.", full, right - full)
constant("INVERSE_HALF_PI", "2/π.", 2 / mp.pi)
