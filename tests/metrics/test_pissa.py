"""PiSSA adapters as peft makes them: what they start from, what they become, and how they are merged."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from ckptaudit.checkpoints import merge_adapter, open_checkpoint
from ckptaudit.errors import CheckpointError
from ckptaudit.metrics import group_metric_of
from ckptaudit.metrics.groups import measure_group
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline import open_audit

pytestmark = [pytest.mark.filterwarnings(f"ignore::Warning:{name}.*") for name in ("peft", "transformers")]


def value(name: str, base: Path, adapter: Path, initial: Path | None) -> float | None:
    inputs = {} if initial is None else {"adapter_init": str(initial)}
    opened = open_audit(AuditOptions(base=str(base), tuned=(str(adapter),), auxiliary=inputs))
    run = opened.runs[0]
    row = measure_group(
        group_metric_of(name), "model", ("all",), run, run.pair.aligned, opened.auxiliary, torch.device("cpu")
    )
    return row.value


def products(folder: Path) -> dict[str, np.ndarray]:
    """s B A of every module of a saved adapter, by the base's name for the weight; alpha / r is 2."""
    tensors = {n: t.double().numpy() for n, t in load_file(folder / "adapter_model.safetensors").items()}
    downs = [n for n in tensors if "lora_A" in n]
    name = {n: n.removeprefix("base_model.model.").replace(".lora_A", "") for n in downs}
    return {name[n]: 2 * tensors[n.replace("lora_A", "lora_B")] @ tensors[n] for n in downs}


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {n: t.double().numpy() for n, t in load_file(folder / "model.safetensors").items()}


def directions(weight: np.ndarray, rank: int = 8) -> tuple[np.ndarray, np.ndarray]:
    u, _, vh = np.linalg.svd(weight, full_matrices=False)
    return u[:, :rank], vh[:rank].T


def test_the_bundled_adapter_reads_what_numpy_says(fixture_pairs: Path) -> None:
    base, adapter, initial = (fixture_pairs / name for name in ("base", "pissa", "pissa-init"))
    whole, trained = weights(base), products(adapter)
    shares = {}
    for kind, found in (("initial", products(initial)), ("adapter", trained)):
        tops = {n: directions(whole[n]) for n in found}
        inside = sum(np.linalg.norm(tops[n][0].T @ p @ tops[n][1]) ** 2 for n, p in found.items())
        shares[kind] = inside / sum(np.linalg.norm(p) ** 2 for p in found.values())
    for kind, share in shares.items():
        assert value(f"{kind}_principal_share", base, adapter, initial) == pytest.approx(share, rel=1e-9)
    assert shares["initial"] > 1 - 1e-9
    assert shares["adapter"] == pytest.approx(0.9895, abs=1e-3)


def test_a_pissa_update_touches_principal_directions_and_a_lora_update_does_not(fixture_pairs: Path) -> None:
    base = fixture_pairs / "base"
    pissa, lora = (value("principal_contact", base, fixture_pairs / name, None) for name in ("pissa", "lora"))
    assert pissa is not None
    assert lora is not None
    assert pissa > 0.99
    assert lora < 0.3


def test_the_update_of_the_bundled_adapter_is_what_training_added(fixture_pairs: Path) -> None:
    base, adapter, initial = (fixture_pairs / name for name in ("base", "pissa", "pissa-init"))
    whole, after, before = weights(base), products(adapter), products(initial)
    merged = merge_adapter(open_checkpoint(base), open_checkpoint(adapter))
    for name, product in after.items():
        tuned = merged.tensors[name].read().double().numpy()
        # Storing the residual and the result in bf16 costs half a unit in the last place each.
        error = np.linalg.norm(tuned - (whole[name] + product - before[name]))
        assert error < 2 * 2.0**-8 * np.linalg.norm(whole[name])


def test_the_bundled_adapter_merges_to_the_bits_of_peft(fixture_pairs: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(fixture_pairs / "base", dtype=torch.bfloat16)
    expected = PeftModel.from_pretrained(base, fixture_pairs / "pissa").merge_and_unload().state_dict()
    merged = merge_adapter(open_checkpoint(fixture_pairs / "base"), open_checkpoint(fixture_pairs / "pissa"))
    assert all(torch.equal(handle.read(), expected[name]) for name, handle in merged.tensors.items())


@pytest.fixture(scope="module", params=["pissa", "pissa_niter_4"])
def made_by_peft(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, fixture_pairs: Path
) -> tuple[Path, Path, dict[str, Tensor]]:
    """An adapter trained for two steps, its start, and the weights that peft merges in memory."""
    folder = tmp_path_factory.mktemp(str(request.param))
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(fixture_pairs / "base", dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=16, init_lora_weights=request.param, target_modules=["q_proj", "v_proj"])
    model: Any = get_peft_model(base, config)
    start = copy.deepcopy(model)
    start.peft_config["default"].init_lora_weights = True
    start.save_pretrained(folder / "start")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    ids = torch.randint(4, 100, (2, 32))
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    model.save_pretrained(folder / "adapter")
    return folder / "adapter", folder / "start", model.merge_and_unload().state_dict()


def test_what_peft_trained_is_what_is_audited(
    made_by_peft: tuple[Path, Path, dict[str, Tensor]], fixture_pairs: Path, tmp_path: Path
) -> None:
    adapter, start, expected = made_by_peft
    # The base in the type it was trained in: there no rounding stands between the two ways.
    wide = AutoModelForCausalLM.from_pretrained(fixture_pairs / "base", dtype=torch.float32)
    wide.save_pretrained(tmp_path / "base")
    base = open_checkpoint(tmp_path / "base")
    merged = merge_adapter(base, open_checkpoint(adapter), open_checkpoint(start))
    for name, handle in merged.tensors.items():
        torch.testing.assert_close(handle.read(), expected[name], rtol=0, atol=2e-6)
    error = value("pissa_residual_error", tmp_path / "base", adapter, start)
    share = value("initial_principal_share", tmp_path / "base", adapter, start)
    contact = value("principal_contact", tmp_path / "base", adapter, start)
    assert error is not None
    assert share is not None
    assert contact is not None
    if "niter" in str(adapter):
        # Where the spectrum is flat at r, four iterations miss the top part: decomposing again gives other weights.
        assert error > 0.05
        assert share < 0.99
    else:
        assert error < 1e-5
        assert share > 0.999
        assert contact > 0.99


def test_loading_a_randomised_start_over_the_base_gives_other_weights_and_the_check_sees_it(
    made_by_peft: tuple[Path, Path, dict[str, Tensor]], fixture_pairs: Path
) -> None:
    adapter, start, trained = made_by_peft
    if "niter" not in str(adapter):
        pytest.skip("an exact decomposition can be repeated")
    base = AutoModelForCausalLM.from_pretrained(fixture_pairs / "base", dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, adapter).merge_and_unload().state_dict()
    off = max(float((loaded[n] - w).norm() / w.norm()) for n, w in trained.items() if "q_proj.weight" in n)
    error = value("pissa_residual_error", fixture_pairs / "base", adapter, start)
    assert error is not None
    assert off > 0.05
    assert error > 0.05


def test_a_randomised_start_is_refused_without_the_initial_adapter(
    made_by_peft: tuple[Path, Path, dict[str, Tensor]], fixture_pairs: Path
) -> None:
    adapter, _, _ = made_by_peft
    if "niter" not in str(adapter):
        pytest.skip("an exact decomposition can be repeated")
    base = open_checkpoint(fixture_pairs / "base")
    with pytest.raises(CheckpointError, match="adapter_init= PATH"):
        merge_adapter(base, open_checkpoint(adapter))
    other = open_checkpoint(fixture_pairs / "pissa-init")
    assert other.adapter is not None
    none = {n: f for n, f in other.adapter.factors.items() if "q_proj" not in n}
    with pytest.raises(CheckpointError, match="nothing there that fits"):
        merge_adapter(base, open_checkpoint(adapter), replace(other, adapter=replace(other.adapter, factors=none)))


def test_a_random_adapter_reads_the_share_of_its_ranks(fixture_pairs: Path, tmp_path: Path) -> None:
    """r^2 / (m n) inside, and 1 - (1 - r / m) (1 - r / n) in contact, on average over many weights."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(fixture_pairs / "base", dtype=torch.float32)
    base.save_pretrained(tmp_path / "base")
    config = LoraConfig(r=8, lora_alpha=16, init_lora_weights=False, target_modules=["q_proj", "o_proj"])
    model: Any = get_peft_model(base, config)
    model.save_pretrained(tmp_path / "adapter")
    inside = value("adapter_principal_share", tmp_path / "base", tmp_path / "adapter", None)
    contact = value("principal_contact", tmp_path / "base", tmp_path / "adapter", None)
    assert inside == pytest.approx(8**2 / 192**2, rel=0.3)
    assert contact == pytest.approx(1 - (1 - 8 / 192) ** 2, rel=0.15)


def test_full_weights_have_no_adapter_to_judge(fixture_pairs: Path) -> None:
    assert value("principal_contact", fixture_pairs / "base", fixture_pairs / "sft", None) is None
