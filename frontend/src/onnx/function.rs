//! Functions that a model defines, inlined where they are called.

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
    let nodes: Vec<NodeProto> = function.node.iter().map(|n| with_attributes(n, &given)).collect();
    importer.nodes_of(&nodes, &scope)?;
    let output = |name: &String| {
        scope.get(name).ok_or_else(|| {
            OnnxError::Malformed(format!("output `{name}` of function `{}` is not computed", function.name()))
                .into()
        })
    };
    function.output.iter().take(node.output.len()).map(output).collect()
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
