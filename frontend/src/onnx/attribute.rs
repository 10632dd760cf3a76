//! Attributes of a node, typed.

use fuse_ir::tensor::Tensor as HostTensor;

use super::error::{Built, refuse};
use super::proto::attribute_proto::AttributeType;
use super::proto::{AttributeProto, GraphProto, NodeProto};
use super::tensor::{Data, host_tensor};

/// The attributes of a node.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a NodeProto);

impl<'a> Attributes<'a> {
    fn find(self, name: &str, ty: AttributeType) -> Built<Option<&'a AttributeProto>> {
        let Some(attribute) = self.0.attribute.iter().find(|a| a.name() == name) else { return Ok(None) };
        // Files of IR version 1 leave the type out.
        if attribute.r#type() != ty && attribute.r#type() != AttributeType::Undefined {
            return refuse(format!("attribute `{name}` is of type {:?}, not {ty:?}", attribute.r#type()));
        }
        Ok(Some(attribute))
    }

    /// Whether the attribute is given.
    pub(crate) fn has(self, name: &str) -> bool {
        self.0.attribute.iter().any(|a| a.name() == name)
    }

    /// An integer.
    pub(crate) fn int(self, name: &str) -> Built<Option<i64>> {
        Ok(self.find(name, AttributeType::Int)?.map(AttributeProto::i))
    }

    /// An integer with a default.
    pub(crate) fn int_or(self, name: &str, default: i64) -> Built<i64> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// An integer used as a truth value.
    pub(crate) fn flag(self, name: &str, default: bool) -> Built<bool> {
        Ok(self.int(name)?.map_or(default, |v| v != 0))
    }

    /// A float.
    pub(crate) fn float(self, name: &str) -> Built<Option<f64>> {
        Ok(self.find(name, AttributeType::Float)?.map(|a| f64::from(a.f())))
    }

    /// A float with a default.
    pub(crate) fn float_or(self, name: &str, default: f64) -> Built<f64> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    /// Integers.
    pub(crate) fn ints(self, name: &str) -> Built<Option<&'a [i64]>> {
        Ok(self.find(name, AttributeType::Ints)?.map(|a| &a.ints[..]))
    }

    /// Floats.
    pub(crate) fn floats(self, name: &str) -> Built<Option<Vec<f64>>> {
        let floats = self.find(name, AttributeType::Floats)?;
        Ok(floats.map(|a| a.floats.iter().map(|f| f64::from(*f)).collect()))
    }

    /// A string.
    pub(crate) fn string(self, name: &str) -> Built<Option<&'a str>> {
        match self.find(name, AttributeType::String)? {
            None => Ok(None),
            Some(attribute) => text(name, attribute.s.as_deref().unwrap_or_default()).map(Some),
        }
    }

    /// A string with a default.
    pub(crate) fn string_or(self, name: &str, default: &'a str) -> Built<&'a str> {
        Ok(self.string(name)?.unwrap_or(default))
    }

    /// Strings.
    pub(crate) fn strings(self, name: &str) -> Built<Option<Vec<&'a str>>> {
        match self.find(name, AttributeType::Strings)? {
            None => Ok(None),
            Some(attribute) => {
                attribute.strings.iter().map(|s| text(name, s)).collect::<Built<_>>().map(Some)
            }
        }
    }

    /// A tensor.
    pub(crate) fn tensor(self, name: &str, data: &Data<'_>) -> Built<Option<HostTensor>> {
        match self.find(name, AttributeType::Tensor)?.and_then(|a| a.t.as_ref()) {
            None => Ok(None),
            Some(tensor) => Ok(Some(host_tensor(tensor, data)?)),
        }
    }

    /// A graph, which must be there.
    pub(crate) fn graph(self, name: &str) -> Built<&'a GraphProto> {
        match self.find(name, AttributeType::Graph)?.and_then(|a| a.g.as_ref()) {
            Some(graph) => Ok(graph),
            None => refuse(format!("attribute `{name}`, a graph, is missing")),
        }
    }
}

fn text<'a>(name: &str, bytes: &'a [u8]) -> Built<&'a str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().any(char::is_control) => {
            refuse(format!("attribute `{name}` has control characters"))
        }
        Ok(text) => Ok(text),
        Err(_) => refuse(format!("attribute `{name}` is not UTF-8 text")),
    }
}
