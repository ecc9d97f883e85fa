"""Audits beside a training: what is closed warns, stops or holds the link; what cannot be audited is not good."""

from __future__ import annotations

import logging
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from ckptaudit.errors import CheckDefinitionError, CheckpointError, ConfigError
from ckptaudit.integrations.save_hooks import VerlSaves, attach_nemo_rl, attach_openrlhf, attach_verl
from ckptaudit.integrations.saves import ClosedGateError, SaveAudits
from ckptaudit.results.json_io import read_json


@pytest.fixture
def saves(small_pair: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path, Path]:
    """A base, a save with an open gate and one with a closed gate, in folders as trainers name them."""
    base, tuned = small_pair
    run = tmp_path / "run"
    good, bad = run / "global_step_1", run / "global_step_2"
    shutil.copytree(tuned, good)
    shutil.copytree(tuned, bad)
    tensors = load_file(bad / "model.safetensors")
    save_file({k: v * 1.2 for k, v in tensors.items()}, bad / "model.safetensors")
    return base, good, bad


def made(base: Path, **more: Any) -> SaveAudits:
    """Audits at once, by few checks."""
    return SaveAudits(base, profile="sft", **{"where": "here", **more})


def test_warn_logs_and_goes_on(
    saves: tuple[Path, Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base, good, bad = saves
    audits = made(base, json_folder=tmp_path / "audits")
    with caplog.at_level(logging.INFO, "ckptaudit"):
        audits.audit(good, 1)
        audits.audit(bad, 2)
        audits.audit(bad.parent / "nowhere", 3)
    assert [(o.step, o.is_open) for o in audits.outcomes] == [(1, True), (2, False), (3, False)]
    assert "gate open" in caplog.messages[0]
    assert "gate closed by" in caplog.messages[1]
    assert "could not be made" in caplog.messages[2]
    assert read_json(tmp_path / "audits" / "global_step_2.json").summary.failed > 0


def test_stop_raises_and_what_is_not_judged_stops_too(saves: tuple[Path, Path, Path]) -> None:
    base, good, bad = saves
    audits = made(base, on_fail="stop")
    audits.audit(good, 1)
    with pytest.raises(ClosedGateError, match=r"global_step_2: gate closed by .*training-loops"):
        audits.audit(bad, 2)
    with pytest.raises(ClosedGateError, match="could not be made"):
        audits.audit(bad.parent / "nowhere", 3)


def test_a_process_beside_does_not_wait_and_hold_moves_the_link_in_order(saves: tuple[Path, Path, Path]) -> None:
    base, good, bad = saves
    link = good.parent / "latest-open"
    audits = made(base, where="process", on_fail="hold", link=link)
    audits.audit(good, 1)
    assert audits.outcomes == [], "the training goes on meanwhile"
    audits.audit(bad, 2)
    audits.close()
    assert [o.step for o in audits.outcomes] == [1, 2]
    assert link.is_symlink()
    assert link.resolve() == good.resolve()
    now = made(base, on_fail="hold", link=link)
    now.audit(shutil.copytree(good, good.parent / "global_step_3"), 3)
    assert link.resolve().name == "global_step_3"


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_a_task_of_ray_finds_the_same(saves: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent.parent))
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        base, _, bad = saves
        audits = made(base, where="ray")
        audits.audit(bad, 2)
        audits.close()
        (outcome,) = audits.outcomes
        assert (outcome.is_open, outcome.trouble) == (False, "")
        assert outcome.result is not None
        assert outcome.result.summary.failed > 0
    finally:
        ray.shutdown()


def test_a_mistake_is_seen_before_the_training(saves: tuple[Path, Path, Path]) -> None:
    base = saves[0]
    for wrong in ({"on_fail": "x"}, {"where": "x"}, {"on_fail": "hold"}):
        with pytest.raises(CheckDefinitionError):
            made(base, **wrong)
    with pytest.raises(CheckpointError):
        made(base / "nowhere")
    with pytest.raises(ConfigError):
        made(base, config="nowhere.toml")


class VerlConfig(dict[str, Any]):
    """Attributes and `get`, as OmegaConf's nodes have."""

    __getattr__ = dict.__getitem__


def verl_config(base: Path, **more: Any) -> VerlConfig:
    asked = VerlConfig(profile="sft", where="here", on_fail="stop", **more)
    model = VerlConfig(model=VerlConfig(path=str(base)))
    return VerlConfig(trainer=VerlConfig(ckptaudit=asked), actor_rollout_ref=model)


def test_verl_calls_it_by_its_callback(saves: tuple[Path, Path, Path]) -> None:
    base, good, bad = saves
    hook = VerlSaves(config=verl_config(base))
    hook.on_save(trainer=None, global_step=1, checkpoint_dir=str(good), async_save=True, later="ignored")
    assert hook.saves.outcomes == [], "Megatron is still writing"
    with pytest.raises(ClosedGateError):
        hook.on_save(trainer=None, global_step=2, checkpoint_dir=str(bad))
    assert [o.step for o in hook.saves.outcomes] == [1, 2]


@pytest.mark.skipif(find_spec("verl") is None, reason="verl is not installed, and needs a GPU's libraries")
def test_verl_s_own_loader_builds_it(saves: tuple[Path, Path, Path]) -> None:
    from verl.trainer.ppo.checkpoint_callback import build_checkpoint_callback

    config = verl_config(saves[0])
    config["trainer"]["checkpoint_callback_class"] = "ckptaudit.integrations.save_hooks.VerlSaves"
    assert isinstance(build_checkpoint_callback(config), VerlSaves)


def test_verl_s_older_trainer_is_wrapped(saves: tuple[Path, Path, Path]) -> None:
    base, good, _ = saves
    trainer = SimpleNamespace(
        global_steps=1,
        config=VerlConfig(trainer=VerlConfig(default_local_dir=str(good.parent))),
        _save_checkpoint=lambda: "saved",
    )
    audits = attach_verl(trainer, made(base))
    assert trainer._save_checkpoint() == "saved"
    assert audits.outcomes[0].is_open


def test_openrlhf_is_audited_where_it_wrote_a_folder(saves: tuple[Path, Path, Path]) -> None:
    base, good, _ = saves
    shutil.move(good, good.parent / "global_step4_hf")
    ckpt = SimpleNamespace(path=str(good.parent), save_steps=4)
    trainer = SimpleNamespace(
        args=SimpleNamespace(ckpt=ckpt), save_logs_and_checkpoints=lambda global_step, logs=None: None
    )
    audits = attach_openrlhf(trainer, made(base))
    for step in range(1, 5):
        trainer.save_logs_and_checkpoints(step, {})
    assert [(o.step, o.is_open) for o in audits.outcomes] == [(4, True)]


def test_nemo_rl_is_audited_once_the_folder_has_its_name(saves: tuple[Path, Path, Path]) -> None:
    base, good, _ = saves
    temporary = good.parent / "tmp_step_7"
    shutil.move(good, temporary)

    def rename(path: Path) -> None:
        shutil.move(path, path.parent / "step_7")

    manager = SimpleNamespace(_rename_checkpoint=rename)
    audits = attach_nemo_rl(manager, made(base))
    manager._rename_checkpoint(temporary)
    assert [(o.step, o.path.name, o.is_open) for o in audits.outcomes] == [(7, "step_7", True)]


def test_a_trainer_that_saves_elsewhere_is_named() -> None:
    with pytest.raises(AttributeError, match="_save_checkpoint"):
        attach_verl(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]


def test_no_trainer_is_imported() -> None:
    assert not {"verl", "openrlhf", "nemo_rl"} & sys.modules.keys()
