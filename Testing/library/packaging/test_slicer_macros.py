"""Slicer's own packaging macros over this extension, with cmake alone: they copy, compile and install the module.

The macros are Slicer's and CTK's and are not part of this repository. Name their source trees to run this test:

    SLICER_SOURCE_DIR=.../Slicer CTK_SOURCE_DIR=.../CTK python -m pytest Testing/library/packaging/test_slicer_macros.py
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
SLICER, CTK = (os.environ.get(f"{name}_SOURCE_DIR", "") for name in ("SLICER", "CTK"))
TEMPLATES = "Base/QTCore/Testing/Python"
CONFIG = f"""
# What Slicer's package defines before an extension is configured, as far as scripted modules need it.
set(CTK_CMAKE_DIR "{CTK}/CMake")
list(APPEND CMAKE_MODULE_PATH "{SLICER}/CMake" "{CTK}/CMake")
set(Slicer_USE_PYTHONQT ON)
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-5.12/qt-scripted-modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-5.12/qt-scripted-modules)
set(Slicer_PYTHON_MODULE_TEST_TEMPLATES_DIR "{SLICER}/{TEMPLATES}")
set(Slicer_LAUNCHER_EXECUTABLE "${{CMAKE_COMMAND}}")
set(Slicer_ExternalData_DATA_MANAGEMENT_TARGET SlicerData)
set(PYTHONINTERP_FOUND ON)
set(PYTHONLIBS_FOUND ON)
set(PYTHON_EXECUTABLE "{sys.executable}")
set(PYTHON_LIBRARIES "{sysconfig.get_config_var("LIBDIR")}/libpython.so")
set(Slicer_USE_FILE ${{CMAKE_CURRENT_LIST_DIR}}/Use.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${{CMAKE_CURRENT_LIST_DIR}}/Empty.cmake)
set(Slicer_EXTENSION_CPACK ${{CMAKE_CURRENT_LIST_DIR}}/Empty.cmake)
"""
USE = """
include(CTest)
include(ExternalData)
include(ctkFunctionExtractOptimizedLibrary)
include(ctkMacroCompilePythonScript)
include(SlicerMacroConfigureGenericPythonModuleTests)
include(SlicerMacroPythonTesting)
include(SlicerMacroBuildScriptedModule)
"""


@pytest.mark.skipif(not (SLICER and CTK), reason="SLICER_SOURCE_DIR and CTK_SOURCE_DIR name no sources")
@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_slicers_macros_build_and_install_the_module(tmp_path: Path) -> None:
    package, source, build, installed = (tmp_path / name for name in ("package", "source", "build", "installed"))
    package.mkdir()
    (package / "SlicerConfig.cmake").write_text(CONFIG)
    (package / "Use.cmake").write_text(USE)
    (package / "Empty.cmake").write_text("")
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in tracked.stdout.split():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, source / name)
    # A project of no language needs no compiler; Slicer's package brings one.
    top = source / "CMakeLists.txt"
    top.write_text(top.read_text().replace("project(USMRISynthesis)", "project(USMRISynthesis NONE)"))
    for arguments in (
        ["-S", str(source), "-B", str(build), f"-DSlicer_DIR={package}"],
        ["--build", str(build)],
        ["--install", str(build), "--prefix", str(installed), "--component", "RuntimeLibraries"],
    ):
        done = subprocess.run(["cmake", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SyntaxError" not in done.stdout
    module = installed / "lib/Slicer-5.12/qt-scripted-modules"
    listed = re.sub(r"#.*", "", (REPOSITORY / "USMRISynthesis/CMakeLists.txt").read_text())
    scripts = re.search(r"set\(MODULE_PYTHON_SCRIPTS\s+(.*?)\)", listed, re.DOTALL)
    assert scripts is not None
    for name in scripts.group(1).replace("${MODULE_NAME}", "USMRISynthesis").split():
        assert (module / name).is_file() and (module / f"{name}c").is_file(), name
    assert (module / "model_weights/default/model.pt").is_file()
    assert (module / "Resources/SampleData/fetal-head-hc18.nrrd").is_file()
