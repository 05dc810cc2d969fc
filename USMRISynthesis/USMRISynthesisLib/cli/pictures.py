"""Pictures that a command draws: checked before the work, marked as this program's, and never over another file."""

from __future__ import annotations

import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from USMRISynthesisLib.errors import Failed, Refused

_SIGNATURE_AND_HEADER = 8 + 25  # bytes of a PNG before its other chunks


def check_picture(target: Path) -> Path:
    """A PNG to write, checked before any work is done for it. Raises Refused, Failed."""
    from USMRISynthesisLib.io.outputs import check

    if target.suffix.lower() != ".png":
        raise Refused("format", f"Pictures cannot be written as {target.name}.", "Use a name that ends in .png.")
    if not target.resolve().parent.is_dir():
        raise Refused("folder", f"The folder for {target.name} does not exist.", "Create it or choose another one.")
    check([target], sidecars=False)
    return target


@contextmanager
def picture(target: Path) -> Iterator[Path]:
    """A name to draw to; at the end of the block the picture is marked and gets its own. Raises Refused, Failed."""
    from USMRISynthesisLib.io.outputs import staged

    with staged([target]) as (name,):
        yield name
        mark(name)


@contextmanager
def pictures(name: str | None) -> Iterator[Path | None]:
    """A folder to draw into; at the end its pictures are marked and moved to the folder of that name. None stays None.

    Raises Refused where that folder holds pictures of another origin, Failed where it cannot be written.
    """
    from USMRISynthesisLib.io.outputs import STAGING, check, place_all

    if name is None:
        yield None
        return
    folder = Path(name)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check(sorted(folder.glob("*.png")), sidecars=False)
        drawn = Path(tempfile.mkdtemp(prefix=STAGING, dir=folder))
    except OSError as error:
        raise Failed(
            "write", f"The folder {folder.name} cannot be written: {error.strerror}.", "Choose another folder."
        ) from error
    try:
        yield drawn
        files = sorted(path for path in drawn.iterdir() if path.is_file())
        for file in files:
            mark(file)
        place_all([(file, folder / file.name) for file in files])
    finally:
        shutil.rmtree(drawn, ignore_errors=True)
        if made and not any(folder.iterdir()):
            folder.rmdir()


def mark(file: Path) -> None:
    """Note in a PNG that this program made it. Anything else stays as it is."""
    from USMRISynthesisLib.io.marks import PNG_MARK

    data = file.read_bytes()
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return
    chunk = struct.pack(">I", len(PNG_MARK) - 4) + PNG_MARK + struct.pack(">I", zlib.crc32(PNG_MARK))
    file.write_bytes(data[:_SIGNATURE_AND_HEADER] + chunk + data[_SIGNATURE_AND_HEADER:])
