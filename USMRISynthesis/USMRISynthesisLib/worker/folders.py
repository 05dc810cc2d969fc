"""The temporary folders in which voxels travel to a worker and back: named after their process, and found again.

    folder = make_folder()               # usmri-run-<host>-<pid>-<letters>
    remove_abandoned()                   # those of processes that were killed

Standard library only: Slicer imports it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import tempfile
from pathlib import Path

from USMRISynthesisLib.worker.owner import is_alive

_PREFIX = "usmri-run-"


def _host() -> str:
    """Eight letters for this machine: a process id means nothing on another one that shares the folder."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def make_folder(parent: str | os.PathLike[str] | None = None) -> Path:
    """A new folder, readable by this user only, in `parent` or the system's temporary folder. Raises OSError."""
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{_host()}-{os.getpid()}-", dir=parent))


def remove_abandoned(parent: str | os.PathLike[str] | None = None) -> list[Path]:
    """Remove the folders that `make_folder` made in processes of this user which have ended; returns their paths.

    Anything that has another name, lies on another machine, belongs to another user or to a living process, or is a
    link or a file, is left alone. What cannot be removed stays; nothing is raised.
    """
    top = Path(parent if parent is not None else tempfile.gettempdir())
    ours = re.compile(rf"{_PREFIX}{_host()}-(\d{{1,10}})-\w+")
    removed = []
    try:
        entries = list(os.scandir(top))
    except OSError:
        return []
    for entry in entries:
        match = ours.fullmatch(entry.name)
        try:
            if (
                match is None
                or not entry.is_dir(follow_symlinks=False)
                or (hasattr(os, "getuid") and entry.stat(follow_symlinks=False).st_uid != os.getuid())
                or is_alive(int(match[1]))
            ):
                continue
        except OSError:
            continue
        shutil.rmtree(entry.path, ignore_errors=True)
        if not os.path.lexists(entry.path):
            removed.append(Path(entry.path))
    return removed
