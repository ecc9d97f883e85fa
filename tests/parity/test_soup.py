"""Merges as mergekit computes them, written in NumPy: what is linear in its parents passes, the rest is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

import ckptaudit
from ckptaudit.checkpoints import Checkpoint, open_checkpoint
from ckptaudit.pairing import pair_checkpoints
from ckptaudit.parity.soup_faults import JudgedSoup
from ckptaudit.parity.soups import Soup, SoupWeight
from ckptaudit.results.gate import answer
from tests.parity.test_equal import EMBEDDINGS, HEAD, NORM, Q, saved, weights

Array = NDArray[numpy.float32]
Tensors = dict[str, Tensor]
Combine = Callable[[Array, list[Array]], Array]


def linear(weights: list[float], *, normalize: bool = True) -> Combine:
    """mergekit's linear: sum of w_i x_i, over sum of w_i where it normalises."""
    total = numpy.float32(sum(weights) if normalize else 1)
    return lambda base, parents: (
        sum((numpy.float32(w) * x for w, x in zip(weights, parents, strict=True)), numpy.zeros_like(base)) / total
    )


def task_arithmetic(weights: list[float], scale: float = 1.0) -> Combine:
    """mergekit's task_arithmetic: base + lambda sum of w_i (x_i - base)."""
    return lambda base, parents: (
        base
        + numpy.float32(scale)
        * sum(
            (numpy.float32(w) * (x - base) for w, x in zip(weights, parents, strict=True)), numpy.zeros_like(base)
        )
    )


def moving_average(decay: float) -> Combine:
    """An exponential moving average over saves that begins at the base."""

    def combined(base: Array, parents: list[Array]) -> Array:
        average = base
        for save in parents:
            average = numpy.float32(decay) * average + numpy.float32(1 - decay) * save
        return average

    return combined


def slerp(t: float) -> Combine:
    """mergekit's slerp between two parents, taken as vectors."""

    def combined(base: Array, parents: list[Array]) -> Array:
        first, second = (p.astype(numpy.float64) for p in parents)
        cosine = float((first * second).sum() / numpy.linalg.norm(first) / numpy.linalg.norm(second))
        if abs(cosine) > 0.9995:
            return ((1 - t) * first + t * second).astype(numpy.float32)
        angle = numpy.arccos(cosine)
        ends = numpy.sin((1 - t) * angle) / numpy.sin(angle), numpy.sin(t * angle) / numpy.sin(angle)
        return (ends[0] * first + ends[1] * second).astype(numpy.float32)

    return combined


def ties(density: float) -> Combine:
    """TIES in short: the largest entries of each update, those that agree with the elected sign, averaged."""

    def combined(base: Array, parents: list[Array]) -> Array:
        updates = numpy.stack([p - base for p in parents])
        limits = numpy.quantile(numpy.abs(updates).reshape(len(parents), -1), 1 - density, axis=1)
        kept = numpy.where(numpy.abs(updates) >= limits.reshape(-1, *[1] * base.ndim), updates, 0)
        agree = numpy.where(numpy.sign(kept) == numpy.sign(kept.sum(0)), kept, 0)
        return base + (agree.sum(0) / numpy.maximum((agree != 0).sum(0), 1)).astype(numpy.float32)

    return combined


def moved(base: Tensors, seed: int, size: float) -> Tensors:
    random = torch.Generator().manual_seed(seed)
    noise = {n: torch.randn(t.shape, generator=random) for n, t in base.items()}
    return {n: (t.float() + size * noise[n]).to(t.dtype) for n, t in base.items()}


def merged(combine: Combine, base: Tensors, parents: list[Tensors]) -> Tensors:
    """The merge in float32, rounded once to the base's type."""
    arrays = {n: (t.float().numpy(), [p[n].float().numpy() for p in parents]) for n, t in base.items()}
    return {n: torch.from_numpy(combine(*arrays[n])).to(t.dtype) for n, t in base.items()}


def in_memory(tensors: Tensors, like: Checkpoint) -> Checkpoint:
    handles = {n: like.tensors[n].with_tensor(t) for n, t in tensors.items()}
    return Checkpoint("merged", like.format, handles, like.config)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(saved(tmp_path_factory.mktemp("soup") / "base", weights()))


Judge = Callable[[Combine, torch.dtype, float], JudgedSoup]


def judged(opened: Checkpoint, base: Tensors, parents: list[Tensors], stored: Tensors) -> JudgedSoup:
    pair = pair_checkpoints(in_memory(base, opened), in_memory(stored, opened))
    return JudgedSoup(Soup(pair, tuple(in_memory(p, opened) for p in parents)))


@pytest.fixture
def judge(opened: Checkpoint) -> Judge:
    """A merge of two parents that lie a step apart from the base."""

    def made(combine: Combine, dtype: torch.dtype, size: float) -> JudgedSoup:
        base = weights(dtype)
        parents = [moved(base, seed, size) for seed in (1, 2)]
        return judged(opened, base, parents, merged(combine, base, parents))

    return made


INSIDE: list[tuple[str, Combine, list[float]]] = [
    ("linear", linear([0.5, 0.5]), [0.5, 0.5]),
    ("linear of unequal weights", linear([3.0, 1.0]), [0.75, 0.25]),
    ("task arithmetic", task_arithmetic([0.7, 0.6]), [0.7, 0.6]),
    ("task arithmetic scaled", task_arithmetic([1.0, 1.0], 0.4), [0.4, 0.4]),
    ("task negation", task_arithmetic([1.0, -0.5]), [1.0, -0.5]),
    ("moving average", moving_average(0.9), [0.09, 0.1]),
]


@pytest.mark.parametrize("size", [0.3, 0.03, 3e-3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(("combine", "wanted"), [c[1:] for c in INSIDE], ids=[c[0] for c in INSIDE])
def test_what_is_linear_in_its_parents_is_inside(
    combine: Combine, wanted: list[float], dtype: torch.dtype, size: float, judge: Judge
) -> None:
    found = judge(combine, dtype, size)
    assert list(found.outside()) == []
    assert list(found.uncommon()) == []
    step = torch.finfo(dtype).eps
    assert found.common is not None
    assert found.common.tolist() == pytest.approx(wanted, abs=2 * step / size + 1e-4)


OUTSIDE: list[tuple[str, Combine, str]] = [
    ("slerp", slerp(0.5), "weights do not sum to 1"),
    ("linear without normalising", linear([0.5, 0.6], normalize=False), "weights do not sum to 1"),
    ("ties", ties(0.3), "entries chosen one by one"),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("combine", "fault"), [c[1:] for c in OUTSIDE], ids=[c[0] for c in OUTSIDE])
def test_what_is_not_is_outside_and_named(combine: Combine, fault: str, dtype: torch.dtype, judge: Judge) -> None:
    found = {f.tensor: f for f in judge(combine, dtype, 0.3).outside()}
    assert found.keys() == weights().keys()
    assert {f.fault for n, f in found.items() if n != NORM} == {fault}


def test_slerp_of_parents_that_lie_near_is_linear_to_rounding(judge: Judge) -> None:
    # mergekit itself interpolates linearly above a cosine of 0.9995.
    assert list(judge(slerp(0.5), torch.float32, 0.01).outside()) == []


def test_coefficients_and_residual_are_numpys_least_squares(opened: Checkpoint) -> None:
    base = weights()
    parents, other = [moved(base, seed, 0.1) for seed in (1, 2, 3)], moved(base, 9, 0.1)
    pair = pair_checkpoints(in_memory(base, opened), in_memory(other, opened))
    soup = Soup(pair, tuple(in_memory(p, opened) for p in parents))
    tensor = next(t for t in pair.aligned if t.name == Q)
    weight = soup.weight(tensor)
    assert weight is not None
    from ckptaudit.parity.soups import least_squares

    fit = weight.judged(least_squares(weight.pieces(), 3))
    origin = base[Q].double().numpy().ravel()
    columns = numpy.stack([p[Q].double().numpy().ravel() - origin for p in parents], axis=1)
    update = other[Q].double().numpy().ravel() - origin
    wanted, residual, *_ = numpy.linalg.lstsq(columns, update)
    assert fit.coefficients.tolist() == pytest.approx(wanted.tolist(), rel=1e-9)
    assert fit.residual == pytest.approx(float(residual[0]), rel=1e-9)
    assert fit.relative_residual == pytest.approx((residual[0] / (update @ update)) ** 0.5, rel=1e-9)
    assert not fit.is_inside


def test_a_long_weight_is_fitted_piece_by_piece_alike(opened: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    base = weights()
    parents = [moved(base, seed, 0.1) for seed in (1, 2)]
    stored = merged(linear([0.3, 0.7]), base, parents)
    complete = judged(opened, base, parents, stored).fits[HEAD]
    monkeypatch.setattr("ckptaudit.parity.soups.ENTRIES", 100)
    cut = judged(opened, base, parents, stored).fits[HEAD]
    assert cut.coefficients.tolist() == pytest.approx(complete.coefficients.tolist(), rel=1e-12)
    assert (cut.beyond, cut.is_inside) == (complete.beyond, True)


@settings(max_examples=15, deadline=None)
@given(
    coefficients=st.lists(st.floats(-1.5, 1.5), min_size=1, max_size=4),
    size=st.sampled_from([1.0, 0.1, 0.01, 0.004]),
    seed=st.integers(0, 99),
)
def test_any_combination_of_any_size_is_inside(coefficients: list[float], size: float, seed: int, opened) -> None:
    """Rounding pulls least squares aside where updates are a step or two; the fit must find its way back."""
    base = weights(torch.bfloat16)
    parents = [moved(base, seed + i, size) for i in range(len(coefficients))]
    found = judged(opened, base, parents, merged(task_arithmetic(coefficients), base, parents))
    assert list(found.outside()) == []


def test_the_order_of_parents_and_a_scale_of_all_weights_change_nothing(opened: Checkpoint) -> None:
    base = weights()
    parents = [moved(base, seed, 0.1) for seed in (1, 2)]
    stored = merged(linear([0.3, 0.7]), base, parents)
    there = judged(opened, base, parents, stored).fits[Q]
    back = judged(opened, base, parents[::-1], stored).fits[Q]
    assert back.coefficients.flip(0).tolist() == pytest.approx(there.coefficients.tolist(), rel=1e-9)
    grown = [{n: 8 * t for n, t in side.items()} for side in (base, *parents, stored)]
    scaled = judged(opened, grown[0], grown[1:3], grown[3]).fits[Q]
    assert scaled.coefficients.tolist() == pytest.approx(there.coefficients.tolist(), rel=1e-12)
    assert scaled.relative_residual == pytest.approx(there.relative_residual, rel=1e-12)


def test_no_update_at_all_is_inside(opened: Checkpoint) -> None:
    base = weights(torch.bfloat16)
    parents = [moved(base, 1, 0.1)]
    found = judged(opened, base, parents, base)
    assert list(found.outside()) == []
    assert {fit.relative_residual for fit in found.fits.values()} == {0.0}


def test_a_parent_that_is_the_base_takes_nothing_away(opened: Checkpoint) -> None:
    base = weights(torch.bfloat16)
    parents = [base, moved(base, 1, 0.1)]
    assert list(judged(opened, base, parents, merged(linear([0.4, 0.6]), base, parents)).outside()) == []


def test_a_third_run_is_no_combination_of_two_others(opened: Checkpoint) -> None:
    base = weights(torch.bfloat16)
    parents = [moved(base, seed, 0.05) for seed in (1, 2)]
    found = list(judged(opened, base, parents, moved(base, 3, 0.05)).outside())
    assert len(found) == len(base)
    assert {f.fault for f in found if f.tensor != NORM} <= {"outside the span of the parents", "hidden by rounding"}


@pytest.mark.parametrize(
    ("held", "fault"),
    [("base", "left at the base"), ("parent", "copied from"), ("other", "other coefficients")],
)
def test_a_tensor_of_its_own_is_named(held: str, fault: str, opened: Checkpoint) -> None:
    base = weights(torch.bfloat16)
    parents = [moved(base, seed, 0.1) for seed in (1, 2)]
    stored = merged(linear([0.5, 0.5]), base, parents)
    own = merged(linear([0.2, 0.8]), base, parents)[Q]
    stored[Q] = {"base": base[Q], "parent": parents[1][Q], "other": own}[held]
    found = judged(opened, base, parents, stored)
    assert list(found.outside()) == []
    (named,) = found.uncommon()
    assert named.tensor == Q
    assert named.fault.startswith(fault)
    assert "0.5" in named.detail


def test_a_tensor_that_no_parent_moved_must_be_the_base(opened: Checkpoint) -> None:
    base = weights(torch.bfloat16)
    parents = [{**moved(base, seed, 0.1), EMBEDDINGS: base[EMBEDDINGS]} for seed in (1, 2)]
    stored = merged(linear([0.5, 0.5]), base, parents)
    stored[EMBEDDINGS] = moved(base, 5, 0.1)[EMBEDDINGS]
    (found,) = judged(opened, base, parents, stored).outside()
    assert (found.tensor, found.fault) == (EMBEDDINGS, "changed where no parent differs")


def test_a_merge_computed_in_bfloat16_is_inside_where_its_update_is_large(opened: Checkpoint) -> None:
    base = weights(torch.bfloat16)
    parents = [moved(base, seed, 0.3) for seed in (1, 2)]
    stored = {n: 0.3 * parents[0][n] + 0.7 * parents[1][n] for n in base}
    found = judged(opened, base, parents, stored)
    assert any(fit.beyond for fit in found.fits.values())
    assert list(found.outside()) == []


def test_nan_in_the_merge_is_named(opened: Checkpoint) -> None:
    base = weights(torch.bfloat16)
    parents = [moved(base, seed, 0.1) for seed in (1, 2)]
    stored = merged(linear([0.5, 0.5]), base, parents)
    stored[Q] = stored[Q] * torch.nan
    assert [(f.tensor, f.fault) for f in judged(opened, base, parents, stored).outside()] == [(Q, "not finite")]


def audited(base: Path, tuned: Path, parents: str, **options: object) -> ckptaudit.AuditResult:
    inputs = {"parents": parents}
    return ckptaudit.audit(base, tuned, profile="soup", cache="off", device="cpu", complete=False, inputs=inputs)


@pytest.fixture
def runs(fixture_pairs: Path) -> list[Path]:
    return [fixture_pairs / name for name in ("rlvr", "sft")]


def real(fixture_pairs: Path, runs: list[Path], combine: Combine, folder: Path) -> Path:
    base, *parents = (load_file(path / "model.safetensors") for path in (fixture_pairs / "base", *runs))
    folder.mkdir()
    save_file(merged(combine, base, parents), folder / "model.safetensors")
    (folder / "config.json").write_text((fixture_pairs / "base" / "config.json").read_text())
    return folder


@pytest.mark.parametrize("combine", [linear([0.5, 0.5]), task_arithmetic([0.3, 0.9])])
def test_the_profile_opens_for_merges_of_real_runs(
    combine: Combine, fixture_pairs: Path, runs: list[Path], tmp_path: Path
) -> None:
    tuned = real(fixture_pairs, runs, combine, tmp_path / "merged")
    result = audited(fixture_pairs / "base", tuned, f"{runs[0]},{runs[1]}")
    assert answer(result.verdicts).is_open, [v for v in result.verdicts if v.outcome != "passed"]
    assert result.coverage[0].share == 1.0
    remarks = [r.remark for v in result.verdicts if v.check == "soup-residual" for r in v.ranking]
    assert all("of rlvr" in remark and "of sft" in remark for remark in remarks)


def test_the_profile_closes_for_an_update_with_the_opposite_sign(
    fixture_pairs: Path, runs: list[Path], tmp_path: Path
) -> None:
    tuned = real(fixture_pairs, runs[:1], task_arithmetic([-1.0]), tmp_path / "flipped")
    result = audited(fixture_pairs / "base", tuned, str(runs[0]))
    assert [v.check for v in result.verdicts if v.outcome == "failed" and v.severity == "gate"] == ["soup-sign"]


def test_the_profile_closes_for_a_run_that_is_no_merge(fixture_pairs: Path, runs: list[Path]) -> None:
    result = audited(fixture_pairs / "base", fixture_pairs / "rlvr-gentle", f"{runs[0]},{runs[1]}")
    assert not answer(result.verdicts).is_open
    assert "soup-in-span" in {v.check for v in result.verdicts if v.outcome == "failed"}


@pytest.mark.parametrize(
    ("parents", "words"),
    [
        (None, "check soup-in-span: needs parents="),
        ("", "names no checkpoint"),
        ("{rlvr},{rlvr}", "given twice"),
        ("{rlvr},no/such", "no such"),
        ("{other}", "shapes differ|named like"),
        ("{rlvr},{self}", "are one path"),
    ],
)
def test_bad_parents_are_refused_in_one_line(
    parents: str | None, words: str, fixture_pairs: Path, tmp_path: Path
) -> None:
    tuned = fixture_pairs / "sft"
    other = saved(tmp_path / "other", weights())
    text = None if parents is None else parents.format(rlvr=fixture_pairs / "rlvr", self=tuned, other=other)
    inputs = {} if text is None else {"parents": text}
    with pytest.raises(ckptaudit.CkptAuditError, match=words) as caught:
        ckptaudit.audit(fixture_pairs / "base", tuned, profile="soup", cache="off", device="cpu", inputs=inputs)
    assert "\n" not in str(caught.value)


def test_weights_are_read_as_stored(opened: Checkpoint) -> None:
    handle = opened.tensors[Q]
    weight = SoupWeight(Q, handle, handle, (handle,))
    (piece,) = weight.pieces()
    assert piece.update.dtype == torch.float64
    assert not bool(piece.update.any())
