"""The three ways in which a run ends early, each with one sentence for the user and the remedy."""

from __future__ import annotations


class USMRIError(Exception):
    """Base of the errors that a user is meant to read.

    Attributes:
        kind: short machine-readable word, for example ``"colour"`` or ``"extent"``; stable across versions.
        message: one sentence that says what is wrong, without a traceback.
        remedy: one sentence that says what to do.
    """

    kind: str
    message: str
    remedy: str

    def __init__(self, kind: str, message: str, remedy: str) -> None:
        super().__init__(kind, message, remedy)  # all three, so that the error survives pickling
        self.kind = kind
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}"


class Refused(USMRIError):
    """The input is not acceptable. Exit code 2."""


class Failed(USMRIError):
    """The work could not be done, although the input was acceptable. Exit code 1."""


class Cancelled(USMRIError):
    """The user cancelled. Exit code 1."""

    def __init__(
        self, kind: str = "cancelled", message: str = "Cancelled.", remedy: str = "Nothing was changed."
    ) -> None:
        super().__init__(kind, message, remedy)
