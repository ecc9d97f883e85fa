from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _no_file_of_the_working_directory(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Commands read the configuration and the last result where they start; `make audit` leaves one in the root."""
    empty = tmp_path_factory.mktemp("empty")
    monkeypatch.chdir(empty)
    return empty
