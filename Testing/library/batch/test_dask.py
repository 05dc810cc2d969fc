"""Dask: the jobs that SLURM gets, the options' file, and what is wrong as a sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from USMRISynthesisLib.batch import dask_cluster, dask_runner
from USMRISynthesisLib.batch.session import Plan
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.errors import Failed, Refused

OPTIONS = """
cores: 6
memory: 12GB
queue: short
account: fetal
walltime: "02:30:00"
job_extra_directives: ["--constraint=avx2"]
job_script_prologue: ["source /opt/venv/bin/activate"]
"""


def test_a_job_of_slurm_runs_one_case_at_a_time_with_all_its_cores(tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    (tmp_path / "cluster.yaml").write_text(OPTIONS)
    with dask_cluster.slurm_cluster(dask_cluster.read_options(tmp_path / "cluster.yaml")) as cluster:
        lines = cluster.job_script().splitlines()
    assert lines[0].startswith("#!")
    for wanted in (
        "-p short",
        "-A fetal",
        "-n 1",
        "--cpus-per-task=6",
        "--mem=12G",
        "-t 02:30:00",
        "--constraint=avx2",
    ):
        assert f"#SBATCH {wanted}" in lines, wanted
    assert "source /opt/venv/bin/activate" in lines
    start = next(line for line in lines if "distributed.cli.dask_worker" in line or "dask worker" in line)
    words = start.split()
    assert words[0] == sys.executable and words[len(words) - 1 - words[::-1].index("--nthreads") + 1] == "1"
    assert "--nanny" in words or "--no-nanny" not in words


def test_options_may_come_from_dasks_own_configuration() -> None:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    import dask

    with dask.config.set({"jobqueue.slurm.cores": 3, "jobqueue.slurm.memory": "5GB"}):
        with dask_cluster.slurm_cluster({}) as cluster:
            assert "#SBATCH --cpus-per-task=3" in cluster.job_script()


@pytest.mark.parametrize("options", [{}, {"cores": 2}, {"cores": 2, "memory": "4GB", "colour": "red"}])
def test_wrong_options_of_slurm_are_a_sentence(options: dict[str, Any]) -> None:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    with pytest.raises(Refused, match=r"The options of the SLURM cluster cannot be used: .*\. Give cores, memory"):
        dask_cluster.slurm_cluster(options)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        (b"cores: [", "in c.yaml cannot be read. Write them as YAML"),
        (b"\xff\xfe\xff", "in c.yaml cannot be read. Write them as YAML"),
        (b"- 1", "c.yaml holds no options. Write one a line, as YAML"),
    ],
)
def test_an_options_file_that_is_none_is_a_sentence(text: bytes, pattern: str, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    (tmp_path / "c.yaml").write_bytes(text)
    with pytest.raises(Refused, match=pattern):
        dask_cluster.read_options(tmp_path / "c.yaml")


@pytest.mark.parametrize(("package", "where"), [("distributed", "local"), ("dask_jobqueue", "slurm")])
def test_without_the_package_it_says_what_to_install(
    package: str, where: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nrrd").write_text("an image")
    command = ["batch", str(tmp_path / "in"), str(tmp_path / "out"), "--model", str(tiny_model), "--dask", where]
    assert cli.main(command) == 1
    said = capsys.readouterr().err
    assert "which is not installed. Install it: pip install 'USMRISynthesisLib[cohort]'" in said
    assert not list((tmp_path / "out" / ".usmri" / "work").iterdir())


def test_a_scheduler_that_does_not_answer_is_a_sentence(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    import dask

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nrrd").write_text("an image")
    command = ["batch", str(tmp_path / "in"), str(tmp_path / "out"), "--model", str(tiny_model), "--dask"]
    with dask.config.set({"distributed.comm.timeouts.connect": "200ms"}):
        assert cli.main([*command, "tcp://127.0.0.1:9"]) == 1
    assert "The Dask cluster tcp://127.0.0.1:9 does not answer. Check its address" in capsys.readouterr().err


def test_a_worker_of_another_version_or_on_another_disk_ends_the_batch(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "none", {}, {})
    with pytest.raises(Failed, match=r"has version .* of this program; .* is needed. Install the same version"):
        dask_runner.work(plan, None, None, None, 0.0, "0.0.1")  # type: ignore[arg-type]
    with pytest.raises(
        Failed, match=r"does not see the folder none\. Write the results to a disk that all workers share"
    ):
        dask_runner.work(plan, None, None, None, 0.0, dask_runner.__version__)  # type: ignore[arg-type]
