"""`python -m USMRISynthesisLib.cli`."""

from USMRISynthesisLib.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
