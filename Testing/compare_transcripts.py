"""What differs between two transcripts of Testing/inside_slicer.py, such as Slicer's and the stand-in's.

python Testing/compare_transcripts.py ONE/transcript.json OTHER/transcript.json     exit 0: the same; 1: not
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from slicer_walkthrough.transcript import differences


def main(one: str, other: str) -> int:
    contents = [json.loads(Path(name).read_text(encoding="utf-8")) for name in (one, other)]
    found, untried = differences(*contents)
    for line in [*untried, *found]:
        print(line)
    print(f"{len(found)} differences; {len(untried)} steps were tried on one side or none and are not compared.")
    return 1 if found else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
