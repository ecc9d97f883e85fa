from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tests.rollouts.simulated import run_rows, table_of


@pytest.fixture(scope="session")
def healthy() -> pa.Table:
    return table_of(run_rows())


@pytest.fixture(scope="session")
def wide() -> pa.Table:
    """Two steps of 320 short samples, enough for a tail of sequence weights."""
    return table_of(run_rows(steps=2, groups=40, length=10, seed=1))
