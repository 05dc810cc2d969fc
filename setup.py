"""Puts the bundled models, which lie at the top of the repository, into the wheel; the rest is in pyproject.toml."""

from __future__ import annotations

from setuptools import find_packages, setup

LIBRARY = "USMRISynthesisLib"

setup(
    packages=[*find_packages("USMRISynthesis", include=[f"{LIBRARY}*"]), f"{LIBRARY}.model_weights"],
    package_dir={"": "USMRISynthesis", f"{LIBRARY}.model_weights": "model_weights"},
    package_data={
        f"{LIBRARY}.model_weights": ["*/*"],
        f"{LIBRARY}.simulation.scanner": ["*.json"],
        f"{LIBRARY}.datasets.mr_registration": ["*.npz"],
        f"{LIBRARY}.evaluation.reader_study": ["page.*"],
    },
)
