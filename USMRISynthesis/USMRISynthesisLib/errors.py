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


# What libraries say when memory is short; torch, oneDNN and ITK report it as RuntimeError, the loader as ImportError.
_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "failed to allocate",
    "bad_alloc",
    "bad allocation",
    "could not create a primitive",
    "could not create a memory",
    "failed to map segment from shared object",
)
_NOT_MEMORY = "not permitted"  # a disk from which nothing may be run


def memory_shortage(error: BaseException) -> Failed | None:
    """The sentence for an error that means want of memory, itself or in what caused it; None for any other."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        text = str(one).lower()
        if isinstance(one, MemoryError) or (any(words in text for words in _MEMORY) and _NOT_MEMORY not in text):
            return Failed(
                "memory",
                "There is not enough memory for this image.",
                "Close other programs, or use a smaller image.",
            )
        one = one.__cause__ or one.__context__
    return None


def torch_missing() -> Failed:
    """PyTorch cannot be imported."""
    return Failed(
        "torch",
        "PyTorch is not installed, or its installation is broken.",
        "In Slicer, install it through the PyTorch extension; elsewhere: pip install torch.",
    )
