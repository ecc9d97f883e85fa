"""An adapter is judged by what peft loads of it: settings and names that leave factors out are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.torch import load_file, save_file

from ckptaudit.checkpoints import merge_adapter, open_checkpoint
from ckptaudit.checkpoints.adapters.targets import Targets, TargetSettings
from ckptaudit.errors import CheckpointError
from tests.checkpoints.test_adapters import assert_same, merged_by_peft, saved, trained

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:peft.*"),
    pytest.mark.filterwarnings("ignore::Warning:transformers.*"),
]

PLAIN = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"])
MODULES = st.lists(
    st.sampled_from(["model", "layers", "experts", "0", "1", "12", "mlp", "q_proj", "up_proj"]),
    min_size=1,
    max_size=7,
).map(".".join)
ENDS = st.lists(
    st.sampled_from(["q_proj", "up_proj", "mlp", "mlp.q_proj", "layers.0", "model.layers.1.q_proj", "1"]),
    max_size=3,
)
WHOLE = st.sampled_from(["q_proj", r".*\.q_proj", r".*layers\.\d+\..*|.*mlp", r"model\..*up_proj", r".*\.1\..*"])
SETTINGS = st.one_of(
    st.fixed_dictionaries(
        {
            "target_modules": ENDS.filter(bool),
            "exclude_modules": st.one_of(st.none(), ENDS, WHOLE),
            "modules_to_save": st.one_of(st.none(), ENDS),
            "layers_to_transform": st.sampled_from([None, [], 0, 12, [0, 1], [1, 12]]),
            "layers_pattern": st.sampled_from([None, "layers", ["experts", "layers"], []]),
        }
    ).filter(lambda s: s["layers_to_transform"] is not None or not s["layers_pattern"]),
    st.fixed_dictionaries({"target_modules": WHOLE, "exclude_modules": st.one_of(st.none(), ENDS)}),
)


@given(SETTINGS, st.lists(MODULES, min_size=1, max_size=5))
def test_modules_are_chosen_as_peft_chooses_them(settings: dict[str, Any], modules: list[str]) -> None:
    theirs, ours = LoraConfig(**settings), Targets.of(TargetSettings(**settings))
    for module in modules:
        chosen = check_target_module_exists(theirs, module)
        assert (ours.left_out_by(module) is None) is bool(chosen), (settings, module)


@pytest.mark.parametrize("target", [None, [], "all-linear", "All-Linear", r".*(q|v)_proj", "(a+)+$"])
def test_what_the_configuration_does_not_spell_out_lets_all_through(target):
    assert Targets.of(TargetSettings(target_modules=target)).left_out_by("model.layers.0.mlp.up_proj") is None


def changed(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def renamed(folder: Path, before: str, after: str) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({name.replace(before, after): tensor for name, tensor in load_file(file).items()}, file)


@pytest.mark.parametrize(
    ("settings", "setting", "module"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, "target_modules", "model.layers.0.mlp.up_proj"),
        ({"target_modules": r".*\.self_attn\..*"}, "target_modules", "model.layers.0.mlp.up_proj"),
        ({"exclude_modules": ["1.self_attn.q_proj"]}, "exclude_modules", "model.layers.1.self_attn.q_proj"),
        ({"layers_to_transform": [0]}, "layers_to_transform", "model.layers.1.mlp.up_proj"),
        ({"modules_to_save": ["mlp"]}, "modules_to_save", "model.layers.0.mlp.up_proj"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_factors_that_peft_would_not_load_are_refused(settings, setting, module, llama, tmp_path):
    adapter = saved(trained(llama, PLAIN), tmp_path)
    changed(adapter, **settings)
    with pytest.raises(CheckpointError, match=rf"by {setting} the adapter has no {module}, so peft would not load"):
        open_checkpoint(adapter)


def test_names_without_pefts_prefix_are_refused(llama, tmp_path):
    adapter = saved(trained(llama, PLAIN), tmp_path)
    renamed(adapter, "base_model.model.", "")
    with pytest.raises(CheckpointError, match=r"does not begin with base_model\.model, so peft would not load"):
        open_checkpoint(adapter)


def test_saved_modules_that_the_file_lacks_are_refused(llama, tmp_path):
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head", "norm"])
    adapter = saved(trained(llama, config), tmp_path / "adapter")
    base = open_checkpoint(saved(llama, tmp_path / "base"))
    # Heads that the base does not have are no loss: peft names "classifier" and "score" for every classifier.
    changed(adapter, modules_to_save=["lm_head", "norm", "score"])
    merge_adapter(base, open_checkpoint(adapter))
    renamed(adapter, ".layers.1.input_layernorm", ".layers.1.other")
    with pytest.raises(CheckpointError, match=r"means model\.layers\.1\.input_layernorm, of which the file holds"):
        merge_adapter(base, open_checkpoint(adapter))
    with pytest.raises(KeyError, match="input_layernorm"):
        merged_by_peft(llama, adapter)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
        {"target_modules": r".*layers\.[01]\.self_attn\.(q|v)_proj"},
        {"target_modules": ["up_proj"], "exclude_modules": r".*\.0\..*"},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "mlp"]},
    ],
    ids=str,
)
def test_what_peft_itself_saves_is_read(settings, llama, tmp_path):
    adapter = saved(trained(llama, LoraConfig(r=4, **settings)), tmp_path / "adapter")
    merged = merge_adapter(open_checkpoint(saved(llama, tmp_path / "base")), open_checkpoint(adapter))
    assert_same(merged, merged_by_peft(llama, adapter))
