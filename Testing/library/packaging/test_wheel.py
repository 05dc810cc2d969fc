"""The wheel stands on its own: installed without the clone it has its models and synthesises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk

REPOSITORY = Path(__file__).resolve().parents[3]
MODELS = ("alignment", "content", "default", "frames", "paper", "spacing")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel was installed; the packages that it needs are those of this environment."""
    wheels, target = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("installed")
    source = tmp_path_factory.mktemp("source")
    # A copy: building writes into the folder.
    names = ("USMRISynthesis", "model_weights", "pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE")
    subprocess.run(["cp", "-r", *(str(REPOSITORY / name) for name in names), str(source)], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(source)], check=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)], check=True)
    return target


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`usmri` of the wheel, away from the clone. -P: nothing is imported from the current folder."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "USMRI_CONFIG_DIR": str(folder / "config")}
    command = [sys.executable, "-m", "USMRISynthesisLib.cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def test_the_wheel_lists_its_models(installed: Path, tmp_path: Path) -> None:
    text = run(installed, tmp_path, "info").stdout
    assert [name for name in MODELS if name not in text] == []


def test_the_wheel_synthesises_the_sample(installed: Path, tmp_path: Path) -> None:
    sample = REPOSITORY / "Resources" / "SampleData" / "fetal-head-hc18.nrrd"
    run(installed, tmp_path, "synthesize", str(sample), "out.nrrd", "--device", "cpu")
    made, source = sitk.ReadImage(str(tmp_path / "out.nrrd")), sitk.ReadImage(str(sample))
    assert made.GetSize() == source.GetSize() and sitk.GetArrayFromImage(made).max() > 500


def test_the_wheel_makes_the_page_of_a_reader_study(installed: Path, tmp_path: Path) -> None:
    """Its markup, style and script are files beside the code."""
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "in" / "real").mkdir(parents=True)
    for name in ("a", "b"):
        image.new("L", (8, 8)).save(tmp_path / "in" / "real" / f"{name}.png")
    run(installed, tmp_path, "study-page", "in", "study.html")
    assert (tmp_path / "study.html").stat().st_size > 10_000 and (tmp_path / "study.key.json").is_file()
