//! What a call is given.

use std::collections::BTreeMap;

use fuse_ir::Tensor;

/// The inputs of one call, parameters excluded.
#[derive(Clone, Debug)]
pub enum Arguments<'a> {
    /// By name, in any order.
    Named(Vec<(&'a str, &'a Tensor)>),
    /// In the order of the graph's inputs.
    Ordered(Vec<&'a Tensor>),
}

impl<'a> From<&[(&'a str, &'a Tensor)]> for Arguments<'a> {
    fn from(named: &[(&'a str, &'a Tensor)]) -> Self {
        Arguments::Named(named.to_vec())
    }
}

impl<'a, const N: usize> From<&[(&'a str, &'a Tensor); N]> for Arguments<'a> {
    fn from(named: &[(&'a str, &'a Tensor); N]) -> Self {
        Arguments::Named(named.to_vec())
    }
}

impl<'a> From<&'a BTreeMap<String, Tensor>> for Arguments<'a> {
    fn from(named: &'a BTreeMap<String, Tensor>) -> Self {
        Arguments::Named(named.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect())
    }
}

impl<'a> From<&[&'a Tensor]> for Arguments<'a> {
    fn from(ordered: &[&'a Tensor]) -> Self {
        Arguments::Ordered(ordered.to_vec())
    }
}

impl<'a, const N: usize> From<&[&'a Tensor; N]> for Arguments<'a> {
    fn from(ordered: &[&'a Tensor; N]) -> Self {
        Arguments::Ordered(ordered.to_vec())
    }
}
