"""A cache that has no home or no room costs time alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ckptaudit.errors import CacheError
from ckptaudit.measurement import base_cache
from ckptaudit.measurement.base_cache import FactorCache
from ckptaudit.measurement.cache_location import open_cache

KEY = "0" * 64


def test_without_a_home_there_is_no_cache_and_no_folder(tmp_path):
    """HOME is not set, and the user is not among those that the system knows."""
    program = (
        "import os, platformdirs, tempfile; from ckptaudit.measurement.cache_location import open_cache; "
        "os.setuid(54321); print(open_cache())"
    )
    if os.geteuid() != 0:
        pytest.skip("only the superuser can become an unknown user")
    tmp_path.chmod(0o777)
    kept = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "CKPTAUDIT_CACHE")}
    told = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=kept, capture_output=True, text=True)
    assert (told.stdout.strip(), told.returncode) == ("None", 0), told.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("home", ["", "relative", "~nobody-of-that-name/x"])
def test_a_home_that_is_no_folder_is_none(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CKPTAUDIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setenv("HOME", "")
    open_cache()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_an_unknown_user_is_one_line():
    with pytest.raises(CacheError, match="no home"):
        open_cache("~nobody-of-that-name/cache")


@pytest.mark.parametrize("number", base_cache.NO_ROOM)
def test_a_disk_without_room_keeps_nothing_and_says_why(number, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", full)
    cache = FactorCache(tmp_path / "cache")
    assert os.strerror(number) in (cache.trouble or "")
    cache.write(KEY, {"a": torch.ones(2)})
    assert cache.read(KEY) is None


def test_a_full_disk_loses_the_entry_alone(tmp_path, monkeypatch):
    cache = FactorCache(tmp_path / "cache")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    cache.write(KEY, {"a": torch.ones(2)})
    assert "No space left" in (cache.trouble or "")
    assert not list((tmp_path / "cache").glob("*.part"))
    assert cache.read(KEY) is None


def test_a_pipe_in_the_cache_is_no_entry(tmp_path):
    cache = FactorCache(tmp_path)
    os.mkfifo(tmp_path / f"{KEY}.safetensors")
    assert cache.read(KEY) is None
