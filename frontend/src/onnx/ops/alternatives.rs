//! What could stand in place of operators that are not imported.

/// Why an operator is not imported, and what could replace it.
pub(crate) fn to(domain: &str, name: &str) -> String {
    if !matches!(domain, "" | "ai.onnx") {
        let text =
            "is not ONNX's own; export without fused operators of a runtime, or define it as a function";
        return format!("the operator's domain `{domain}` {text}");
    }
    let instead = match name {
        "QuantizeLinear"
        | "DequantizeLinear"
        | "DynamicQuantizeLinear"
        | "QLinearMatMul"
        | "MatMulInteger"
        | "QLinearConv"
        | "ConvInteger" => "export the model before quantisation",
        "RandomNormal" | "RandomUniform" | "RandomNormalLike" | "RandomUniformLike" | "Bernoulli"
        | "Multinomial" => "make the random tensor an input of the model",
        "StringNormalizer" | "StringSplit" | "StringConcat" | "RegexFullMatch" | "TfIdfVectorizer"
        | "LabelEncoder" => "strings belong before the model; feed it numbers",
        "Adam" | "Adagrad" | "Momentum" | "Gradient" => "export the model for inference",
        "Optional" | "OptionalGetElement" | "OptionalHasElement" => "pass tensors instead of optional values",
        _ => "rewrite the model without it, or ask for it",
    };
    format!("the operator is not supported; {instead}")
}
