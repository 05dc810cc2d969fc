"""Tries the whole module inside Slicer, through its panel, and writes down what happened.

    Slicer --additional-module-paths USMRISynthesis --python-script Testing/inside_slicer.py FOLDER

FOLDER (else build/inside-slicer) gets transcript.json and screenshots; the scene is closed. Exit code 0: all that could
be tried passed; 1: something failed. The stand-in runs the same: Testing/scene/run_inside_slicer.py. Two transcripts
are compared by Testing/compare_transcripts.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "Testing"))

import slicer  # noqa: E402
from slicer_walkthrough.everything import try_everything  # noqa: E402

if __name__ == "__main__":
    chosen = [one for one in sys.argv[1:] if not one.startswith("-")]
    slicer.util.exit(try_everything(Path(chosen[0]) if chosen else REPOSITORY / "build" / "inside-slicer"))
