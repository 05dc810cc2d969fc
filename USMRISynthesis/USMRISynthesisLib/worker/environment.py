"""What a process that runs the networks settles before torch is loaded."""

from __future__ import annotations

import os
import warnings


def prepare(*, show_warnings: bool = False) -> None:
    """Settle this process and those that it starts. Standard library only.

    Threads that wait must not spin: a busy machine (Slicer draws) would be slowed tenfold. `PYTORCH_JIT=0` would turn
    TorchScript into plain Python, which a model file is not. Python's warnings are for developers, and as errors
    (`PYTHONWARNINGS=error`) they would end the work inside a library.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.pop("PYTORCH_JIT", None)
    os.environ["PYTHONWARNINGS"] = "default" if show_warnings else "ignore"
    warnings.resetwarnings()
    warnings.simplefilter("default" if show_warnings else "ignore")
    warnings.simplefilter("ignore", ResourceWarning)
