"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "count"),
    [("512MiB", 2**29), ("20 GiB", 20 * 2**30), ("1.5GB", 1_500_000_000), ("0B", 0), (" 7KiB ", 7168)],
)
def test_sizes_that_are_read(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "512", "MiB", "-1GiB", "1e9B", "1,5GiB", "1GiB 2", "9" * 400 + "TiB", "٣GiB"])
def test_sizes_that_are_not(text: str) -> None:
    with pytest.raises(ValueError, match="512MiB"):
        parse_size(text)


@given(st.integers(0, 2**50))
def test_what_is_printed_is_the_size_to_its_digits(count: int) -> None:
    assert parse_size(format_size(count)) == pytest.approx(count, rel=0.05, abs=1)
