"""The callback inside real trainers, on the CPU: GRPO that goes on, supervised training that it stops."""

from __future__ import annotations

import logging
import runpy
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from ckptaudit import CkptAuditError
from tests.conftest import package

pytestmark = [
    # What the training libraries say of each other and of the CPU is not about the audit.
    pytest.mark.filterwarnings("ignore"),
]

transformers: Any = package("transformers")
trl: Any = package("trl")
datasets: Any = package("datasets")

from ckptaudit.integrations.transformers import AuditCallback  # noqa: E402


@pytest.fixture(scope="module")
def recipe(fixture_pairs: Path) -> dict[str, Any]:
    """The tasks that the bundled checkpoints were trained on."""
    return runpy.run_path(str(fixture_pairs / "recipe.py"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, recipe: dict[str, Any]) -> Path:
    """The bundled architecture with a tenth of its weights, untrained: what the trainers do to it is real."""
    folder = tmp_path_factory.mktemp("base")
    small = recipe["ARCHITECTURE"] | {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 1}
    words = len(recipe["SPECIAL_TOKENS"]) + len(recipe["CHARACTERS"])
    transformers.set_seed(0)
    made = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(vocab_size=words, **small))
    for name, weight in made.named_parameters():
        if name.endswith("bias"):  # zeros as they come: any step would be all of them
            torch.nn.init.normal_(weight, std=0.1)
    made.save_pretrained(folder)
    return folder


@pytest.fixture
def model(base: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(base, dtype="float32")


@pytest.fixture(scope="module")
def tokenizer(fixture_pairs: Path) -> Any:
    return transformers.PreTrainedTokenizerFast.from_pretrained(fixture_pairs / "base")


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    common = {
        "output_dir": str(folder),
        "save_strategy": "steps",
        "save_only_model": True,
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
    return common | more


def questions(recipe: dict[str, Any], column: str, count: int) -> Any:
    stream = recipe["problems"](Random(0))
    return datasets.Dataset.from_list(list(islice(recipe["questions"](stream, column), count)))


def supervised(
    folder: Path, model: Any, tokenizer: Any, recipe: dict[str, Any], audit: AuditCallback, steps: int = 3
) -> Any:
    rows = questions(recipe, "completion", 8 * steps)
    options = settings(folder, max_steps=steps, save_steps=1, learning_rate=3e-3, per_device_train_batch_size=8)
    trainer = trl.SFTTrainer(
        model,
        trl.SFTConfig(max_length=64, **options),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[audit],
    )
    trainer.train()
    return trainer.state


def test_a_grpo_run_with_small_steps_goes_on(
    tmp_path: Path, base: Path, model: Any, tokenizer: Any, recipe: dict[str, Any]
) -> None:
    audit = AuditCallback(base, on_fail="stop", json_folder=tmp_path / "audits")
    options = settings(tmp_path / "run", max_steps=2, save_steps=2, learning_rate=1e-6)
    trainer = trl.GRPOTrainer(
        model,
        # Fewer tokens, more reward: every group has something to tell apart, however short the run.
        lambda completions, **_: [-float(len(said)) for said in completions],
        trl.GRPOConfig(
            num_generations=4, max_completion_length=4, per_device_train_batch_size=8, beta=1e-3, **options
        ),
        questions(recipe, "answer", 8),
        processing_class=tokenizer,
        callbacks=[audit],
    )
    trainer.train()

    assert trainer.state.global_step == 2
    assert audit.results[2].passed, [v for v in audit.results[2].verdicts if v.outcome != "passed"]
    assert audit.results[2].tuned == (str(tmp_path / "run" / "checkpoint-2"),)
    assert (tmp_path / "audits" / "checkpoint-2.json").is_file()


def test_a_supervised_run_with_large_steps_is_stopped_at_its_first_save(
    tmp_path: Path,
    base: Path,
    model: Any,
    tokenizer: Any,
    recipe: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    audit = AuditCallback(base, on_fail="stop")
    with caplog.at_level(logging.WARNING, "ckptaudit"):
        state = supervised(tmp_path, model, tokenizer, recipe, audit)

    assert state.global_step == 1
    assert not audit.results[1].passed
    assert "spectral-drift[layers.0]" in caplog.text
    assert "close the gate" in caplog.text


def test_warn_lets_an_audit_that_cannot_be_made_pass_by(
    tmp_path: Path,
    small_pair: tuple[Path, Path],
    model: Any,
    tokenizer: Any,
    recipe: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    audit = AuditCallback(small_pair[0], on_fail="warn")
    (small_pair[0] / "model.safetensors").write_bytes(b"gone")
    with caplog.at_level(logging.WARNING, "ckptaudit"):
        state = supervised(tmp_path / "run", model, tokenizer, recipe, audit, steps=2)

    assert state.global_step == 2
    assert audit.results == {}
    assert caplog.text.count("the audit could not be made (CheckpointError") == 2


def test_an_adapter_is_audited_as_the_model_it_makes(
    tmp_path: Path, base: Path, model: Any, tokenizer: Any, recipe: dict[str, Any]
) -> None:
    peft: Any = package("peft")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    audit = AuditCallback(base, profile="integrity")
    supervised(tmp_path, adapted, tokenizer, recipe, audit, steps=1)

    assert (tmp_path / "checkpoint-1" / "adapter_model.safetensors").is_file()
    assert audit.results[1].passed
    changed = [m for m in audit.results[1].measurements if m.metric == "differing_entries" and m.value]
    assert {m.role for m in changed} == {"q_proj"}


def test_only_rank_0_audits(tmp_path: Path, base: Path) -> None:
    audit = AuditCallback(base, on_fail="stop")
    state, control = transformers.TrainerState(is_world_process_zero=False), transformers.TrainerControl()
    given = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")

    assert not audit.on_save(given, state, control).should_training_stop
    assert audit.results == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"base": "nowhere"}, "nowhere"),
        ({"on_fail": "shout"}, "warn or stop"),
        ({"profile": "rl"}, "sft, integrity"),
        ({"config": "missing.toml"}, "missing.toml"),
    ],
)
def test_a_mistake_is_seen_before_the_training(base: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(CkptAuditError, match=words):
        AuditCallback(**({"base": base} | arguments))
