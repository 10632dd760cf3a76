//! NumPy's `.npz`: a zip archive of `.npy` arrays.
//!
//! Headers are validated before anything is allocated by them: the header's length, the element type, and the
//! product of the extents against the number of bytes that the archive really holds.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Cursor, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use fuse_ir::limits::MAX_RANK;
use fuse_ir::tensor::checked_byte_size;
use fuse_ir::{Bytes, DType, Literal, Tensor};
use npyz::WriterBuilder;
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

use super::FileError;

/// The most bytes an archive may unpack to.
const MAX_TOTAL_BYTES: u64 = 64 << 30;
/// The bytes that any archive may unpack to, however small it is.
const FREE_BYTES: u64 = 128 << 20;
/// How many times its own size a larger archive may unpack to. Deflate reaches a thousand, arrays of numbers ten.
const MAX_RATIO: u64 = 100;
/// The longest header that is read; NumPy itself refuses headers over 10,000 characters.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Elements that [`Archive::for_each`] reads before it passes them on.
const ELEMENTS_AT_ONCE: usize = 4096;

/// Reads every array of an archive, by name (without `.npy`).
///
/// # Errors
/// Where the file cannot be read, is no archive of arrays, or holds an element type that fuse has not.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>, FileError> {
    let (file, size) = super::open(path)?;
    read_archive(BufReader::new(file), size).map_err(|problem| FileError::malformed(path, problem))
}

/// Reads every array of an archive in memory, by name (without `.npy`).
///
/// # Errors
/// Where it is no archive of arrays, or holds an element type that fuse has not; says what is wrong.
pub fn from_bytes(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, String> {
    read_archive(Cursor::new(bytes), bytes.len() as u64)
}

/// Reads the one array of a `.npy` file.
///
/// # Errors
/// Where the file cannot be read, is no array, or holds an element type that fuse has not.
pub fn read_array(path: &Path) -> Result<Tensor, FileError> {
    let (file, size) = super::open(path)?;
    // The array takes what the file does.
    let mut budget = size;
    read_npy(BufReader::new(file), &mut budget).map_err(|problem| FileError::malformed(path, problem))
}

fn read_archive(reader: impl Read + Seek, size: u64) -> Result<BTreeMap<String, Tensor>, String> {
    let mut out = BTreeMap::new();
    let mut archive = ZipArchive::new(reader).map_err(not_an_archive)?;
    let mut budget = budget(size);
    for_each_entry(&mut archive, |name, entry| {
        let tensor = read_npy(entry, &mut budget)?;
        if out.insert(name.to_owned(), tensor).is_some() { Err("it is there twice".into()) } else { Ok(()) }
    })?;
    Ok(out)
}

fn not_an_archive(e: zip::result::ZipError) -> String {
    format!("not an .npz archive: {e}")
}

/// The bytes that an archive of a size may unpack to.
fn budget(size: u64) -> u64 {
    let unpacked = size.saturating_mul(MAX_RATIO).saturating_add(FREE_BYTES);
    unpacked.min(MAX_TOTAL_BYTES)
}

/// Calls `visit` with the name of each array and its `.npy` stream.
fn for_each_entry<R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    mut visit: impl FnMut(&str, &mut dyn Read) -> Result<(), String>,
) -> Result<(), String> {
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).map_err(|e| format!("entry {i} cannot be read: {e}"))?;
        let name = entry.name().map_err(|e| format!("entry {i} has no readable name: {e}"))?;
        let name = name.strip_suffix(".npy").unwrap_or(&name).to_owned();
        visit(&name, &mut entry).map_err(|problem| format!("array `{name}`: {problem}"))?;
    }
    Ok(())
}

/// An archive whose arrays are looked at without having any of them in memory.
pub struct Archive {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
    size: u64,
}

/// Some elements of an array.
pub struct Elements<'a> {
    /// The array's name.
    pub array: &'a str,
    /// Its extents.
    pub shape: &'a [usize],
    /// The row-major position of the first.
    pub start: usize,
    /// Their values.
    pub values: &'a [Literal],
}

impl Archive {
    /// Opens an archive.
    ///
    /// # Errors
    /// Where the file cannot be read, or is no archive.
    pub fn open(path: &Path) -> Result<Archive, FileError> {
        let (file, size) = super::open(path)?;
        let archive = ZipArchive::new(BufReader::new(file))
            .map_err(|e| FileError::malformed(path, not_an_archive(e)))?;
        Ok(Archive { path: path.to_owned(), archive, size })
    }

    /// Calls `visit` with the elements of all arrays, a few at a time.
    ///
    /// # Errors
    /// As [`read`], and what `visit` says.
    pub fn for_each(
        &mut self,
        mut visit: impl FnMut(Elements<'_>) -> Result<(), String>,
    ) -> Result<(), FileError> {
        let mut budget = budget(self.size);
        let visited = for_each_entry(&mut self.archive, |name, entry| {
            let header = Header::read(&mut *entry, &mut budget)?;
            header.for_each(entry, |start, values| {
                visit(Elements { array: name, shape: &header.shape, start, values })
            })
        });
        visited.map_err(|problem| FileError::malformed(&self.path, problem))
    }
}

/// What a `.npy` stream says of its elements.
struct Header {
    dtype: DType,
    shape: Vec<usize>,
    /// All that they take, in bytes.
    size: usize,
    /// Whether their bytes are the other way round.
    swap: bool,
    /// Whether the first axis is the innermost.
    column_major: bool,
}

/// Reads one `.npy` stream; at most `budget` bytes, which are deducted.
fn read_npy(mut reader: impl Read, budget: &mut u64) -> Result<Tensor, String> {
    Header::read(&mut reader, budget)?.tensor(reader)
}

impl Header {
    /// Reads up to the elements, which may take `budget` bytes; what they take is deducted.
    fn read(mut reader: impl Read, budget: &mut u64) -> Result<Header, String> {
        let preamble = read_preamble(&mut reader)?;
        check_header_text(&preamble)?;
        let header = npyz::NpyHeader::from_reader(&preamble[..]).map_err(|e| format!("bad header: {e}"))?;
        let npyz::DType::Plain(type_string) = header.dtype() else {
            return Err("structured arrays are not supported".into());
        };
        let Some((dtype, swap)) = element_type(&type_string) else {
            return Err(format!(
                "element type {type_string} is not supported; save it as f4, f8, f2, i4, i8, u1, b1, or u2 for the bits \
                 of bf16"
            ));
        };
        let shape: Option<Vec<usize>> = header.shape().iter().map(|d| usize::try_from(*d).ok()).collect();
        if header.shape().len() > MAX_RANK {
            return Err(format!("it has {} axes, more than {MAX_RANK}", header.shape().len()));
        }
        let shape = shape.ok_or("its shape does not fit in the address space")?;
        let size = checked_byte_size(dtype, &shape).ok_or("its shape does not fit in the address space")?;
        if size as u64 > *budget {
            return Err(format!(
                "it claims {size} bytes; the file is too small for more than {budget} (an archive unpacks to at most \
                 {MAX_RATIO} times its size)"
            ));
        }
        *budget -= size as u64;
        let column_major = header.order() == npyz::Order::Fortran;
        Ok(Header { dtype, shape, size, swap, column_major })
    }

    /// The tensor of the elements that follow.
    fn tensor(&self, reader: impl Read) -> Result<Tensor, String> {
        let mut bytes = read_data(reader, self.size)?;
        if self.swap {
            bytes.as_mut_slice().chunks_exact_mut(self.dtype.size()).for_each(<[u8]>::reverse);
        }
        if self.column_major {
            bytes = to_row_major(bytes.as_slice(), &self.shape, self.dtype.size()).into();
        }
        Tensor::from_bytes(self.dtype, &self.shape, bytes).map_err(|e| e.to_string())
    }

    /// Calls `visit` with the elements that follow, some at a time: the position of the first, and their values.
    fn for_each(
        &self,
        mut reader: impl Read,
        mut visit: impl FnMut(usize, &[Literal]) -> Result<(), String>,
    ) -> Result<(), String> {
        if self.swap || self.column_major {
            return visit(0, &self.tensor(reader)?.literals().collect::<Vec<_>>());
        }
        let elements = self.size / self.dtype.size();
        for start in (0..elements).step_by(ELEMENTS_AT_ONCE) {
            let count = ELEMENTS_AT_ONCE.min(elements - start);
            let bytes = read_exactly(reader.by_ref(), count * self.dtype.size())?;
            let part = Tensor::from_bytes(self.dtype, &[count], bytes).map_err(|e| e.to_string())?;
            visit(start, &part.literals().collect::<Vec<_>>())?;
        }
        expect_end(reader, self.size)
    }
}

/// All that is left, which must be `size` bytes.
fn read_data(mut reader: impl Read, size: usize) -> Result<Bytes, String> {
    let bytes = read_exactly(reader.by_ref(), size)?;
    expect_end(reader, size)?;
    Ok(bytes)
}

/// Refuses what is left after `size` bytes.
fn expect_end(mut reader: impl Read, size: usize) -> Result<(), String> {
    match reader.read(&mut [0u8]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(format!("the header promises {size} bytes, but more than {size} are there")),
        Err(e) => Err(format!("cannot be unpacked: {e}")),
    }
}

/// The next `size` bytes.
fn read_exactly(mut reader: impl Read, size: usize) -> Result<Bytes, String> {
    // Memory is touched only as far as there is something to read, so that a lying header costs next to nothing.
    let mut bytes = Bytes::try_zeroed(size).ok_or_else(|| format!("there is no memory for {size} bytes"))?;
    let mut rest = bytes.as_mut_slice();
    while !rest.is_empty() {
        match reader.read(rest) {
            Ok(0) => {
                let got = size - rest.len();
                return Err(format!("the header promises {size} bytes, but only {got} are there"));
            }
            Ok(n) => rest = &mut rest[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(format!("cannot be unpacked: {e}")),
        }
    }
    Ok(bytes)
}

/// The bytes up to the data: magic, version, header length and header, of which only the length is checked.
fn read_preamble(reader: &mut impl Read) -> Result<Vec<u8>, String> {
    let mut preamble = vec![0u8; 8];
    let truncated = |e: std::io::Error| format!("bad header: {e}");
    reader.read_exact(&mut preamble).map_err(truncated)?;
    if &preamble[..6] != b"\x93NUMPY" {
        return Err("not a NumPy array".into());
    }
    let length_bytes = if preamble[6] == 1 { 2 } else { 4 };
    let mut word = [0u8; 4];
    reader.read_exact(&mut word[..length_bytes]).map_err(truncated)?;
    let length = u32::from_le_bytes(word) as usize;
    if length > MAX_HEADER_BYTES {
        return Err(format!("its header claims {length} bytes; at most {MAX_HEADER_BYTES} are read"));
    }
    preamble.extend_from_slice(&word[..length_bytes]);
    let start = preamble.len();
    preamble.resize(start + length, 0);
    reader.read_exact(&mut preamble[start..]).map_err(truncated)?;
    Ok(preamble)
}

/// Refuses what `npyz` would panic on: brackets nested deep enough to exhaust the stack, and a shape whose
/// product overflows.
fn check_header_text(preamble: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(preamble);
    let mut depth = 0usize;
    for c in text.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > 8 {
            return Err("bad header: brackets nested too deep".into());
        }
    }
    let shape = text.split("'shape'").nth(1).and_then(|rest| rest.split('(').nth(1)?.split(')').next());
    let shape = shape.ok_or("bad header: it has no shape")?;
    let mut product = 1u64;
    for extent in shape.split(',').map(str::trim).filter(|d| !d.is_empty()) {
        let extent: u64 = extent.parse().map_err(|_| format!("bad header: `{extent}` is not an extent"))?;
        // 16 bytes is the widest element that NumPy has; extents of 0 must not hide the others.
        product = product
            .checked_mul(extent.max(1))
            .filter(|p| *p < i64::MAX as u64 / 16)
            .ok_or("its shape does not fit in the address space")?;
    }
    Ok(())
}

/// The element type, and whether its bytes are the other way round.
fn element_type(ty: &npyz::TypeStr) -> Option<(DType, bool)> {
    let text = ty.to_string();
    let text = text.trim_matches('\'');
    let (order, code) = text.split_at_checked(1)?;
    let dtype = match code {
        "f4" => DType::F32,
        "f8" => DType::F64,
        "f2" => DType::F16,
        // NumPy has no bfloat16; its bits come as 16-bit integers, which fuse has not.
        "u2" => DType::Bf16,
        "i4" => DType::I32,
        "i8" => DType::I64,
        "u1" => DType::U8,
        "b1" => DType::Bool,
        _ => return None,
    };
    Some((dtype, order == ">"))
}

fn to_row_major(bytes: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut point = vec![0usize; shape.len()];
    for _ in 0..bytes.len() / size {
        let position = point.iter().zip(shape).rev().fold(0, |p, (i, n)| p * n + i);
        out.extend_from_slice(&bytes[position * size..(position + 1) * size]);
        for axis in (0..shape.len()).rev() {
            point[axis] += 1;
            if point[axis] < shape[axis] {
                break;
            }
            point[axis] = 0;
        }
    }
    out
}

/// Writes arrays to an archive; the bits of bf16, which NumPy has not, become 16-bit integers (`u2`).
///
/// # Errors
/// Where the file cannot be written.
pub fn write<'a>(
    path: &Path,
    arrays: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<(), FileError> {
    let file = File::create(path).map_err(|e| FileError::io(path, e))?;
    let mut archive = ZipWriter::new(BufWriter::new(file));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    for (name, tensor) in arrays {
        archive
            .start_file(format!("{name}.npy"), options)
            .map_err(|e| FileError::malformed(path, format!("array `{name}`: {e}")))?;
        write_npy(&mut archive, tensor).map_err(|e| FileError::io(path, e))?;
    }
    let mut writer =
        archive.finish().map_err(|e| FileError::malformed(path, format!("cannot be finished: {e}")))?;
    writer.flush().map_err(|e| FileError::io(path, e))
}

fn write_npy(writer: &mut impl Write, tensor: &Tensor) -> std::io::Result<()> {
    let (code, bytes) = match tensor.dtype() {
        DType::F32 => ("<f4", tensor.bytes()),
        DType::F64 => ("<f8", tensor.bytes()),
        DType::F16 => ("<f2", tensor.bytes()),
        DType::I32 => ("<i4", tensor.bytes()),
        DType::I64 => ("<i8", tensor.bytes()),
        DType::U8 => ("|u1", tensor.bytes()),
        DType::Bool => ("|b1", tensor.bytes()),
        DType::Bf16 => ("<u2", tensor.bytes()),
    };
    let shape: Vec<u64> = tensor.shape().iter().map(|d| *d as u64).collect();
    let type_string = code.parse().expect("a NumPy type string");
    let mut header = Vec::new();
    npyz::WriteOptions::new_header_only()
        .dtype(npyz::DType::Plain(type_string))
        .shape(&shape)
        .writer(&mut header)
        .write_header_only()?;
    writer.write_all(&header)?;
    writer.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(descr: &str, shape: &str, fortran: &str, data: &[u8]) -> Vec<u8> {
        let header =
            format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n").into_bytes();
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend((header.len() as u16).to_le_bytes());
        out.extend(header);
        out.extend(data);
        out
    }

    fn parse(bytes: &[u8]) -> Result<Tensor, String> {
        read_npy(bytes, &mut (1 << 20))
    }

    #[test]
    fn arrays_round_trip_through_an_archive() {
        let dir = std::env::temp_dir().join(format!("fuse-npz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("a.npz");
        let x = Tensor::from_values(&[2, 3], &[1.5f32, -0.0, f32::NAN, f32::INFINITY, 1e-45, 7.0]).unwrap();
        let n = Tensor::from_values(&[0, 4], &[] as &[i64]).unwrap();
        let flag = Tensor::from_values(&[], &[true]).unwrap();
        write(&path, [("x", &x), ("n", &n), ("flag", &flag)]).unwrap();
        let back = read(&path).unwrap();
        assert_eq!(back["x"].bytes(), x.bytes());
        assert_eq!((back["n"].dtype(), back["n"].shape()), (DType::I64, &[0, 4][..]));
        assert_eq!(back["flag"], flag);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn column_major_and_big_endian_arrays_are_converted() {
        let columns = parse(&npy("|u1", "(2, 3)", "True", &[1, 4, 2, 5, 3, 6])).unwrap();
        assert_eq!(columns.to_values::<u8>().unwrap(), [1, 2, 3, 4, 5, 6]);
        let big = parse(&npy(">i4", "(1,)", "False", &[0, 0, 1, 0])).unwrap();
        assert_eq!(big.to_values::<i32>().unwrap(), [256]);
    }

    #[test]
    fn elements_come_in_parts_as_they_are_in_the_tensor() {
        let stream = |shape: &str, fortran: &str, data: &[u8]| -> Result<Vec<(usize, Literal)>, String> {
            let bytes = npy("<f4", shape, fortran, data);
            let mut reader = &bytes[..];
            let header = Header::read(&mut reader, &mut (1 << 20))?;
            let mut seen = Vec::new();
            let visit = |start, values: &[Literal]| {
                seen.extend(values.iter().enumerate().map(|(i, v)| (start + i, *v)));
                Ok(())
            };
            header.for_each(reader, visit)?;
            Ok(seen)
        };
        let count = 2 * ELEMENTS_AT_ONCE + 10;
        let values: Vec<f32> = (0..count).map(|i| i as f32).collect();
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let expected: Vec<_> =
            values.iter().map(|v| Literal::from_f64(DType::F32, f64::from(*v))).enumerate().collect();
        assert_eq!(stream(&format!("({count},)"), "False", &data).unwrap(), expected);
        let columns = stream("(2, 2)", "True", &data[..16]).unwrap();
        assert_eq!(columns.iter().map(|(_, v)| v.as_f64()).collect::<Vec<_>>(), [0.0, 2.0, 1.0, 3.0]);
        assert!(stream("(4,)", "False", &data[..8]).unwrap_err().contains("only 8"));
        assert!(stream("(1,)", "False", &data[..8]).unwrap_err().contains("more than 4"));
    }

    #[test]
    fn a_lying_header_is_refused_before_memory_is_taken() {
        let huge = parse(&npy("<f8", "(1000000, 1000000, 1000000, 1000000)", "False", &[])).unwrap_err();
        assert!(huge.contains("address space"), "{huge}");
        let claims = parse(&npy("<f4", "(100000000,)", "False", &[])).unwrap_err();
        assert!(claims.contains("claims"), "{claims}");
        let short = parse(&npy("<f4", "(4,)", "False", &[0; 8])).unwrap_err();
        assert!(short.contains("only 8"), "{short}");
        let long = parse(&npy("<f4", "(1,)", "False", &[0; 8])).unwrap_err();
        assert!(long.contains("more than 4"), "{long}");
        let mut header = b"\x93NUMPY\x02\x00".to_vec();
        header.extend(u32::MAX.to_le_bytes());
        assert!(parse(&header).unwrap_err().contains("header claims"));
    }

    #[test]
    fn an_unsupported_element_type_names_the_remedy() {
        let message = parse(&npy("<c8", "(1,)", "False", &[0; 8])).unwrap_err();
        assert!(message.contains("save it as f4"), "{message}");
    }
}
