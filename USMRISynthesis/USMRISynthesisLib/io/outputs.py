"""Where a run may write: decided for all its outputs together, before any work, and carried out all or nothing.

    check([target, sidecar_of(target)], inputs=[source])             # raises before anything is done
    with staged([target, support]) as (image, map_):                 # both get their names at the end, or neither
        result.mr.write(image)
        result.confidence.write(map_)

No file is replaced that this program did not make (`marks.is_ours`), and no input is written to, by whatever name it is
reached. `conflict` decides and touches nothing; `observe` looks; `place_all` acts, and looks again as it does: a file
that appeared meanwhile is not replaced.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from USMRISynthesisLib.errors import Failed, Refused, USMRIError, memory_shortage
from USMRISynthesisLib.io.marks import is_ours, sidecar_of, stem_of, voxel_files
from USMRISynthesisLib.io.volume import VOLUME_FORMATS

FREE, FILE, FOLDER, LINK, OTHER, TOO_LONG = "free", "file", "folder", "link", "other", "too long"
STAGING = ".usmri-"
_REMEDY_WRITE = "Check free space and permissions of the folder."
# What a file system says that has no hard links.
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
_WINDOWS_PATH = 259

Identity = tuple[int, int]
Ours = Callable[[Path], bool]


@dataclass(frozen=True)
class Place:
    """What is found where a file is read or is to be written.

    Attributes:
        path: as it was given.
        kind: FREE, FILE, FOLDER, LINK (whether what it points to exists or not), OTHER or TOO_LONG.
        identity: device and inode of what the name leads to; None where there is nothing.
        folder: of the folder that holds it; None where there is none.
        writable: whether files can be made in that folder.
        ours: whether what is there may be replaced.
        neighbour: an image of the same stem, for a provenance file: it would describe that one as well.
    """

    path: Path
    kind: str
    identity: Identity | None
    folder: Identity | None
    writable: bool
    ours: bool
    neighbour: str = ""

    @property
    def name(self) -> tuple[Identity | None, str]:
        """Equal for two names that are one on a disk which ignores case or composition of letters."""
        return self.folder, unicodedata.normalize("NFC", self.path.name).casefold()


def conflict(outputs: Sequence[Place], inputs: Sequence[Place] = ()) -> USMRIError | None:
    """Why these outputs may not be written, or None. Decides by what it is given alone."""
    read = {place.identity for place in inputs if place.identity is not None}
    named = {place.name for place in inputs if place.folder is not None}
    taken: set[object] = set()
    for one in outputs:
        name = one.path.name
        if one.kind == TOO_LONG:
            return Failed("name", "The name of an output is too long for its folder.", "Choose a shorter one.")
        if one.identity in read or (one.folder is not None and one.name in named):
            return Refused("same-file", f"The output {name} would overwrite an input.", _ANOTHER)
        if one.kind == FOLDER:
            return Failed("write", f"{name} is a folder.", "Give the name of a file.")
        if one.folder is None:
            return Failed("folder", f"The folder for {name} does not exist.", "Create it or choose another one.")
        if one.kind == LINK:
            return Refused("link", f"{name} is a link, and links are not replaced.", f"Remove it. {_ANOTHER_TOO}")
        if not one.writable:
            return Failed("write", f"{name} cannot be written: no permission in its folder.", "Choose another folder.")
        if one.name in taken or (one.identity is not None and one.identity in taken):
            return Refused("same-output", f"Two results would be written to {name}.", "Give them different names.")
        if one.kind != FREE and not one.ours:
            return foreign(one.path)
        if one.neighbour:
            return Refused(
                "sidecar",
                f"The provenance file {name} would stand beside {one.neighbour} as well, as if it described that.",
                _ANOTHER,
            )
        taken |= {one.name} | ({one.identity} if one.identity is not None else set())
    return None


_ANOTHER = "Choose another name for the output."
_ANOTHER_TOO = "Or choose another name for the output."


def foreign(path: Path) -> Refused:
    """A file is in the way that this program did not make."""
    return Refused(
        "exists",
        f"{path.name} exists and was not made by this program, so it is not replaced.",
        "Choose another name or folder for the output, or move that file.",
    )


def observe(path: Path, ours: Ours = is_ours, *, partner: Path | None = None) -> Place:
    """What is at a path now.

    Args:
        path: of a file that is read or to be written.
        ours: says of an existing file whether it may be replaced.
        partner: the image that `path` is the provenance file of.
    """
    folder = path.parent
    try:
        found = os.lstat(path)
        kind = (
            LINK if stat.S_ISLNK(found.st_mode) else FILE if stat.S_ISREG(found.st_mode)
            else FOLDER if stat.S_ISDIR(found.st_mode) else OTHER
        )  # fmt: skip
    except (FileNotFoundError, NotADirectoryError):
        kind = FREE
    except OSError as error:
        kind = TOO_LONG if error.errno in (errno.ENAMETOOLONG, errno.EINVAL) else OTHER
    except ValueError:  # a null byte
        kind = TOO_LONG
    if os.name == "nt" and len(os.path.abspath(path)) > _WINDOWS_PATH:
        kind = TOO_LONG
    is_folder = _identity(folder) is not None and folder.is_dir()
    return Place(
        path,
        kind,
        _identity(path) if kind in (FILE, FOLDER, LINK, OTHER) else None,
        _identity(folder) if is_folder else None,
        is_folder and os.access(folder, os.W_OK | os.X_OK),
        kind == FILE and ours(path),
        "" if partner is None else _neighbour(partner),
    )


def check(
    outputs: Sequence[Path],
    inputs: Sequence[Path] = (),
    *,
    sidecars: bool = True,
    ours: Mapping[Path, Ours] | None = None,
) -> None:
    """See that all outputs of a run may be written; nothing is touched.

    Args:
        outputs: files to be written.
        inputs: files that are read; the voxel files of detached headers are added.
        sidecars: whether each image gets its provenance file, which is checked as well.
        ours: for some outputs, what says that an existing file may be replaced.

    Raises:
        Refused: an output is an input, another output, a link or a file that this program did not make.
        Failed: a folder is missing or cannot be written, or a name is too long.
    """
    known = ours or {}
    places = []
    for path in outputs:
        places.append(observe(path, known.get(path, is_ours)))
        if sidecars and path.name.lower().endswith(VOLUME_FORMATS):
            places.append(observe(sidecar_of(path), partner=path))
    problem = conflict(places, [observe(one) for path in inputs for one in (path, *voxel_files(path))])
    if problem is not None:
        raise problem


@contextmanager
def staged(targets: Sequence[Path]) -> Iterator[list[Path]]:
    """Names to write to, on the targets' disks. When the block ends all targets get their files, or none does.

    A staged name keeps its target's ending. Raises what `place_all` does, and Failed with the target's name where the
    block could not write.
    """
    folders: dict[Path, Path] = {}
    names: list[Path] = []
    try:
        try:
            for number, target in enumerate(targets):
                folder = target.parent
                if folder not in folders:
                    folders[folder] = Path(tempfile.mkdtemp(prefix=STAGING, dir=folder))
                names.append(folders[folder] / f"output-{number}{_ending(target)}")
            yield names
            place_all(list(zip(names, targets, strict=True)))
        except OSError as error:
            raise memory_shortage(error) or unwritten(targets[0].name, error) from error
        except Failed as error:  # the name that the user knows, not that of the staged file
            text = error.message
            for name, target in zip(names, targets, strict=False):
                text = text.replace(name.name, target.name)
            raise Failed(error.kind, text, error.remedy) from error
    finally:
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)


def place_all(pairs: Sequence[tuple[Path, Path]], *, ours: Mapping[Path, Ours] | None = None) -> None:
    """Give finished files their names, all or none; each lies on its target's disk, in a folder of this process alone.

    Args:
        pairs: (finished file, target), in the order in which they get their names.
        ours: as for `check`.

    Raises:
        Refused: something that this program did not make has a target's name by now.
        Failed: the disk is full or the folder cannot be written. Then every target is as it was.
    """
    done: list[tuple[Path, Path | None, Identity | None]] = []
    target = pairs[0][1] if pairs else Path()
    try:
        for finished, target in pairs:
            earlier = _place(finished, target, (ours or {}).get(target, is_ours))
            done.append((target, earlier, _identity(target)))
    except BaseException as error:
        for placed, earlier, identity in reversed(done):
            if _identity(placed) != identity:  # somebody else's by now
                continue
            if earlier is None:
                placed.unlink(missing_ok=True)
            else:
                os.replace(earlier, placed)
        if isinstance(error, OSError):
            raise unwritten(target.name, error) from error
        raise
    for finished, _ in pairs:
        finished.unlink(missing_ok=True)
    for _, earlier, _ in done:
        if earlier is not None:
            earlier.unlink(missing_ok=True)


def unwritten(name: str, error: OSError) -> Failed:
    """A file could not be written."""
    reason = error.strerror or "it could not be saved"
    return Failed("write", f"Writing {name} failed: {reason}.", _REMEDY_WRITE)


def _place(finished: Path, target: Path, ours: Ours) -> Path | None:
    """Give one file its name; returns where the earlier file of that name is kept. Raises Refused, OSError."""
    try:
        _place_new(finished, target)
        return None
    except FileExistsError:
        pass
    if os.path.islink(target) or not target.is_file():
        raise foreign(target)
    before = _stamp(target)
    earlier = finished.with_name(f"earlier-{finished.name}{_ending(target)}")
    try:
        os.link(target, earlier)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copy2(target, earlier)
    if not ours(target) or _stamp(target) != before:  # what is kept is what was checked
        earlier.unlink()
        raise foreign(target)
    os.replace(finished, target)
    return earlier


def _place_new(finished: Path, target: Path) -> None:
    """Give a file a name that nothing has. Raises FileExistsError where something has it, OSError."""
    try:
        os.link(finished, target)  # unlike a rename it never replaces
        return
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    with open(target, "xb"):
        pass
    try:
        os.replace(finished, target)  # over the empty file that was just made
    except OSError:
        target.unlink(missing_ok=True)
        raise


def _identity(path: Path) -> Identity | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _stamp(path: Path) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _ending(path: Path) -> str:
    return path.name[len(stem_of(path)) :]


def _neighbour(image: Path) -> str:
    """The name of another image of the same stem in the image's folder, or nothing."""
    stem = stem_of(image)
    for ending in VOLUME_FORMATS:
        other = image.with_name(stem + ending)
        if other.name != image.name and os.path.lexists(other):
            return other.name
    return ""
