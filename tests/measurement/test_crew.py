"""A crew of workers: every task is answered once, whatever becomes of who measures it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count

import pytest

from ckptaudit.errors import MeasurementError
from ckptaudit.measurement.crew import HIRED, TRIES, Crew, Worker, WorkerLostError, parse_workers
from ckptaudit.measurement.process_workers import threads_environment
from ckptaudit.measurement.ray_workers import actor_options


class Echo:
    """A worker that gives back what it is sent, unless `fails` says that it is lost at it."""

    def __init__(self, number: int, fails: Callable[[int, bytes], bool], refusal: bytes = b"") -> None:
        self.number, self.fails, self.refusal = number, fails, refusal
        self.pool = ThreadPoolExecutor(1)
        self.stopped = False

    def start(self) -> Future[bytes]:
        return self.pool.submit(lambda: self._lost(b"") or self.refusal)

    def submit(self, task: bytes) -> Future[bytes]:
        return self.pool.submit(lambda: self._lost(task) or task)

    def stop(self) -> None:
        self.stopped = True

    def _lost(self, task: bytes) -> bytes:
        if self.fails(self.number, task):
            raise WorkerLostError("killed")
        return b""


def crew(fails: Callable[[int, bytes], bool], *, size: int = 2, refusal: bytes = b"") -> tuple[Crew, list[Echo]]:
    made: list[Echo] = []

    def hire() -> Worker:
        made.append(Echo(len(made), fails, refusal))
        return made[-1]

    return Crew(hire, size, patience=5), made


TASKS = [str(i).encode() for i in range(9)]


def test_every_task_is_answered_once() -> None:
    together, made = crew(lambda number, task: False)
    assert sorted(together.run(TASKS)) == list(enumerate(TASKS))
    assert len(made) == 2
    # Another round is measured by the same workers.
    assert sorted(together.run(TASKS[:3])) == list(enumerate(TASKS[:3]))
    assert len(made) == 2
    together.stop()
    assert all(worker.stopped for worker in made)


def test_no_more_workers_are_hired_than_there_are_tasks() -> None:
    together, made = crew(lambda number, task: False, size=8)
    assert dict(together.run(TASKS[:2])) == dict(enumerate(TASKS[:2]))
    assert len(made) == 2
    assert dict(together.run([])) == {}


def test_a_lost_workers_task_is_measured_by_another() -> None:
    together, made = crew(lambda number, task: number == 0 and task == b"0", size=1)
    assert sorted(together.run(TASKS)) == list(enumerate(TASKS))
    assert [worker.stopped for worker in made] == [True, False]


def test_a_task_that_kills_its_workers_is_given_up_and_stops_no_other() -> None:
    tried = count()
    together, _ = crew(lambda number, task: task == b"3" and next(tried) >= 0, size=3)
    answers = dict(together.run(TASKS))
    assert answers.pop(3) == f"{TRIES} workers that measured it broke off"
    assert answers == {i: task for i, task in enumerate(TASKS) if i != 3}
    assert next(tried) == TRIES


def test_where_every_worker_is_lost_all_ends_in_a_reason() -> None:
    together, made = crew(lambda number, task: True)
    answers = dict(together.run(TASKS))
    assert answers.keys() == set(range(len(TASKS)))
    assert all("no worker could be started" in str(answer) for answer in answers.values())
    assert len(made) <= HIRED * 2


def test_whoever_stops_listening_leaves_no_worker_behind() -> None:
    together, made = crew(lambda number, task: False)
    answers = together.run(TASKS)
    next(answers)
    del answers
    together.stop()
    assert all(worker.stopped for worker in made)


def test_a_message_may_be_given_out_once_alone() -> None:
    together, made = crew(lambda number, task: task == b"3" and number < 2)
    answers = dict(together.run(TASKS, most=1))
    assert answers.pop(3) == "the worker that measured it broke off"
    assert len(answers) == len(TASKS) - 1
    assert len(made) == 3


def test_a_worker_that_the_system_does_not_start_is_done_without() -> None:
    together, made = crew(lambda number, task: False)
    start = together.hire

    def hire() -> Worker:
        if made:
            raise OSError("no more processes")
        return start()

    together.hire = hire
    assert sorted(together.run(TASKS)) == list(enumerate(TASKS))
    assert len(made) == 1


def test_a_worker_that_can_measure_nothing_says_why() -> None:
    together, made = crew(lambda number, task: False, refusal=b"no worker can measure: gone")
    answers = dict(together.run(TASKS))
    assert set(answers.values()) == {"no worker can measure: gone"}
    assert all(worker.stopped for worker in made)


@pytest.mark.parametrize(
    ("text", "meant"), [("1", (1, "")), ("16", (16, "")), ("ray", (0, "")), ("ray:host:6379", (0, "host:6379"))]
)
def test_workers_are_a_number_or_a_cluster(text: str, meant: tuple[int, str]) -> None:
    assert parse_workers(text) == meant


@pytest.mark.parametrize("text", ["0", "-1", "two", "ray:", "rayon", "1025", "٣", "", "1e3", "dask:host"])
def test_no_other_workers_are_taken(text: str) -> None:
    with pytest.raises(MeasurementError, match=r"^workers= "):
        parse_workers(text)


def test_an_actor_has_its_threads_in_its_environment_and_a_gpu_where_one_is_needed() -> None:
    plain, with_gpu = actor_options(4, gpu=False), actor_options(1, gpu=True)
    assert (plain["num_cpus"], plain["num_gpus"]) == (4, 0)
    assert plain["runtime_env"] == {"env_vars": threads_environment(4)}
    assert with_gpu["num_gpus"] == 1
    assert threads_environment(4)["OMP_NUM_THREADS"] == threads_environment(4)["OPENBLAS_NUM_THREADS"] == "4"
