//! How much memory the process may take, how much it has, and whether that leaves room for anything new.
//!
//! The system says what is resident. But what an allocator has once had from the system it keeps for the next to ask, so
//! that number hardly falls when clients leave, and a router that went by it alone would refuse for ever. So every shard
//! also keeps an account of what clients make it hold. The difference at the fullest moment is what the account does not
//! know (code, tables, what lies between allocations); account and difference together are what is in use *now*.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tracing::warn;

use crate::limits;
use crate::routes::ShardId;

/// What all shards may have together and know of each other. Touched once a turn at most, and by no message below
/// [`limits::SHARE_BYTES_MIN`].
pub struct Memory {
    shards: usize,
    /// Resident bytes above which the process must never be.
    ceiling_bytes: usize,
    /// What was resident when all shards were ready; the rest is for clients.
    base_bytes: AtomicUsize,
    /// `egress_bytes` of the configuration.
    egress_bytes: Option<usize>,
    accounts: Vec<Account>,
    /// Bytes of large messages that somebody still holds.
    large_bytes: Arc<AtomicUsize>,
    state: AtomicU8,
    /// How much was left below the ceiling at the last look.
    left_bytes: AtomicUsize,
    watch: Mutex<Watch>,
}

/// Two cache lines of distance, for each is written by another shard.
#[repr(align(128))]
#[derive(Default)]
struct Account {
    bytes: AtomicUsize,
    growth_bytes: AtomicUsize,
}

struct Watch {
    status: Option<File>,
    /// The most that was ever resident beyond what the accounts knew of.
    unaccounted_bytes: usize,
    fullest_bytes: usize,
}

/// How much of the memory is in use, as of the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Roomy,
    /// Nothing new is taken on: no connections, no subscriptions; publishers may have to wait for credit.
    Tight,
    /// What is held is given up as well.
    Critical,
}

/// What one shard may hold, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    pub egress_bytes: usize,
    pub parked_bytes: usize,
    pub unfinished_bytes: usize,
    /// A shard that holds so much more than when memory was last looked at has it looked at again.
    pub step_bytes: usize,
    /// It may become so much more before memory is looked at again.
    pub left_bytes: usize,
}

impl Memory {
    /// - `ceiling_bytes`: `None` for [`limits::MEMORY_PERCENT`] of what there is.
    pub fn new(shards: u16, ceiling_bytes: Option<usize>, egress_bytes: Option<usize>) -> Memory {
        let ceiling_bytes = ceiling_bytes
            .or_else(|| available_bytes().map(|bytes| bytes / 100 * limits::MEMORY_PERCENT))
            .unwrap_or(usize::MAX)
            .max(limits::MEMORY_LEAST);
        Memory {
            shards: usize::from(shards),
            ceiling_bytes,
            base_bytes: AtomicUsize::new(0),
            egress_bytes,
            accounts: (0..shards).map(|_| Account::default()).collect(),
            large_bytes: Arc::default(),
            state: AtomicU8::new(State::Roomy as u8),
            left_bytes: AtomicUsize::new(usize::MAX),
            watch: Mutex::new(Watch {
                status: File::open("/proc/self/status").ok(),
                unaccounted_bytes: 0,
                fullest_bytes: 0,
            }),
        }
    }

    /// Without a ceiling, and without a look at this process: for shards that are simulated.
    #[cfg(test)]
    pub fn boundless(shards: u16) -> Memory {
        let mut memory = Memory::new(shards, Some(usize::MAX), None);
        memory.watch.get_mut().expect("nobody else has it").status = None;
        memory
    }

    pub fn ceiling_bytes(&self) -> usize {
        self.ceiling_bytes
    }

    /// To be told once, when every shard is ready and nobody has connected.
    pub fn settle_base(&self) {
        // Rings lend their buffers to the kernel from the start, and get them resident as they are used.
        let buffers = usize::from(limits::RECEIVE_BUFFERS) * limits::RECEIVE_BUFFER_BYTES as usize;
        let resident = self.lock().resident_bytes().unwrap_or(0);
        let base = resident + self.shards * buffers;
        self.base_bytes.store(base, Ordering::Relaxed);
        if base > self.ceiling_bytes / 4 * 3 {
            warn!(
                base,
                ceiling = self.ceiling_bytes,
                "`limits.memory` leaves little for clients"
            );
        }
    }

    /// What is for clients: what the ceiling leaves, and a quarter of it at least.
    fn client_bytes(&self) -> usize {
        let base = self.base_bytes.load(Ordering::Relaxed);
        (self.ceiling_bytes.saturating_sub(base)).max(self.ceiling_bytes / 4)
    }

    /// The shares of one shard, now.
    pub fn shares(&self) -> Shares {
        let eighth = self.client_bytes() / 8;
        let divisor = match self.state() {
            State::Roomy | State::Tight => self.shards,
            State::Critical => self.shards * limits::MEMORY_CRITICAL_DIVISOR,
        };
        let of = |eighths: usize, most: usize| (eighth * eighths / divisor).min(most);
        let egress = of(limits::MEMORY_EIGHTHS_EGRESS, usize::MAX);
        Shares {
            egress_bytes: match self.egress_bytes {
                Some(bytes) => egress.min(bytes / self.shards),
                None => egress,
            },
            parked_bytes: of(
                limits::MEMORY_EIGHTHS_PARKED,
                limits::PARKED_BYTES_PER_SHARD_MAX,
            ),
            unfinished_bytes: of(
                limits::MEMORY_EIGHTHS_UNFINISHED,
                limits::UNFINISHED_BYTES_PER_SHARD_MAX,
            ),
            step_bytes: self.client_bytes() / self.shards / limits::MEMORY_STEP_DIVISOR,
            left_bytes: self.left_bytes.load(Ordering::Relaxed) / self.shards,
        }
    }

    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            0 => State::Roomy,
            1 => State::Tight,
            _ => State::Critical,
        }
    }

    /// This shard's part of the large messages that anybody holds.
    pub fn large_bytes_share(&self) -> usize {
        self.large_bytes.load(Ordering::Relaxed) / self.shards
    }

    /// Has a message counted for as long as anybody holds it, if it is large: it is shared by its receivers, and by
    /// shards, so none of them can say what it takes.
    pub fn watched(&self, message: Bytes) -> Bytes {
        if message.len() < limits::SHARE_BYTES_MIN {
            return message;
        }
        self.large_bytes.fetch_add(message.len(), Ordering::Relaxed);
        Bytes::from_owner(Watched {
            message,
            large_bytes: self.large_bytes.clone(),
        })
    }

    /// Tells what a shard holds by its account, and finds out how much of the memory is in use.
    ///
    /// - `growth_bytes`: what it will take all at once before long.
    pub fn look(&self, shard: ShardId, account_bytes: usize, growth_bytes: usize) {
        if let Some(account) = self.accounts.get(usize::from(shard.0)) {
            account.bytes.store(account_bytes, Ordering::Relaxed);
            account.growth_bytes.store(growth_bytes, Ordering::Relaxed);
        }
        // Who holds it is looking at the same.
        let Ok(mut watch) = self.watch.try_lock() else {
            return;
        };
        let Some(resident) = watch.resident_bytes() else {
            return;
        };
        let sum = |of: fn(&Account) -> &AtomicUsize| -> usize {
            let values = self.accounts.iter().map(of);
            values.map(|value| value.load(Ordering::Relaxed)).sum()
        };
        let in_use = watch.in_use(resident, sum(|account| &account.bytes));
        self.judge(in_use, sum(|account| &account.growth_bytes));
    }

    /// - `growth`: what is soon wanted all at once. Room is kept for it, but nothing is given up.
    fn judge(&self, in_use: usize, growth: usize) {
        let mark = |eighths| self.ceiling_bytes - self.client_bytes() / 8 * (8 - eighths);
        let wanted = in_use + growth;
        let state = if in_use > mark(limits::MEMORY_EIGHTHS_CRITICAL) {
            State::Critical
        } else if wanted > mark(limits::MEMORY_EIGHTHS_HIGH) {
            State::Tight
        } else if wanted < mark(limits::MEMORY_EIGHTHS_LOW) {
            State::Roomy
        } else {
            self.state().min(State::Tight)
        };
        self.state.store(state as u8, Ordering::Relaxed);
        let left = self.ceiling_bytes.saturating_sub(wanted);
        self.left_bytes.store(left, Ordering::Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Watch> {
        self.watch
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Watch {
    fn resident_bytes(&mut self) -> Option<usize> {
        let mut text = [0; STATUS_BYTES_MAX];
        let read = self.status.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..read)?).ok()?;
        kilobytes(text, "VmRSS:")
    }

    fn in_use(&mut self, resident: usize, accounted: usize) -> usize {
        if resident > self.fullest_bytes {
            self.fullest_bytes = resident;
            self.unaccounted_bytes = resident.saturating_sub(accounted);
        }
        resident.min(accounted + self.unaccounted_bytes)
    }
}

/// Of proc_pid_status(5), more than comes before what we look for.
const STATUS_BYTES_MAX: usize = 4_096;

/// The bytes on a line `name   n kB`.
fn kilobytes(text: &str, name: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1_024)
}

struct Watched {
    message: Bytes,
    large_bytes: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.message
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.large_bytes
            .fetch_sub(self.message.len(), Ordering::Relaxed);
    }
}

/// What the machine has, or the control group that this process is in if that may have less.
fn available_bytes() -> Option<usize> {
    let machine = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| kilobytes(&text, "MemTotal:"));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    machine
        .into_iter()
        .chain(group_bytes(&groups, Path::new("/sys/fs/cgroup")))
        .min()
}

/// The least limit on memory of the groups that `groups` (cgroups(7), "/proc/pid/cgroup") names and of those around them.
fn group_bytes(groups: &str, root: &Path) -> Option<usize> {
    let lines = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let path = path.trim_start_matches('/').to_owned();
        match controllers {
            "" => Some((root.to_owned(), path, "memory.max")),
            _ if controllers.split(',').any(|name| name == "memory") => {
                Some((root.join("memory"), path, "memory.limit_in_bytes"))
            }
            _ => None,
        }
    });
    lines
        .flat_map(|(top, path, file)| {
            // In a container the group may be mounted at the top, whatever it is called outside.
            let group: PathBuf = top.join(path);
            let around = group
                .ancestors()
                .take_while(|folder| folder.starts_with(&top));
            around.map(|folder| folder.join(file)).collect::<Vec<_>>()
        })
        .filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_allocator_keeps_is_not_in_use() {
        let mut watch = Watch {
            status: None,
            unaccounted_bytes: 0,
            fullest_bytes: 0,
        };
        assert_eq!(watch.in_use(10, 0), 10);
        assert_eq!(watch.in_use(100, 70), 100);
        // 70 are freed, 5 of them go back to the system.
        assert_eq!(watch.in_use(95, 0), 30);
        // They are used again, and what was not known of before shows as the process grows.
        assert_eq!(watch.in_use(95, 60), 90);
        assert_eq!(watch.in_use(120, 60), 120);
        assert_eq!(watch.in_use(120, 0), 60);
        // What was never accounted for is given back as well.
        assert_eq!(watch.in_use(20, 0), 20);
    }

    #[test]
    fn memory_is_tight_from_the_high_mark_to_the_low_one_and_shares_shrink_when_it_is_critical() {
        const CEILING: usize = 800 << 20;
        let memory = Memory::new(2, Some(CEILING), None);
        let shares = memory.shares();
        assert_eq!(shares.egress_bytes, CEILING / 16 * 3);
        let judged = |eighths: f64| {
            memory.judge((CEILING as f64 / 8.0 * eighths) as usize, 0);
            memory.state()
        };
        assert_eq!(judged(5.5), State::Roomy);
        assert_eq!(judged(6.5), State::Tight);
        assert_eq!(memory.shares().egress_bytes, shares.egress_bytes);
        assert_eq!(judged(7.5), State::Critical);
        assert_eq!(memory.shares().egress_bytes, shares.egress_bytes / 4);
        assert_eq!(memory.shares().left_bytes, CEILING / 32);
        assert_eq!(judged(5.5), State::Tight);
        assert_eq!(judged(4.5), State::Roomy);
        memory.judge(CEILING / 2, CEILING);
        assert_eq!(memory.state(), State::Tight);
    }

    #[test]
    fn what_is_resident_is_known() {
        let memory = Memory::new(1, None, None);
        assert!(
            memory
                .lock()
                .resident_bytes()
                .is_some_and(|bytes| bytes > 1 << 20)
        );
        memory.look(ShardId(0), 0, 0);
        assert!(memory.shares().left_bytes < memory.ceiling_bytes());
    }

    #[test]
    fn a_large_message_counts_until_the_last_holder_lets_go() {
        let memory = Memory::new(1, None, None);
        let message = memory.watched(Bytes::from(vec![7; limits::SHARE_BYTES_MIN]));
        let slice = message.slice(..10);
        drop(message);
        assert_eq!(memory.large_bytes_share(), limits::SHARE_BYTES_MIN);
        drop(slice);
        let small = memory.watched(Bytes::from_static(b"small"));
        assert_eq!((memory.large_bytes_share(), small.len()), (0, 5));
    }

    #[test]
    fn the_least_limit_of_all_groups_around_holds() {
        let root = std::env::temp_dir().join(format!("slim-groups-{}", std::process::id()));
        let inner = root.join("outer/inner");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::create_dir_all(root.join("memory/here")).unwrap();
        std::fs::write(inner.join("memory.max"), "max\n").unwrap();
        std::fs::write(root.join("outer/memory.max"), "5000\n").unwrap();
        std::fs::write(root.join("memory/here/memory.limit_in_bytes"), "4000\n").unwrap();
        let unlimited = group_bytes("0::/elsewhere\n", &root);
        let second = group_bytes("0::/outer/inner\n", &root);
        let both = group_bytes("4:cpu,memory:/here\n0::/outer/inner\n", &root);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!((unlimited, second, both), (None, Some(5_000), Some(4_000)));
        assert!(available_bytes().is_some());
    }
}
