"""Following one node at a time, without keeping alive those that were followed before.

`VTKObservationMixin` keeps every object that it ever observed: of volumes, that would be the memory of all of them.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Watch:
    """Calls back on events of the node that is followed now.

        watch = Watch(refresh, vtk.vtkCommand.ModifiedEvent)
        watch.follow(node)      # and no longer the one before
        watch.follow(None)
    """

    def __init__(self, callback: Callable[..., None], *events: Any) -> None:
        self._callback, self._events = callback, events
        self._tags: list[int] = []
        self.node: Any = None

    def follow(self, node: Any) -> bool:
        """Follow this one, or nothing; whether that is a change."""
        if node is self.node:
            return False
        for tag in self._tags:
            self.node.RemoveObserver(tag)
        self.node = node
        self._tags = [node.AddObserver(event, self._callback) for event in self._events] if node is not None else []
        return True
