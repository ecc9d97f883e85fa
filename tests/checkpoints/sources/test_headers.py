"""The rules for headers of remote files against the safetensors library, which checks files here."""

from __future__ import annotations

import io
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from ckptaudit.checkpoints.safetensors_header import parse_header, refuse_faults

SIZES = {"F32": 4, "BF16": 2, "U8": 1}


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Small files, mostly sound, with an offset, a shape or the end moved by a little."""
    at, entries = 0, {}
    for number in range(draw(st.integers(0, 3))):
        dtype, shape = draw(st.sampled_from(sorted(SIZES))), draw(st.lists(st.integers(0, 3), max_size=2))
        length = SIZES[dtype]
        for size in shape:
            length *= size
        begin, end = (
            at + draw(st.sampled_from([0] * 8 + [1])),
            at + length + draw(st.sampled_from([0] * 8 + [-1, 1])),
        )
        entries[f"t{number}"] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        at = at + length
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + bytes(at + draw(st.sampled_from([0] * 8 + [1])))


@given(content=files())
def test_the_rules_are_those_of_the_library(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "one.safetensors"
    assert is_refused_here(content) == is_refused_by_the_library(path, content)


def is_refused_here(content: bytes) -> bool:
    try:
        refuse_faults(parse_header(io.BytesIO(content)), len(content))
    except (ValueError, msgspec.ValidationError):
        return True
    return False


def is_refused_by_the_library(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    try:
        with safe_open(path, framework="pt"):
            return False
    except SafetensorError:
        return True


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 8, (20).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]"],
    ids=["empty", "endless", "short", "list"],
)
def test_what_is_no_header_is_refused(content: bytes) -> None:
    assert is_refused_here(content)
