"""The section Live: a volume that updates, Start and Stop, and the recording."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _
from USMRISynthesisLib.errors import USMRIError

from USMRISynthesisScene.live.run import LiveOptions, LiveRun
from USMRISynthesisScene.panel.context import PanelContext, RunSection
from USMRISynthesisScene.panel.slots import allow
from USMRISynthesisScene.runs.worker_process import WorkerProcess
from USMRISynthesisScene.views import layout

_STOPPED = _("Live is stopped.")


class LiveSection(RunSection):
    """Starts, shows and stops a live run, on a worker process of its own."""

    def __init__(self, ui: Any, panel: PanelContext) -> None:
        super().__init__(ui, panel)
        self._live: LiveRun | None = None  # `_run` as what it is
        self.make_worker: Any = WorkerProcess
        ui.liveButton.connect("clicked(bool)", self.on_button)
        ui.liveRecordButton.connect("clicked(bool)", self.on_record)
        ui.liveSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: self.refresh())
        self.refresh()

    @property
    def run(self) -> LiveRun | None:
        """The run that was started last."""
        return self._live

    def refresh(self) -> None:
        """Update the widgets."""
        ui, running = self.ui, self.running
        chosen = ui.liveSelector.currentNode() is not None
        allow([ui.liveButton], running or chosen, _("Select the volume that updates first."))
        ui.liveButton.text = _("Stop") if running else _("Start")
        allow([ui.liveRecordButton], running, _("Press Start first."))
        recording = running and self._live is not None and self._live.recording is not None
        ui.liveRecordButton.text = _("Stop recording") if recording else _("Record")
        for widget in (ui.liveSelector, ui.liveMedianSpinBox):
            widget.enabled = not running

    def begin(self, parameters: Any, trust: bool) -> None:
        """Start a run with the chosen volume."""
        self._panel.prepare()
        options = LiveOptions(
            parameters.model, parameters.device, trust, parameters.goOnUnreliable, int(self.ui.liveMedianSpinBox.value)
        )
        run = LiveRun(self.make_worker(), self._on_shown, self._on_ended, _show_side_by_side)
        run.start(self.ui.liveSelector.currentNode(), options)
        self._run = self._live = run
        self.refresh()

    def on_record(self, checked: bool = False) -> None:
        """Begin or end a recording."""
        run = self._live
        if run is None or not run.running:
            return
        if run.recording is None:
            run.record(True)
        else:
            browser = run.record(False)
            self._panel.show(
                None,
                _("Nothing was recorded.")
                if browser is None
                else _("Recorded {n} pairs: {name}").format(n=browser.GetNumberOfItems(), name=browser.GetName()),
            )
        self.refresh()

    def close(self) -> None:
        """Stop; a recording is kept."""
        if self._live is not None:
            self._live.stop()

    def _on_shown(self, line: str) -> None:
        self.ui.liveStatusLabel.text = line
        self.refresh_recording()

    def refresh_recording(self) -> None:
        """Show that a recording has ended by itself, because it was full."""
        if self.ui.liveRecordButton.text == _("Stop recording") and self._live is not None:
            if self._live.running and self._live.recording is None:
                self._panel.show(None, _("The recording is full and was ended."))
                self.refresh()

    def _on_ended(self, error: USMRIError | None) -> None:
        text = _STOPPED if error is None else str(error)
        self.ui.liveStatusLabel.text = text
        self.refresh()
        self.end(text, error)


def _show_side_by_side(source: Any, output: Any) -> None:
    layout.show_comparison(source, output)
