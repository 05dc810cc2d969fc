"""Observe one node at a time, without keeping earlier nodes alive.

`VTKObservationMixin` keeps a reference to every object it ever observed. With volumes, their memory would never be
freed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class NodeObserver:
    """Calls back on events of the node that is observed now.

    observer = NodeObserver(refresh, vtk.vtkCommand.ModifiedEvent)
    observer.observe(node)      # and the earlier one no longer
    observer.observe(None)
    """

    def __init__(self, callback: Callable[..., None], *events: Any) -> None:
        self._callback, self._events = callback, events
        self._tags: list[int] = []
        self.node: Any = None

    def observe(self, node: Any) -> bool:
        """Observe this node, or none; returns whether that is a change."""
        if node is self.node:
            return False
        for tag in self._tags:
            self.node.RemoveObserver(tag)
        self.node = node
        self._tags = [node.AddObserver(event, self._callback) for event in self._events] if node is not None else []
        return True
