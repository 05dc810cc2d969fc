"""`usmri study`: methods from one file, trained alike, resumed, measured and drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from factories.heads import layered_case
from factories.training import make_data, same_weights
from PIL import Image
from USMRISynthesisLib.errors import Cancelled, Refused
from USMRISynthesisLib.training.common import checkpoint
from USMRISynthesisLib.training.study import study as studies

STUDY = """
output = "{output}"
seeds = [0, 1]
[base]
steps = 3
precision = "fp32"
threads = 1
checkpoint_every = 100
evaluate_every = 100
evaluation_slices = 2
[base.data]
folder = "{data}"
frames = "{data}/hc18.npz"
[base.generator]
width = 2
multipliers = [1, 2, 2]
skips = [1]
reconstruction_skips = [1]
attention_level = 1
[base.discriminators]
width = 2
[base.batch]
simulated = 2
real = 1
[methods.paper]
title = "the paper's"
[methods.cut]
title = "a baseline"
generator = {{ attention = false }}
objective = {{ lat = 0.0, proj = 0.0, back = 0.0, bi = 0.0, stru = 0.0, nce = 1.0 }}
"""


def written(tmp_path: Path, name: str = "study") -> Path:
    data = tmp_path / "data"
    if not data.is_dir():
        data.mkdir()
        make_data(data)
    path = tmp_path / f"{name}.toml"
    path.write_text(STUDY.format(output=tmp_path / name, data=data))
    return path


def quiet(text: str) -> None:
    pass


def test_the_study_in_the_repository_names_the_papers_table_its_ablations_and_the_baselines():
    study = studies.read_study(Path(__file__).parents[3] / "configs" / "study.toml")
    names = {method.name for method in study.methods}
    assert {
        "paper",
        "ae",
        "gan",
        "cyclegan",
        "cut",
        "no-bilat",
        "no-struct",
        "no-att",
        "softmax",
        "paper-2020",
        "pairs",
    } <= names
    assert len({(m.config.steps, m.config.batch, m.config.data) for m in study.methods}) == 1  # the same budget
    assert all(any(word in m.title for word in ("ours", "paper", "baseline", "same")) for m in study.methods)


def test_a_method_changes_what_it_names_and_nothing_else(tmp_path):
    study = studies.read_study(written(tmp_path))
    paper, cut = study.methods[0].config, study.methods[2].config
    assert [(m.name, m.config.seed) for m in study.methods] == [("paper", 0), ("paper", 1), ("cut", 0), ("cut", 1)]
    assert paper.generator.attention and not cut.generator.attention
    assert paper.generator.width == cut.generator.width and paper.data == cut.data
    assert cut.objective.nce == 1 and cut.objective.app == paper.objective.app


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds = [0, 1]", "seed = 3"), "seed is not known"),
        (('title = "a baseline"', ""), "methods.cut.title is missing"),
        (("nce = 1.0", "ncee = 1.0"), "Method cut: .*objective.ncee is not known"),
        (("[base.batch]", "[base.bach]"), "Method paper: .*bach is not known"),
    ],
)
def test_a_bad_study_is_refused_by_method_and_key(tmp_path, change, message):
    path = written(tmp_path)
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(Refused, match=message):
        studies.read_study(path)


def test_a_stopped_study_goes_on_where_it_was_and_does_not_train_again(tmp_path):
    whole, parts = studies.read_study(written(tmp_path, "whole")), studies.read_study(written(tmp_path, "parts"))
    done = studies.run(whole, report=quiet)
    polls = iter([False] * 4 + [True])
    with pytest.raises(Cancelled):
        studies.run(parts, cancel=lambda: next(polls), report=quiet)
    lines: list[str] = []
    resumed = studies.run(parts, report=lines.append)
    assert any(line == "paper, seed 0: done before" for line in lines)
    assert all(same_weights(a, b) for a, b in zip(done, resumed, strict=True))
    before = [path.stat().st_mtime_ns for path in resumed]
    assert [path.stat().st_mtime_ns for path in studies.run(parts, report=quiet)] == before


def test_a_short_look_keeps_the_long_run_as_it_is(tmp_path):
    study = studies.read_study(written(tmp_path))
    short = studies.shortened(study, 1)
    (first, *_) = studies.run(short, report=quiet)
    assert checkpoint.load(first)["step"] == 1 and not study.output.exists()


def test_shrunk_slices_train_a_method_whose_output_has_the_canonical_size_and_no_model_comes_of_it(tmp_path):
    from USMRISynthesisLib.datasets.simulated import cases
    from USMRISynthesisLib.training.study import table as study_table
    from USMRISynthesisLib.training.synthesis.export import export

    path = written(tmp_path)
    path.write_text(path.read_text().replace('frames = "', 'shrink = 2\nframes = "').replace("seeds = [0, 1]", ""))
    study = studies.read_study(path)
    saved = studies.run(study, report=quiet)
    np.savez(tmp_path / "case.npz", **layered_case(1))
    case = next(cases(tmp_path))
    assert study_table.prediction(study.methods[0])(case).shape == case.us.shape
    with pytest.raises(Refused, match="slices shrunk by 2, to compare methods; no model for use"):
        export(saved[0], tmp_path / "model", name="shrunk")


def test_only_methods_trained_to_their_end_are_put_beside_a_model(tmp_path):
    study = studies.read_study(written(tmp_path))
    with pytest.raises(Refused, match=r"No method of the study.*Run `usmri study` first"):
        studies.trained(study)
    polls = iter([False] * 3 + [True])
    with pytest.raises(Cancelled):
        studies.run(study, cancel=lambda: next(polls), report=quiet)
    assert [method.config.output for method in studies.trained(study)] == [study.methods[0].config.output]


def test_an_unfinished_study_can_be_measured_as_far_as_it_is(tmp_path, monkeypatch):
    from USMRISynthesisLib.cli import command_line as cli
    from USMRISynthesisLib.training.study import table as study_table

    path = written(tmp_path)
    study = studies.read_study(path)
    polls = iter([False] * 3 + [True])
    with pytest.raises(Cancelled):
        studies.run(study, cancel=lambda: next(polls), report=quiet)
    values = {key: [0.5, 0.4, 0.6] for key in (*study_table.baselines.MEASURES, *study_table.baselines.OVER_HEADS)}
    monkeypatch.setattr(
        study_table,
        "measured",
        lambda study, split, progress: {study_table.row(method, study.methods): values for method in study.methods},
    )
    monkeypatch.setattr(study_table, "draw", lambda study, split, target: None)
    assert cli.main(["study", str(path), "--skip-training", "--quiet"]) == 0
    table = (study.output / "table.md").read_text()
    assert "| paper |" in table and "cut" not in table and "--skip-training" in table


def test_table_and_picture_hold_every_method(tmp_path, monkeypatch):
    from USMRISynthesisLib.training.study import table as study_table

    study = studies.read_study(written(tmp_path))
    studies.run(study, report=quiet)
    row = {key: [0.5, 0.4, 0.6] for key in (*study_table.baselines.MEASURES, *study_table.baselines.OVER_HEADS)}
    names = ["mean", "paper-0", "paper-1", "cut-0", "cut-1"]
    text = study_table.markdown(study, dict.fromkeys(names, row), {"date": "today"})
    assert all(f"| {name} |" in text for name in names)
    assert "0.500 [0.400, 0.600]" in text and "a baseline" in text and "- date: today" in text


def test_the_picture_shows_the_same_inputs_through_every_method(tmp_path):
    import numpy as np
    from USMRISynthesisLib.training.study import table as study_table

    data = tmp_path / "data"
    for part, seed in (("train", 1), ("val", 2)):
        (data / part).mkdir(parents=True)
        np.savez(data / part / f"head-{seed}.npz", **layered_case(seed))
    us = np.random.default_rng(0).integers(1, 90, (3, 160, 160)).astype(np.uint8)
    np.savez(data / "hc18.npz", us=us, fan=us > 0, split=np.array(["train", "val", "val"]))
    path = tmp_path / "study.toml"
    path.write_text(STUDY.format(output=tmp_path / "study", data=data).replace("seeds = [0, 1]", "seeds = [0]"))
    study = studies.shortened(studies.read_study(path), 1)
    studies.run(study, report=quiet)
    study_table.draw(study, "val", tmp_path / "pictures.png")
    picture = np.asarray(Image.open(tmp_path / "pictures.png"))
    rows = picture[:, study_table.LABEL_WIDTH :].reshape(4, 160, 12, 160).swapaxes(1, 2)
    truth = np.load(data / "val" / "head-2.npz")["t2"][84][::-1]
    assert np.abs(rows[3, 2].astype(int) - truth).max() <= 1  # upright: row j runs to anterior, and is drawn upwards
    assert rows[0, 6:].any() and not rows[3, 6:].any()  # real frames have no truth
    assert rows[1].std() > 0 and not np.array_equal(rows[1], rows[2])  # two methods, two answers
