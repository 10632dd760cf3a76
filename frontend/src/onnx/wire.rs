//! A walk over the wire format of a model, before it is decoded.
//!
//! Decoding allocates by what a file says: two bytes of it are an empty attribute, whose decoded form takes more than
//! a kilobyte. The walk knows the messages of ONNX, adds up what decoding will allocate and refuses a file of which
//! that is out of proportion. It allocates nothing itself and recurses no deeper than messages may nest.
//!
//! Raw data, and lists of numbers of fixed width, take no more than the file itself does and are not counted.

use super::error::OnnxError;
use super::proto;

/// The most bytes that decoding may allocate beside raw data.
const MAX_DECODED_BYTES: u64 = 128 << 20;
/// The most nodes in a file, those of subgraphs and functions included.
const MAX_NODES: u64 = 200_000;
/// The most initializers in a file.
const MAX_INITIALIZERS: u64 = 100_000;
/// The most attributes of a node.
const MAX_ATTRIBUTES: u64 = 1000;
/// How deep graphs nest in a file.
const MAX_GRAPH_DEPTH: usize = 32;
/// How deep messages nest; the decoder has the same bound.
const MAX_MESSAGE_DEPTH: usize = 100;
/// Field numbers of ONNX are below.
const FIELDS: usize = 32;

/// A kind of message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    Function,
    ValueInfo,
    Type,
    TensorType,
    SequenceType,
    MapType,
    OptionalType,
    OpaqueType,
    Shape,
    Dimension,
    Entry,
    OperatorSet,
    Annotation,
    Training,
    DeviceConfiguration,
    NodeDevice,
    Sharding,
    ShardedDim,
    SimpleShardedDim,
    IntegerList,
    Segment,
}

/// What a field holds. Those that are not listed are numbers in place, or unknown and skipped.
#[derive(Clone, Copy)]
enum Field {
    /// One message, in place.
    One(Message),
    /// One message on the heap.
    Boxed(Message),
    /// A list of messages.
    Many(Message),
    /// A name, which is copied, and which errors show.
    Name,
    /// A list of names.
    Names,
    /// Free text, which is copied.
    Text,
    /// A list of slices of the file.
    Slices,
    /// A list of integers of variable width, decoded to so many bytes each.
    Integers(usize),
}

use Field::{Boxed, Integers, Many, Name, Names, One, Slices, Text};
use Message::*;

impl Message {
    /// The fields that take memory.
    const fn fields(self) -> &'static [(u64, Field)] {
        match self {
            Model => &[
                (8, Many(OperatorSet)),
                (2, Name),
                (3, Name),
                (4, Name),
                (6, Text),
                (7, One(Graph)),
                (14, Many(Entry)),
                (20, Many(Training)),
                (25, Many(Function)),
                (26, Many(DeviceConfiguration)),
            ],
            Graph => &[
                (1, Many(Node)),
                (2, Name),
                (5, Many(Tensor)),
                (15, Many(SparseTensor)),
                (10, Text),
                (11, Many(ValueInfo)),
                (12, Many(ValueInfo)),
                (13, Many(ValueInfo)),
                (14, Many(Annotation)),
                (16, Many(Entry)),
            ],
            Node => &[
                (1, Names),
                (2, Names),
                (3, Name),
                (4, Name),
                (7, Name),
                (8, Name),
                (5, Many(Attribute)),
                (6, Text),
                (9, Many(Entry)),
                (10, Many(NodeDevice)),
            ],
            Attribute => &[
                (1, Name),
                (21, Name),
                (13, Text),
                (5, One(Tensor)),
                (6, One(Graph)),
                (22, One(SparseTensor)),
                (14, One(Type)),
                (8, Integers(8)),
                (9, Slices),
                (10, Many(Tensor)),
                (11, Many(Graph)),
                (23, Many(SparseTensor)),
                (15, Many(Type)),
            ],
            Tensor => &[
                (1, Integers(8)),
                (3, One(Segment)),
                (5, Integers(4)),
                (6, Slices),
                (7, Integers(8)),
                (8, Name),
                (12, Text),
                (13, Many(Entry)),
                (11, Integers(8)),
                (16, Many(Entry)),
            ],
            SparseTensor => &[(1, One(Tensor)), (2, One(Tensor)), (3, Integers(8))],
            Function => &[
                (1, Name),
                (4, Names),
                (5, Names),
                (6, Names),
                (11, Many(Attribute)),
                (7, Many(Node)),
                (8, Text),
                (9, Many(OperatorSet)),
                (10, Name),
                (13, Name),
                (12, Many(ValueInfo)),
                (14, Many(Entry)),
            ],
            ValueInfo => &[(1, Name), (2, One(Type)), (3, Text), (4, Many(Entry))],
            Type => &[
                (6, Name),
                (1, One(TensorType)),
                (4, Boxed(SequenceType)),
                (5, Boxed(MapType)),
                (9, Boxed(OptionalType)),
                (8, One(TensorType)),
                (7, One(OpaqueType)),
            ],
            TensorType => &[(2, One(Shape))],
            SequenceType | OptionalType => &[(1, Boxed(Type))],
            MapType => &[(2, Boxed(Type))],
            OpaqueType => &[(1, Name), (2, Name)],
            Entry => &[(1, Name), (2, Text)],
            Shape => &[(1, Many(Dimension))],
            Dimension => &[(2, Name), (3, Name)],
            OperatorSet => &[(1, Name)],
            Annotation => &[(1, Name), (2, Many(Entry))],
            Training => &[(1, One(Graph)), (2, One(Graph)), (3, Many(Entry)), (4, Many(Entry))],
            DeviceConfiguration => &[(1, Name), (3, Names)],
            NodeDevice => &[(1, Name), (2, Many(Sharding))],
            Sharding => &[(1, Name), (2, Integers(8)), (3, Many(IntegerList)), (4, Many(ShardedDim))],
            ShardedDim => &[(2, Many(SimpleShardedDim))],
            SimpleShardedDim => &[(2, Name)],
            IntegerList => &[(2, Integers(8))],
            Segment => &[],
        }
    }

    /// The bytes that the decoded message takes, without what lies on the heap.
    const fn size(self) -> usize {
        match self {
            Model => size_of::<proto::ModelProto>(),
            Graph => size_of::<proto::GraphProto>(),
            Node => size_of::<proto::NodeProto>(),
            Attribute => size_of::<proto::AttributeProto>(),
            Tensor => size_of::<proto::TensorProto>(),
            SparseTensor => size_of::<proto::SparseTensorProto>(),
            Function => size_of::<proto::FunctionProto>(),
            ValueInfo => size_of::<proto::ValueInfoProto>(),
            Type => size_of::<proto::TypeProto>(),
            TensorType => size_of::<proto::type_proto::Tensor>(),
            SequenceType => size_of::<proto::type_proto::Sequence>(),
            MapType => size_of::<proto::type_proto::Map>(),
            OptionalType => size_of::<proto::type_proto::Optional>(),
            OpaqueType => size_of::<proto::type_proto::Opaque>(),
            Shape => size_of::<proto::TensorShapeProto>(),
            Dimension => size_of::<proto::tensor_shape_proto::Dimension>(),
            Entry => size_of::<proto::StringStringEntryProto>(),
            OperatorSet => size_of::<proto::OperatorSetIdProto>(),
            Annotation => size_of::<proto::TensorAnnotation>(),
            Training => size_of::<proto::TrainingInfoProto>(),
            DeviceConfiguration => size_of::<proto::DeviceConfigurationProto>(),
            NodeDevice => size_of::<proto::NodeDeviceConfigurationProto>(),
            Sharding => size_of::<proto::ShardingSpecProto>(),
            ShardedDim => size_of::<proto::ShardedDimProto>(),
            SimpleShardedDim => size_of::<proto::SimpleShardedDimProto>(),
            IntegerList => size_of::<proto::IntIntListEntryProto>(),
            Segment => size_of::<proto::tensor_proto::Segment>(),
        }
    }
}

/// Refuses a model whose decoded form would be out of proportion.
///
/// # Errors
/// Where the wire format is broken, or a limit is exceeded.
pub(crate) fn check(model: &[u8]) -> Result<(), OnnxError> {
    Walk { allocated: 0, nodes: 0, initializers: 0 }.message(Model, model, Depth::default())
}

/// What has been met so far.
struct Walk {
    allocated: u64,
    nodes: u64,
    initializers: u64,
}

/// How deep a message lies.
#[derive(Clone, Copy, Default)]
struct Depth {
    messages: usize,
    graphs: usize,
}

impl Depth {
    /// The depth within a message.
    fn within(self, message: Message) -> Result<Depth, OnnxError> {
        let inner =
            Depth { messages: self.messages + 1, graphs: self.graphs + usize::from(message == Graph) };
        if inner.graphs > MAX_GRAPH_DEPTH {
            return Err(OnnxError::Limit(format!("graphs nest more than {MAX_GRAPH_DEPTH} deep")));
        }
        if inner.messages > MAX_MESSAGE_DEPTH {
            return Err(OnnxError::Limit(format!("messages nest more than {MAX_MESSAGE_DEPTH} deep")));
        }
        Ok(inner)
    }
}

/// A value as it stands in the file.
enum Raw<'a> {
    /// An integer of variable width.
    Integer,
    /// A number of fixed width.
    Fixed,
    /// Text, bytes, a message or a packed list.
    Bytes(&'a [u8]),
}

impl Walk {
    fn message(&mut self, message: Message, bytes: &[u8], depth: Depth) -> Result<(), OnnxError> {
        let depth = depth.within(message)?;
        let mut rest = bytes;
        // The elements of each list so far, by the number of its field.
        let mut lengths = [0u64; FIELDS];
        while !rest.is_empty() {
            let (number, raw) = next(&mut rest)?;
            let Some((_, field)) = message.fields().iter().find(|(n, _)| *n == number) else { continue };
            let length = &mut lengths[number as usize % FIELDS];
            self.field(message, *field, &raw, length, depth)?;
        }
        Ok(())
    }

    fn field(
        &mut self,
        message: Message,
        field: Field,
        raw: &Raw<'_>,
        length: &mut u64,
        depth: Depth,
    ) -> Result<(), OnnxError> {
        let bytes = match (raw, field) {
            (Raw::Bytes(bytes), _) => *bytes,
            (Raw::Integer, Integers(size)) => return self.list(length, 1, size),
            (Raw::Integer | Raw::Fixed, _) => {
                return Err(malformed("a field has another type than ONNX says"));
            }
        };
        match field {
            One(inner) => self.message(inner, bytes, depth),
            Boxed(inner) => {
                self.allocate(inner.size() as u64)?;
                self.message(inner, bytes, depth)
            }
            Many(inner) => {
                self.count(message, inner, *length)?;
                self.list(length, 1, inner.size())?;
                self.message(inner, bytes, depth)
            }
            Name => {
                check_name(bytes)?;
                self.allocate(bytes.len() as u64)
            }
            Names => {
                check_name(bytes)?;
                self.list(length, 1, size_of::<String>())?;
                self.allocate(bytes.len() as u64)
            }
            Text => self.allocate(bytes.len() as u64),
            Slices => self.list(length, 1, size_of::<prost::bytes::Bytes>()),
            Integers(size) => {
                // The last byte of each integer has its highest bit clear.
                let count = bytes.iter().filter(|b| **b < 0x80).count();
                self.list(length, count as u64, size)
            }
        }
    }

    /// Counts what is limited by number.
    fn count(&mut self, message: Message, inner: Message, listed: u64) -> Result<(), OnnxError> {
        let limited =
            |what: &str, limit: u64| Err(OnnxError::Limit(format!("the file has more than {limit} {what}")));
        self.nodes += u64::from(inner == Node);
        self.initializers += u64::from(message == Graph && inner == Tensor);
        if inner == Attribute && listed >= MAX_ATTRIBUTES {
            return limited("attributes at one node", MAX_ATTRIBUTES);
        }
        if self.nodes > MAX_NODES {
            return limited("nodes", MAX_NODES);
        }
        if self.initializers > MAX_INITIALIZERS {
            return limited("initializers", MAX_INITIALIZERS);
        }
        Ok(())
    }

    /// Elements are added to a list, which grows as a vector does: to the next power of two.
    fn list(&mut self, length: &mut u64, added: u64, size: usize) -> Result<(), OnnxError> {
        let least = if size > 1024 { 1 } else { 4 };
        let capacity = |n: u64| if n == 0 { 0 } else { n.next_power_of_two().max(least) };
        let before = capacity(*length);
        *length = length.saturating_add(added);
        self.allocate((capacity(*length) - before).saturating_mul(size as u64))
    }

    fn allocate(&mut self, bytes: u64) -> Result<(), OnnxError> {
        self.allocated = self.allocated.saturating_add(bytes);
        if self.allocated <= MAX_DECODED_BYTES {
            return Ok(());
        }
        let limit = MAX_DECODED_BYTES >> 20;
        let text =
            "its nodes, names and lists of integers; store tensors as raw data, or outside of the file";
        Err(OnnxError::Limit(format!("decoding takes more than {limit} MiB for {text}")))
    }
}

/// Refuses names that would move a terminal's cursor where they are shown.
fn check_name(bytes: &[u8]) -> Result<(), OnnxError> {
    match std::str::from_utf8(bytes) {
        Err(_) => Err(malformed("a name is no UTF-8 text")),
        Ok(name) if name.chars().any(char::is_control) => {
            Err(OnnxError::Malformed(format!("the name {name:?} has control characters")))
        }
        Ok(_) => Ok(()),
    }
}

fn malformed(problem: &str) -> OnnxError {
    OnnxError::Malformed(problem.into())
}

/// The next field: its number and value.
fn next<'a>(rest: &mut &'a [u8]) -> Result<(u64, Raw<'a>), OnnxError> {
    let key = varint(rest)?;
    let (number, wire_type) = (key >> 3, key & 7);
    if number == 0 || key > u64::from(u32::MAX) {
        return Err(malformed("a field has an impossible number; it is no protobuf file"));
    }
    let raw = match wire_type {
        0 => {
            varint(rest)?;
            Raw::Integer
        }
        1 => {
            take(rest, 8)?;
            Raw::Fixed
        }
        2 => {
            let length = varint(rest)?;
            Raw::Bytes(take(rest, length)?)
        }
        5 => {
            take(rest, 4)?;
            Raw::Fixed
        }
        _ => return Err(malformed("a field has a wire type that ONNX has not; it is no protobuf file")),
    };
    Ok((number, raw))
}

fn varint(rest: &mut &[u8]) -> Result<u64, OnnxError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let Some((byte, tail)) = rest.split_first() else { return Err(truncated()) };
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Ok(value);
        }
    }
    Err(malformed("an integer has more than ten bytes"))
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], OnnxError> {
    let split = usize::try_from(length).ok().and_then(|n| rest.split_at_checked(n));
    let (head, tail) = split.ok_or_else(truncated)?;
    *rest = tail;
    Ok(head)
}

fn truncated() -> OnnxError {
    malformed("it ends in the middle of a field; the file is cut short, or no protobuf file")
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// A field of bytes.
    fn bytes(number: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for mut value in [number << 3 | 2, payload.len() as u64] {
            while value >= 0x80 {
                out.push(value as u8 | 0x80);
                value >>= 7;
            }
            out.push(value as u8);
        }
        [out, payload.to_vec()].concat()
    }

    fn refused(model: &[u8]) -> String {
        check(model).expect_err("it is refused").to_string()
    }

    #[test]
    fn a_model_that_decodes_passes() {
        let node = proto::NodeProto {
            input: vec!["x".into()],
            attribute: vec![proto::AttributeProto { ints: vec![1, -1], ..Default::default() }],
            ..Default::default()
        };
        let tensor = proto::TensorProto { int64_data: vec![-1; 40], dims: vec![40], ..Default::default() };
        let graph =
            proto::GraphProto { node: vec![node; 9], initializer: vec![tensor], ..Default::default() };
        let model = proto::ModelProto { graph: Some(graph), ir_version: Some(8), ..Default::default() };
        check(&model.encode_to_vec()).expect("a model");
    }

    #[test]
    fn every_prefix_of_a_model_is_refused_or_decodes() {
        let tensor = proto::TensorProto { name: Some("w".into()), dims: vec![300], ..Default::default() };
        let graph = proto::GraphProto { initializer: vec![tensor], ..Default::default() };
        let model = proto::ModelProto { graph: Some(graph), ..Default::default() }.encode_to_vec();
        for end in 1..model.len() {
            assert_eq!(
                check(&model[..end]).is_ok(),
                proto::ModelProto::decode(&model[..end]).is_ok(),
                "{end}"
            );
        }
    }

    #[test]
    fn few_bytes_that_decode_to_many_are_refused() {
        let attributes = bytes(1, &bytes(5, &[]).repeat(1001));
        assert!(refused(&bytes(7, &attributes)).contains("attributes"));
        let attributes = bytes(1, &bytes(5, &[]).repeat(100)).repeat(2000);
        assert!(refused(&bytes(7, &attributes)).contains("128 MiB"));
        let nodes = bytes(1, &[]).repeat(200_001);
        assert!(refused(&bytes(7, &nodes)).contains("nodes"));
        let initializers = bytes(5, &[]).repeat(100_001);
        assert!(refused(&bytes(7, &initializers)).contains("initializers"));
        let integers = bytes(5, &bytes(7, &vec![0; 20 << 20]));
        assert!(refused(&bytes(7, &integers)).contains("128 MiB"));
        let unpacked = bytes(5, &[7 << 3, 0].repeat(20 << 20));
        assert!(refused(&bytes(7, &unpacked)).contains("128 MiB"));
    }

    #[test]
    fn raw_data_is_not_counted() {
        check(&bytes(7, &bytes(5, &bytes(9, &vec![0; 130 << 20]))))
            .expect("raw data takes what the file takes");
    }

    #[test]
    fn graphs_nest_to_a_limit() {
        let nested = |depth: usize| {
            let graph = (1..depth).fold(Vec::new(), |inner, _| bytes(1, &bytes(5, &bytes(6, &inner))));
            bytes(7, &graph)
        };
        let deepest = nested(MAX_GRAPH_DEPTH);
        check(&deepest).expect("as deep as allowed");
        proto::ModelProto::decode(&deepest[..]).expect("the decoder allows it too");
        assert!(refused(&nested(MAX_GRAPH_DEPTH + 1)).contains("deep"));
    }

    #[test]
    fn what_is_no_protobuf_is_refused() {
        for junk in [&b"PK\x03\x04"[..], &[0xff; 12], &[7 << 3 | 3], &[0, 0], &[8 << 3 | 2, 0x80]] {
            check(junk).expect_err("junk");
        }
    }
}
