//! Where the kernel writes how much memory there is and how much is used: control groups of version 1
//! and 2, and `/proc`.
//!
//! A group's use counts as Kubernetes counts it, without the file pages that nobody used lately: the
//! kernel takes those back before it ends anybody.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::MemoryError;
use crate::config::MemoryMax;

/// How much is used, of how much, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) used: u64,
    pub(super) limit: u64,
}

/// The files to look at.
#[derive(Debug)]
pub(super) struct Source {
    /// `/proc/self/status`.
    status: PathBuf,
    /// What the operator or the machine says; a group's limit goes before the machine's.
    limit: u64,
    /// The process's own group and those above it.
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    folder: PathBuf,
    version: Version,
}

/// The two versions of control groups, which call things by other names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Version {
    fn limit_file(self) -> &'static str {
        match self {
            Self::V1 => "memory.limit_in_bytes",
            Self::V2 => "memory.max",
        }
    }

    fn used_file(self) -> &'static str {
        match self {
            Self::V1 => "memory.usage_in_bytes",
            Self::V2 => "memory.current",
        }
    }

    /// In `memory.stat`: file pages that nobody used lately, those of the groups below included.
    fn inactive_key(self) -> &'static str {
        match self {
            Self::V1 => "total_inactive_file",
            Self::V2 => "inactive_file",
        }
    }
}

impl Reading {
    /// So many percent of the limit.
    pub(super) fn part(&self, percent: u8) -> u64 {
        self.limit / 100 * u64::from(percent)
    }

    pub(super) fn is_above(&self, percent: u8) -> bool {
        self.used > self.part(percent)
    }
}

impl Source {
    /// Finds the files below `root`, which is `/` but in tests.
    pub(super) fn open(root: &Path, max: MemoryMax) -> Result<Self, MemoryError> {
        let proc = root.join("proc");
        let status = proc.join("self/status");
        let (limit, groups) = match max {
            MemoryMax::Size(size) => (size.bytes() as u64, Vec::new()),
            MemoryMax::Auto => (kib(&proc.join("meminfo"), "MemTotal:")?, groups(root)),
        };
        Ok(Self { status, limit, groups })
    }

    /// Reads them. The limit is read as well: it can be changed while we run.
    pub(super) fn read(&self) -> Result<Reading, MemoryError> {
        match self.tightest() {
            Some((group, limit)) => Ok(Reading { used: group.used()?, limit }),
            None => Ok(Reading { used: kib(&self.status, "VmRSS:")?, limit: self.limit }),
        }
    }

    /// The group with the least limit; none when no limit is below the machine's memory, as where
    /// version 1 writes 2^63 for none.
    fn tightest(&self) -> Option<(&Group, u64)> {
        let limited = self.groups.iter().filter_map(|group| Some((group, group.limit()?)));
        limited.filter(|(_, limit)| *limit < self.limit).min_by_key(|(_, limit)| *limit)
    }
}

impl Group {
    /// None without a limit: the file is not there at the root, and says `max` elsewhere.
    fn limit(&self) -> Option<u64> {
        fs::read_to_string(self.folder.join(self.version.limit_file())).ok()?.trim().parse().ok()
    }

    fn used(&self) -> Result<u64, MemoryError> {
        let path = self.folder.join(self.version.used_file());
        let used = read(&path)?.trim().parse::<u64>();
        let used = used.map_err(|_| MemoryError::Missing { path, key: "a number of bytes" })?;
        let inactive = number(&self.folder.join("memory.stat"), self.version.inactive_key())?;
        Ok(used.saturating_sub(inactive))
    }
}

/// The groups that bound this process's memory, its own first; none where there are no groups.
fn groups(root: &Path) -> Vec<Group> {
    let text = |name| fs::read_to_string(root.join("proc/self").join(name)).unwrap_or_default();
    let (own, mounts) = (text("cgroup"), text("mountinfo"));
    let Some((own, version)) = own_group(&own) else { return Vec::new() };
    let Some((mounted, at)) = mounts.lines().find_map(|line| mount(line, version)) else {
        return Vec::new();
    };
    let top = root.join(at.trim_start_matches('/'));
    // In a container, the own group may go by the name that the host knows it by and that cannot be
    // seen here; then what is mounted is the own group.
    let below = Path::new(own).strip_prefix(mounted).unwrap_or(Path::new(""));
    let is_inside = below.components().all(|part| matches!(part, Component::Normal(_)));
    let own = Some(top.join(below)).filter(|folder| is_inside && folder.is_dir());
    let own = own.unwrap_or_else(|| top.clone());
    let folders = own.ancestors().take_while(|folder| folder.starts_with(&top));
    folders.map(|folder| Group { folder: folder.to_owned(), version }).collect()
}

/// The name of the own group in `/proc/self/cgroup`, where each line is `number:controllers:name`.
/// Version 1 goes first: where a machine has both, a controller is in one of them only.
fn own_group(text: &str) -> Option<(&str, Version)> {
    let lines = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let v1 = lines.clone().find(|(controllers, _)| has(controllers, "memory"));
    let v2 = lines.clone().find(|(controllers, _)| controllers.is_empty());
    v1.map(|(_, name)| (name, Version::V1)).or(v2.map(|(_, name)| (name, Version::V2)))
}

/// Which group is mounted and where, if a line of `/proc/self/mountinfo` mounts groups of this version
/// (proc_pid_mountinfo(5)).
fn mount(line: &str, version: Version) -> Option<(&str, &str)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut filesystem = filesystem.split(' ');
    let is_ours = match (version, filesystem.next()?) {
        (Version::V1, "cgroup") => has(filesystem.nth(1)?, "memory"),
        (Version::V2, "cgroup2") => true,
        _ => false,
    };
    let mut fields = mount.split(' ').skip(3);
    Some((fields.next()?, fields.next()?)).filter(|_| is_ours)
}

/// Whether a list with commas names `word`.
fn has(list: &str, word: &str) -> bool {
    list.split(',').any(|item| item == word)
}

/// The number behind `key`, in a file of lines `key number`.
fn number(path: &Path, key: &'static str) -> Result<u64, MemoryError> {
    let text = read(path)?;
    let found = text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next().filter(|word| *word == key)?;
        words.next()?.parse().ok()
    });
    found.ok_or_else(|| MemoryError::Missing { path: path.to_owned(), key })
}

/// The bytes behind `key`, in a file that counts in KiB.
fn kib(path: &Path, key: &'static str) -> Result<u64, MemoryError> {
    number(path, key).map(|kib| kib.saturating_mul(1024))
}

fn read(path: &Path) -> Result<String, MemoryError> {
    fs::read_to_string(path)
        .map_err(|source| MemoryError::Unreadable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const UNLIMITED: &str = "9223372036854771712";
    const V1_MOUNT: &str = "34 30 0:31 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory";
    const V2_MOUNT: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw";

    /// A machine with 1 GiB, and this process with 100 MiB.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let own = [
            ("proc/meminfo", "MemTotal:        1048576 kB\nMemFree:          1000 kB\n"),
            ("proc/self/status", "Name:\tmoorline\nVmHWM:\t  204800 kB\nVmRSS:\t  102400 kB\n"),
        ];
        for (path, text) in own.iter().chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    /// Used and limit in MiB.
    fn read(root: &tempfile::TempDir, max: &str) -> (u64, u64) {
        let reading = Source::open(root.path(), max.parse().unwrap()).unwrap().read().unwrap();
        (reading.used / MIB, reading.limit / MIB)
    }

    fn bytes(mib: u64) -> String {
        format!("{}\n", mib * MIB)
    }

    #[test]
    fn version_2_without_the_file_pages_nobody_used_lately() {
        let folder = "sys/fs/cgroup/system.slice/moorline.service";
        let root = machine(&[
            ("proc/self/cgroup", "0::/system.slice/moorline.service\n"),
            ("proc/self/mountinfo", V2_MOUNT),
            (&format!("{folder}/memory.max"), &bytes(512)),
            (&format!("{folder}/memory.current"), &bytes(300)),
            (
                &format!("{folder}/memory.stat"),
                &format!("anon 1\ninactive_file {}active_file 2\n", bytes(50)),
            ),
            ("sys/fs/cgroup/system.slice/memory.max", "max\n"),
        ]);
        assert_eq!(read(&root, "auto"), (250, 512));
        assert_eq!(read(&root, "200MiB"), (100, 200), "a size is about the process alone");
    }

    #[test]
    fn version_1_beside_version_2() {
        let folder = "sys/fs/cgroup/memory/docker/1";
        let root = machine(&[
            ("proc/self/cgroup", "9:name=systemd:/\n4:memory:/docker/1\n0::/\n"),
            ("proc/self/mountinfo", &format!("{V2_MOUNT}\n{V1_MOUNT}\n")),
            (&format!("{folder}/memory.limit_in_bytes"), &bytes(256)),
            (&format!("{folder}/memory.usage_in_bytes"), &bytes(200)),
            (
                &format!("{folder}/memory.stat"),
                &format!("inactive_file 7\ntotal_inactive_file {}", bytes(20)),
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", UNLIMITED),
        ]);
        assert_eq!(read(&root, "auto"), (180, 256));
    }

    #[test]
    fn the_tightest_of_nested_limits_counts() {
        let root = machine(&[
            ("proc/self/cgroup", "0::/pod/container\n"),
            ("proc/self/mountinfo", V2_MOUNT),
            ("sys/fs/cgroup/pod/container/memory.max", &bytes(600)),
            ("sys/fs/cgroup/pod/memory.max", &bytes(400)),
            ("sys/fs/cgroup/pod/memory.current", &bytes(399)),
            ("sys/fs/cgroup/pod/memory.stat", "inactive_file 0\n"),
        ]);
        assert_eq!(read(&root, "auto"), (399, 400));
    }

    #[test]
    fn a_container_sees_its_own_group_where_groups_are_mounted() {
        let own = [
            ("sys/fs/cgroup/memory.max", bytes(128)),
            ("sys/fs/cgroup/memory.current", bytes(64)),
            ("sys/fs/cgroup/memory.stat", "inactive_file 0\n".to_owned()),
        ];
        let own = own.each_ref().map(|(path, text)| (*path, text.as_str()));
        let bound = V2_MOUNT.replace(" / /", " /kubepods/pod1/abc /");
        for (name, mounts) in [
            ("0::/\n", V2_MOUNT),
            ("0::/kubepods/pod1/abc\n", &bound),
            ("0::/kubepods/pod1/abc\n", V2_MOUNT),
            ("0::/../../elsewhere\n", V2_MOUNT),
        ] {
            let files = [("proc/self/cgroup", name), ("proc/self/mountinfo", mounts)];
            let root = machine(&[files.as_slice(), &own].concat());
            assert_eq!(read(&root, "auto"), (64, 128), "{name} {mounts}");
        }
    }

    #[test]
    fn without_a_limit_it_is_the_process_in_the_machine() {
        assert_eq!(read(&machine(&[]), "auto"), (100, 1024));
        let unlimited = [
            ("proc/self/cgroup", "4:memory:/\n"),
            ("proc/self/mountinfo", V1_MOUNT),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", UNLIMITED),
        ];
        assert_eq!(read(&machine(&unlimited), "auto"), (100, 1024));
    }

    #[test]
    fn a_limit_that_changes_is_taken_over() {
        let root = machine(&[
            ("proc/self/cgroup", "0::/\n"),
            ("proc/self/mountinfo", V2_MOUNT),
            ("sys/fs/cgroup/memory.max", "max\n"),
            ("sys/fs/cgroup/memory.current", &bytes(10)),
            ("sys/fs/cgroup/memory.stat", "inactive_file 0\n"),
        ]);
        let source = Source::open(root.path(), MemoryMax::Auto).unwrap();
        assert_eq!(source.read().unwrap().limit, 1024 * MIB);
        fs::write(root.path().join("sys/fs/cgroup/memory.max"), bytes(20)).unwrap();
        assert_eq!(source.read().unwrap(), Reading { used: 10 * MIB, limit: 20 * MIB });
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let root = tempfile::tempdir().unwrap();
        let error = Source::open(root.path(), MemoryMax::Auto).unwrap_err();
        assert!(error.to_string().ends_with("proc/meminfo"), "{error}");
        let root = machine(&[("proc/self/status", "Name:\tmoorline\n")]);
        let source = Source::open(root.path(), "1GiB".parse().unwrap()).unwrap();
        let error = source.read().unwrap_err();
        assert!(error.to_string().ends_with("status does not say `VmRSS:`"), "{error}");
    }
}
