//! A host that forbids io_uring, as container runtimes do by default. The filter holds for the thread that sets it.

use std::thread;

use slim_ring::{Ring, RingError};

/// Answers `io_uring_setup` of the calling thread with `error` from here on.
fn forbid_io_uring(error: i32) {
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let mut program = [
        // The system call's number is the first field of seccomp_data.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: libc::SYS_io_uring_setup as u32,
        },
        statement(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | error as u32,
        ),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program and its header are valid for the length of the calls; the kernel copies both.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter),
            0
        );
    }
}

fn probe_where_setup_answers(error: i32) -> RingError {
    thread::spawn(move || {
        forbid_io_uring(error);
        Ring::probe().unwrap_err()
    })
    .join()
    .unwrap()
}

#[test]
fn a_forbidden_ring_names_the_profile_and_the_sysctl_that_allow_it() {
    let error = probe_where_setup_answers(libc::EPERM);
    assert!(matches!(error, RingError::NotPermitted { .. }));
    let text = error.to_string();
    for remedy in [
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "--security-opt seccomp=",
        "io_uring_disabled",
    ] {
        assert!(text.contains(remedy), "{remedy} is missing in: {text}");
    }
}

#[test]
fn a_kernel_without_io_uring_is_told_from_one_that_forbids_it() {
    assert!(matches!(
        probe_where_setup_answers(libc::ENOSYS),
        RingError::NotSupported { .. }
    ));
}

#[test]
fn no_memory_names_the_limit() {
    assert!(matches!(
        probe_where_setup_answers(libc::ENOMEM),
        RingError::MemoryLock { .. }
    ));
}
