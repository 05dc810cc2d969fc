"""How the Slicer and CTK widgets behave that the product uses."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets
from shiboken6 import isValid

from slicer_standin.generated import bare_class, plays


@plays
class qMRMLWidget(bare_class("qMRMLWidget")):  # type: ignore[misc]
    """Passes the scene on to the widgets inside it."""

    def setMRMLScene(self, scene: Any) -> None:
        if self.__dict__.get("_scene") is not scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        return self.__dict__.get("_scene")


@plays
class qSlicerWidget(bare_class("qSlicerWidget")):  # type: ignore[misc]
    """The same for Slicer's own module panels."""

    setMRMLScene = qMRMLWidget.setMRMLScene


@plays
class ctkCollapsibleButton(bare_class("ctkCollapsibleButton")):  # type: ignore[misc]
    """A heading that shows and hides what is laid out under it."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._value_collapsed = False
        self.setCheckable(True)
        self.setChecked(True)
        QtWidgets.QWidget.setContentsMargins(self, 0, self._heading_height(), 0, 0)
        self.toggled.connect(self._on_toggled)

    def _heading_height(self) -> int:
        return QtWidgets.QWidget.fontMetrics(self).height() + 10

    def _on_toggled(self, checked: bool) -> None:
        self._value_collapsed = not checked
        self._show_contents()
        self.contentsCollapsed.emit(not checked)

    def _changed_collapsed(self) -> None:
        self.setChecked(not self._value_collapsed)
        self._show_contents()

    def _show_contents(self) -> None:
        if not isValid(self):
            return  # the panel was closed before the timer came
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                child.setVisible(not self._value_collapsed)

    def childEvent(self, event: QtCore.QChildEvent) -> None:
        # Widgets laid out after `collapsed` was set in a .ui file.
        if event.added() and self.__dict__.get("_value_collapsed"):
            QtCore.QTimer.singleShot(0, self._show_contents)
        super().childEvent(event)

    def minimumSizeHint(self) -> QtCore.QSize:
        return self.sizeHint()

    def sizeHint(self) -> QtCore.QSize:
        layout = QtWidgets.QWidget.layout(self)
        if layout is None or self._value_collapsed:
            return QtCore.QSize(120, self._heading_height())
        return layout.totalSizeHint()

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        painter = QtGui.QPainter(self)
        rect = QtWidgets.QWidget.rect(self)
        heading = QtCore.QRect(rect.left(), rect.top(), rect.width(), self._heading_height() - 4)
        palette = QtWidgets.QWidget.palette(self)
        painter.fillRect(heading, palette.button())
        option = QtWidgets.QStyleOption()
        option.initFrom(self)
        option.rect = QtCore.QRect(heading.left() + 6, heading.top() + 4, 12, heading.height() - 8)
        arrow = (
            QtWidgets.QStyle.PE_IndicatorArrowRight if self._value_collapsed else QtWidgets.QStyle.PE_IndicatorArrowDown
        )
        QtWidgets.QWidget.style(self).drawPrimitive(arrow, option, painter, self)
        painter.setPen(palette.buttonText().color())
        painter.drawText(heading.adjusted(26, 0, 0, 0), QtCore.Qt.AlignVCenter, QtWidgets.QAbstractButton.text(self))

    def hitButton(self, position: QtCore.QPoint) -> bool:
        return position.y() < self._heading_height()


@plays
class ctkSliderWidget(bare_class("ctkSliderWidget")):  # type: ignore[misc]
    """A slider and a spin box that show one value."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._slider, self._spin = QtWidgets.QSlider(QtCore.Qt.Horizontal), QtWidgets.QDoubleSpinBox()
        self._value_maximum, self._value_singleStep, self._value_decimals = 99.0, 1.0, 2
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._spin)
        self._slider.valueChanged.connect(lambda step: self._take(self.minimum + step * self.singleStep))
        self._spin.valueChanged.connect(self._take)
        for name in ("minimum", "maximum", "singleStep", "decimals", "suffix"):
            setattr(self, f"_changed_{name}", self._set_up)

    def _set_up(self) -> None:
        self._changing = True
        self._slider.setRange(0, round((self.maximum - self.minimum) / (self.singleStep or 1.0)))
        self._spin.setRange(self.minimum, self.maximum)
        self._spin.setSingleStep(self.singleStep)
        self._spin.setDecimals(self.decimals)
        self._spin.setSuffix(self.suffix)
        self._changing = False
        self._show()

    def _take(self, value: float) -> None:
        if not self.__dict__.get("_changing"):
            self.value = value

    def setValue(self, value: float) -> None:
        self.value = value

    def _changed_value(self) -> None:
        self._value_value = min(max(self._value_value, self.minimum), self.maximum)
        self._show()
        self.valueChanged.emit(self._value_value)

    def _show(self) -> None:
        self._changing = True
        self._slider.setValue(round((self.value - self.minimum) / (self.singleStep or 1.0)))
        self._spin.setValue(self.value)
        self._changing = False


@plays
class ctkDirectoryButton(bare_class("ctkDirectoryButton")):  # type: ignore[misc]
    """A button that shows the folder that was chosen."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._value_directory = QtCore.QDir.currentPath()
        self._button = QtWidgets.QPushButton(self._value_directory)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._button)

    def _changed_directory(self) -> None:
        self._button.setText(self._value_directory)
        self.directoryChanged.emit(self._value_directory)
