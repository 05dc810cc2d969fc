"""`usmri info IMAGE`: what an image file or a DICOM study holds, without any word of the patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from USMRISynthesisLib.cli.options import Outcome
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.reading import count_frames, is_dicom, read_image


def is_image(path: Path) -> bool:
    """Whether a path is a file, or a folder with DICOM."""
    return path.is_file() or is_dicom(path)


def contents(path: Path) -> Outcome:
    """The images at a path: of each its sizes, frames and what is in the way of reading it. Raises Refused, Failed."""
    images = _of_dicom(path) if is_dicom(path) else [_of_file(path)]
    return "\n".join(_line(one) for one in images), {"images": images}


def _of_dicom(path: Path) -> list[dict[str, Any]]:
    from USMRISynthesisLib.io.dicom_find import items_at
    from USMRISynthesisLib.io.dicom_read import kind_of, open_item

    images = []
    for item in items_at(path, path.name):
        one: dict[str, Any] = {
            "series": item.label,
            "modality": item.modality,
            "files": len(item.files),
            "size_ij": list(item.size),
            "frames": item.frames,
            "synthetic": item.synthetic,
        }
        try:
            image = open_item(item, item.files[0].name if len(item.files) == 1 else path.name)
            sides = [sum(part**2 for part in column) ** 0.5 for column in image.ijk_to_ras[:3, :3].T.tolist()]
            one |= {
                "kind": kind_of(image),
                "shape_kji": list(image.shape),
                "frames": image.count,
                "spacing_ijk_mm": sides if image.states_spacing else None,
            }
        except Refused as error:
            one |= {"refused": error.kind, "message": error.message, "remedy": error.remedy}
        images.append(one)
    return images


def _of_file(path: Path) -> dict[str, Any]:
    frames = count_frames(path)
    one: dict[str, Any] = {"frames": frames}
    try:
        image = read_image(path, frame=0 if frames > 1 else None)
        sides = [sum(part**2 for part in column) ** 0.5 for column in image.ijk_to_ras[:3, :3].T.tolist()]
        one |= {"shape_kji": list(image.array.shape), "spacing_ijk_mm": sides}
    except Refused as error:
        one |= {"refused": error.kind, "message": error.message, "remedy": error.remedy}
    return one


def _line(one: dict[str, Any]) -> str:
    label = f"{one['series']}: {one['modality'] or 'unknown'}, " if "series" in one else ""
    if "refused" in one:
        return f"{label}not readable as it is: {one['message']} {one['remedy']}"
    k, j, i = one["shape_kji"]
    size = f"{i} x {j}" if k == 1 else f"{i} x {j} x {k}"
    count = f"{one['frames']} frames of " if one["frames"] > 1 else ""
    spacing = one["spacing_ijk_mm"]
    sides = " x ".join(f"{side:.4g}" for side in (spacing or [])[: 2 if k == 1 else 3])
    mark = "; synthetic" if one.get("synthetic") else ""
    return f"{label}{count}{size}, {f'{sides} mm' if spacing else 'without a pixel size'}{mark}"
