"""What CMake would build and install is what is there: a file that is not listed is not in the extension."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
MODULE = REPOSITORY / "USMRISynthesis"
# What Slicer does not use stays in the repository.
NOT_IN_SLICER = tuple(f"USMRISynthesisLib/{name}/" for name in ("simulation", "datasets", "evaluation", "training"))
DATA_FOLDERS = ("model_weights", "Resources/SampleData")


def listed(name: str) -> set[str]:
    """The entries of a list in the module's CMakeLists.txt."""
    text = re.sub(r"#.*", "", (MODULE / "CMakeLists.txt").read_text())
    found = re.search(rf"set\({name}\s+(.*?)\)", text, re.DOTALL)
    assert found, f"{name} is not set"
    return set(found.group(1).replace("${MODULE_NAME}", "USMRISynthesis").split())


def tracked(*folders: str) -> set[str]:
    """Files under these folders of the module that belong to the repository, relative to the module."""
    if (REPOSITORY / ".git").exists() and shutil.which("git"):
        done = subprocess.run(["git", "ls-files", *folders], cwd=MODULE, capture_output=True, text=True, check=True)
        return set(done.stdout.split())
    return {
        path.relative_to(MODULE).as_posix()
        for folder in folders
        for path in (MODULE / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_python_file_is_packaged() -> None:
    present = {
        name
        for name in tracked("USMRISynthesis.py", "USMRISynthesisLib", "USMRISynthesisScene")
        if name.endswith(".py") and not name.startswith(NOT_IN_SLICER)
    }
    missing = sorted(present - listed("MODULE_PYTHON_SCRIPTS"))
    assert not missing, "add to MODULE_PYTHON_SCRIPTS: " + " ".join(missing)


def test_simulation_and_training_are_not_packaged_into_slicer() -> None:
    assert [name for name in sorted(listed("MODULE_PYTHON_SCRIPTS")) if name.startswith(NOT_IN_SLICER)] == []


def test_every_resource_is_packaged() -> None:
    missing = sorted(tracked("Resources") - listed("MODULE_PYTHON_RESOURCES"))
    assert not missing, "add to MODULE_PYTHON_RESOURCES: " + " ".join(missing)


def test_every_listed_file_exists() -> None:
    names = listed("MODULE_PYTHON_SCRIPTS") | listed("MODULE_PYTHON_RESOURCES")
    assert [name for name in sorted(names) if not (MODULE / name).is_file()] == []


def test_every_folder_of_the_library_is_a_package() -> None:
    """setup.py finds packages: a folder without __init__.py would be missing in the wheel."""
    folders = {path.parent for path in (MODULE / "USMRISynthesisLib").rglob("*.py")}
    assert [folder.name for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_extension_names_its_dependency_and_its_pictures() -> None:
    text = (REPOSITORY / "CMakeLists.txt").read_text()
    assert 'EXTENSION_DEPENDS "PyTorch"' in text
    for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS"):
        assert re.search(rf'set\(EXTENSION_{name} "[^"]+"\)', text), name


STUB = """
# Stands in for Slicer's package: the macros check and install what the real ones do.
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/Use.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/Empty.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/Empty.cmake)
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-5.12/qt-scripted-modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-5.12/qt-scripted-modules)
set(BUILD_TESTING ON)
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "Unknown: ${MY_UNPARSED_ARGUMENTS}")
  endif()
  foreach(file ${MY_SCRIPTS} ${MY_RESOURCES})
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
      message(FATAL_ERROR "nonexistent file ${file}")
    endif()
    get_filename_component(folder ${file} DIRECTORY)
    install(FILES ${file} DESTINATION ${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}/${folder}
      COMPONENT RuntimeLibraries)
  endforeach()
endmacro()
macro(slicer_add_python_unittest)
  cmake_parse_arguments(TEST "" "SCRIPT" "" ${ARGN})
  if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${TEST_SCRIPT})
    message(FATAL_ERROR "nonexistent test ${TEST_SCRIPT}")
  endif()
endmacro()
"""


def _not_of_the_extension(folder: str, names: list[str]) -> set[str]:
    """What lies at the top beside the extension, and what Python leaves everywhere."""
    top = {".git", ".venv", "build", "runs", "data"} if Path(folder) == REPOSITORY else set()
    return (top | {"__pycache__"}) & set(names)


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_configured_extension_installs_modules_models_and_samples(tmp_path: Path) -> None:
    stub = tmp_path / "stub"
    stub.mkdir()
    (stub / "SlicerConfig.cmake").write_text(STUB)
    for name in ("Use.cmake", "Empty.cmake"):
        (stub / name).write_text("")
    build, installed = tmp_path / "build", tmp_path / "installed"

    def cmake(*arguments: str | Path) -> None:
        done = subprocess.run(["cmake", *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    # A project of no language needs no compiler; the real one is configured by Slicer's.
    source = tmp_path / "source"
    shutil.copytree(REPOSITORY, source, ignore=_not_of_the_extension)
    top = source / "CMakeLists.txt"
    top.write_text(top.read_text().replace("project(USMRISynthesis)", "project(USMRISynthesis NONE)"))
    cmake("-S", source, "-B", build, f"-DSlicer_DIR={stub}")
    cmake("--build", build)
    cmake("--install", build, "--prefix", installed, "--component", "RuntimeLibraries")
    modules = installed / "lib/Slicer-5.12/qt-scripted-modules"
    for name in (
        "USMRISynthesis.py",
        "USMRISynthesisLib/worker/__main__.py",
        "USMRISynthesisScene/runs/worker_process.py",
        "Resources/UI/USMRISynthesis.ui",
        "Resources/Icons/USMRISynthesis.png",
    ):
        assert (modules / name).is_file(), name
    for folder in DATA_FOLDERS:
        for path in (REPOSITORY / folder).rglob("*"):
            if path.is_file():
                inside = path.relative_to(REPOSITORY)
                assert (modules / inside).is_file(), inside
                assert (build / "lib/Slicer-5.12/qt-scripted-modules" / inside).is_file(), inside
