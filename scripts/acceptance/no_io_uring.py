"""Runs a command in which io_uring is not permitted: `no_io_uring.py COMMAND ARGUMENT..`.

This is what most container runtimes do by default: a seccomp filter that answers the three system calls
of io_uring with EPERM. The filter needs no privileges and stays in force for the command and its children.
"""

import ctypes
import errno
import os
import struct
import sys

# The same numbers on every architecture.
IO_URING_SETUP, IO_URING_REGISTER = 425, 427

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000
# Offset of the number in `struct seccomp_data`.
SYSTEM_CALL_NUMBER = 0
# Classic BPF: load a word; jump by comparison with a constant; return a constant.
LOAD, JUMP_IF_AT_LEAST, JUMP_IF_ABOVE, RETURN = 0x20, 0x35, 0x25, 0x06


class Program(ctypes.Structure):
    """`struct sock_fprog`"""

    _fields_ = [("instructions", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def forbid():
    """Forbids io_uring to this process and all that it starts. Raises OSError where the kernel refuses."""
    # (operation, instructions to skip if true, if false, operand)
    instructions = [
        (LOAD, 0, 0, SYSTEM_CALL_NUMBER),
        (JUMP_IF_AT_LEAST, 0, 2, IO_URING_SETUP),
        (JUMP_IF_ABOVE, 1, 0, IO_URING_REGISTER),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.EPERM),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW),
    ]
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    program = Program(len(instructions), code)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0),
    ):
        if prctl(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    forbid()
    os.execvp(sys.argv[1], sys.argv[1:])
