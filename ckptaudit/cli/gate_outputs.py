"""The files that an audit was asked to write: refused early, written whole, announced at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ckptaudit.cli.gate_spelling import option
from ckptaudit.errors import CkptAuditError, ReportError, parameter, printable
from ckptaudit.foreign_files.outputs import Output, refuse_unwritable, refuse_what_is_read
from ckptaudit.results.packages import need
from ckptaudit.results.records import AuditResult

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutputKind:
    """A report by its option: `module` and `function` write it, `needs` is a package that `extra` brings."""

    option: str
    module: str
    function: str
    holds: str
    needs: str = ""
    extra: str = ""
    may_be_folder: bool = False


KINDS = (
    OutputKind("audit_json", "results.json_io", "write_json", "every number"),
    OutputKind("audit_html", "report.html", "write_html", "the page to look at"),
    OutputKind(
        "audit_parquet", "report.parquet", "write_parquet", "every measurement, as a table,", "pyarrow", "parquet"
    ),
    OutputKind(
        "audit_plot",
        "report.plot",
        "write_plot",
        "each metric over the steps",
        "matplotlib",
        "plot",
        may_be_folder=True,
    ),
)

ROWS = OutputKind("audit_probe_rows", "", "", "what the models say of each token", "pyarrow", "parquet")
"""Written while the models run, and so by no report."""


class Outputs:
    """Raises CkptAuditError while being built if one of them could not be written in the end."""

    def __init__(self, option: Callable[[str], Any], further: Sequence[Output] = ()) -> None:
        """`further` are files that others write in the same run."""
        self._asked = [(kind, _named(given, kind)) for kind in KINDS if (given := option(kind.option)) is not None]
        self._beside = [(ROWS, _named(given, ROWS))] if (given := option(ROWS.option)) is not None else []
        self._missing: set[Path] = set()
        self._started = time.time()
        self._every = [*(_output(kind, path) for kind, path in (*self._asked, *self._beside)), *further]
        refuse_unwritable(self._every)
        for kind, _ in (*self._asked, *self._beside):
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

    def refuse_what_is_read(self, read: Iterable[Path]) -> None:
        """Raise ReportError where one of them would take the place of a file that is read; folders count whole."""
        refuse_what_is_read(self._every, read)

    def write(self, result_of: Callable[[], AuditResult]) -> Iterator[str]:
        """Write all; yields a sentence for each that could not be written."""
        try:
            result = result_of()
        except CkptAuditError as error:
            yield f"no report can be written: {error.spelled(option)}"
            return
        for kind, path in self._asked:
            write: Callable[[AuditResult, Path], None] = getattr(
                import_module(f"ckptaudit.{kind.module}"), kind.function
            )
            try:
                write(result, path)
            except Exception as error:
                logger.debug("a report failed", exc_info=True)
                why = error.strerror if isinstance(error, OSError) and error.strerror else error
                self._missing.add(path)
                yield f"{printable(path)}: cannot be written ({printable(why)})."

    def announced(self) -> Iterator[str]:
        """Where the files are."""
        for kind, path in self._asked:
            if path.exists() and path not in self._missing:
                yield f"{kind.holds} is in {printable(path)}"
        for kind, path in self._beside:
            if path.exists() and path.stat().st_mtime >= self._started:
                yield f"{kind.holds} is in {printable(path)}"


def _named(given: str, kind: OutputKind) -> Path:
    if not given:
        name = parameter(kind.option.removeprefix("audit_"))
        raise ReportError(f"{name}: names no file; give one, or leave the option out.")
    return Path(given)


def _output(kind: OutputKind, path: Path) -> Output:
    return Output(path, parameter(kind.option.removeprefix("audit_")), may_be_folder=kind.may_be_folder)
