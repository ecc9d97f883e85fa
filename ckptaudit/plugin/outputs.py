"""The files that an audit was asked to write: refused early, written whole, announced at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from ckptaudit.errors import CheckDefinitionError, CkptAuditError, printable
from ckptaudit.report.files import need
from ckptaudit.results.records import AuditResult


@dataclass(frozen=True)
class Kind:
    """A report by its option: `module` and `function` write it, `needs` is a package that `extra` brings."""

    option: str
    module: str
    function: str
    holds: str
    needs: str = ""
    extra: str = ""
    may_be_folder: bool = False


KINDS = (
    Kind("audit_json", "results.json_io", "write_json", "every number"),
    Kind("audit_html", "report.html", "write_html", "the page to look at"),
    Kind(
        "audit_parquet", "report.parquet", "write_parquet", "every measurement, as a table,", "pyarrow", "parquet"
    ),
    Kind(
        "audit_plot",
        "report.plot",
        "write_plot",
        "each metric over the steps",
        "matplotlib",
        "plot",
        may_be_folder=True,
    ),
)


class Outputs:
    """Raises CkptAuditError while being built if one of them could not be written in the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._asked = [
            (kind, _writable(option, kind)) for kind in KINDS if (option := config.getoption(kind.option))
        ]
        for kind, _ in self._asked:
            if kind.needs:
                need(kind.needs, extra=kind.extra)

    def __bool__(self) -> bool:
        """Whether any was asked for, and with it every number."""
        return bool(self._asked)

    @property
    def shows_spectra(self) -> bool:
        """Whether the page is among them, for which the worst matrices are decomposed in full."""
        return any(kind.option == "audit_html" for kind, _ in self._asked)

    @property
    def plot(self) -> Path | None:
        """Where the steps of a run are to be drawn, if they are."""
        return next((path for kind, path in self._asked if kind.option == "audit_plot"), None)

    def write(self, result: AuditResult) -> Iterator[str]:
        """Write all; yields a sentence for each that could not be written."""
        for kind, path in self._asked:
            write: Callable[[AuditResult, Path], None] = getattr(
                import_module(f"ckptaudit.{kind.module}"), kind.function
            )
            try:
                write(result, path)
            except (OSError, CkptAuditError) as error:
                yield f"{printable(path)}: cannot be written ({printable(error)})."

    def announced(self) -> Iterator[str]:
        """Where the files are."""
        for kind, path in self._asked:
            if path.exists():
                yield f"{kind.holds} is in {printable(path)}"


def _writable(option: str, kind: Kind) -> Path:
    """The report's path, refused before hours of measuring rather than after."""
    path = Path(option)
    folder = next(p for p in (path.absolute(), *path.absolute().parents)[1:] if p.exists())
    is_wrong_kind = path.is_dir() and not kind.may_be_folder
    if is_wrong_kind or not folder.is_dir() or not os.access(folder, os.W_OK):
        flag = f"--{kind.option.replace('_', '-')}"
        raise CheckDefinitionError(f"{flag} {printable(path)}: no file can be written there; name another.")
    return path
