"""What a request's fields mean: paths, the input image, the transform, the age. Each raises a sentence where it cannot.

numpy and SimpleITK are loaded when they are needed, not when the worker starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.worker.request import Request, is_number

if TYPE_CHECKING:
    from USMRISynthesisLib.io.volume import Volume


def path_of(job: Request, name: str) -> Path:
    """The path in a field that must have one. Raises Failed."""
    value = job.get(name)
    if not isinstance(value, str) or not value:
        raise Failed("request", f"The request has no {name!r} path.", "Give it one.")
    return Path(value)


def read_of(job: Request, source: Path) -> Volume:
    """The request's input. Raises Refused."""
    from USMRISynthesisLib.io.volume import Volume

    return Volume.read(
        source,
        frame=job.get("frame"),
        pixel_size_mm=job.get("pixel_size"),
        series=job.get("series"),
        region=job.get("region"),
    )


def outputs_of(job: Request, *names: str) -> dict[str, Path]:
    """The files that a request asks for, by field; all may be written. Raises Refused, Failed."""
    from USMRISynthesisLib.io.outputs import check  # here: it brings SimpleITK along

    paths = {name: path_of(job, name) for name in names if name == "output" or job.get(name)}
    check(list(paths.values()), [path_of(job, "input")], sidecars=False)
    return paths


def transform_of(job: Request) -> Any:
    """The request's 16 numbers as a 4x4 array, or None."""
    values = job.get("transform")
    if values is None:
        return None
    import numpy as np

    try:
        matrix = np.asarray(values, dtype=np.float64).reshape(4, 4)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Failed("transform", "The transform is not 16 numbers.", "Give a 4x4 matrix, row by row.") from error
    return matrix


def weeks_of(job: Request) -> float | None:
    """The request's gestational age, or None."""
    value = job.get("gestational_age")
    if value is not None and not is_number(value):
        raise Failed("request", "The gestational age is not a number.", "Give it in weeks, or leave it out.")
    return None if value is None else float(value)
