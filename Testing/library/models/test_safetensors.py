"""The safetensors reader and writer: every array comes back, and whatever the header says wrongly is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from USMRISynthesisLib.models import safetensors

Change = Callable[[dict[str, Any]], object]


def packed(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=9).filter(lambda name: name != safetensors.METADATA),
        st.sampled_from(sorted(safetensors.TYPES.values())).flatmap(
            lambda code: arrays.arrays(
                np.dtype(code), arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3)
            )
        ),
        max_size=5,
    )
)
def test_arrays_of_every_type_and_shape_come_back(content: dict[str, np.ndarray]) -> None:
    data = safetensors.write(content)
    back = safetensors.read(data)
    assert back.keys() == content.keys() and safetensors.write(back) == data
    for name, array in content.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()


def test_a_file_of_the_format_as_it_is_published_is_read_and_every_array_is_aligned() -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "F16", "shape": [1, 2], "data_offsets": [4, 8]},
        "a": {"dtype": "I8", "shape": [4], "data_offsets": [0, 4]},
    }
    back = safetensors.read(packed(header, bytes([1, 2, 253, 4]) + np.array([0.5, -2], "<f2").tobytes()))
    assert back["a"].tolist() == [1, 2, -3, 4] and back["b"].tolist() == [[0.5, -2.0]]
    data = safetensors.write({"a": np.zeros(3, np.int8), "b": np.zeros(1, np.int64), "c": np.zeros(5, np.float16)})
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0
    for entry in json.loads(data[8 : 8 + size]).values():
        assert entry["data_offsets"][0] % np.dtype(safetensors.TYPES[entry["dtype"]]).itemsize == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda h: h["a"].update(dtype="F99"), "unknown dtype"),
        (lambda h: h["a"].update(dtype=["F32"]), "unknown dtype"),
        (lambda h: h["a"].update(shape=[3]), "another size than its shape"),
        (lambda h: h["a"].update(shape=[-2]), "impossible shape"),
        (lambda h: h["a"].update(shape=[True, 2]), "impossible shape"),
        (lambda h: h["a"].update(shape=[1 << 60]), "impossible shape"),
        (lambda h: h["a"].update(shape=[1] * 9), "impossible shape"),
        (lambda h: h["a"].update(shape="2"), "impossible shape"),
        (lambda h: h["a"].update(data_offsets=[8, 0]), "impossible offsets"),
        (lambda h: h["a"].update(data_offsets=[0, 8, 16]), "impossible offsets"),
        (lambda h: h["a"].update(data_offsets=[0.0, 8.0]), "impossible offsets"),
        (lambda h: h["b"].update(data_offsets=[4, 12]), "gap or an overlap"),
        (lambda h: h["b"].update(data_offsets=[12, 20]), "gap or an overlap"),
        (lambda h: h["b"].update(data_offsets=[0, 8]), "gap or an overlap"),
        (lambda h: h["b"].update(shape=[4], data_offsets=[8, 24]), "beyond the end"),
        (lambda h: h.pop("b"), "does not describe"),
        (lambda h: h["a"].pop("shape"), "not described by"),
        (lambda h: h.update(c=1), "not described by"),
    ],
)
def test_a_header_that_does_not_fit_its_data_is_refused(change: Change, reason: str) -> None:
    header: dict[str, Any] = {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
    }
    assert len(safetensors.read(packed(header, bytes(16)))) == 2
    change(header)
    with pytest.raises(ValueError, match=reason):
        safetensors.read(packed(header, bytes(16)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "longer than the file"),
        (b"1234567", "longer than the file"),
        (packed({})[:-1], "longer than the file"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "longer than the file"),
        (packed(b" " * ((1 << 20) + 1)), "than a header may be"),
        (packed([]), "no JSON object"),
        (packed(b"{"), "Expecting property name"),
        (packed(b"\xff\xfe"), "codec can't decode"),
        (packed(b'{"a": 1, "a": 2}'), "a name twice"),
        (packed({}, b"x"), "does not describe"),
        (packed(b"[" * 100000), "nested too deeply"),
    ],
)
def test_what_is_no_such_file_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        safetensors.read(content)


def test_what_has_no_name_in_the_format_is_not_written() -> None:
    for content in ({"a": np.zeros(2, complex)}, {"a": np.array(["text"])}, {"__metadata__": np.zeros(2)}):
        with pytest.raises(ValueError, match="cannot be stored"):
            safetensors.write(content)
