//! Why a ring could not be had, said so that an operator knows which setting to change.

use std::io;

/// Why the ring refused.
///
/// `NotPermitted`, `NotSupported` and `MemoryLock` are about the host: print the message and exit. `Configuration` is
/// a mistake in [`crate::RingConfig`]. `SocketsExhausted` and `ListenersExhausted` refuse one socket; the ring goes on.
/// `Setup` and `Enter` carry what the kernel said where none of these fits.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error(
        "the kernel refuses io_uring to this process (EPERM){}. In a container, allow the system calls io_uring_setup, \
         io_uring_enter and io_uring_register in its seccomp profile (for example `docker run --security-opt \
         seccomp=<profile.json>`; default profiles block them). On the host, run `sysctl -w \
         kernel.io_uring_disabled=0`, or with value 1 add the user's group to kernel.io_uring_group",
        disabled_note(*.sysctl_disabled)
    )]
    NotPermitted {
        /// `kernel.io_uring_disabled` as the host has it: 0 on, 1 for privileged users, 2 off. `None`: not readable.
        sysctl_disabled: Option<u8>,
    },
    #[error(
        "this kernel has no {missing}: Linux 6.1 or later is needed, built with CONFIG_IO_URING (a sandbox that answers \
         ENOSYS, such as gVisor or a strict seccomp profile, looks the same; allow io_uring_setup, io_uring_enter and \
         io_uring_register there)"
    )]
    NotSupported { missing: &'static str },
    #[error(
        "the kernel has no memory for the ring (ENOMEM) under a locked-memory limit of {} bytes. Raise it: `ulimit -l \
         unlimited`, `LimitMEMLOCK=infinity` in the systemd unit, or `docker run --ulimit memlock=-1`; or ask for \
         smaller queues",
        limit_text(*.limit_bytes)
    )]
    MemoryLock {
        /// The soft RLIMIT_MEMLOCK. `None`: unlimited or not readable.
        limit_bytes: Option<u64>,
    },
    #[error("ring configuration: {field} is {value}, must be {accepted}")]
    Configuration {
        field: &'static str,
        value: u64,
        accepted: &'static str,
    },
    #[error("the ring already holds its {limit} sockets")]
    SocketsExhausted { limit: u32 },
    #[error("the ring already holds its {limit} listeners")]
    ListenersExhausted { limit: u32 },
    #[error("io_uring could not be set up: {0}")]
    Setup(#[source] io::Error),
    #[error("io_uring_enter failed: {0}")]
    Enter(#[source] io::Error),
}

impl RingError {
    /// Sorts what `io_uring_setup` or `io_uring_register` answered.
    pub(crate) fn from_setup(error: io::Error) -> RingError {
        match error.raw_os_error() {
            Some(libc::EPERM) => RingError::NotPermitted {
                sysctl_disabled: read_sysctl_disabled(),
            },
            Some(libc::ENOSYS) => RingError::NotSupported {
                missing: "io_uring",
            },
            Some(libc::ENOMEM) => RingError::MemoryLock {
                limit_bytes: memory_lock_limit(),
            },
            _ => RingError::Setup(error),
        }
    }
}

fn read_sysctl_disabled() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn memory_lock_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid, writable rlimit for the length of the call.
    let answer = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    (answer == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

fn disabled_note(sysctl_disabled: Option<u8>) -> String {
    match sysctl_disabled {
        Some(value @ 1..) => format!("; kernel.io_uring_disabled is {value} here"),
        Some(0) => {
            "; kernel.io_uring_disabled is 0 here, so a seccomp profile or security module does"
                .to_owned()
        }
        None => String::new(),
    }
}

fn limit_text(limit_bytes: Option<u64>) -> String {
    limit_bytes.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_setting_that_lifts_it() {
        let refused = RingError::from_setup(io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(
            refused.contains("seccomp") && refused.contains("kernel.io_uring_disabled=0"),
            "{refused}"
        );
        let no_memory =
            RingError::from_setup(io::Error::from_raw_os_error(libc::ENOMEM)).to_string();
        assert!(
            no_memory.contains("ulimit -l") && no_memory.contains("LimitMEMLOCK"),
            "{no_memory}"
        );
        let unknown = RingError::from_setup(io::Error::from_raw_os_error(libc::ENOSYS)).to_string();
        assert!(unknown.contains("Linux 6.1"), "{unknown}");
    }
}
