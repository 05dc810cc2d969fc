"""Small pictures as PNG with numpy and the standard library alone, for what runs where Pillow may be missing.

    Path("case.png").write_bytes(png_bytes(framed(rgb)))

Every picture carries this program's mark, by which it knows its own files, and the notice as text.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from USMRISynthesisLib.io.marks import PNG_MARK
from USMRISynthesisLib.io.style import BACKGROUND, NOTICE
from USMRISynthesisLib.io.synthetic import SYNTHETIC

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The letters of the notice, 5 columns by 7 rows; each number is a row, its highest of 5 bits the leftmost column.
_LETTERS = {
    " ": (0, 0, 0, 0, 0, 0, 0),
    "-": (0, 0, 0, 31, 0, 0, 0),
    "A": (14, 17, 17, 31, 17, 17, 17),
    "C": (14, 17, 16, 16, 16, 17, 14),
    "D": (30, 17, 17, 17, 17, 17, 30),
    "E": (31, 16, 16, 30, 16, 16, 31),
    "F": (31, 16, 16, 30, 16, 16, 16),
    "G": (14, 17, 16, 23, 17, 17, 14),
    "H": (17, 17, 17, 31, 17, 17, 17),
    "I": (14, 4, 4, 4, 4, 4, 14),
    "N": (17, 25, 25, 21, 19, 19, 17),
    "O": (14, 17, 17, 17, 17, 17, 14),
    "R": (30, 17, 17, 30, 20, 18, 17),
    "S": (15, 16, 16, 14, 1, 1, 30),
    "T": (31, 4, 4, 4, 4, 4, 4),
    "Y": (17, 17, 10, 4, 4, 4, 4),
}
_STRIP = 20


def notice_mask(text: str = SYNTHETIC, scale: int = 2) -> np.ndarray:
    """The notice in capitals, (7 scale, 6 scale letters) bool."""
    rows = np.array([_LETTERS[letter] for letter in text.upper()])  # (letters, 7)
    bits = (rows[:, :, None] >> np.arange(5, -1, -1)) & 1  # a sixth, empty column leads each letter
    return np.kron(bits.transpose(1, 0, 2).reshape(7, -1), np.ones((scale, scale), dtype=int)).astype(bool)


def framed(rgb: np.ndarray) -> np.ndarray:
    """A picture (h, w, 3) uint8 under a strip with the notice; in small letters, or wider, where it is narrow."""
    mask = notice_mask()
    if mask.shape[1] > rgb.shape[1]:
        mask = notice_mask(scale=1)
    width = max(rgb.shape[1], mask.shape[1] + 4)
    page = np.empty((_STRIP + rgb.shape[0], width, 3), dtype=np.uint8)
    page[:] = BACKGROUND
    page[_STRIP:, : rgb.shape[1]] = rgb
    top, left = (_STRIP - mask.shape[0]) // 2, (width - mask.shape[1]) // 2
    page[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = NOTICE
    return page


def png_bytes(rgb: np.ndarray) -> bytes:
    """A picture (h, w, 3) uint8 as a PNG file with this program's mark."""
    height, width, _ = rgb.shape
    rows = rgb.reshape(height, -1).astype(np.int16)
    left = np.pad(rows[:, :-3], ((0, 0), (3, 0)))
    filtered = np.concatenate([np.ones((height, 1), dtype=np.int16), (rows - left) % 256], axis=1).astype(np.uint8)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (PNG_MARK[:4], PNG_MARK[4:]),
        (b"tEXt", b"Comment\0" + SYNTHETIC.encode()),
        (b"IDAT", zlib.compress(filtered.tobytes(), 9)),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return SIGNATURE + b"".join(chunks)
