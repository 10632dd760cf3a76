//! Literals and type names of PTX.

use super::syntax::Literal;

/// The value of a literal; `None` for what is none.
pub(super) fn literal(text: &str) -> Option<Literal> {
    if let Some(digits) = text.strip_prefix("0f").or_else(|| text.strip_prefix("0F")) {
        return u32::from_str_radix(digits, 16).ok().map(Literal::Single);
    }
    if let Some(digits) = text.strip_prefix("0d").or_else(|| text.strip_prefix("0D")) {
        let bits = u64::from_str_radix(digits, 16).ok()?;
        return Some(Literal::Double(f64::from_bits(bits)));
    }
    if text.contains('.') {
        return text.parse().ok().map(Literal::Double);
    }
    let digits = text.strip_suffix('U').unwrap_or(text);
    let value = if let Some(digits) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        u64::from_str_radix(digits, 16)
    } else if let Some(digits) = digits.strip_prefix("0b").or_else(|| digits.strip_prefix("0B")) {
        u64::from_str_radix(digits, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(&digits[1..], 8)
    } else {
        digits.parse()
    };
    value.ok().map(Literal::Integer)
}

/// The bytes of a literal in an initialiser whose elements have `size` bytes.
pub(super) fn bytes_of(value: Literal, size: usize) -> Vec<u8> {
    let bits = match value {
        Literal::Integer(v) => v,
        Literal::Single(bits) => u64::from(bits),
        Literal::Double(v) if size == 4 => u64::from((v as f32).to_bits()),
        Literal::Double(v) => v.to_bits(),
    };
    bits.to_le_bytes()[..size.min(8)].to_vec()
}

/// The bytes of a fundamental type, named with its point.
pub(super) fn type_bytes(word: &str) -> Option<u64> {
    Some(match word {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" => 8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_of_every_notation_are_read() {
        assert_eq!(literal("0f3F800000"), Some(Literal::Single(0x3F80_0000)));
        assert_eq!(literal("0d3FF0000000000000"), Some(Literal::Double(1.0)));
        assert_eq!(literal("0x1f"), Some(Literal::Integer(31)));
        assert_eq!(literal("017"), Some(Literal::Integer(15)));
        assert_eq!(literal("0b101"), Some(Literal::Integer(5)));
        assert_eq!(literal("42U"), Some(Literal::Integer(42)));
        assert_eq!(literal("18446744073709551615"), Some(Literal::Integer(u64::MAX)));
        assert_eq!(literal("1.5"), Some(Literal::Double(1.5)));
        assert_eq!(literal("0fzz"), None);
    }
}
