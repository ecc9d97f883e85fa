from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ckptaudit.behavior.causal_models import CausalModel, open_model, refuse_unbuildable
from ckptaudit.behavior.end_tokens import end_tokens
from ckptaudit.checkpoints import merge_adapter, open_checkpoint
from ckptaudit.errors import MeasurementError
from ckptaudit.pairing import pair_checkpoints
from tests.behavior.conftest import CPU
from tests.conftest import FIXTURES, package

IDS = torch.tensor([[1, 20, 30, 40, 50, 60]])
Opened = Callable[[str], CausalModel]


def logits_of(model: CausalModel) -> torch.Tensor:
    hidden = model.hidden(IDS, torch.ones_like(IDS))
    return model.logits(hidden[0])


def transformers_logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(IDS).logits[0]


def test_gives_the_logits_of_transformers(bundled: Opened) -> None:
    assert torch.equal(logits_of(bundled("rlvr")), transformers_logits(FIXTURES / "rlvr"))


def test_an_adapter_gives_the_logits_of_peft(bundled: Opened) -> None:
    peft = package("peft")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(FIXTURES / "base", dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what peft uses of transformers is its own affair
        merged = peft.PeftModel.from_pretrained(base, FIXTURES / "lora").merge_and_unload().eval()
    with torch.no_grad():
        theirs = merged(IDS).logits[0]
    # The merged weights are rounded to the base's bfloat16, as a release of them would be.
    assert (logits_of(bundled("lora")) - theirs).abs().max() < 0.1
    assert (logits_of(bundled("base")) - theirs).abs().max() > 0.3


def test_another_format_gives_the_same_logits(tmp_path: Path, bundled: Opened) -> None:
    torch.save(load_file(FIXTURES / "rlvr" / "model.safetensors"), tmp_path / "pytorch_model.bin")
    base, tuned = open_checkpoint(FIXTURES / "base"), open_checkpoint(tmp_path)
    model = open_model(tuned, base, CPU, pair=pair_checkpoints(base, tuned))
    assert torch.equal(logits_of(model), logits_of(bundled("rlvr")))


def test_names_of_another_trainer_are_taken_by_the_pair(tmp_path: Path, bundled: Opened) -> None:
    state = load_file(FIXTURES / "rlvr" / "model.safetensors")
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "pytorch_model.bin")
    base, tuned = open_checkpoint(FIXTURES / "base"), open_checkpoint(tmp_path)
    model = open_model(tuned, base, CPU, pair=pair_checkpoints(base, tuned))
    assert torch.equal(logits_of(model), logits_of(bundled("rlvr")))


def test_a_head_that_is_not_the_last_step_is_not_taken_apart(tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.05, sliding_window=4,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    opened = open_checkpoint(tmp_path)
    model = open_model(opened, opened, CPU)
    ids = IDS % 50
    with torch.no_grad():
        theirs = model.network(ids).logits[0]
    assert not model.head_apart
    assert torch.equal(model.logits(model.hidden(ids, torch.ones_like(ids))[0]), theirs)


def written(folder: Path, **changes: object) -> Path:
    shutil.copytree(FIXTURES / "base", folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "unheard_of"}, "transformers builds no causal language model"),
        ({"hidden_size": 192 * 2**20}, "describes a model of"),
        ({"num_hidden_layers": 10**9}, "claims 1000000000 layers"),
        ({"num_attention_heads": 0}, "transformers builds no causal language model"),
    ],
)
def test_a_configuration_that_fits_no_model_is_refused_before_any_memory(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    opened = open_checkpoint(written(tmp_path, **changes))
    with pytest.raises(MeasurementError, match=words):
        refuse_unbuildable(opened, opened)


def test_code_that_a_configuration_names_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    opened = open_checkpoint(written(tmp_path, auto_map={"AutoModelForCausalLM": "evil.Evil"}))
    open_model(opened, opened, CPU)
    assert not (tmp_path / "ran").exists()


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    written(tmp_path)
    state = load_file(FIXTURES / "base" / "model.safetensors")
    del state["model.layers.2.mlp.up_proj.weight"]
    save_file(state, tmp_path / "model.safetensors")
    opened = open_checkpoint(tmp_path)
    with pytest.raises(MeasurementError, match=r"no weight for model\.layers\.2\.mlp\.up_proj"):
        open_model(opened, opened, CPU)


def test_the_digest_tells_weights_and_precision_apart(bundled: Opened) -> None:
    base = open_checkpoint(FIXTURES / "base")
    assert open_model(base, base, CPU).digest == bundled("base").digest
    assert open_model(base, base, CPU, "bfloat16").digest != bundled("base").digest
    assert bundled("rlvr").digest != bundled("base").digest


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        (2, (2,)),
        (2.0, (2,)),
        ([2, 5], (2, 5)),
        (None, ()),
        ("2", ()),
        ([2, True, -1, 2.5], (2,)),
        (list(range(1000)), None),
    ],
)
def test_end_tokens_are_those_of_the_generation_config(
    tmp_path: Path, stated: object, found: tuple[int, ...] | None
) -> None:
    written(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": stated}))
    opened = open_checkpoint(tmp_path)
    assert end_tokens(opened, opened) == (tuple(range(64)) if found is None else found)


def test_a_torn_generation_config_is_as_none(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    written(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 3,')
    opened = open_checkpoint(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config.eos_token_id
    assert end_tokens(opened, opened) == (theirs,) == (2,)


def test_an_adapter_ends_as_its_base_does() -> None:
    base = open_checkpoint(FIXTURES / "base")
    assert end_tokens(merge_adapter(base, open_checkpoint(FIXTURES / "lora")), base) == (2,)
