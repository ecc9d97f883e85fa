"""A cache in an object store, below the private one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ckptaudit.measurement.base_cache import FactorCache
from ckptaudit.measurement.cache_location import open_cache
from tests.checkpoints.sources.conftest import Bucket


def test_an_entry_of_a_bucket_is_fetched_once(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"{number:064x}" for number in range(4)]
    team = FactorCache(tmp_path / "team")
    for key in keys[:3]:
        team.write(key, {"s": torch.arange(10.0)})
    monkeypatch.setenv("CKPTAUDIT_CACHE_SHARED", bucket.put_folder("team", tmp_path / "team"))
    cache = open_cache(str(tmp_path / "own"))
    assert cache is not None
    assert [cache.read(key) is not None for key in keys] == [True, True, True, False]
    monkeypatch.delenv("CKPTAUDIT_CACHE_SHARED")
    alone = open_cache(str(tmp_path / "own"))
    assert alone is not None
    assert [alone.read(key) is not None for key in keys] == [True, True, True, False]
