"""Numbers in headers have a decimal point, whatever the process's locale has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from USMRISynthesisLib.io import volume

SCRIPT = textwrap.dedent(
    """
    import locale, sys
    from pathlib import Path
    import numpy as np
    locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
    assert locale.localeconv()["decimal_point"] == ","
    from USMRISynthesisLib.io.transform import read_transform, write_transform
    from USMRISynthesisLib.io.volume import VOLUME_FORMATS, Volume
    folder = Path(sys.argv[1])
    matrix = np.diag([1.8, 1.8, 2.5, 1]); matrix[:3, 3] = -10.25, 3.5, 7.75
    for ending in VOLUME_FORMATS:
        Volume(np.zeros((3, 4, 5), np.uint8), matrix).write(folder / ("v" + ending))
        np.testing.assert_allclose(Volume.read(folder / ("v" + ending)).ijk_to_ras, matrix, rtol=1e-6)
    for ending in (".tfm", ".txt", ".h5"):
        write_transform(matrix, folder / ("t" + ending))
        np.testing.assert_allclose(read_transform(folder / ("t" + ending)), matrix)
    """
)


def test_a_decimal_comma_changes_no_file(tmp_path):
    if shutil.which("localedef") is None:
        pytest.skip("no locale can be made here")
    made = subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "UTF-8", str(tmp_path / "de_DE.UTF-8")], capture_output=True, check=False
    )
    if not (tmp_path / "de_DE.UTF-8").exists():
        pytest.skip(f"no locale can be made here: {made.stderr[:100]!r}")
    (tmp_path / "out").mkdir()
    environment = {**os.environ, "LOCPATH": str(tmp_path), "PYTHONPATH": str(Path(volume.__file__).parents[2])}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "out")], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr[-1500:]
    header = (tmp_path / "out" / "v.nrrd").read_bytes().split(b"\n\n")[0]
    assert b"space directions: (-1.8,0.0,0.0) (0.0,-1.8,0.0) (0.0,0.0,2.5)" in header.replace(b"-0.0", b"0.0")
    assert b"1.8" in (tmp_path / "out" / "t.tfm").read_bytes() or b"0.555" in (tmp_path / "out" / "t.tfm").read_bytes()
