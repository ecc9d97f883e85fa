"""One environment with the package alone, for all tests that need one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.alone import package_alone


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the package alone."""
    return package_alone(tmp_path_factory.mktemp("alone") / "env")
