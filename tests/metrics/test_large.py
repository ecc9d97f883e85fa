"""A large matrix measured by products against its base reads as float64 decompositions of both sides do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckptaudit.metrics import LargePair, PairBatch, Tensors, base_facts, large, matrix_metrics
from tests.metrics.adversarial import KINDS, UPDATES, base_of, stored, update_of

ENTRYWISE = [name for name, metric in matrix_metrics().items() if metric.cost != "spectrum"]


@pytest.fixture(scope="module", autouse=True)
def _as_if_large() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "CHEAP_SIDE", 8)
        yield


def values(pair: PairBatch) -> dict[str, float]:
    return {name: float(metric.compute(pair)) for name, metric in matrix_metrics().items()}


SHARE_ERROR = 2 * (200 + 2) * 2.0**-24
"""What squares of float32 products over a side of up to 200 may err by, relative (Higham 2002, section 3.5)."""


def close(seen: dict[str, float], expected: dict[str, float], *, angles: bool = True) -> None:
    """The accuracy that is promised: 1 % on the shift, 1 % or a hundredth of a degree on angles, else digits."""
    for name, value in expected.items():
        if "angle" in name or "rotation" in name:
            if angles:
                assert seen[name] == pytest.approx(value, rel=0.01, abs=0.01), name
        elif name == "normalized_spectral_shift":
            assert seen[name] == pytest.approx(value, rel=0.01, abs=1e-14), name
        elif name == "principal_mask_overlap":
            # Entries whose magnitudes agree in float32 may change places at the threshold.
            assert seen[name] == pytest.approx(value, abs=0.02), name
        elif name.startswith("off_principal_energy"):
            # One minus a share: where nearly all is captured, what is left is as uncertain as the share.
            assert seen[name] == pytest.approx(value, rel=1e-3, abs=SHARE_ERROR), name
        else:
            assert seen[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("shape", [(128, 200), (200, 128), (128, 128)])
@pytest.mark.parametrize("size", [1e-6, 4e-4, 1e-2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_the_scale_of_training(shape: tuple[int, int], size: float, dtype: torch.dtype, device: str) -> None:
    random = np.random.default_rng(0)
    before = base_of("heavy", shape, random)
    step = update_of("noise", before, random) + update_of("low rank", before, random)
    base, tuned = (w.to(device) for w in stored(before, before + size * step, dtype))
    close(values(LargePair(base, tuned, exact=True)), values(PairBatch(base[None], tuned[None])))


@settings(max_examples=120)
@given(
    st.integers(0, 10_000),
    st.sampled_from(KINDS),
    st.sampled_from(UPDATES),
    st.sampled_from([1e-6, 1e-4, 4e-3, 0.1, 3.0]),
    st.sampled_from([(32, 48), (48, 32), (40, 40)]),
    st.sampled_from([(torch.bfloat16, 1.0), (torch.float32, 1.0), (torch.float32, 1e-12), (torch.float32, 1e25)]),
)
# Third-order terms vanish here, and those of fourth order are over a hundredth of the shift.
@example(1, "one row apart", "one entry", 0.1, (32, 48), (torch.bfloat16, 1.0))
# Nearly all of the update is captured, and the rest is a small difference.
@example(2460, "random", "principal", 3.0, (32, 48), (torch.bfloat16, 1.0))
def test_whatever_is_not_certified_is_decomposed(
    seed: int, kind: str, change: str, size: float, shape: tuple[int, int], form: tuple[torch.dtype, float]
) -> None:
    random = np.random.default_rng(seed)
    dtype, scale = form
    before = scale * base_of(kind, shape, random)
    base, tuned = stored(before, before + size * update_of(change, before, random), dtype)
    expected = values(PairBatch(base[None], tuned[None]))
    # Within ties and below rounding the directions themselves are arbitrary, and so is what rests on them.
    defined = kind in ("heavy", "random") and expected["principal_gap"] > 1e-2
    names = list(matrix_metrics()) if defined else [*ENTRYWISE, "normalized_spectral_shift"]
    skipped = {"update_hill_alpha"} if change != "noise" else set()
    seen = values(LargePair(base, tuned, exact=True))
    close(
        {name: seen[name] for name in names},
        {name: expected[name] for name in names if name not in skipped},
        angles=defined,
    )


def test_a_base_is_decomposed_once_for_its_spectrum_and_once_for_its_top() -> None:
    random = np.random.default_rng(0)
    before = base_of("heavy", (64, 96), random)
    base, tuned = stored(before, before + 1e-4 * update_of("noise", before, random), torch.float32)
    kept: dict[str, Tensors] = {}

    def lookup(definition: str, make: Callable[[], Tensors]) -> Tensors:
        if definition not in kept:
            kept[definition] = make()
        return kept[definition]

    first = values(LargePair(base, tuned, lookup, exact=True))
    assert [name.partition("/")[0] for name in kept] == ["spectrum"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_facts, "spectrum", None)
        assert values(LargePair(base, tuned, lookup, exact=True)) == first
    rotation = matrix_metrics()["principal_rotation_left"]
    assert rotation.bound is not None
    assert rotation.bound(LargePair(base, tuned, lookup)) is not None
    assert [name.partition("/")[0] for name in kept] == ["spectrum", "leading"]


def test_a_gate_takes_a_shift_from_the_values_kept_with_the_top() -> None:
    random = np.random.default_rng(0)
    before = base_of("heavy", (160, 300), random)
    base, tuned = stored(before, before + 1e-4 * update_of("noise", before, random), torch.float32)
    kept: dict[str, Tensors] = {}

    def lookup(definition: str, make: Callable[[], Tensors]) -> Tensors:
        return kept.setdefault(definition, make())

    found, truth = LargePair(base, tuned, lookup).shift, PairBatch(base[None], tuned[None]).shift
    assert [name.partition("/")[0] for name in kept] == ["leading"]
    assert found.method == "gram"
    assert found.error is not None
    assert abs(float(found.values - truth.values)) <= float(found.error) < 1e-4 * float(found.values)


def test_a_shift_that_drowns_in_the_squares_is_found_from_the_update() -> None:
    random = np.random.default_rng(0)
    before = base_of("heavy", (160, 300), random)
    before[-1] *= 1e-5  # a singular value that its square does not hold
    base, tuned = stored(before, before + 1e-7 * update_of("noise", before, random), torch.float32)
    pair, truth = LargePair(base, tuned), PairBatch(base[None], tuned[None])
    assert pair.top is not None
    assert pair.top.every.error > 1e-4 * float(truth.shift.values)
    assert float(pair.shift.values) == pytest.approx(float(truth.shift.values), rel=0.01)
