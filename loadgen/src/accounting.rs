//! Processor time and memory of a process, by the kernel's own account in `/proc`.

use std::fs;
use std::time::Duration;

/// Why a process cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("process {pid} is gone, or was never there")]
    Gone { pid: u32 },
    #[error("process {pid} cannot be read: {error}")]
    Unreadable { pid: u32, error: std::io::Error },
}

/// Processor time that all threads of a process have used so far, kernel threads of its rings included.
///
/// By the scheduler's account in nanoseconds. A thread that has ended no longer counts, so a difference of two readings
/// is exact while the threads live.
pub fn processor_time(pid: u32) -> Result<Duration, AccountError> {
    let mut total = Duration::ZERO;
    let mut unread = None;
    let mut threads = 0;
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| refusal(pid, error))?;
    for task in tasks.flatten() {
        // A thread may end between the two readings; then its time is gone with it.
        let account = match fs::read_to_string(task.path().join("schedstat")) {
            Ok(account) => account,
            Err(error) => {
                unread = Some(error);
                continue;
            }
        };
        threads += 1;
        let first = account.split_ascii_whitespace().next();
        let ns = first.and_then(|field| field.parse().ok()).unwrap_or(0);
        total += Duration::from_nanos(ns);
    }
    match unread {
        // Another user's process, where the system hides those.
        Some(error) if threads == 0 => Err(refusal(pid, error)),
        _ => Ok(total),
    }
}

/// Processor time that everything on this machine has used since it started, with what its host took from it (stolen).
///
/// In steps of 10 ms, the kernel's unit for this account. `None` where it cannot be read.
pub fn machine_time() -> Option<Duration> {
    busy_time(&fs::read_to_string("/proc/stat").ok()?)
}

/// `cpu user nice system idle iowait irq softirq steal ..`, in hundredths of a second (proc_stat(5)).
fn busy_time(stat: &str) -> Option<Duration> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let mut ticks = 0;
    for (column, field) in line.split_ascii_whitespace().take(8).enumerate() {
        let is_idle = column == 3 || column == 4;
        ticks += field.parse::<u64>().ok().filter(|_| !is_idle).unwrap_or(0);
    }
    Some(Duration::from_millis(ticks.checked_mul(10)?))
}

/// Resident memory in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64, AccountError> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| refusal(pid, error))?;
    // A process that has ended and was not waited for has no such line.
    resident_of(&status).ok_or(AccountError::Gone { pid })
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1_024)
}

fn refusal(pid: u32, error: std::io::Error) -> AccountError {
    if error.kind() == std::io::ErrorKind::NotFound {
        AccountError::Gone { pid }
    } else {
        AccountError::Unreadable { pid, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_time_and_memory() {
        let pid = std::process::id();
        let before = processor_time(pid).unwrap();
        let sum = (0..20_000_000_u64).fold(0_u64, |sum, number| sum.rotate_left(1) ^ number);
        std::hint::black_box(sum);
        assert!(processor_time(pid).unwrap() >= before);
        assert!(resident_bytes(pid).unwrap() > 100_000);
    }

    #[test]
    fn a_machine_is_busy_when_it_is_not_idle() {
        let stat = "cpu  1 2 4 1000 1000 8 16 32 64 128\ncpu0 1 2 4\n";
        assert_eq!(busy_time(stat), Some(Duration::from_millis(630)));
        assert_eq!(busy_time(""), None);
        assert!(machine_time().is_some());
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let error = processor_time(u32::MAX).unwrap_err();
        assert!(matches!(error, AccountError::Gone { pid: u32::MAX }));
    }

    #[test]
    fn resident_memory_is_read_in_kibibytes() {
        assert_eq!(
            resident_of("Name:\tx\nVmRSS:\t    1234 kB\n"),
            Some(1_263_616)
        );
        assert_eq!(resident_of("Name:\tx\n"), None);
    }
}
