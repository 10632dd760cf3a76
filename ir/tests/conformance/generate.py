#!/usr/bin/env python3
"""Computes scalars.txt: operands and expected values of every elementwise op, cast and reduction.

Nothing here shares code with the compiler. Rational functions are computed exactly with fractions, the others
with mpmath at 300 to 2400 bits; each value is rounded once, to f64 (bit-exact ops: to the element type).

    python3 -m venv .venv && .venv/bin/pip install mpmath
    .venv/bin/python generate.py > scalars.txt

Lines: `values DTYPE ARITY v…`, `case OP DTYPE v…`, `cast FROM TO v…`, `reduce OP DTYPE WIDTH v… = v…`. An operand
tuple is joined by `:`. Floats are the bits of the value as f64, without trailing zero digits, and `n` is NaN;
integers are decimal; bools are 0 and 1.
"""

import math
import random
import struct
from fractions import Fraction

from mpmath import mp, mpf

FLOATS = {"f32": (24, -126, 127), "f64": (53, -1022, 1023), "f16": (11, -14, 15), "bf16": (8, -126, 127)}
INTS = {"i32": (-(2**31), 2**31 - 1), "i64": (-(2**63), 2**63 - 1), "u8": (0, 255)}
NAN, INF = math.nan, math.inf
# How struct calls the floats that have an integer of their width, and that integer.
WORDS = {"f32": ("<f", "<i", "i32"), "f64": ("<d", "<q", "i64")}


# ---------------------------------------------------------------- rounding and encoding


def round_to(dtype, exact):
    """The float of `dtype`, as a Python float, nearest to a nonzero fraction; ties to even."""
    precision, low, high = FLOATS[dtype]
    magnitude = abs(exact)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if magnitude < Fraction(2) ** exponent:
        exponent -= 1
    quantum = Fraction(2) ** (max(exponent, low) - precision + 1)
    steps = round(magnitude / quantum)  # Python rounds a Fraction half to even.
    value = steps * quantum
    result = INF if value >= Fraction(2) ** (high + 1) else float(value)
    return -result if exact < 0 else result


def from_mp(x):
    """The f64 nearest to an mpf."""
    if mp.isnan(x):
        return NAN
    if mp.isinf(x):
        return INF if x > 0 else -INF
    sign, mantissa, exponent, bits = x._mpf_
    if mantissa == 0:
        return 0.0
    if exponent + bits > 1100:
        return -INF if sign else INF
    if exponent + bits < -1200:
        return -0.0 if sign else 0.0
    exact = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return round_to("f64", -exact if sign else exact)


def encode(dtype, value):
    if dtype in FLOATS:
        if math.isnan(value):
            return "n"
        return struct.pack(">d", value).hex().rstrip("0") or "0"
    return str(int(value))


# ---------------------------------------------------------------- operands


def float_values(dtype):
    precision, low, high = FLOATS[dtype]
    tiny, least = 2.0 ** (low - precision + 1), 2.0**low
    largest = float((2 - Fraction(2) ** (1 - precision)) * Fraction(2) ** high)
    epsilon = 2.0 ** (1 - precision)
    plain = [tiny, least - tiny, least, largest, 1.0, 1 + epsilon, 1 - epsilon / 2, 0.5, 0.5 - epsilon / 4]
    plain += [1.5, 2.5, 3.5, 2.0, 3.0, 4.0, math.pi / 2, math.pi, math.log(2), 2 / 3, 10.0, 20.0, 0.1, 0.25, 0.75]
    plain += [1e-3, 1e-5, 1e-8, 1e-20, 1e-30, 5.9, 9.01, 16.7, 37.0, 87.3, 88.72, 88.73, 103.9, 104.0, 127.0, 128.0]
    plain += [100.0, 126.5, 149.0, 150.0, 1000.0, 4097.0, 1e5, 8388607.5, 16777217.0, 1e10, 1e22, 1e38, 0.9999, 0.6]
    plain += [255.0, 256.5, 2147483520.0, 2147483648.0, 9.3e18, 65504.0, 11.09, 15.9, 24.9]
    if dtype == "f64":
        plain += [709.78, 709.79, 745.1, 745.2, 1e300, 1e-300, 1022.5, 1074.0, 1075.5, 4503599627370495.5]
    generator = random.Random(f"unary {dtype}")
    plain += [math.exp(generator.uniform(-12, 12)) for _ in range(12)]
    plain += [generator.uniform(0, 4) for _ in range(12)]
    values = [0.0, -0.0, INF, -INF, NAN]
    for value in plain:
        value = round_to(dtype, Fraction(value))
        if math.isfinite(value):
            values += [value, -value]
    return unique(dtype, values)


def float_pairs(dtype):
    precision, low, high = FLOATS[dtype]
    largest = float((2 - Fraction(2) ** (1 - precision)) * Fraction(2) ** high)
    special = [0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, largest, 2.0 ** (low - precision + 1), 2.5, -3.0]
    pairs = [(x, y) for x in special for y in special]
    hand = [(7, 3), (-7, 3), (7, -3), (-7, -3), (5.5, 2), (-5.5, 2), (5.5, -2), (6, 3), (-6, 3), (6, -3), (2, 0.5)]
    hand += [(-8, 1 / 3), (-2, 3), (-2, 3.5), (-2, -3), (10, 38), (2, -149), (2, 127), (0.5, 100), (1.0001, 9999)]
    hand += [(0.99, 500), (1, 1e-7), (1e10, 1), (16777216, 1), (1e5, 0.1), (1e5, 3), (100, 0.3), (0.1, 0.2), (1, 3)]
    hand += [(-1e-30, 1), (1e-30, -1), (1e-8, 1), (-1e-8, 1), (3, 1e-3), (2048, 1), (256, 1), (2049, 0.5)]
    generator = random.Random(f"binary {dtype}")
    hand += [(generator.uniform(-5, 5), generator.uniform(-5, 5)) for _ in range(20)]
    hand += [(generator.uniform(0, 9), generator.uniform(-4, 4)) for _ in range(16)]

    def value(x):
        return math.copysign(0.0, x) if x == 0 else round_to(dtype, Fraction(x))

    for x, y in hand:
        x, y = value(x), value(y)
        if math.isfinite(x) and math.isfinite(y):
            pairs.append((x, y))
    return unique(dtype, pairs)


def float_triples(dtype):
    special = [0.0, -0.0, 1.0, -2.5, INF, -INF, NAN]
    triples = [(x, low, high) for x in special for low, high in [(-1.0, 2.0), (0.0, -0.0), (-INF, INF), (3.0, 1.0)]]
    triples += [(1.0, NAN, 2.0), (1.0, 0.0, NAN), (-0.0, 0.0, 1.0), (0.0, -1.0, -0.0), (0.25, 0.5, 0.75)]
    return unique(dtype, triples)


def int_values(dtype):
    low, high = INTS[dtype]
    values = [0, 1, 2, 3, 5, 7, 100, 127, 128, 200, 255, 256, 65504, 2049, 16777217, 33554435, 2**31, 2**53 + 1]
    values += [2**62 + 2**54 + 1, 2**40 + 2**32, low, low + 1, high, high - 1, 0x55555555, 257, 32769, 98305]
    values += [-v for v in values]
    return unique(dtype, [v for v in values if low <= v <= high])


def int_pairs(dtype):
    low, high = INTS[dtype]
    special = [v for v in [0, 1, -1, 2, 3, -3, 7, -7, low, high] if low <= v <= high]
    pairs = [(x, y) for x in special for y in special]
    generator = random.Random(f"binary {dtype}")
    pairs += [(generator.randint(low, high), generator.randint(low, high)) for _ in range(12)]
    return unique(dtype, pairs)


def int_triples(dtype):
    low, high = INTS[dtype]
    triples = [(x, 2, 5) for x in [0, 2, 3, 5, 6, low, high]] + [(4, 6, 3), (high, low, high), (low, low, high)]
    return unique(dtype, triples)


def unique(dtype, items):
    seen, out = set(), []
    for item in items:
        key = text(dtype, item)
        if key not in seen:
            seen.add(key)
            out.append(item)
    return out


def text(dtype, item):
    return ":".join(encode(dtype, x) for x in item) if isinstance(item, tuple) else encode(dtype, item)


# ---------------------------------------------------------------- functions of floats


def negative(x):
    return math.copysign(1.0, x) < 0


def integral(function):
    """An op that gives an integer with the sign of its operand, zeros too."""

    def apply(dtype, x):
        return x if not math.isfinite(x) else math.copysign(float(function(Fraction(x))), x)

    return apply


def through_mp(function, specials, bits=300):
    """A function by mpmath, but for the operands in `specials` (nan, inf, -inf, and 0 with its sign kept)."""

    def apply(dtype, x):
        if math.isnan(x):
            return NAN
        if math.isinf(x):
            return specials["inf" if x > 0 else "-inf"]
        if x == 0 and "0" in specials:
            return specials["-0"] if negative(x) and "-0" in specials else specials["0"]
        with mp.workprec(bits):
            result = from_mp(function(mpf(x)))
        return result

    return apply


ODD_ZERO = {"0": 0.0, "-0": -0.0}


def below(limit, function, otherwise=NAN):
    return lambda x: function(x) if x > limit else mpf(otherwise)


def softplus(x):
    if x > 2000:
        return x
    return mp.exp(x) if x < -1000 else mp.log(1 + mp.exp(x))


UNARY = {
    "neg": lambda d, x: -x,
    "abs": lambda d, x: abs(x),
    "sign": lambda d, x: x if x == 0 or math.isnan(x) else math.copysign(1.0, x),
    "floor": integral(math.floor),
    "ceil": integral(math.ceil),
    "round": integral(round),
    "trunc": integral(math.trunc),
    "sqrt": through_mp(below(0, mp.sqrt), {"inf": INF, "-inf": NAN} | ODD_ZERO),
    "rsqrt": through_mp(below(0, lambda x: 1 / mp.sqrt(x)), {"inf": 0.0, "-inf": NAN, "0": INF, "-0": -INF}),
    "reciprocal": through_mp(lambda x: 1 / x, {"inf": 0.0, "-inf": -0.0, "0": INF, "-0": -INF}),
    "exp": through_mp(mp.exp, {"inf": INF, "-inf": 0.0}),
    "exp2": through_mp(lambda x: mp.exp(x * mp.log(2)), {"inf": INF, "-inf": 0.0}, 2400),
    "expm1": through_mp(lambda x: mp.exp(x) - 1, {"inf": INF, "-inf": -1.0} | ODD_ZERO, 2400),
    "log": through_mp(below(0, mp.log), {"inf": INF, "-inf": NAN, "0": -INF}),
    "log2": through_mp(below(0, lambda x: mp.log(x) / mp.log(2)), {"inf": INF, "-inf": NAN, "0": -INF}),
    "log1p": through_mp(
        lambda x: mpf("-inf") if x == -1 else below(-1, lambda v: mp.log(1 + v))(x),
        {"inf": INF, "-inf": NAN} | ODD_ZERO,
        2400,
    ),
    "sin": through_mp(mp.sin, {"inf": NAN, "-inf": NAN} | ODD_ZERO, 2400),
    "cos": through_mp(mp.cos, {"inf": NAN, "-inf": NAN}, 2400),
    "tanh": through_mp(
        lambda x: mp.sign(x) if abs(x) > 2000 else mp.tanh(x), {"inf": 1.0, "-inf": -1.0} | ODD_ZERO, 2400
    ),
    "sigmoid": through_mp(lambda x: 1 / (1 + mp.exp(-x)), {"inf": 1.0, "-inf": 0.0}, 2400),
    "softplus": through_mp(softplus, {"inf": INF, "-inf": 0.0}, 2400),
    "erf": through_mp(
        lambda x: mp.sign(x) if abs(x) > 40 else mp.erf(x), {"inf": 1.0, "-inf": -1.0} | ODD_ZERO, 600
    ),
    "relu": lambda d, x: x if x > 0 or math.isnan(x) else 0.0,
}


def exact(function):
    """A rational function of finite operands, rounded once; `function` gives None to fall through to floats."""

    def apply(dtype, x, y):
        if math.isfinite(x) and math.isfinite(y):
            result = function(Fraction(x), Fraction(y))
            if result:
                return round_to("f64", result)
        return None

    return apply


def arithmetic(rational, on_floats):
    rounded = exact(rational)

    def apply(dtype, x, y):
        result = rounded(dtype, x, y)
        # Zeros, infinities and NaN: Python's own floats are IEEE.
        return on_floats(x, y) if result is None else result

    return apply


def divide_special(x, y):
    if math.isnan(x) or math.isnan(y) or (x == 0 and y == 0) or (math.isinf(x) and math.isinf(y)):
        return NAN
    sign = -1.0 if negative(x) != negative(y) else 1.0
    return math.copysign(INF if y == 0 or math.isinf(x) else 0.0, sign)


def remainder(dtype, x, y):
    if math.isnan(x) or math.isnan(y) or math.isinf(x) or y == 0:
        return NAN
    if math.isinf(y):
        return x
    rest = Fraction(x) - Fraction(y) * math.trunc(Fraction(x) / Fraction(y))
    return round_to(dtype, rest) if rest else math.copysign(0.0, x)


def modulo(dtype, x, y):
    if math.isnan(x) or math.isnan(y) or math.isinf(x) or y == 0:
        return NAN
    if math.isinf(y):
        # As the limit of large y: x itself, or y where the signs differ.
        return math.copysign(0.0, y) if x == 0 else x if negative(x) == negative(y) else y
    rest = Fraction(x) - Fraction(y) * math.floor(Fraction(x) / Fraction(y))
    return round_to(dtype, rest) if rest else math.copysign(0.0, y)


def power(dtype, x, y):
    if y == 0 or x == 1:
        return 1.0
    if x == 0 or not math.isfinite(x) or not math.isfinite(y):
        try:
            return math.pow(x, y)
        except ValueError:  # A zero to a negative power, which C defines as an infinity.
            odd = y == math.trunc(y) and int(y) % 2 == 1
            return -INF if odd and negative(x) else INF
    whole = y == math.trunc(y)
    if x < 0 and not whole:
        return NAN
    with mp.workprec(2400):
        magnitude = from_mp(mp.exp(mpf(y) * mp.log(abs(mpf(x)))))
    return -magnitude if x < 0 and int(y) % 2 == 1 else magnitude


def smaller(x, y):
    if math.isnan(x) or math.isnan(y):
        return NAN
    return min((x, y), key=lambda v: (v, not negative(v)))


def larger(x, y):
    if math.isnan(x) or math.isnan(y):
        return NAN
    return max((x, y), key=lambda v: (v, not negative(v)))


COMPARISONS = {
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
}

BINARY = {
    "add": arithmetic(lambda x, y: x + y, lambda x, y: x + y),
    "sub": arithmetic(lambda x, y: x - y, lambda x, y: x - y),
    "mul": arithmetic(lambda x, y: x * y, lambda x, y: x * y),
    "div": arithmetic(lambda x, y: x / y if y else None, divide_special),
    "modulo": modulo,
    "rem": remainder,
    "pow": power,
    "minimum": lambda d, x, y: smaller(x, y),
    "maximum": lambda d, x, y: larger(x, y),
}


# ---------------------------------------------------------------- functions of integers


def wrapped(dtype, value):
    low, high = INTS[dtype]
    return (value - low) % (high - low + 1) + low


INT_UNARY = {
    "neg": lambda x: -x,
    "abs": abs,
    "sign": lambda x: (x > 0) - (x < 0),
    "relu": lambda x: max(x, 0),
    "not": lambda x: -x - 1,
}


def quotient(x, y):
    return 0 if y == 0 else (abs(x) // abs(y)) * (1 if (x < 0) == (y < 0) else -1)


INT_BINARY = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": quotient,
    "modulo": lambda x, y: 0 if y == 0 else x % y,
    "rem": lambda x, y: 0 if y == 0 else x - y * quotient(x, y),
    "minimum": min,
    "maximum": max,
    "and": lambda x, y: x & y,
    "or": lambda x, y: x | y,
    "xor": lambda x, y: x ^ y,
}


# ---------------------------------------------------------------- casts and reductions


def cast(source, target, value):
    if target == "bool":
        return int(value != 0)
    if target in FLOATS:
        if source in FLOATS and (not math.isfinite(value) or value == 0):
            return value
        return round_to(target, Fraction(value)) if value else 0.0
    low, high = INTS[target]
    if source not in FLOATS:
        return wrapped(target, value)
    if math.isnan(value):
        return 0
    return low if value < low else high if value > high else min(max(math.trunc(value), low), high)


def reduce(op, dtype, row):
    is_float = dtype in FLOATS
    if op in ("sum", "prod"):
        exact_row = [Fraction(v) if not is_float or math.isfinite(v) else v for v in row]
        if any(isinstance(v, float) for v in exact_row):
            total = sum(row) if op == "sum" else math.prod(row)
        else:
            total = sum(exact_row) if op == "sum" else math.prod(exact_row)
        if not is_float:
            return wrapped(dtype, int(total))
        if isinstance(total, float):
            return total
        return round_to(dtype, total) if total else 0.0
    nans = [i for i, v in enumerate(row) if is_float and math.isnan(v)]
    if op in ("max", "min"):
        pick = max if op == "max" else min
        return NAN if nans else pick(row, key=lambda v: (v, not negative(v) if is_float else True))
    if nans:
        return nans[0]
    return row.index(max(row) if op == "argmax" else min(row))


def reduce_rows(op, dtype):
    """Rows whose sums and products are exact in any order and in the narrowest type."""
    if dtype in FLOATS:
        rows = [[1.0, 2.0, -3.0, 4.5, 0.5, 4.5, -3.0], [-0.5, 8.0, -2.0, 1.0, 1.0, 4.0, 0.25]]
        rows += [[1.0, NAN, INF, NAN, 2.0, 3.0, 4.0], [INF, 1.0, 2.0, -1.0, 5.0, INF, 0.5]]
        rows += [[-INF, -1.0, -2.0, -INF, -1.0, -0.5, -4.0], [-1.0] * 7]
        if op not in ("sum", "prod", "argmax", "argmin"):
            rows.append([0.0, -0.0, 0.0, -0.0, 0.0, -0.0, 0.0])
        return rows
    low, high = INTS[dtype]
    rows = [[1, 2, 3, 4, 3, 2, 1], [high, 1, 2, high, 5, 3, 1], [low, 7, low, 1, 2, 3, 4]]
    if low < 0:
        rows += [[-1, -2, -3, -4, -5, -6, -7], [high, high, low, -1, 2, 9, -9]]
    return rows


# ---------------------------------------------------------------- output


def line(*words):
    print(" ".join(str(w) for w in words))


def to_bits(dtype, x):
    as_float, as_int, _ = WORDS[dtype]
    return struct.unpack(as_int, struct.pack(as_float, x))[0]


def from_bits(dtype, x):
    as_float, as_int, _ = WORDS[dtype]
    return struct.unpack(as_float, struct.pack(as_int, x))[0]


def case(op, dtype, result_type, items, function):
    results = [function(*(i if isinstance(i, tuple) else (i,))) for i in items]
    line("case", op, dtype, *(encode(result_type, r) for r in results))


def main():
    print("# Generated by generate.py; its head explains the format.")
    for dtype in FLOATS:
        singles, pairs, triples = float_values(dtype), float_pairs(dtype), float_triples(dtype)
        for arity, items in [(1, singles), (2, pairs), (3, triples)]:
            line("values", dtype, arity, *(text(dtype, i) for i in items))
        for op, function in UNARY.items():
            case(op, dtype, "f64", singles, lambda x, f=function: f(dtype, x))
        case("is_nan", dtype, "bool", singles, math.isnan)
        for op, function in BINARY.items():
            case(op, dtype, "f64", pairs, lambda x, y, f=function: f(dtype, x, y))
        for op, function in COMPARISONS.items():
            case(op, dtype, "bool", pairs, function)
        if dtype in WORDS:
            case("to_bits", dtype, WORDS[dtype][2], singles, lambda x: to_bits(dtype, x))
        case("clamp", dtype, "f64", triples, lambda x, low, high: smaller(larger(x, low), high))
    for dtype in INTS:
        singles, pairs, triples = int_values(dtype), int_pairs(dtype), int_triples(dtype)
        for arity, items in [(1, singles), (2, pairs), (3, triples)]:
            line("values", dtype, arity, *(text(dtype, i) for i in items))
        for op, function in INT_UNARY.items():
            case(op, dtype, dtype, singles, lambda x, f=function: wrapped(dtype, f(x)))
        for op, function in INT_BINARY.items():
            case(op, dtype, dtype, pairs, lambda x, y, f=function: wrapped(dtype, f(x, y)))
        for op, function in COMPARISONS.items():
            case(op, dtype, "bool", pairs, function)
        for float_type, (_, _, int_type) in WORDS.items():
            if int_type == dtype:
                case("from_bits", dtype, "f64", singles, lambda x, t=float_type: from_bits(t, x))
        case("clamp", dtype, dtype, triples, lambda x, low, high: min(max(x, low), high))
    line("values", "bool", 1, 0, 1)
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1)]
    line("values", "bool", 2, *(text("bool", p) for p in pairs))
    case("not", "bool", "bool", [0, 1], lambda x: not x)
    for op in ["eq", "ne"]:
        case(op, "bool", "bool", pairs, COMPARISONS[op])
    for op in ["and", "or", "xor"]:
        case(op, "bool", "bool", pairs, INT_BINARY[op])
    types = [*FLOATS, *INTS, "bool"]
    for source in types:
        singles = [0, 1] if source == "bool" else float_values(source) if source in FLOATS else int_values(source)
        for target in types:
            line("cast", source, target, *(encode(target, cast(source, target, v)) for v in singles))
    for dtype in [*FLOATS, *INTS]:
        for op in ["sum", "prod", "max", "min", "argmax", "argmin"]:
            rows = reduce_rows(op, dtype)
            result_type = "i64" if op.startswith("arg") else dtype
            operands = [encode(dtype, v) for row in rows for v in row]
            results = [encode(result_type, reduce(op, dtype, row)) for row in rows]
            line("reduce", op, dtype, len(rows[0]), *operands, "=", *results)


main()
