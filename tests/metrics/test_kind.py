"""Evidence of the kind of a change, along saves, between siblings and against a reference run, against NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.linalg.update_series import cosines, inner_products, leading_share, straight_weights
from ckptaudit.measurement import across_runs
from ckptaudit.measurement.run_groups import measure_run_group
from ckptaudit.pairing.runs import open_all
from tests.metrics.conftest import MeasureWhole
from tests.metrics.test_gradients import drawn, flat, plus

seeds = st.integers(0, 1000)
STEPS = (10, 25, 40, 70)
NAME = "model.layers.0.self_attn.q_proj.weight"


def updates(seed: int, runs: int = 4, batch: int = 2, entries: int = 30) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((runs, batch, entries))).float()


def r_squared(weight: np.ndarray, steps: tuple[int, ...]) -> float:
    return float(np.corrcoef([0, *steps], [0.0, *weight])[0, 1] ** 2)


@settings(max_examples=20)
@given(seeds)
def test_inner_products_and_their_leading_share_are_numpys(seed: int) -> None:
    drawn_ones = updates(seed)
    products = inner_products(drawn_ones)
    for matrix in range(2):
        d = drawn_ones[:, matrix].double().numpy()
        assert products[:, :, matrix].numpy() == pytest.approx(d @ d.T)
        unit = d / np.linalg.norm(d, axis=1, keepdims=True)
        share = np.linalg.svd(unit, compute_uv=False)[0] ** 2 / len(d)
        assert float(leading_share(cosines(products))[matrix]) == pytest.approx(share)


@settings(max_examples=20)
@given(seeds, st.booleans())
def test_straight_weights_are_those_that_corrcoef_finds(seed: int, sparse: bool) -> None:
    drawn_ones = updates(seed).cumsum(0)
    if sparse:
        drawn_ones[:, :, ::3] = 0
    moved, straight = straight_weights(drawn_ones, STEPS)
    for matrix in range(2):
        d = drawn_ones[:, matrix].double().numpy()
        changed = [w for w in d.T if w.any()]
        assert moved[matrix] == len(changed)
        assert straight[matrix] == sum(r_squared(w, STEPS) > 0.7 for w in changed)


@settings(max_examples=20)
@given(seeds, st.floats(0.01, 100.0))
def test_size_and_order_of_the_entries_make_no_difference(seed: int, scale: float) -> None:
    one = updates(seed)
    order = torch.randperm(one.shape[2], generator=torch.Generator().manual_seed(seed))
    other = (one * scale)[:, :, order]
    assert cosines(inner_products(other)).numpy() == pytest.approx(cosines(inner_products(one)).numpy(), abs=1e-5)
    assert torch.equal(straight_weights(one, STEPS)[0], straight_weights(other, STEPS)[0])


@settings(max_examples=20)
@given(seeds)
def test_shares_and_cosines_keep_within_their_bounds(seed: int) -> None:
    products = inner_products(updates(seed))
    share = leading_share(cosines(products))
    assert bool(((share >= 1 / 4 - 1e-12) & (share <= 1 + 1e-12)).all())
    assert bool((cosines(products).abs() <= 1).all())


def test_a_line_is_straight_and_of_one_direction_and_steps_back_and_forth_are_not() -> None:
    direction = updates(0, runs=1)
    line = torch.cat([step * direction for step in STEPS])
    moved, straight = straight_weights(line, STEPS)
    assert torch.equal(moved, straight)
    assert leading_share(cosines(inner_products(line))).tolist() == pytest.approx([1.0, 1.0])
    turned = line * torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None, None]
    assert float(straight_weights(turned, STEPS)[1].sum()) == 0


def test_an_update_of_nothing_has_no_direction() -> None:
    still = updates(0)
    still[1] = 0
    assert leading_share(cosines(inner_products(still))).isnan().all()


def written(folder: Path, weights: dict[str, torch.Tensor]) -> str:
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    return str(folder)


@pytest.mark.parametrize("several", ["steps", "siblings"])
def test_entries_read_in_small_blocks_give_the_same_figures(
    several: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = torch.Generator().manual_seed(0)
    base = torch.randn(24, 20, generator=random)
    steps = [1e-2 * torch.randn(24, 20, generator=random) for _ in range(3)]
    tuned = [written(tmp_path / f"checkpoint-{i + 1}", {NAME: base + s}) for i, s in enumerate(steps)]
    opened = open_checkpoint(written(tmp_path / "base", {NAME: base}))
    _, (group,) = open_all(opened, tuned, several)  # type: ignore[arg-type]
    found = [measure_run_group(group, "layers.0", torch.device("cpu"))]
    monkeypatch.setattr(across_runs, "BLOCK_BYTES", 4 * 3 * 7)
    found.append(measure_run_group(group, "layers.0", torch.device("cpu")))
    values = [{(m.tuned, m.metric): m.value for m in rows} for rows in found]
    assert values[0] == pytest.approx(values[1])
    d = np.stack([(base + s).double().numpy().ravel() - base.double().numpy().ravel() for s in steps])
    if several == "steps":
        expected = np.mean([r_squared(w, (1, 2, 3)) > 0.7 for w in d.T])
        assert values[0][tuned[-1], "straight_share"] == pytest.approx(expected)
    else:
        cosine = d @ d.T / np.outer(*[np.linalg.norm(d, axis=1)] * 2)
        expected = (cosine[0, 1] + cosine[0, 2]) / 2
        assert values[0][tuned[0], "sibling_update_cosine"] == pytest.approx(expected, rel=1e-5)


@settings(max_examples=15)
@given(seed=seeds, back=st.booleans())
def test_the_reference_quantities_are_what_numpy_gives(measure_whole: MeasureWhole, seed: int, back: bool) -> None:
    base, own, other = drawn(seed), drawn(seed + 1), drawn(seed + 2)
    sign = -1.0 if back else 1.0
    d, r = sign * flat(own), flat(other)
    cosine = (d @ r) / np.linalg.norm(d) / np.linalg.norm(r)
    given_ones = {"reference": plus(base, other)}
    seen = measure_whole("reference_cosine", base, plus(base, own, sign), **given_ones)
    share = measure_whole("reference_energy_share", base, plus(base, own, sign), **given_ones)
    assert seen.value == pytest.approx(cosine, abs=1e-9)
    assert share.value == pytest.approx(cosine**2, abs=1e-9)
    assert ("against" if cosine < 0 else "along") in share.remark


@settings(max_examples=10)
@given(seed=seeds, scale=st.floats(0.1, 3.0))
def test_the_reference_itself_at_any_strength_reads_one(
    measure_whole: MeasureWhole, seed: int, scale: float
) -> None:
    base, step = drawn(seed), drawn(seed + 1)
    measured = measure_whole("reference_cosine", base, plus(base, step, scale), reference=plus(base, step))
    assert measured.value == pytest.approx(1.0, abs=1e-9)


def test_a_reference_that_is_the_base_has_no_direction(measure_whole: MeasureWhole) -> None:
    measured = measure_whole("reference_cosine", drawn(0), plus(drawn(0), drawn(1)), reference=drawn(0))
    assert measured.value is None
    assert "no direction" in measured.remark
