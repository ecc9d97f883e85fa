"""One pass over both sides counts and sums what separate passes would."""

from __future__ import annotations

import pytest
import torch

from ckptaudit.linalg import differences
from ckptaudit.linalg.differences import difference, square_sum

ETA = 1e-3


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "PIECE", 50)


@pytest.mark.parametrize(
    "types", [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float16,) * 2]
)
def test_counts_and_sums_are_those_of_float64(types: tuple[torch.dtype, torch.dtype]) -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(13, 17, generator=random)
    base = weight.to(types[0])
    tuned = (weight + 2e-3 * torch.randn(13, 17, generator=random)).to(types[1])
    seen = difference(base, tuned, eta=ETA)
    before, after = base.double(), tuned.double()
    narrow = [w.bfloat16().double() for w in (before, after)]
    changed = (narrow[1] - narrow[0]).abs() > ETA * torch.maximum(narrow[0].abs(), narrow[1].abs())
    assert seen.changed.tolist() == changed.tolist()
    assert (seen.changed_count, seen.differing_count) == (int(changed.sum()), int((before != after).sum()))
    assert seen.square_sum == pytest.approx(float((after - before).square().sum()), rel=1e-6)
    assert torch.allclose(seen.update.double(), after - before, rtol=2**-24, atol=0)
    assert square_sum(base) == pytest.approx(float(before.square().sum()), rel=1e-12)


def test_signed_zeros_are_equal_and_the_least_numbers_are_not() -> None:
    least = 2.0**-149
    base = torch.tensor([[0.0, least, 0.0]])
    tuned = torch.tensor([[-0.0, 0.0, -least]])
    assert difference(base, tuned, eta=ETA).differing_count == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("sides", [("base",), ("tuned",), ("base", "tuned")])
def test_an_entry_that_is_not_finite_is_noticed(value: float, sides: tuple[str, ...]) -> None:
    matrices = {name: torch.ones(3, 40) for name in ("base", "tuned")}
    for name in sides:
        matrices[name][1, 7] = value
    assert not difference(matrices["base"], matrices["tuned"], eta=ETA).is_finite
    assert difference(torch.ones(3, 40), torch.ones(3, 40), eta=ETA).is_finite
