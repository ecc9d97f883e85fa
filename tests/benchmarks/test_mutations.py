"""What the gate notices: a representative part of the catalogue, tried again and held against the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.mutations.catalogue import REPRESENTATIVE, every, representative
from benchmarks.mutations.losses import losses
from benchmarks.mutations.mutation import Mutation
from benchmarks.mutations.page import PAGE, row
from benchmarks.mutations.release import Release, bundled_pair, hybrid_pair
from benchmarks.mutations.trials import HEALTHY, Trial, Workshop
from tests.conftest import package

package("transformers")

Cells = tuple[str, str, str, str]


def cells(line: str) -> Cells:
    """Damage, place, least strength and first check of a line of the table."""
    parts = [part.strip() for part in line.strip().strip("|").split("|")]
    return parts[0], parts[1], parts[2], parts[3]


@pytest.fixture(scope="module")
def kept() -> list[Cells]:
    """The table of the page."""
    lines = PAGE.read_text().partition("| damage | place |")[2].partition("\n\n")[0].splitlines()[2:]
    return [cells(line) for line in lines]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """Both pairs, without losses: they stand on the page alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pairs = [*map(bundled_pair, HEALTHY), hybrid_pair()]
    yield Workshop(tmp_path_factory.mktemp("mutations"), pairs, lambda release: None)
    torch.set_num_threads(threads)


def blank(mutation: Mutation) -> str:
    from benchmarks.mutations.trials import Caught

    return row(Trial(mutation, None, Caught((), ()), None, None, None))


def test_the_page_has_every_mutation_in_the_order_of_the_catalogue(kept: list[Cells]) -> None:
    assert [line[:2] for line in kept] == [cells(blank(mutation))[:2] for mutation in every()]


def test_a_mutation_that_changes_nothing_is_an_error() -> None:
    pair = bundled_pair()
    still = Mutation("nothing", "nowhere", ("",), lambda damaged, base, strength: None)
    with pytest.raises(AssertionError, match="nothing changes"):
        still.of(pair, "")


def test_what_is_representative_is_there_and_of_every_kind() -> None:
    assert {mutation.name for mutation in representative()} == set(REPRESENTATIVE)


@pytest.mark.parametrize("mutation", representative(), ids=lambda mutation: mutation.name)
def test_the_gate_closes_where_the_page_says_and_by_the_same_check(
    mutation: Mutation, workshop: Workshop, kept: list[Cells]
) -> None:
    seen = cells(row(workshop.tried(mutation)))
    assert seen in kept


@pytest.mark.parametrize("name", [*HEALTHY, "hybrid"])
def test_healthy_releases_open_the_gate(name: str, workshop: Workshop) -> None:
    pair = workshop.pairs[name]
    assert workshop.caught(pair, pair.tuned).closed_by == ()


def test_losses_are_those_of_the_model_that_transformers_loads(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    pair = bundled_pair()
    model = AutoModelForCausalLM.from_pretrained(pair.tuned.write(tmp_path / "tuned"), dtype=torch.float32)
    loaded = Release({name: tensor.float() for name, tensor in model.state_dict().items()}, pair.tuned.documents)
    assert losses(pair.tuned) == losses(loaded)
    assert losses(pair.base) != losses(pair.tuned)


def test_a_release_that_lacks_a_tensor_has_no_loss() -> None:
    release = bundled_pair().tuned.copy()
    del release.state["lm_head.weight"]
    assert losses(release) is None
