"""Choices that belong to the user and the computer rather than to a scene: device, planes and model."""

from __future__ import annotations

import slicer

_GROUP = "USMRISynthesis"


def remembered(name: str, default: str) -> str:
    """The value stored under that name in Slicer's user settings, or the default."""
    return str(slicer.app.userSettings().value(f"{_GROUP}/{name}", default) or default)


def remember(name: str, value: str) -> None:
    """Store a value for the next scene and the next start."""
    slicer.app.userSettings().setValue(f"{_GROUP}/{name}", value)
