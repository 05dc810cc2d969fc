"""The bar over a view, as far as the view's name in it goes.

The name is centred in what the other controls leave, at least the width of "XX", and cut on both sides: in a third of a
window of 900 pixels, about two letters are seen.
"""

from __future__ import annotations

from typing import Any

import qt
from PySide6 import QtCore, QtGui, QtWidgets

from slicer_standin.generated import bare_class, plays

_OTHER_CONTROLS = 284  # pixels: pin, maximise, slider and number box of a slice view


@plays
class qMRMLViewControllerBar(bare_class("qMRMLViewControllerBar")):  # type: ignore[misc]
    """Gives the name its width when the bar is resized."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._label = qt.QLabel(self)
        self._label.setAlignment(QtCore.Qt.AlignHCenter | QtCore.Qt.AlignVCenter)

    def viewLabel(self) -> Any:
        return self._label

    def resizeEvent(self, event: QtGui.QResizeEvent) -> None:
        least = QtGui.QFontMetrics(QtWidgets.QWidget.font(self._label)).horizontalAdvance("XX")
        self._label.resize(max(least, event.size().width() - _OTHER_CONTROLS), event.size().height())


def legible_name(name: str, width: int) -> str:
    """The letters of a view's name that are seen whole when the view is that wide, in pixels."""
    bar = qMRMLViewControllerBar()
    bar.viewLabel().text = name
    bar.resize(width, 24)
    bar.grab()  # lays it out
    label = bar.viewLabel()
    metrics, seen = QtGui.QFontMetrics(QtWidgets.QWidget.font(label)), label.width
    left = (seen - metrics.horizontalAdvance(name)) / 2
    edges = [left + metrics.horizontalAdvance(name[:count]) for count in range(len(name) + 1)]
    return "".join(
        letter for letter, start, end in zip(name, edges, edges[1:], strict=False) if start >= 0 and end <= seen
    )
