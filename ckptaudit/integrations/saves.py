"""Audits of checkpoints beside a training that goes on: in a process of its own, on a Ray worker, or at once.

saves = SaveAudits("path/to/base", on_fail="hold", link="runs/42/latest-open")
saves.audit("runs/42/global_step_100", 100)
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Literal

from ckptaudit.atomic_write import write_bytes
from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.errors import CheckDefinitionError, CkptAuditError, printable
from ckptaudit.judging.config import Config, check_files, load_config
from ckptaudit.pipeline.api import audit
from ckptaudit.results.json_io import read_json, write_json
from ckptaudit.results.records import AuditResult

OnFail = Literal["warn", "stop", "hold"]
Where = Literal["process", "ray", "here"]

logger = logging.getLogger(__name__)

SHOWN = 5
OUTPUT = 2000


class ClosedGateError(CkptAuditError):
    """A checkpoint of this training keeps the gate closed, and the training was to stop then."""

    page = "docs/training-loops.md"


@dataclass(frozen=True)
class SaveOutcome:
    """What came of one save: its audit, or why there is none."""

    path: Path
    step: int
    result: AuditResult | None
    trouble: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it was judged and the gate is open; what was not judged is not good."""
        return self.result is not None and self.result.passed


@dataclass
class SaveAudits:
    """Audits saves one after the other in the order they were made, and keeps what came of them in `outcomes`.

    `where` is "process" (a process beside the training, on the CPU), "ray" (a task that takes `threads` CPUs of the
    cluster, which must see the same files), or "here", in this process, which waits. `on_fail` is "warn" (a log
    line), "stop" (ClosedGateError is raised at the next save or step that asks, and by `close`), or "hold". `link`
    is a symbolic link that is moved to a save only once its gate is open; "hold" needs it and does nothing else.
    `json_folder` keeps each audit as `NAME.json`.

    Raises CkptAuditError at once for a base, profile or configuration that cannot be read.
    """

    base: str | Path
    profile: str = ""
    config: str | Path | None = None
    on_fail: OnFail = "warn"
    where: Where = "process"
    link: str | Path | None = None
    json_folder: str | Path | None = None
    threads: int = 1
    outcomes: list[SaveOutcome] = field(default_factory=list)
    _waiting: list[tuple[Path, int, Future[SaveOutcome]]] = field(default_factory=list, repr=False)
    _last: Thread | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, given, allowed in (
            ("on_fail", self.on_fail, ("warn", "stop", "hold")),
            ("where", self.where, ("process", "ray", "here")),
        ):
            if given not in allowed:
                raise CheckDefinitionError(f"{name} {given!r}: choose {', '.join(allowed)}.")
        if self.on_fail == "hold" and self.link is None:
            raise CheckDefinitionError("on_fail 'hold' needs a link=, which is moved only where the gate is open.")
        open_checkpoint(self.base)
        check_files(load_config(Path(self.config)) if self.config else Config(), self.profile)

    def audit(self, path: str | Path, step: int) -> None:
        """Begin the audit of a save, and take in those that have ended. Raises ClosedGateError for "stop"."""
        made: Future[SaveOutcome] = Future()
        place = Path(path).absolute()
        self._waiting.append((place, step, made))
        before = self._last
        self._last = Thread(target=self._run, args=(place, step, made, before), name="ckptaudit-save", daemon=True)
        self._last.start()
        if self.where == "here":
            self._last.join()
        self.check()

    def check(self) -> None:
        """Take in the audits that have ended. Raises ClosedGateError where one is closed and "stop" was asked."""
        while self._waiting and self._waiting[0][2].done():
            self._take(self._waiting.pop(0)[2].result())

    def close(self) -> None:
        """Wait for all audits; at the end of a training. Raises as `check` does."""
        if self._last is not None:
            self._last.join()
        self.check()

    def _run(self, path: Path, step: int, made: Future[SaveOutcome], before: Thread | None) -> None:
        if before is not None:
            before.join()
        try:
            made.set_result(self._audited(path, step))
        except Exception as error:  # whatever it is, hours of training must not be lost to it
            made.set_result(SaveOutcome(path, step, None, f"{type(error).__name__}: {printable(error)}"))

    def _audited(self, path: Path, step: int) -> SaveOutcome:
        with TemporaryDirectory(prefix="ckptaudit-") as folder:
            output = Path(folder) / "audit.json"
            trouble = self._write(path, output)
            if trouble or not output.exists():
                return SaveOutcome(path, step, None, trouble[-OUTPUT:].strip() or "it left no result")
            if self.json_folder is not None:
                write_bytes(Path(self.json_folder) / f"{path.name}.json", output.read_bytes())
            return SaveOutcome(path, step, read_json(output))

    def _write(self, path: Path, output: Path) -> str:
        """Audit, and write the result's JSON; what went wrong, or "" where nothing did."""
        if self.where == "here":
            asked: dict[str, Any] = {"profile": self.profile, "config": self.config, "device": "cpu"}
            write_json(audit(self.base, path, complete=False, **asked), output)
            return ""
        if self.where == "ray":
            code, said, content = _in_ray(self.threads, self._words(path, Path("audit.json")))
            write_bytes(output, content)
        else:
            code, said = audit_in_process(self._words(path, output), output.parent, self.threads)
        return "" if code in (0, 1) else said or f"exit code {code}"

    def _words(self, path: Path, output: Path) -> list[str]:
        base = Path(self.base)
        words = [f"--base={base.absolute() if base.exists() else self.base}", f"--tuned={path}"]
        words += [f"--audit-json={output}", "--audit-device=cpu", "-q", "--tb=no", "-p", "no:cacheprovider"]
        if self.profile:
            words.append(f"--audit-profile={self.profile}")
        if self.config:
            words.append(f"--audit-config={Path(self.config).absolute()}")
        return words

    def _take(self, outcome: SaveOutcome) -> None:
        self.outcomes.append(outcome)
        if outcome.is_open:
            logger.info("%s: gate open", outcome.path)
            self._move_link(outcome.path)
            return
        logger.warning("%s: %s", outcome.path, in_words(outcome))
        if self.on_fail == "stop":
            raise ClosedGateError(f"{printable(outcome.path)}: {in_words(outcome)}.")

    def _move_link(self, path: Path) -> None:
        if self.link is None:
            return
        link = Path(self.link)
        aside = link.with_name(f".{link.name}.ckptaudit")
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                aside.unlink()
            aside.symlink_to(path, target_is_directory=path.is_dir())
            aside.replace(link)
        except OSError as error:
            logger.warning("%s: the link is not moved (%s)", link, error.strerror)


def in_words(outcome: SaveOutcome) -> str:
    """Why the gate is not open, in one line."""
    if outcome.result is None:
        return f"the audit could not be made ({printable(' '.join(outcome.trouble.split()))})"
    shut = [v for v in outcome.result.verdicts if v.closes]
    named = ", ".join(f"{v.check}[{printable(v.subject)}]" for v in shut[:SHOWN])
    more = f" and {len(shut) - SHOWN} more" if len(shut) > SHOWN else ""
    return f"gate closed by {named}{more}" if shut else "gate closed, nothing was judged"


def audit_in_process(words: list[str], folder: Path, threads: int) -> tuple[int, str]:
    """Run the audit command in a process of its own; its exit code and what it printed."""
    command = [sys.executable, "-P", "-m", "ckptaudit", "audit", *words]
    # The training's devices are its own.
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("PYTEST_ADDOPTS", None)
    ended = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


def _in_ray(threads: int, words: list[str]) -> tuple[int, str, bytes]:
    import ray

    task: Any = ray.remote(num_cpus=threads)(_audit_on_worker)
    found: tuple[int, str, bytes] = ray.get(task.remote(threads, words))
    return found


def _audit_on_worker(threads: int, words: list[str]) -> tuple[int, str, bytes]:
    with TemporaryDirectory(prefix="ckptaudit-") as folder:
        code, said = audit_in_process(words, Path(folder), threads)
        output = Path(folder) / "audit.json"
        return code, said, output.read_bytes() if output.exists() else b""
