"""A small disk of our own under one home: a tmpfs of a few MiB in a mount namespace of this process.

Nothing is mounted where other processes see it, and it is gone with this process, however that ends. Linux, root.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path
from typing import Self

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x00020000, 0x4000, 0x40000
_libc = ctypes.CDLL(None, use_errno=True)


class SmallDisk:
    """The directory ``place``, from now on a disk of ``mebibytes`` with the same content.

    What this process starts afterwards sees it too; what runs already does not.
    """

    def __init__(self, place: Path, mebibytes: int) -> None:
        self._place, self._options = place, f"size={mebibytes}m,mode=0700".encode()
        self._filler = place / "filler"

    def __enter__(self) -> Self:
        if _libc.unshare(CLONE_NEWNS) or _libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
            raise OSError(ctypes.get_errno(), "no mount namespace here")
        content = self._place.with_name(self._place.name + ".content")
        self._place.rename(content)
        self._place.mkdir(mode=0o700)
        if _libc.mount(b"tmpfs", os.fsencode(self._place), b"tmpfs", 0, self._options):
            raise OSError(ctypes.get_errno(), "no tmpfs here")
        shutil.copytree(content, self._place, dirs_exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        _libc.umount2(os.fsencode(self._place), 2)  # MNT_DETACH: whoever still uses it may finish

    def fill(self) -> None:
        """Leave no byte free."""
        with self._filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def free(self) -> None:
        """Give the space back."""
        self._filler.unlink()
