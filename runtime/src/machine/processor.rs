//! What the system says of its processor.

use std::path::Path;

/// A cache that holds data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// 1 is nearest to the core.
    pub level: u32,
    /// Its size.
    pub bytes: usize,
    /// The number of logical processors that share it.
    pub shared_by: usize,
}

/// The processor's name, or its architecture where the system does not say more. `root` is where the file system is
/// looked for.
pub(super) fn name(root: &Path) -> String {
    let text = std::fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    let names = text.lines().filter_map(|line| line.split_once(':'));
    let name = names.filter(|(key, _)| key.trim() == "model name").map(|(_, name)| name.trim()).next();
    name.unwrap_or(std::env::consts::ARCH).to_owned()
}

/// The data caches of the first processor, the nearest first; none where the system does not tell.
pub(super) fn caches(root: &Path) -> Vec<Cache> {
    let directory = root.join("sys/devices/system/cpu/cpu0/cache");
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut caches: Vec<Cache> = entries.filter_map(|entry| cache(&entry.path())).collect();
    caches.sort_by_key(|cache| cache.level);
    caches
}

/// The bytes of the processor's largest data cache; `None` where the system does not tell.
pub fn largest_cache_bytes() -> Option<usize> {
    caches(Path::new("/")).into_iter().map(|cache| cache.bytes).max()
}

fn cache(directory: &Path) -> Option<Cache> {
    let field =
        |name: &str| std::fs::read_to_string(directory.join(name)).ok().map(|text| text.trim().to_owned());
    if field("type")? == "Instruction" {
        return None;
    }
    let shared_by = field("shared_cpu_list").and_then(|list| count_of(&list)).unwrap_or(1);
    Some(Cache { level: field("level")?.parse().ok()?, bytes: bytes_of(&field("size")?)?, shared_by })
}

/// The bytes of a size such as `48K`.
fn bytes_of(size: &str) -> Option<usize> {
    let (number, unit) = match size.strip_suffix(['K', 'M', 'G']) {
        Some(number) => (number, &size[number.len()..]),
        None => (size, ""),
    };
    let shift = match unit {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => 0,
    };
    number.parse::<usize>().ok()?.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}

/// How many numbers a list such as `0-3,8` has.
fn count_of(list: &str) -> Option<usize> {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.split(',').map(count).sum::<Option<usize>>().filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_lists_are_read() {
        assert_eq!(bytes_of("48K"), Some(48 << 10));
        assert_eq!(bytes_of("32M"), Some(32 << 20));
        assert_eq!(bytes_of("512"), Some(512));
        assert_eq!(bytes_of("K"), None);
        assert_eq!(count_of("0-3,8"), Some(5));
        assert_eq!(count_of("3-1"), None);
    }

    #[test]
    fn a_system_that_tells_nothing_has_an_architecture_and_no_caches() {
        let nowhere = Path::new("/nonexistent");
        assert_eq!(name(nowhere), std::env::consts::ARCH);
        assert_eq!(caches(nowhere), []);
    }

    #[test]
    fn data_caches_are_listed_from_the_nearest() {
        let root = std::env::temp_dir().join(format!("fuse-caches-{}", std::process::id()));
        let directory = root.join("sys/devices/system/cpu/cpu0/cache");
        let caches_of =
            [("1", "Instruction", "32K", "0"), ("3", "Unified", "8M", "0-7"), ("1", "Data", "48K", "0,4")];
        for (index, (level, kind, size, shared)) in caches_of.into_iter().enumerate() {
            let directory = directory.join(format!("index{index}"));
            std::fs::create_dir_all(&directory).unwrap();
            for (name, text) in
                [("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)]
            {
                std::fs::write(directory.join(name), format!("{text}\n")).unwrap();
            }
        }
        let found = caches(&root);
        std::fs::remove_dir_all(&root).unwrap();
        let nearest = Cache { level: 1, bytes: 48 << 10, shared_by: 2 };
        assert_eq!(found, [nearest, Cache { level: 3, bytes: 8 << 20, shared_by: 8 }]);
    }
}
