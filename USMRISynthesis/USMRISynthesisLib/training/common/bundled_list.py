"""Write the list of bundled files: the SHA-256 of every file with weights in model_weights/, by model.

    python -m USMRISynthesisLib.training.common.bundled_list [model_weights]

What is on the list runs without asking. So run it only after a look at what changed in model_weights/.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.io.provenance import file_sha256
from USMRISynthesisLib.models import bundled
from USMRISynthesisLib.models.manifest import MANIFEST

ENDINGS = (".pt", ".safetensors")
_OPENING = "FILES: "


def hashes(folder: Path) -> dict[str, dict[str, str]]:
    """Model -> file -> SHA-256, of the files with weights in a folder of model folders."""
    return {
        manifest.parent.name: {
            file.name: file_sha256(file) for file in sorted(manifest.parent.iterdir()) if file.suffix in ENDINGS
        }
        for manifest in sorted(folder.glob(f"*/{MANIFEST}"))
    }


def listing(files: dict[str, dict[str, str]]) -> str:
    """The list as the end of `models/bundled.py`."""
    lines = ["FILES: dict[str, dict[str, str]] = {"]
    for model, named in files.items():
        lines += [f'    "{model}": {{', *(f'        "{name}": "{sha256}",' for name, sha256 in named.items()), "    },"]
    return "\n".join([*lines, "}", ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the list in this installation's package."""
    given = sys.argv[1:] if arguments is None else arguments
    folder = Path(given[0] if given else "model_weights")
    files = hashes(folder)
    if not files:
        raise Failed("no-model", f"There is no model in {folder}.", "Give the folder that holds the model folders.")
    target = Path(bundled.__file__)
    text = target.read_text(encoding="utf-8")
    target.write_text(text[: text.index(_OPENING)] + listing(files), encoding="utf-8")
    print(f"Wrote {sum(map(len, files.values()))} hashes of {len(files)} models to {target}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
