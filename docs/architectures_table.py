"""Write the table of architectures.md: what of each family has a named group, at the size its config defaults to.

Models are built on torch's meta device by the installed transformers, so nothing is allocated or downloaded.
"""

from __future__ import annotations

import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ckptaudit.naming import Naming, primary_group

HERE = Path(__file__).parent
HEADING = "| model_type | parameters | names | attention and MLP | in a named group | largest roles in `other` |"
BLANK = "\n\n"
FAMILIES = {
    "AutoModelForCausalLM": (
        "llama", "qwen2", "qwen3", "qwen3_moe", "qwen3_next", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_text",
        "mistral", "ministral3", "mixtral", "phi3", "phimoe", "olmo2", "olmo3", "olmo_hybrid", "olmoe", "smollm3",
        "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4", "glm4", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa",
        "gpt_oss", "granite", "granitemoe", "granitemoehybrid", "nemotron_h", "mamba2", "bamba", "falcon_h1", "jamba",
        "zamba2", "kimi_linear", "bailing_hybrid", "minimax", "minimax_m2", "ernie4_5_moe", "hunyuan_v1_dense",
        "hunyuan_v1_moe", "hy_v3", "lfm2", "lfm2_moe", "longcat_flash", "exaone4", "seed_oss", "dots1", "solar_open",
        "cohere2", "cohere2_moe", "mimo_v2_flash", "afmoe", "rwkv", "gpt2", "gpt_neox", "falcon", "bloom",
    ),
    "AutoModelForImageTextToText": (
        "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "gemma3", "llama4", "mistral3", "internvl",
        "glm4v_moe", "kimi_k25",
    ),
    "AutoModelForSeq2SeqLM": ("t5", "t5gemma"),
    "AutoModelForSpeechSeq2Seq": ("whisper",),
    "AutoModelForMaskedLM": ("bert", "roberta", "modernbert"),
}  # fmt: skip


class Share(NamedTuple):
    """What a family's parameters are, and under how many sets of names it is stored."""

    parameters: int
    layouts: int
    groups: Counter[str]
    other: Counter[str]


def table() -> str:
    """The table, with a line for each family that could not be built."""
    rows, left_out = [], []
    for loader, kinds in FAMILIES.items():
        for kind in kinds:
            try:
                rows.append(_row(kind, _share(kind, loader)))
            except Exception as error:  # a family that this release of transformers does not build by default
                left_out.append(f"`{kind}` ({type(error).__name__})")
    made = f"Built by transformers {version('transformers')} from the defaults of each family's config class."
    missing = f" Not built that way: {', '.join(left_out)}." if left_out else ""
    return "\n".join([HEADING, "|---|---|---|---|---|---|", *sorted(rows), "", made + missing])


def _share(kind: str, loader: str) -> Share:
    import transformers
    from transformers.conversion_mapping import get_model_conversion_mapping

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = transformers.CONFIG_MAPPING[kind]()
        model: Any = getattr(transformers, loader).from_config(config)
    naming, groups, other = Naming(config.to_dict()), Counter[str](), Counter[str]()
    for name, tensor in model.named_parameters():
        role = naming.place(name).role
        group = primary_group(role, is_matrix=tensor.ndim > 1, floating=tensor.is_floating_point())
        groups[group] += tensor.numel()
        other[role] += tensor.numel() if group == "other" else 0
    renamed = bool(get_model_conversion_mapping(model, add_legacy=False))
    return Share(groups.total(), 1 + renamed, groups, +other)


def _row(kind: str, share: Share) -> str:
    core = share.groups["attention"] + share.groups["mlp"]
    named = share.parameters - share.groups["other"]
    largest = ", ".join(f"`{role}`" for role, _ in share.other.most_common(2)) or "none"
    names = "disk and memory differ" if share.layouts > 1 else "one"
    cells = (f"`{kind}`", _size(share.parameters), names, _percent(core, share), _percent(named, share), largest)
    return f"| {' | '.join(cells)} |"


def _size(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


def _percent(part: int, share: Share) -> str:
    """Rounded down, so that 100 % means all of it."""
    return f"{int(1000 * part / share.parameters) / 10:g} %"


def main() -> None:
    """Put the table where the page has it."""
    page = HERE / "architectures.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(HEADING)
    # The table and the line under it end at the second empty line.
    behind = rest.partition(BLANK)[2].partition(BLANK)[2]
    page.write_text(f"{before}{table()}{BLANK}{behind}", encoding="utf-8")


if __name__ == "__main__":
    main()
