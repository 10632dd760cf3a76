//! Functions that a model defines, inlined where they are called.

use std::borrow::Cow;

use prost::Message;

use super::error::{Built, OnnxError};
use super::importer::{Importer, Scope};
use super::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto};
use super::value::Value;

/// The outputs of a call of a function.
pub(crate) fn inline(
    importer: &Importer<'_>,
    function: &FunctionProto,
    node: &NodeProto,
    inputs: Vec<Option<Value>>,
) -> Built<Vec<Value>> {
    let scope = Scope::new(None);
    for (name, value) in function.input.iter().zip(inputs) {
        if let Some(value) = value {
            scope.set(name, value)?;
        }
    }
    let given = |name: &str| {
        let own = node.attribute.iter().find(|a| a.name() == name);
        own.or_else(|| function.attribute_proto.iter().find(|a| a.name() == name)).cloned()
    };
    let mut nodes = Vec::with_capacity(function.node.len());
    for node in &function.node {
        nodes.push(if refers(node) {
            let copy = with_attributes(node, &given);
            importer.model.data.charge(copy.encoded_len())?;
            Cow::Owned(copy)
        } else {
            Cow::Borrowed(node)
        });
    }
    importer.nodes_of(nodes.iter().map(Cow::as_ref), &scope)?;
    let output = |name: &String| {
        scope.get(name).ok_or_else(|| {
            OnnxError::Malformed(format!("output `{name}` of function `{}` is not computed", function.name()))
                .into()
        })
    };
    function.output.iter().take(node.output.len()).map(output).collect()
}

/// Whether attributes of a node, or of nodes within it, are those of the call.
fn refers(node: &NodeProto) -> bool {
    node.attribute.iter().any(|a| {
        !a.ref_attr_name().is_empty() || a.g.iter().chain(&a.graphs).flat_map(|g| &g.node).any(refers)
    })
}

/// A node of a function with the attributes of the call in place of references to them; references to attributes
/// that are not given drop out.
fn with_attributes(node: &NodeProto, given: &impl Fn(&str) -> Option<AttributeProto>) -> NodeProto {
    let attribute = |a: &AttributeProto| -> Option<AttributeProto> {
        let mut own = match a.ref_attr_name() {
            "" => a.clone(),
            reference => AttributeProto { name: a.name.clone(), ..given(reference)? },
        };
        own.g = own.g.map(|graph| GraphProto {
            node: graph.node.iter().map(|n| with_attributes(n, given)).collect(),
            ..graph
        });
        Some(own)
    };
    NodeProto { attribute: node.attribute.iter().filter_map(attribute).collect(), ..node.clone() }
}
