//! Tensor data outside of the model file.
//!
//! A model names the file, and a place in it, for each tensor. The file must lie beneath the directory of the model and
//! be a plain file of its own: no link of either kind, since a link could give a model the contents of a file that its
//! author could not read. Every number is checked against the size of the file before memory is taken.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path};

use fuse_ir::Bytes;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::error::OnnxError;
use super::file::READ;
use super::proto::TensorProto;
use super::tensor::Data;

/// Where the data of a tensor lies.
struct Place<'a> {
    /// The file, relative to the directory of the model.
    location: &'a str,
    /// The first byte.
    offset: u64,
    /// The number of bytes; `None` for all that follow.
    length: Option<u64>,
}

/// The bytes of a tensor that lie in another file.
///
/// # Errors
/// Where the file is not there, is none that a model may name, or has other bytes than the dimensions take.
pub(crate) fn read(tensor: &TensorProto, size: usize, data: &Data<'_>) -> Result<Bytes, OnnxError> {
    let fail = |problem: String| OnnxError::Malformed(format!("tensor `{}`: {problem}", tensor.name()));
    let Some(directory) = data.directory else {
        return Err(fail("its data lies in another file, but the model has no directory".into()));
    };
    if tensor.raw_data.is_some() {
        return Err(fail("it has data of its own and in another file".into()));
    }
    let place = Place::of(tensor).map_err(fail)?;
    let named = |problem: String| fail(format!("external data {:?}: {problem}", place.location));
    let path = relative(place.location).map_err(named)?;
    let file = File::from(open_beneath(directory, path).map_err(named)?);
    let metadata = file.metadata().map_err(|e| named(e.to_string()))?;
    if !metadata.is_file() {
        return Err(named("it is no regular file".into()));
    }
    if metadata.nlink() != 1 {
        return Err(named(format!("the file has {} names (hard links); copy it", metadata.nlink())));
    }
    place.check(size as u64, metadata.len()).map_err(named)?;
    data.add_file((metadata.dev(), metadata.ino()), metadata.len());
    data.charge(size)?;
    let no_memory = || named(format!("there is no memory for {size} bytes"));
    let mut out = Bytes::try_zeroed(size).ok_or_else(no_memory)?;
    file.read_exact_at(out.as_mut_slice(), place.offset).map_err(|e| named(e.to_string()))?;
    Ok(out)
}

impl<'a> Place<'a> {
    /// What the tensor's `external_data` says. Keys that do not say where the data lies are ignored.
    fn of(tensor: &'a TensorProto) -> Result<Self, String> {
        let value = |key: &str| -> Result<Option<&'a str>, String> {
            let mut entries = tensor.external_data.iter().filter(|e| e.key() == key);
            match (entries.next(), entries.next()) {
                (_, Some(_)) => Err(format!("its external data has two values of `{key}`")),
                (entry, None) => Ok(entry.map(|e| e.value())),
            }
        };
        let number = |key: &str| -> Result<Option<u64>, String> {
            let parse = |text: &str| {
                text.parse()
                    .map_err(|_| format!("its external data has the {key} {text:?}, which is no number"))
            };
            value(key)?.map(parse).transpose()
        };
        let location = value("location")?.ok_or("its external data has no location")?;
        Ok(Place { location, offset: number("offset")?.unwrap_or(0), length: number("length")? })
    }

    /// Compares the place with the bytes that the dimensions take and those that the file has.
    fn check(&self, size: u64, file: u64) -> Result<(), String> {
        let Some(rest) = file.checked_sub(self.offset) else {
            return Err(format!(
                "offset {} is past the end of the file, which has {file} bytes",
                self.offset
            ));
        };
        let length = self.length.unwrap_or(rest);
        if length > rest {
            let from = self.offset;
            return Err(format!(
                "{length} bytes from {from} on are past the end of the file, which has {file} bytes"
            ));
        }
        if length != size {
            return Err(format!("the dimensions take {size} bytes, but it has {length}"));
        }
        Ok(())
    }
}

/// The location as a path that stays beneath the directory it starts from, by its text.
fn relative(location: &str) -> Result<&Path, String> {
    let path = Path::new(location);
    let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
    if location.is_empty() || location.contains('\0') || !path.components().all(plain) {
        return Err("the location must be a path beneath the directory of the model, without `..`".into());
    }
    Ok(path)
}

/// Opens a file beneath a directory without following links.
fn open_beneath(directory: &Path, path: &Path) -> Result<OwnedFd, String> {
    let flags = OFlags::DIRECTORY.union(OFlags::CLOEXEC).union(OFlags::RDONLY);
    let directory = rustix::fs::openat(CWD, directory, flags, Mode::empty()).map_err(message)?;
    open_resolved(&directory, path).map_err(|e| match e {
        // ELOOP, or what some systems say of a link that may be none.
        Errno::LOOP | Errno::MLINK => "it is, or lies behind, a symbolic link; copy the file".into(),
        Errno::XDEV => "it lies outside of the directory of the model".into(),
        e => message(e),
    })
}

fn message(error: Errno) -> String {
    std::io::Error::from(error).to_string()
}

/// Lets the kernel resolve the whole path under the restrictions, where it can.
#[cfg(target_os = "linux")]
fn open_resolved(directory: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    use rustix::fs::{ResolveFlags, openat2};
    let resolve = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
    match openat2(directory, path, READ, Mode::empty(), resolve) {
        // Kernels before 5.6, and sandboxes that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => open_by_component(directory, path),
        result => result,
    }
}

/// Lets the kernel resolve one component after another.
#[cfg(not(target_os = "linux"))]
fn open_resolved(directory: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    open_by_component(directory, path)
}

/// Opens a path of normal components one after another, none of which may be a link.
fn open_by_component(directory: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let mut names = path.components().filter(|c| *c != Component::CurDir).peekable();
    let mut at = directory.try_clone().map_err(|_| Errno::MFILE)?;
    while let Some(name) = names.next() {
        let last = names.peek().is_none();
        let flags = if last { READ } else { READ.union(OFlags::DIRECTORY) };
        let name = Path::new(name.as_os_str());
        at = match rustix::fs::openat(&at, name, flags.union(OFlags::NOFOLLOW), Mode::empty()) {
            // A link where a directory must be is told as no directory.
            Err(Errno::NOTDIR) if is_link(&at, name) => return Err(Errno::LOOP),
            opened => opened?,
        };
    }
    Ok(at)
}

fn is_link(directory: &OwnedFd, name: &Path) -> bool {
    let stat = rustix::fs::statat(directory, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_symlink())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::onnx::proto::StringStringEntryProto;

    /// A directory with two files of the bytes 0 to 99, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("fuse-external-{}-{name}", std::process::id()));
            std::fs::create_dir_all(dir.join("sub")).expect("a directory");
            let bytes: Vec<u8> = (0..100).collect();
            std::fs::write(dir.join("data"), &bytes).expect("written");
            std::fs::write(dir.join("sub/data"), &bytes).expect("written");
            Scratch(dir)
        }

        fn read(&self, entries: &[(&str, &str)], size: usize) -> Result<Vec<u8>, String> {
            let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
                key: Some((*key).into()),
                value: Some((*value).into()),
            };
            let external_data = entries.iter().map(entry).collect();
            let tensor = TensorProto { external_data, ..Default::default() };
            let read = read(&tensor, size, &Data::new(Some(&self.0), 0)).map_err(|e| e.to_string())?;
            Ok(read.as_slice().to_vec())
        }

        fn refuses(&self, entries: &[(&str, &str)], part: &str) {
            let message = self.read(entries, 10).expect_err("refused");
            assert!(message.contains(part), "{entries:?}: no `{part}` in: {message}");
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn data_is_read_from_its_place() {
        let scratch = Scratch::new("place");
        let place = [("location", "sub/data"), ("offset", "20"), ("length", "10"), ("checksum", "?")];
        assert_eq!(scratch.read(&place, 10).expect("read"), (20..30).collect::<Vec<u8>>());
        assert_eq!(scratch.read(&[("location", "./data"), ("offset", "90")], 10).expect("read")[0], 90);
        assert_eq!(scratch.read(&[("location", "data"), ("offset", "100")], 0).expect("read"), []);
    }

    #[test]
    fn places_that_disagree_with_file_or_dimensions_are_refused() {
        let scratch = Scratch::new("numbers");
        let at = |offset, length| [("location", "data"), ("offset", offset), ("length", length)];
        scratch.refuses(&at("101", "10"), "past the end");
        scratch.refuses(&at("91", "10"), "past the end");
        scratch.refuses(&at("18446744073709551615", "10"), "past the end");
        scratch.refuses(&at("0", "18446744073709551615"), "past the end");
        scratch.refuses(&at("0", "18446744073709551616"), "no number");
        scratch.refuses(&at("-1", "10"), "no number");
        scratch.refuses(&at("0", "11"), "dimensions take 10 bytes");
        scratch.refuses(&[("location", "data")], "dimensions take 10 bytes");
        scratch.refuses(&[("offset", "0")], "no location");
        scratch.refuses(&[("location", "data"), ("location", "data")], "two values");
    }

    #[test]
    fn files_that_are_not_the_models_own_are_refused() {
        let scratch = Scratch::new("links");
        std::os::unix::fs::symlink("data", scratch.0.join("link")).expect("a link");
        std::os::unix::fs::symlink("sub", scratch.0.join("linked")).expect("a link");
        std::fs::hard_link(scratch.0.join("sub/data"), scratch.0.join("twin")).expect("a link");
        let absolute = scratch.0.join("data").display().to_string();
        for location in ["../data", "sub/../data", "/etc/passwd", "", &absolute, "data\0"] {
            scratch.refuses(&[("location", location)], "beneath");
        }
        for location in ["link", "linked/data"] {
            scratch.refuses(&[("location", location), ("length", "10")], "symbolic link");
        }
        scratch.refuses(&[("location", "twin")], "2 names");
        scratch.refuses(&[("location", "sub")], "regular");
        scratch.refuses(&[("location", "none")], "No such file");
        scratch.refuses(&[("location", "data/x")], "irectory");
    }

    #[test]
    fn links_are_refused_where_the_kernel_resolves_one_component_at_a_time() {
        let scratch = Scratch::new("components");
        std::os::unix::fs::symlink("sub", scratch.0.join("linked")).expect("a link");
        std::os::unix::fs::symlink("data", scratch.0.join("link")).expect("a link");
        let directory = OwnedFd::from(File::open(&scratch.0).expect("opened"));
        let open = |path: &str| open_by_component(&directory, Path::new(path)).map(drop);
        assert_eq!(open("sub/./data"), Ok(()));
        for path in ["linked/data", "link"] {
            assert_eq!(open(path), Err(Errno::LOOP), "{path}");
        }
    }

    #[test]
    fn the_same_bytes_are_not_read_without_end() {
        let data = Data::new(None, 100);
        data.add_file((1, 1), 1000);
        data.add_file((1, 1), 1000);
        data.charge((128 << 20) + 8 * 1100).expect("within bounds");
        data.charge(1).expect_err("the bound is reached");
    }
}
