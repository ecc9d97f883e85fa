from __future__ import annotations

from pathlib import Path

import pytest

from tests.artifact.releases import Pair


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A healthy base and tuned model, not yet on disk."""
    return Pair(tmp_path)
