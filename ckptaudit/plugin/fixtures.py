"""Fixtures for a team's own Python tests: the pair, its layers, and any metric on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ckptaudit.pairing import AlignedTensor, ModelPair
    from ckptaudit.pairing.runs import Run
    from ckptaudit.plugin.gate import Gate

NO_PAIR = "needs a pair of checkpoints: give --base PATH and --tuned PATH"

Measure = Callable[..., dict[str, float]]


@dataclass(frozen=True)
class Layer:
    """A numbered layer of the pair: its name (`layers.3`), its index and its aligned tensors."""

    name: str
    index: int
    tensors: tuple[AlignedTensor, ...]

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles its tensors play, in order."""
        return tuple(tensor.place.role for tensor in self.tensors)


@pytest.fixture(scope="session")
def audited_run(request: pytest.FixtureRequest) -> Run:
    """The run under test; parametrized where --tuned was given several times."""
    gate = _gate(request.config)
    if gate is None or not gate.opened.has_pair:
        pytest.skip(NO_PAIR)
    return gate.opened.runs[getattr(request, "param", 0)]


@pytest.fixture(scope="session")
def model_pair(audited_run: Run) -> ModelPair:
    """Base and tuned with their tensors aligned."""
    return audited_run.pair


@pytest.fixture
def layer(request: pytest.FixtureRequest, model_pair: ModelPair) -> Layer:
    """Each numbered layer in turn."""
    if not hasattr(request, "param"):
        pytest.skip("the pair has no numbered layer")
    name: str = request.param
    tensors = model_pair.subjects.get(name)
    if tensors is None:
        pytest.skip(f"this run has no {name}")
    index = tensors[0].place.layer
    assert index is not None  # only numbered layers are parametrized
    return Layer(name, index, tensors)


@pytest.fixture(scope="session")
def measure(request: pytest.FixtureRequest, audited_run: Run) -> Measure:
    """`measure(metric, layer, roles=("all",))`: exact values by tensor name; NaN where there is none.

    `layer` is a Layer or the name of any subject, such as "embed_tokens".
    """
    from ckptaudit.pipeline import measure_metric

    gate = _gate(request.config)
    assert gate is not None  # audited_run has skipped otherwise
    known: dict[tuple[object, ...], dict[str, float]] = {}

    def measured(metric: str, layer: Layer | str, roles: Sequence[str] = ("all",)) -> dict[str, float]:
        subject = layer if isinstance(layer, str) else layer.name
        key = (metric, audited_run.path, subject, tuple(roles))
        if key not in known:
            known[key] = measure_metric(gate.opened, metric, audited_run, subject, roles)
        return known[key]

    return measured


def parametrize_layers(metafunc: pytest.Metafunc, gate: Gate | None) -> None:
    """Spread tests over runs and layers, unless another plugin or the test defines `layer` itself."""
    if gate is None:
        return
    runs = gate.opened.runs
    if _is_ours(metafunc, "audited_run") and len(runs) > 1:
        metafunc.parametrize(
            "audited_run", range(len(runs)), ids=[run.label for run in runs], indirect=True, scope="session"
        )
    if _is_ours(metafunc, "layer"):
        names = dict.fromkeys(name for run in runs for name in run.pair.layers)
        if names:
            metafunc.parametrize("layer", list(names), ids=list(names), indirect=True)


def _is_ours(metafunc: pytest.Metafunc, name: str) -> bool:
    if name not in metafunc.fixturenames:
        return False
    definitions = metafunc._arg2fixturedefs.get(name, ())
    return bool(definitions) and definitions[-1].func.__module__ == __name__


def _gate(config: pytest.Config) -> Gate | None:
    gate: Gate | None = config.pluginmanager.get_plugin("ckptaudit-gate")
    return gate
