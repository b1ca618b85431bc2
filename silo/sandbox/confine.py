"""Confines the process that is about to run a researcher's code, and says what it managed.

Invariant: what :func:`confine` reports as in force was tried afterwards, from inside, and held; a mean that the
operating system lacks is reported as absent, never assumed. Two layers where there are two: a process that left its
namespaces would still be refused by the filter and by Landlock.

The order: new namespaces (:func:`separate`), then in the first process of the new process space (:func:`confine`) a
file system of read-only libraries and one small scratch directory, another user, limits, no new privileges, Landlock,
the filter. Only this module and :mod:`silo.sandbox.kernel` have run before that.

Source: FLOWER.md, "Isolation and test means that work in this environment"; bubblewrap for the order of mounts.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import resource
import secrets
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from silo.sandbox import kernel

# What has to hold for a child to be called confined; and "namespaces", which hold each of them up a second time.
PROTECTIONS = ("filesystem", "memory", "network", "privileges", "processes")
MEANS = tuple(sorted((*PROTECTIONS, "namespaces")))

# Where nothing needs to be read from while the new file system is put together.
_MOUNT_POINT, _SCRATCH = Path("/sys"), Path("/silo-scratch")
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_MIB = 1 << 20
# A user of no name, another for each child, so that the limit on processes counts this child's alone.
_FIRST_USER, _USERS = 0x5110_0000, 1 << 16


@dataclass(frozen=True)
class Limits:
    """What a child may use: ``memory_mib`` beyond the libraries, ``seconds`` to answer one request, and the rest."""

    memory_mib: int = 4096
    seconds: float = 300.0
    cpu_seconds: int = 24 * 3600
    scratch_mib: int = 64
    files: int = 64
    tasks: int = 256


@dataclass(frozen=True)
class Order:
    """What the fork server is asked for. ``readable`` are the directories a child may read, ``hidden`` what lies in
    them and may not be seen."""

    limits: Limits
    readable: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    probe: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`parse` reads."""
        return asdict(self)

    @classmethod
    def parse(cls, body: dict[str, Any]) -> Order:
        """Read :meth:`to_json`; it comes from the agent, never from a child."""
        return cls(Limits(**body["limits"]), tuple(body["readable"]), tuple(body["hidden"]), bool(body["probe"]))


@dataclass
class Outcome:
    """What is in force, and why the rest is not: mean -> what the operating system said."""

    in_force: set[str] = field(default_factory=set)
    missing: dict[str, str] = field(default_factory=dict)


def readable_places(packages: Sequence[str]) -> tuple[str, ...]:
    """Return the directories with this interpreter's libraries, and of source trees the packages alone."""
    found = [Path(base) / part for base in {sys.prefix, sys.base_prefix} for part in ("lib", "lib64")]
    covered = [place.resolve() for place in found]
    for name in packages:
        found_at = importlib.util.find_spec(name)
        for place in map(Path, (found_at and found_at.submodule_search_locations) or ()):
            if not any(place.resolve().is_relative_to(lib) for lib in covered):
                found.append(place)
    return tuple(sorted({str(place.resolve()) for place in found if place.is_dir()}))


def separate() -> str:
    """Enter new namespaces; the next child is the first process of its own. Returns what failed, or nothing."""
    spaces = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    user, group = os.geteuid(), os.getegid()
    try:
        if user == 0:
            with contextlib.suppress(PermissionError):  # root without the right, as in a container: as anybody then
                kernel.unshare(spaces)
                return ""
        kernel.unshare(spaces | kernel.CLONE_NEWUSER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            Path("/proc/self", name).write_text(text)
    except OSError as error:
        return f"no namespaces: {error.strerror or error}"
    return ""


def confine(order: Order, *, spaces_missing: str) -> Outcome:
    """Confine this process for good. ``spaces_missing`` is what :func:`separate` returned; without namespaces there is
    no directory to write in, because nothing would limit what is written.

    Raises ``OSError`` if something that was put in force does not hold.
    """
    outcome, limits = Outcome(), order.limits
    readable, writable = [*_existing(_SYSTEM), *map(Path, order.readable)], list[Path]()
    used = _address_space()
    with _tried(outcome, "namespaces"):
        if spaces_missing:
            raise OSError(errno.ENOTSUP, spaces_missing)
        _new_root(order)
        readable, writable = [Path("/")], [_SCRATCH]
        outcome.in_force |= {"filesystem", "namespaces", "network"}
    os.chdir(writable[0] if writable else "/")
    user_missing = _another_user(writable)
    with _tried(outcome, "memory"):
        _limit(resource.RLIMIT_AS, used + limits.memory_mib * _MIB)
        outcome.in_force.add("memory")
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, limits.scratch_mib * _MIB)
    _limit(resource.RLIMIT_NOFILE, limits.files)
    _limit(resource.RLIMIT_NPROC, limits.tasks)
    _limit(resource.RLIMIT_CPU, limits.cpu_seconds)
    with _tried(outcome, "privileges"):
        kernel.die_with_parent()
        kernel.no_new_privileges()
        if user_missing:
            raise OSError(errno.EPERM, user_missing)
        outcome.in_force.add("privileges")
    try:  # the second layer where there is a new root, the only one where there is not
        kernel.landlock([*readable, *map(Path, _DEVICES)], writable)
        outcome.in_force.add("filesystem")
    except OSError as error:
        if not writable:
            outcome.missing["filesystem"] = str(error.strerror or error)
    with _tried(outcome, "privileges"):
        kernel.drop_capabilities()
    with _tried(outcome, "processes"):
        kernel.deny_calls()
        outcome.in_force |= {"processes", "network"}
    if "network" not in outcome.in_force:
        outcome.missing["network"] = outcome.missing["processes"]
    _verify(outcome.in_force, order)
    return outcome


@contextlib.contextmanager
def _tried(outcome: Outcome, mean: str) -> Iterator[None]:
    """Record why a mean could not be had."""
    try:
        yield
    except OSError as error:
        outcome.in_force.discard(mean)
        outcome.missing[mean] = str(error.strerror or error)


def _new_root(order: Order) -> None:
    """Make a file system of the readable places, four devices and a scratch directory, and enter it."""
    root = _MOUNT_POINT
    kernel.mount("none", Path("/"), None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", root, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    for place in (*_SYSTEM, *order.readable, *_DEVICES):
        _show(Path(place), root)
    for hidden in map(Path, order.hidden):
        within = root / hidden.relative_to("/")
        if any(hidden.is_relative_to(place) for place in order.readable) and within.is_dir():
            kernel.mount("tmpfs", within, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=4k,mode=000")
    scratch = root / _SCRATCH.relative_to("/")
    scratch.mkdir()
    kernel.read_only(root)
    options = f"size={order.limits.scratch_mib}m,mode=700,nr_inodes=4096"
    kernel.mount("tmpfs", scratch, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC, options)
    kernel.change_root(root)


def _existing(places: Sequence[str]) -> list[Path]:
    return [Path(place) for place in places if Path(place).exists()]


def _show(place: Path, root: Path) -> None:
    """Bind ``place`` into the new root, under its own name; a link is copied as one."""
    target = root / place.relative_to("/")
    if place.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(place.readlink())
        return
    if not place.exists() or target.exists():
        return
    if place.is_dir():
        target.mkdir(parents=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    kernel.mount(str(place), target, None, kernel.MS_BIND | kernel.MS_REC)


def _another_user(writable: Sequence[Path]) -> str:
    """Stop being root, if this process is, and own what it may write; return why it could not."""
    if os.geteuid() != 0:
        return ""
    user = _FIRST_USER + secrets.randbelow(_USERS)
    try:
        for place in writable:
            os.chown(place, user, user)
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    except OSError as error:
        return f"cannot become another user: {error.strerror}"
    return ""


def _limit(kind: int, value: int) -> None:
    """Set a limit for good; never above one that is already there."""
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(kind, (value, value))
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error)) from error


def _address_space() -> int:
    """Return the bytes mapped now: the libraries, which every child shares with the fork server."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _verify(in_force: set[str], order: Order) -> None:
    """Try from inside what must not work any more; raise ``OSError`` if it does."""
    if "network" in in_force:
        _must_fail("network", _reach_out)
    if "processes" in in_force:
        _must_fail("processes", os.fork)
    if "filesystem" in in_force:
        for place in order.hidden:
            _must_fail("filesystem", lambda place=place: list(Path(place).iterdir()))
        _must_fail("filesystem", lambda: os.open(order.readable[0] + "/silo-was-here", os.O_CREAT | os.O_WRONLY, 0o600))
    if "privileges" in in_force and (not kernel.is_without_new_privileges() or any(kernel.capabilities())):
        raise OSError(errno.EPERM, "privileges were kept")


def _reach_out() -> None:
    """Look up a route to an address (TEST-NET-2) without sending anything: there is none, or no socket at all."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))


def _must_fail(mean: str, act: Any) -> None:
    try:
        act()
    except OSError:
        return
    raise OSError(errno.EPERM, f"{mean} is not confined")
