"""How items are spread over pytest-xdist's workers."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling


class SubjectScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Items of one layer go to one worker, so that its matrices are read and decomposed there alone."""

    def _split_scope(self, nodeid: str) -> str:
        name, bracket, subject = nodeid.rpartition("[")
        return subject.rstrip("]") if bracket and ".toml::" in name else super()._split_scope(nodeid)
