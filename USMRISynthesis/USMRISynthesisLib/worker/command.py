"""How a worker is started, whichever way its lines travel: by the path of its file, so that the current folder, in
which anybody may have put a `torch.py`, is never where its modules come from.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

MAIN = Path(__file__).resolve().with_name("__main__.py")


def arguments() -> list[str]:
    """What follows the name of the Python (of this process's version) on the command line of a worker for this process.

    `-P` leaves the folder of the script out as well; Python knows it since 3.11, before that `__main__` does it.
    """
    safe = ["-P"] if sys.version_info >= (3, 11) else []
    return [*safe, str(MAIN), "--owner", str(os.getpid())]


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would let Python import from the current folder."""
    kept = {key: value for key, value in given.items() if key != "PYTHONPATH"}
    folders = [one for one in given.get("PYTHONPATH", "").split(os.pathsep) if one and Path(one).is_absolute()]
    return kept | ({"PYTHONPATH": os.pathsep.join(folders)} if folders else {})
