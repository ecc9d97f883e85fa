"""Importing without collecting garbage, and collecting again afterwards."""

from __future__ import annotations

import gc

import pytest

from ckptaudit.cli.loading import without_garbage_collection


@pytest.fixture(autouse=True)
def _as_it_was() -> object:
    yield
    gc.unfreeze()
    gc.enable()


def test_what_is_loaded_is_set_aside_and_collecting_goes_on() -> None:
    with without_garbage_collection():
        assert not gc.isenabled()
        loaded: list[list[str]] = [[]]
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    assert not any(x is loaded for x in gc.get_objects())


def test_also_when_loading_fails() -> None:
    with pytest.raises(ImportError), without_garbage_collection():
        raise ImportError
    assert gc.isenabled()


def test_who_wants_no_collecting_gets_none() -> None:
    gc.disable()
    with without_garbage_collection():
        pass
    assert not gc.isenabled()
