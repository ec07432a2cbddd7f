//! Opening a ring with the best flags that this kernel knows.

use std::io;

use io_uring::{IoUring, Probe, cqueue, opcode, squeue};

use crate::error::RingError;
use crate::receive::RECEIVE_BUFFERS_MAX;

/// Bounds of one ring.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Operations that can be queued before the kernel must be entered. Rounded up to a power of two; at most 32,768.
    pub submission_entries: u32,
    /// Completions the kernel can post before it has to keep them aside. Rounded up; at least `submission_entries`.
    pub completion_entries: u32,
    /// Receive buffers shared by all sockets. A power of two, at most 32,768.
    pub receive_buffers: u16,
    /// Bytes of one receive buffer.
    pub receive_buffer_bytes: u32,
    /// Sockets held at a time, including those being closed.
    pub sockets_max: u32,
}

impl RingConfig {
    pub(crate) fn check(&self) -> Result<(), RingError> {
        let refuse = |field, value: u32, accepted| {
            Err(RingError::Configuration {
                field,
                value: value.into(),
                accepted,
            })
        };
        if !(1..=32_768).contains(&self.submission_entries) {
            return refuse("submission_entries", self.submission_entries, "1 to 32768");
        }
        if !(self.submission_entries..=1 << 20).contains(&self.completion_entries) {
            return refuse(
                "completion_entries",
                self.completion_entries,
                "submission_entries to 1048576",
            );
        }
        if !self.receive_buffers.is_power_of_two() || self.receive_buffers > RECEIVE_BUFFERS_MAX {
            return refuse(
                "receive_buffers",
                self.receive_buffers.into(),
                "a power of two up to 32768",
            );
        }
        if !(64..=1 << 24).contains(&self.receive_buffer_bytes) {
            return refuse(
                "receive_buffer_bytes",
                self.receive_buffer_bytes,
                "64 to 16777216",
            );
        }
        if self.sockets_max == 0 || self.sockets_max > 1 << 24 {
            return refuse("sockets_max", self.sockets_max, "1 to 16777216");
        }
        Ok(())
    }
}

/// What this kernel gives the ring. All of it is optional: where it lacks, the ring is slower and works the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Completion work runs only when the ring asks for it (IORING_SETUP_DEFER_TASKRUN).
    pub deferred_task_work: bool,
    /// The kernel relies on one submitting thread (IORING_SETUP_SINGLE_ISSUER).
    pub single_issuer: bool,
    /// The kernel does not interrupt the thread for completions (IORING_SETUP_COOP_TASKRUN).
    pub cooperative_task_work: bool,
    /// Rings wake each other by message (IORING_OP_MSG_RING); by eventfd otherwise.
    pub ring_messages: bool,
    /// Waiting is not accounted as waiting for a disk (IORING_ENTER_NO_IOWAIT, Linux 6.15).
    pub no_iowait: bool,
    /// Socket options are set through the ring (SOCKET_URING_OP_SETSOCKOPT, Linux 6.7). No probe tells; the first refusal
    /// does.
    pub socket_commands: bool,
}

/// Set-ups in order of preference. A flag the kernel does not know is EINVAL, and then the next one is tried.
pub(crate) const TIERS: [Tier; 3] = [
    Tier {
        single_issuer: true,
        deferred: true,
        cooperative: true,
    },
    Tier {
        single_issuer: false,
        deferred: false,
        cooperative: true,
    },
    Tier {
        single_issuer: false,
        deferred: false,
        cooperative: false,
    },
];

#[derive(Clone, Copy, Debug)]
pub(crate) struct Tier {
    single_issuer: bool,
    deferred: bool,
    cooperative: bool,
}

/// Opens a ring with the first of `tiers` that the kernel takes, and finds out what it can do.
pub(crate) fn open(
    tiers: &[Tier],
    submission_entries: u32,
    completion_entries: u32,
) -> Result<(IoUring, Features), RingError> {
    let mut refusal = io::Error::from_raw_os_error(libc::EINVAL);
    for &tier in tiers {
        match build(tier, submission_entries, completion_entries) {
            Ok(uring) => return inspect(uring, tier),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refusal = error,
            Err(error) => return Err(RingError::from_setup(error)),
        }
    }
    Err(RingError::from_setup(refusal))
}

fn build(tier: Tier, submission_entries: u32, completion_entries: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::<squeue::Entry, cqueue::Entry>::builder();
    builder.setup_clamp().setup_cqsize(completion_entries);
    if tier.single_issuer {
        builder.setup_single_issuer();
    }
    if tier.deferred {
        builder.setup_defer_taskrun();
    }
    if tier.cooperative {
        // With the task-run flag, a turn that need not wait sees in shared memory whether entering would bring anything.
        builder
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all();
    }
    builder.build(submission_entries)
}

fn inspect(uring: IoUring, tier: Tier) -> Result<(IoUring, Features), RingError> {
    let mut probe = Probe::new();
    uring
        .submitter()
        .register_probe(&mut probe)
        .map_err(RingError::from_setup)?;
    let parameters = uring.params();
    let needed = [
        (
            parameters.is_feature_ext_arg(),
            "timeout in io_uring_enter (IORING_FEAT_EXT_ARG)",
        ),
        (
            parameters.is_feature_nodrop(),
            "lossless completion queue (IORING_FEAT_NODROP)",
        ),
        (
            parameters.is_feature_skip_cqe_on_success(),
            "silent success (IORING_FEAT_CQE_SKIP)",
        ),
        (
            probe.is_supported(opcode::PollAdd::CODE),
            "IORING_OP_POLL_ADD",
        ),
        (probe.is_supported(opcode::Send::CODE), "IORING_OP_SEND"),
        // Multishot receive has no probe of its own; this operation came right after it, in 6.1.
        (
            probe.is_supported(opcode::SendMsgZc::CODE),
            "multishot receive (judged by IORING_OP_SENDMSG_ZC)",
        ),
    ];
    if let Some((_, missing)) = needed.into_iter().find(|(present, _)| !present) {
        return Err(RingError::NotSupported { missing });
    }
    let features = Features {
        deferred_task_work: tier.deferred,
        single_issuer: tier.single_issuer,
        cooperative_task_work: tier.cooperative,
        ring_messages: probe.is_supported(opcode::MsgRingData::CODE),
        no_iowait: parameters.is_feature_no_iowait(),
        socket_commands: probe.is_supported(opcode::SetSockOpt::CODE),
    };
    Ok((uring, features))
}
