"""The system calls that confinement needs and Python has not: mounts, capabilities, Landlock, a seccomp filter.

Invariant: each function returns when the kernel did what it says, and raises ``OSError`` otherwise; nothing is tried
halfway. Linux on x86-64 and AArch64; elsewhere every one raises ``OSError`` (ENOSYS).

Sources: man 2 mount_setattr, pivot_root, capset, seccomp; man 7 landlock; linux/audit.h, linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_THREAD = 0x00010000

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID = 1, 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 1, 4, 22, 38, 39
_CAPABILITY_VERSION_3 = 0x20080522

# name -> (x86-64, AArch64); None where an architecture never had it.
_CALLS: dict[str, tuple[int | None, int | None]] = {
    "pivot_root": (155, 41),
    "capset": (126, 91),
    "capget": (125, 90),
    "mount_setattr": (442, 442),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
# What a program that computes has no need of: sockets, other processes and programs, other namespaces and mounts,
# memory that no limit counts, the kernel itself.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),  # a datagram one sends to any address
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "userfaultfd": (323, 282),
    # What Landlock does not govern: of a file whose name is known, the mode, owner, times, attributes and length.
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "truncate": (76, 45),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "fsopen": (430, 430),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "acct": (163, 89),
    "swapon": (167, 224),
    "quotactl": (179, 60),
}
_CLONE, _CLONE3, _PRCTL = (56, 220), (435, 435), (157, 167)
# Calls whose first argument is a process: allowed for the caller alone, which is 0.
_OF_ITSELF: dict[str, tuple[int, int]] = {
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def _architecture() -> int:
    """Return the column of the tables above."""
    if sys.platform == "linux" and platform.machine() in _AUDIT_ARCH:
        return list(_AUDIT_ARCH).index(platform.machine())
    raise OSError(errno.ENOSYS, "not Linux on x86-64 or AArch64")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _call(name: str, *arguments: object) -> int:
    number = _CALLS[name][_architecture()]
    return _check(_libc().syscall(ctypes.c_long(number or 0), *arguments), name)


def unshare(flags: int) -> None:
    """Enter new namespaces; with ``CLONE_NEWPID`` the next child is the first process of its own."""
    _architecture()
    _check(_libc().unshare(flags), "unshare")


def mount(source: str, target: Path, kind: str | None, flags: int, options: str = "") -> None:
    """Mount as mount(2) does."""
    kind_bytes = kind.encode() if kind else None
    arguments = (source.encode(), os.fsencode(target), kind_bytes, ctypes.c_ulong(flags), options.encode() or None)
    _check(_libc().mount(*arguments), f"mount {target}")


def read_only(target: Path) -> None:
    """Make everything mounted at and below ``target`` read-only, without set-user-ID programs."""
    attributes = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID, 0, 0, 0)
    path = ctypes.c_char_p(os.fsencode(target))
    size = ctypes.c_size_t(len(attributes))
    _call("mount_setattr", ctypes.c_long(_AT_FDCWD), path, ctypes.c_long(_AT_RECURSIVE), attributes, size)


def change_root(root: Path) -> None:
    """Make the mount ``root`` this process's whole file system; nothing of the old one stays within reach."""
    os.chdir(root)
    _call("pivot_root", b".", b".")  # the old root lies on top of the new one now; see man 2 pivot_root, "Notes"
    _check(_libc().umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")


def die_with_parent() -> None:
    """Be killed when the parent's thread ends. A change of user undoes it: call it after that."""
    _architecture()
    _check(_libc().prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl")


def no_new_privileges() -> None:
    """Never again gain a privilege, whatever is executed; and let nobody attach to this process."""
    _architecture()
    _check(_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _check(_libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")


def is_without_new_privileges() -> bool:
    """Tell whether :func:`no_new_privileges` is in force."""
    _architecture()
    return _check(_libc().prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), "prctl") == 1


def drop_capabilities() -> None:
    """Give up every capability, in this thread's effective, permitted and inheritable sets."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _call("capset", header, struct.pack("=6I", *[0] * 6))


def capabilities() -> tuple[int, ...]:
    """Return the six words of capget(2): all zero when there are none."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    buffer = ctypes.create_string_buffer(24)
    _call("capget", header, buffer)
    return struct.unpack("=6I", buffer.raw)


# Landlock ------------------------------------------------------------------------------------------------------------

_FS_EXECUTE, _FS_WRITE_FILE, _FS_READ_FILE, _FS_READ_DIR = 1, 2, 4, 8
_FS_V1 = (1 << 13) - 1  # everything ABI 1 knows; 2 adds REFER, 3 TRUNCATE, 5 IOCTL_DEV
_LANDLOCK_VERSION_FLAG, _LANDLOCK_PATH_BENEATH = 1, 1


def landlock(readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """Allow reading below ``readable`` and everything below ``writable``; nothing else of any file system, ever again.

    Needs :func:`no_new_privileges`. Where a later ABI also governs TCP, signals and abstract sockets, all are refused.
    """
    version = _call("landlock_create_ruleset", None, ctypes.c_size_t(0), ctypes.c_uint(_LANDLOCK_VERSION_FLAG))
    handled = _FS_V1 | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    handled |= 1 << 15 if version >= 5 else 0
    ruleset = struct.pack("=QQQ", handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    descriptor = _call("landlock_create_ruleset", ruleset, ctypes.c_size_t(size), ctypes.c_uint(0))
    try:
        for paths, rights in ((readable, _FS_EXECUTE | _FS_READ_FILE | _FS_READ_DIR), (writable, handled)):
            for path in paths:
                _allow(descriptor, path, rights)
        _call("landlock_restrict_self", ctypes.c_int(descriptor), ctypes.c_uint(0))
    finally:
        os.close(descriptor)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not path.is_dir():
            rights &= _FS_EXECUTE | _FS_WRITE_FILE | _FS_READ_FILE | 1 << 14
        rule = struct.pack("=Qi", rights, opened)
        _call("landlock_add_rule", ctypes.c_int(ruleset), ctypes.c_int(_LANDLOCK_PATH_BENEATH), rule, ctypes.c_uint(0))
    finally:
        os.close(opened)


# seccomp -------------------------------------------------------------------------------------------------------------

_LD_WORD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_X32 = 0x40000000  # the other calling convention of x86-64: the same calls by other numbers


def deny_calls() -> None:
    """Refuse (EPERM) the calls of ``_DENIED``, those of ``_OF_ITSELF`` for others, to outlive the parent, and every new
    process; new threads stay. Needs no new privileges.

    ``clone3`` says ENOSYS, because its flags lie in memory that a filter cannot read: the C library then uses
    ``clone``, whose flags it can.
    """
    column = _architecture()
    _Filter(_program(column, list(_AUDIT_ARCH.values())[column])).install()


def _program(column: int, architecture: int) -> list[tuple[int, int, int, int]]:
    """Return the filter as (code, jump if true, jump if false, value); jumps are counted in instructions."""
    numbers = sorted(number for call in _DENIED.values() if (number := call[column]) is not None)
    number_at, arch_at, first_argument_at = 0, 4, 16
    program = [
        (_LD_WORD, 0, 0, arch_at),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LD_WORD, 0, 0, number_at),
        (_JUMP_GREATER_EQUAL, 0, 1, _X32),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_JUMP_EQUAL, 0, 1, _CLONE3[column]),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    for number in numbers:
        program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    conditional = [(call[column], _JUMP_EQUAL, 0) for call in _OF_ITSELF.values()]
    conditional += [(_CLONE[column], _JUMP_SET, CLONE_THREAD)]
    for number, allowed_if, value in conditional:
        program += [
            (_JUMP_EQUAL, 0, 4, number),
            (_LD_WORD, 0, 0, first_argument_at),
            (allowed_if, 1, 0, value),
            (_RETURN, 0, 0, _ERRNO | errno.EPERM),
            (_RETURN, 0, 0, _ALLOW),
        ]
    program += [
        (_JUMP_EQUAL, 0, 3, _PRCTL[column]),
        (_LD_WORD, 0, 0, first_argument_at),
        (_JUMP_EQUAL, 0, 1, _PR_SET_PDEATHSIG),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return program


class _Filter:
    """A filter in the shape that prctl wants: ``struct sock_fprog``."""

    def __init__(self, program: Sequence[tuple[int, int, int, int]]) -> None:
        self._code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
        self._length = len(program)

    def install(self) -> None:
        pointer = ctypes.addressof(self._code)
        block = ctypes.create_string_buffer(struct.pack("@HP", self._length, pointer))
        _check(_libc().prctl(_PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(block), 0, 0), "seccomp")
