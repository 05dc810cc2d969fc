"""Runs Testing/inside_slicer.py's steps in the stand-in, with the models that are installed.

QT_QPA_PLATFORM=offscreen python Testing/scene/run_inside_slicer.py [FOLDER]         exit 0: passed; 1: not
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(REPOSITORY / "Testing"), str(REPOSITORY / "USMRISynthesis"), str(Path(__file__).parent)]

from slicer_standin import start  # noqa: E402

HOST = start()

from scenery import MODULE_FILE, REPOSITORY  # noqa: E402
from slicer_walkthrough.everything import try_everything  # noqa: E402


def main(folder: Path) -> int:
    module = HOST.load_module(MODULE_FILE)
    try:
        return try_everything(folder, pace=0.2)  # no view has to be drawn on a screen
    finally:
        HOST.close_module(module)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "build" / "inside-slicer")
    sys.stdout.flush()
    os._exit(code)  # without taking Qt and VTK apart
