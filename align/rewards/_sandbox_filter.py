"""The system calls that a program of the sandbox may not make, as a filter of the kernel (seccomp, classic BPF).

Not a wall against faults of the kernel: it closes memory that no limit counts, the keys of the user, and namespaces inside the sandbox.
"""

from __future__ import annotations

import errno

Instruction = tuple[int, int, int, int]
"""code, jump if true, jump if false, constant."""

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""Load a word of `struct seccomp_data`; jump if the word equals, is at least, or shares a bit with the constant; return it."""
NUMBER_AT, ARCHITECTURE_AT, FIRST_ARGUMENT_AT = 0, 4, 16
ALLOW, FAIL, KILL = 0x7FFF0000, 0x00050000, 0x80000000
CLONE_NEWUSER = 0x10000000
X32 = 0x40000000
"""From here on are the numbers of x86_64's second table, which names the same calls."""

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED = {
    "memfd_create": (319, 279),  # memory that RLIMIT_AS and the size of /work do not count
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "add_key": (248, 217),  # keys of the session that started align
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),  # a namespace in which the program has capabilities
    "setns": (308, 268),
    "bpf": (321, 280),  # seldom of use to a program, and often at fault
    "io_uring_setup": (425, 425),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
}
"""By name: the numbers on x86_64 and aarch64."""
CLONE = (56, 220)
CLONE3 = 435


def instructions(machine: str) -> list[Instruction]:
    """The filter for `os.uname().machine`. A refused call fails with EPERM; clone3, whose flags no filter sees, with ENOSYS, after which
    libc calls clone. Raises ValueError for a machine whose numbers are not here."""
    if machine not in ARCHITECTURES:
        raise ValueError(f"no filter of system calls for {machine}, only for {', '.join(ARCHITECTURES)}")
    column = list(ARCHITECTURES).index(machine)
    refused = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (EQUAL, 1, 0, ARCHITECTURES[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
        *_fails(AT_LEAST, X32, errno.ENOSYS),
        *_fails(EQUAL, CLONE3, errno.ENOSYS),
    ]
    for numbers in REFUSED.values():
        refused += _fails(EQUAL, numbers[column], errno.EPERM)
    return [
        *refused,
        (EQUAL, 0, 3, CLONE[column]),
        (LOAD, 0, 0, FIRST_ARGUMENT_AT),
        *_fails(ANY_BIT, CLONE_NEWUSER, errno.EPERM),
        (RETURN, 0, 0, ALLOW),
    ]


def _fails(test: int, constant: int, code: int) -> list[Instruction]:
    """Where the test holds, the call fails with this code of an error."""
    return [(test, 0, 1, constant), (RETURN, 0, 0, FAIL | code)]
