"""`python -m USMRISynthesisLib.worker`, or `PythonSlicer .../USMRISynthesisLib/worker/__main__.py [--owner PID]`."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:
        # Started as a file: the package's folder must be importable, its inside must not be.
        if not getattr(sys.flags, "safe_path", False):
            del sys.path[0]
        sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from USMRISynthesisLib.worker.serve import main

    code = main(sys.argv[1:])
    # Not through the interpreter's exit: the reader thread may still sit in a blocking read of stdin.
    sys.stderr.flush()
    os._exit(code)
