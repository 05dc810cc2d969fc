"""The page of a reader study and its key, from a folder with one folder of pictures for each method.

    build_study(Path("images"), Path("study.html"))      # images/real/a.png, images/ours/a.png, ...

The page holds the pictures without their names, in an order of its own for each reader. Which picture is of which
method stands in `study.key.json` alone, which stays with whoever runs the study.
"""

from __future__ import annotations

import io
import random
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib import __version__
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.reader_study.form import CONSENT, FORMAT, KEY_FORMAT, KINDS, SCALE, VERSION
from USMRISynthesisLib.io.outputs import STAGING, check, place_all, unwritten
from USMRISynthesisLib.io.picture import PICTURE_FORMATS, read_picture
from USMRISynthesisLib.io.strict_json import dumps
from USMRISynthesisLib.io.synthetic import MADE_BY
from USMRISynthesisLib.io.web_page import as_data, filled, held_text, source_hash

_PARTS = Path(__file__).resolve().parent
LEAST_IMAGES = 2
MOST_BYTES = 100_000_000


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture of a study: which method made it of which case, and its pixels (h, w) uint8."""

    method: str
    case: str
    pixels: np.ndarray


def build_study(
    folder: Path,
    page: Path,
    *,
    title: str = "Reader study",
    consent: Sequence[str] = CONSENT,
    repeats: int | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """Write the page and, beside it, its key.

    Args:
        folder: holds one folder for each method, with a picture for each case in it; one case has the same name in
            all of them, where it is the same.
        page: ends in .html. Neither it nor its key may exist: a key that is lost makes its readings worthless.
        title: of the page; no patient's name. consent: paragraphs that a reader agrees to.
        repeats: how many images are shown twice, drawn evenly from the methods; by default a tenth of them.
        seed: for the draw of repeats and of names; by default another one each time.

    Returns:
        study (its name), images, repeats, methods (name -> number of images), page and key (paths).

    Raises:
        Refused: there are no pictures, they differ in size, or something is in the way. Failed: cannot be written.
    """
    if page.suffix.lower() not in (".html", ".htm"):
        raise Refused("format", f"A study cannot be written as {page.name}.", "Use a name that ends in .html.")
    key = page.with_suffix(".key.json")
    never = {page: _never, key: _never}
    check([page, key], sidecars=False, ours=never)
    pictures = collect(folder)
    count = max(1, round(len(pictures) / 10)) if repeats is None else repeats
    if not 0 <= count <= len(pictures):
        raise Refused("repeats", f"{count} images cannot be shown twice.", f"Give 0 to {len(pictures)}.")
    draw = random.Random(secrets.randbits(64) if seed is None else seed)
    blocks, content = arranged(pictures, count, draw)
    study = "".join(draw.choice("0123456789abcdef") for _ in range(12))
    height, width = pictures[0].pixels.shape
    form = {
        "format": FORMAT, "version": VERSION, "study": study, "title": title, "consent": list(consent),
        "blocks": blocks, "size": [width, height], "scale": SCALE, "kinds": [one[:2] for one in KINDS],
    }  # fmt: skip
    items = {name: {"method": one.method, "case": one.case} for name, one in content.items()}
    solution = {
        "format": KEY_FORMAT, "version": VERSION, "study": study, "title": title, "made_by": f"{MADE_BY} {__version__}",
        "image_size": [width, height], "items": items,
    }  # fmt: skip
    try:
        with tempfile.TemporaryDirectory(prefix=STAGING, dir=page.parent) as working:
            names = [Path(working) / page.name, Path(working) / key.name]
            with open(names[0], "w", encoding="utf-8", newline="\n") as file:
                file.writelines(_page(form, content))
            names[1].write_text(dumps(solution, indent=1) + "\n", encoding="utf-8")
            place_all(list(zip(names, (page, key), strict=True)), ours=never)
    except OSError as error:
        raise unwritten(page.name, error) from error
    methods = sorted({one.method for one in pictures})
    return {
        "study": study, "images": len(pictures), "repeats": count, "page": str(page), "key": str(key),
        "methods": {name: sum(one.method == name for one in pictures) for name in methods},
    }  # fmt: skip


def collect(folder: Path) -> list[Picture]:
    """The pictures of a study's folder, by method and case. Raises Refused."""
    if not folder.is_dir():
        raise Refused("input-folder", f"There is no folder {folder.name}.", "Give a folder with one for each method.")
    found = []
    for place in sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")):
        seen: set[str] = set()
        for path in sorted(place.iterdir()):
            if path.name.startswith(".") or path.suffix.lower() not in PICTURE_FORMATS:
                continue
            if path.stem in seen:
                raise Refused("case", f"{place.name} has two pictures of {path.stem}.", "Leave one of each case.")
            seen.add(path.stem)
            found.append(Picture(place.name, path.stem, _grey(path)))
    if len(found) < LEAST_IMAGES:
        raise Refused(
            "no-images",
            f"{folder.name} holds no pictures in folders.",
            f"Make a folder for each method in it, with pictures in them ({', '.join(PICTURE_FORMATS)}).",
        )
    odd = next((one for one in found if one.pixels.shape != found[0].pixels.shape), None)
    if odd is not None:
        raise Refused(
            "size",
            f"{odd.method}/{odd.case} has another size than {found[0].method}/{found[0].case}: a reader could tell "
            "methods by it.",
            "Bring all pictures to one size.",
        )
    return found


def arranged(
    pictures: Sequence[Picture], repeats: int, draw: random.Random
) -> tuple[list[list[str]], dict[str, Picture]]:
    """Two blocks of item names, and the picture of each item.

    An image that is shown twice is in both blocks, under two names. A reader sees the blocks one after the other, each
    in an order of its own.
    """
    twice = _spread(pictures, repeats, draw)
    once = [one for one in range(len(pictures)) if one not in twice]
    draw.shuffle(once)
    half = max(0, (len(pictures) + repeats) // 2 - repeats)
    numbers = [[*twice, *once[:half]], [*twice, *once[half:]]]
    content: dict[str, Picture] = {}
    blocks = []
    for block in numbers:
        draw.shuffle(block)
        names = []
        for number in block:
            while (name := f"{draw.getrandbits(40):010x}") in content:
                pass
            content[name] = pictures[number]
            names.append(name)
        blocks.append(names)
    return blocks, content


def _spread(pictures: Sequence[Picture], count: int, draw: random.Random) -> list[int]:
    """So many of the pictures' numbers, from each method in turn."""
    by_method: dict[str, list[int]] = {}
    for number, one in enumerate(pictures):
        by_method.setdefault(one.method, []).append(number)
    queues = list(by_method.values())
    draw.shuffle(queues)
    for queue in queues:
        draw.shuffle(queue)
    chosen: list[int] = []
    while len(chosen) < count:
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop())
    return chosen


def _grey(path: Path) -> np.ndarray:
    """(h, w) uint8: pixels alone, so that neither a file's notes nor its kind reach the page."""
    values = read_picture(path)[0]
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    low, high = float(values.min()), float(values.max())
    return np.rint((values - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)


def _page(form: dict[str, Any], content: dict[str, Picture]) -> Iterator[str]:
    template, style, script = ((_PARTS / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    values = {
        "MADE": MADE_BY, "STYLE": style, "SCRIPT": script, "STYLE_HASH": source_hash(style),
        "SCRIPT_HASH": source_hash(script), "DATA": as_data(form),
    }  # fmt: skip
    before, after = template.split("@IMAGES@")
    yield filled(before, values)
    total = 0
    for name in sorted(content):  # by their random names: neither method nor order shows
        data = _png(content[name].pixels)
        total += len(data)
        if total > MOST_BYTES:
            raise Refused("size", "The pictures are too many for one page.", "Use fewer or smaller ones.")
        yield held_text(f"i-{name}", data)
    yield filled(after, values)


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _never(path: Path) -> bool:
    return False
