"""The mark that is drawn into the pixels of live images: other programs show them without any header."""

from __future__ import annotations

import functools

import numpy as np

from USMRISynthesisLib.io.synthetic import SYNTHETIC

# 5 x 7 pixels, a row of bits each, the leftmost bit first.
_GLYPHS = {
    "A": "0e11111f111111", "B": "1e11111e11111e", "C": "0e11101010110e", "D": "1e11111111111e", "E": "1f10101e10101f",
    "F": "1f10101e101010", "G": "0e11101711110f", "H": "1111111f111111", "I": "0e04040404040e", "J": "0702020202120c",
    "K": "11121418141211", "L": "1010101010101f", "M": "111b1515111111", "N": "11191513111111", "O": "0e11111111110e",
    "P": "1e11111e101010", "Q": "0e11111115120d", "R": "1e11111e141211", "S": "0f10100e01011e", "T": "1f040404040404",
    "U": "1111111111110e", "V": "11111111110a04", "W": "1111111515150a", "X": "11110a040a1111", "Y": "1111110a040404",
    "Z": "1f01020408101f", "-": "0000001f000000", " ": "00000000000000",
}  # fmt: skip
_ADVANCE, _HEIGHT = 6, 9


@functools.lru_cache(maxsize=16)
def stamp(text: str, scale: int) -> np.ndarray:
    """(rows, columns) bool: a line of letters with a border of one pixel, each pixel `scale` times as large."""
    line = np.zeros((_HEIGHT, _ADVANCE * len(text) + 1), dtype=bool)
    for n, letter in enumerate(text.upper()):
        rows = bytes.fromhex(_GLYPHS.get(letter, _GLYPHS["-"]))
        for row, bits in enumerate(rows):
            line[row + 1, n * _ADVANCE + 1 : n * _ADVANCE + 6] = [bits >> (4 - bit) & 1 for bit in range(5)]
    return np.kron(line, np.ones((scale, scale), dtype=bool))


def burn_in(image: np.ndarray, word: str = "", *, bright: float = 1000) -> np.ndarray:
    """A copy of (1, j, i) with "SYNTHETIC - not for diagnosis" in its upper left corner, and a word after it.

    The line is as wide as half the image; where the image is narrower than the line, the line is cut.
    """
    text = SYNTHETIC if not word else f"{SYNTHETIC} - {word}"
    marked = image.copy()
    letters = stamp(text, max(1, image.shape[2] // (2 * _ADVANCE * len(SYNTHETIC))))
    rows, columns = (min(a, b) for a, b in zip(letters.shape, image.shape[1:], strict=True))
    marked[0, :rows, :columns] = np.where(letters[:rows, :columns], bright, 0)
    return marked
