//! What this process may take of the machine: memory, and the number of threads.

use std::path::{Path, PathBuf};

/// The bytes of memory that a run may take unless the caller says otherwise: the least of the machine's
/// physical memory, the limits of the control groups around this process, and its address-space limit.
pub fn default_memory_limit() -> u64 {
    let limits = [physical_memory(), control_group_limit(Path::new("/")), address_space_limit()];
    limits.into_iter().flatten().min().unwrap_or(u64::MAX)
}

/// The number of threads of a team unless the caller says otherwise: what the affinity mask and the quota of
/// the control group leave to this process.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(target_os = "linux")]
fn physical_memory() -> Option<u64> {
    let info = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion, reason = "the field is 32 bits wide on some targets")]
    let pages = u64::from(info.totalram);
    pages.checked_mul(u64::from(info.mem_unit))
}

#[cfg(not(target_os = "linux"))]
fn physical_memory() -> Option<u64> {
    None
}

#[cfg(unix)]
fn address_space_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::As).current
}

#[cfg(not(unix))]
fn address_space_limit() -> Option<u64> {
    None
}

/// The least limit of the control groups from this process's own up to the root, of version 2
/// (`memory.max`) or 1 (`memory.limit_in_bytes`). `root` is where the file system is looked for.
fn control_group_limit(root: &Path) -> Option<u64> {
    let membership = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = membership.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        let (mount, file) = if controllers.is_empty() {
            ("sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|c| c == "memory") {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            return Vec::new();
        };
        // Inside a container the path may be the host's; the mount's own root then holds the limit.
        let relative = PathBuf::from(path.trim_start_matches('/'));
        let groups = relative.ancestors().map(|group| root.join(mount).join(group).join(file));
        groups.filter_map(|file| read_bytes(&file)).collect()
    });
    limits.min()
}

fn read_bytes(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_bounds_the_memory_of_a_run() {
        let limit = default_memory_limit();
        assert!(limit > 1 << 20 && limit < 1 << 60, "{limit}");
    }

    #[test]
    fn the_least_limit_up_the_control_groups_counts() {
        let root = std::env::temp_dir().join(format!("fuse-cgroup-{}", std::process::id()));
        let group = root.join("sys/fs/cgroup/a/b");
        std::fs::create_dir_all(&group).unwrap();
        std::fs::create_dir_all(root.join("proc/self")).unwrap();
        std::fs::write(root.join("proc/self/cgroup"), "0::/a/b\n").unwrap();
        std::fs::write(group.join("memory.max"), "max\n").unwrap();
        std::fs::write(root.join("sys/fs/cgroup/a/memory.max"), "4096\n").unwrap();
        let limit = control_group_limit(&root);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(limit, Some(4096));
    }
}
