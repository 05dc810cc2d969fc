"""Random use of the panel for as long as wanted: `test_random_use.py` with other seeds, in a process of its own.

QT_QPA_PLATFORM=offscreen python Testing/scene/random_use.py [--first 1000] [--blocks 100] [--real 0]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description="Random use of the panel; a seed is ten sequences of nine actions.")
    parser.add_argument("--first", type=int, default=1000, help="the first seed")
    parser.add_argument("--blocks", type=int, default=100, help="how many seeds")
    parser.add_argument("--real", type=int, default=0, help="how many sequences of each seed run on real processes")
    options = parser.parse_args()
    variables = {
        "USMRI_RANDOM_FIRST": options.first,
        "USMRI_RANDOM_BLOCKS": options.blocks,
        "USMRI_RANDOM_REAL": options.real,
    }
    tests = Path(__file__).with_name("test_random_use.py")
    return subprocess.call(
        [sys.executable, "-m", "pytest", "-q", str(tests)],
        env={**os.environ, **{key: str(value) for key, value in variables.items()}},
    )


if __name__ == "__main__":
    raise SystemExit(main())
