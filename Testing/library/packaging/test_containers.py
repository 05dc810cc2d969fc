"""The containers, the job array and the guide to cohorts name files, versions and options that exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
from USMRISynthesisLib.cli.command_line import build_parser

REPOSITORY = Path(__file__).resolve().parents[3]
CONTAINERS = REPOSITORY / "containers"
DOCKERFILE, DEFINITION, ARRAY = (CONTAINERS / name for name in ("Dockerfile", "usmri.def", "cohort.sbatch"))
GUIDE = REPOSITORY / "docs" / "cohort.md"
VALUES = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "50", "input": "in", "output": "out"}
NEEDED = ("USMRISynthesis/USMRISynthesisLib", "model_weights", "pyproject.toml", "setup.py", "requirements.txt",
          "README.md", "LICENSE", "NOTICE")  # fmt: skip


def joined(path: Path) -> str:
    """The text without comments, with continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    return "\n".join(lines).replace("\\\n", " ")


def section(name: str) -> str:
    """A section of the Apptainer definition."""
    found = re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", joined(DEFINITION), re.DOTALL | re.MULTILINE)
    assert found, f"%{name} is missing"
    return found[1]


def commands_of(text: str) -> list[list[str]]:
    """The words after `usmri` of every command in a text, with the array's variables filled in."""
    for name, value in VALUES.items():
        text = re.sub(rf"\$\{{?{name}\b\}}?", value, text)
    found = []
    for line in text.splitlines():
        called = re.search(r'(?:^\s*|\busmri(?:\.sif)? |"\$image"\s+)(?:usmri )?(batch\s.*)', line)
        if called:
            found.append(shlex.split(called[1], comments=True))
    return found


def test_the_image_takes_what_the_package_is_built_from() -> None:
    kept = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(kept) == sorted(NEEDED)
    copied = [line.split() for line in section("files").splitlines() if line.strip()]
    assert sorted(source for source, _ in copied) == sorted(NEEDED)
    assert all(target == f"/src/{source}" for source, target in copied)
    assert all((REPOSITORY / source).exists() for source in NEEDED)


def test_nothing_of_the_repository_that_is_private_gets_into_the_image() -> None:
    rules = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] not in "#"]
    assert rules[0] == "*"
    assert not any(
        fnmatch(name, rule[1:]) for name in (".git", ".venv", "runs", "data") for rule in rules if rule[0] == "!"
    )


def test_both_containers_install_the_same() -> None:
    installs = [sorted(re.findall(r"pip install (?!--no-deps)(.*?)(?:&&|\n|$)", text)) for text in
                (joined(DOCKERFILE), section("post"))]  # fmt: skip
    plain = [[re.sub(r"\$\{TORCH_INDEX\}|\{\{ TORCH_INDEX \}\}", "INDEX", " ".join(one.split())) for one in found]
             for found in installs]  # fmt: skip
    assert plain[0] == plain[1] and len(plain[0]) == 2
    assert "From: " + re.findall(r"^FROM (\S+)", joined(DOCKERFILE), re.MULTILINE)[0] in joined(DEFINITION)


def test_packages_have_the_versions_that_are_tested() -> None:
    lines = re.findall(
        r"^([\w-]+)==([\w.]+)", (REPOSITORY / "Testing/requirements-library.txt").read_text(), re.MULTILINE
    )
    tested = dict(reversed(lines))  # of two lines for one package the first is for newer Pythons
    pinned = dict(re.findall(r'"([\w-]+)==([\w.]+)"', joined(DOCKERFILE)))
    assert set(pinned) == {"pydicom", "pillow"}
    for name, version in pinned.items():
        assert tested[name] == version


def test_the_image_runs_as_an_ordinary_user_and_starts_the_command() -> None:
    text = joined(DOCKERFILE)
    assert re.search(r"^USER [1-9]\d*$", text, re.MULTILINE)
    assert 'ENTRYPOINT ["usmri"]' in text and 'exec usmri "$@"' in section("runscript")


@pytest.mark.parametrize("path", [DOCKERFILE, DEFINITION, ARRAY, GUIDE], ids=lambda path: path.name)
def test_every_command_is_one(path: Path) -> None:
    text = joined(path) if path == ARRAY else path.read_text().replace("\n#   ", "\n")
    found = commands_of(text)
    assert len(found) >= {"cohort.sbatch": 1, "cohort.md": 12}.get(path.name, 1)
    for words in found:
        options = build_parser().parse_args(words)  # raises for an option that does not exist
        assert options.command == "batch"


def test_the_array_gives_every_part_once() -> None:
    (words,) = commands_of(joined(ARRAY))
    assert build_parser().parse_args(words).part == (3, 50)
    assert re.search(r"^#SBATCH --array=1-\d+$", ARRAY.read_text(), re.MULTILINE)  # parts count from 1


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_array_script_says_how_it_is_called_and_binds_the_tables_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cohort.tsv").write_text("path\n")
    (tmp_path / "apptainer").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "apptainer").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "50"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(ARRAY), *words], capture_output=True, text=True, env=environment, cwd=tmp_path
        )

    wrong = run("in")
    assert wrong.returncode == 2 and "Usage: sbatch cohort.sbatch IN OUT" in wrong.stderr
    words = run("in/cohort.tsv", "out dir").stdout.splitlines()
    table, output = str(tmp_path / "in" / "cohort.tsv"), str(tmp_path / "out dir")
    assert f"{tmp_path}/in:{tmp_path}/in:ro" in words and f"{output}:{output}" in words
    assert words[words.index("batch") :] == ["batch", table, output, "--part", "3/50", "--quiet"]
    assert (tmp_path / "out dir").is_dir()
    assert f"{tmp_path}/in:{tmp_path}/in:ro" in run("in", "out").stdout.splitlines()


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_the_dockerfile_has_no_fault_that_hadolint_knows() -> None:
    done = subprocess.run(["hadolint", str(DOCKERFILE)], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stdout


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_scripts_have_no_fault_that_shellcheck_knows(tmp_path: Path) -> None:
    post = tmp_path / "post.sh"
    post.write_text("#!/bin/sh\n" + section("post").replace("{{ TORCH_INDEX }}", "https://index"))
    done = subprocess.run(["shellcheck", str(ARRAY), str(post)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
