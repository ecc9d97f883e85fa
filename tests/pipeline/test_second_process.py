"""A process beside this one finds the same, to the bit; and whatever becomes of it costs no measurement."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import torch

from ckptaudit.judging.config import Config
from ckptaudit.measurement.process_workers import ProcessWorker, end_process, start_process
from ckptaudit.measurement.store import MeasurementStore
from ckptaudit.measurement.thread_worker import ThreadWorker
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline.api import PreparedAudit, prepare
from ckptaudit.pipeline.execution import Progress, execute
from ckptaudit.pipeline.workers import workers_of
from tests.conftest import FIXTURES
from tests.pipeline.moe import write_pair


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> AuditOptions:
    base, tuned = write_pair(tmp_path_factory.mktemp("moe"), layers=4, experts=4)
    return AuditOptions(base=str(base), tuned=(str(tuned),), profile="release", cache="off", complete=False)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """A process with one thread has none to give away."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Who was sent how many messages; the thread begins when the process is ready or lost."""
    messages: Counter[str] = Counter()
    has_opened = Event()
    start = ProcessWorker.start

    def started(self: ProcessWorker) -> Future[bytes]:
        opening = start(self)
        opening.add_done_callback(lambda _: has_opened.set())
        return opening

    def patient(self: ThreadWorker) -> Future[bytes]:
        return self._pool.submit(lambda: bytes(not has_opened.wait(60)))

    monkeypatch.setattr(ProcessWorker, "start", started)
    monkeypatch.setattr(ThreadWorker, "start", patient)
    for kind in (ProcessWorker, ThreadWorker):

        def counted(self: object, task: bytes, *, kind: type = kind, submit: object = kind.submit) -> Future[bytes]:
            messages[kind.__name__] += 1
            return submit(self, task)  # type: ignore[operator]

        monkeypatch.setattr(kind, "submit", counted)
    return messages


def measured(
    prepared: PreparedAudit, process: subprocess.Popen[bytes], watch: Progress | None = None
) -> MeasurementStore:
    with workers_of(prepared.opened, prepared.plan, process) as workers:
        assert workers is not None
        assert not workers.are_asked_for
        store = execute(prepared.plan, progress=watch, source=workers)
    assert process.poll() is not None  # it never outlives the measuring
    return store


@pytest.mark.parametrize("exact", [False, True])
def test_both_measure_and_find_what_one_process_finds_to_the_bit(
    moe: AuditOptions, asked: Counter[str], *, exact: bool
) -> None:
    prepared = prepare(replace(moe, exact=exact), Config())
    store = measured(prepared, start_process(is_quiet=True))
    # Opening counts as a message to the process.
    assert asked["ProcessWorker"] > 1
    assert asked["ThreadWorker"] > 0
    assert store.entries() == execute(prepared.plan).entries()


def test_a_process_that_is_killed_costs_no_measurement(moe: AuditOptions, asked: Counter[str]) -> None:
    prepared, process = prepare(moe, Config()), start_process(is_quiet=True)
    done: list[int] = []

    def watch(count: int, total: int) -> None:
        if not done:
            os.kill(process.pid, signal.SIGKILL)
        done.append(count)

    assert measured(prepared, process, watch).entries() == execute(prepared.plan).entries()


def test_a_process_that_ends_at_once_costs_no_measurement(
    moe: AuditOptions, asked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    process = start_process(program="sysconfig_that_is_not_there", is_quiet=True)
    monkeypatch.setattr("ckptaudit.pipeline.workers.start_process", refused)
    prepared = prepare(moe, Config())
    assert measured(prepared, process).entries() == execute(prepared.plan).entries()
    assert asked["ThreadWorker"] > 0


def test_a_process_that_finds_other_files_measures_nothing(
    small_pair: tuple[Path, Path], asked: Counter[str]
) -> None:
    base, tuned = small_pair
    prepared = prepare(AuditOptions(base=str(base), tuned=(str(tuned),), profile="rlvr", cache="off"), Config())
    with workers_of(prepared.opened, prepared.plan, start_process(is_quiet=True)) as workers:
        os.utime(tuned / "model.safetensors", (1, 1))
        store = execute(prepared.plan, source=workers)
    assert asked["ProcessWorker"] == 1  # to open them
    assert store.entries() == execute(prepared.plan).entries()


def test_a_file_that_is_gone_is_told_of_its_tensors(small_pair: tuple[Path, Path]) -> None:
    base, tuned = small_pair
    prepared = prepare(AuditOptions(base=str(base), tuned=(str(tuned),), profile="rlvr", cache="off"), Config())
    (tuned / "model.safetensors").rename(tuned / "elsewhere")
    with workers_of(prepared.opened, prepared.plan, start_process(is_quiet=True)) as workers:
        assert workers is None
        store = execute(prepared.plan, source=workers)
    rows = [m for entry in store.entries() if entry.unit.scope == "matrix" for m in entry.measurements]
    assert rows
    assert all(m.value is None and "model.safetensors" in m.remark for m in rows)


@pytest.mark.parametrize(
    ("workers", "threads"), [("", 1), ("1", 2)], ids=["with one thread", "beside the user's own workers"]
)
def test_it_is_ended_where_it_is_of_no_use(moe: AuditOptions, workers: str, threads: int) -> None:
    prepared, process = prepare(replace(moe, workers=workers), Config()), start_process(is_quiet=True)
    torch.set_num_threads(threads)
    with workers_of(prepared.opened, prepared.plan, process) as found:
        assert (found is None) == (not workers)
        assert found is None or found.are_asked_for
    torch.set_num_threads(2)
    assert process.poll() is not None


def test_what_only_other_claims_need_is_not_opened_there(asked: Counter[str]) -> None:
    """An aligned checkpoint is beside the pair: what has become of it is nothing to who measures matrices."""
    options = AuditOptions(
        base=str(FIXTURES / "base"),
        tuned=(str(FIXTURES / "rlvr-gentle"),),
        profile="alignguard",
        cache="off",
        auxiliary={"aligned": str(FIXTURES / "rlvr-step70")},
    )
    prepared = prepare(options, Config())
    store = measured(prepared, start_process(is_quiet=True))
    assert asked["ProcessWorker"] > 1
    assert store.entries() == execute(prepared.plan).entries()


def test_an_end_may_come_twice() -> None:
    process = start_process(program="this", is_quiet=True)
    end_process(process)
    end_process(process)
    assert process.poll() is not None
