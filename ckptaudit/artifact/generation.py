"""generation_config.json against the base's: where generation stops, and how it samples by default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ckptaudit.artifact.config_defaults import class_defaults
from ckptaudit.artifact.config_keys import is_neutral
from ckptaudit.artifact.facts import ArtifactEvidence, Side, text_view
from ckptaudit.artifact.special_tokens import IDS, ids_of, is_alignment
from ckptaudit.artifact.wording import capped, place, shown
from ckptaudit.findings import Finding

FILE = "generation_config.json"
DEFAULTS: Mapping[str, object] = {
    "temperature": 1.0, "top_p": 1.0, "top_k": 50, "typical_p": 1.0, "repetition_penalty": 1.0, "num_beams": 1,
    "length_penalty": 1.0, "do_sample": False, "num_return_sequences": 1, "max_length": 20, "num_beam_groups": 1,
    "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "diversity_penalty": 0.0, "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "min_length": 0, "early_stopping": False,
    "renormalize_logits": False, "remove_invalid_values": False, "guidance_scale": 1.0, "min_p": 0.0,
}  # fmt: skip
"""What an absent key means to generation: the documented defaults of transformers."""

HARMLESS = frozenset({
    "transformers_version", "_from_model_config", "use_cache", "output_attentions", "output_hidden_states",
    "output_scores", "output_logits", "return_dict_in_generate", "cache_implementation", "cache_config",
    "disable_compile", "trust_remote_code", "is_assistant", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "prompt_lookup_num_tokens",
    "max_new_tokens", "max_length", "low_memory", "token_healing", "return_legacy_cache", "use_model_defaults",
    "compile_config", "continuous_batching_config", "target_lookbehind", "assistant_lookbehind",
})  # fmt: skip
"""Records of origin, speed, form of the output, and lengths, which every caller sets."""


def generation_config_changes(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """Stop tokens and sampling defaults that are not the base's.

    A base without the file generates by config.json's ids and the library's defaults, and is compared as that.
    Ids that trainers copy from the unchanged tokenizer are no change. Nothing to compare where the tuned folder
    has no such file.
    """
    if not evidence.tuned.has(FILE):
        return ()
    return capped(_changes(evidence))


def says_more(evidence: ArtifactEvidence) -> bool:
    """Whether the base's file states anything that the tuned config.json and the library's defaults do not.

    No stop token of the base may be lost on the way, not even one that the tokenizer does not name.
    """
    stated, implied = evidence.base.document(FILE), _implied(evidence.tuned) or {}
    kept = stated.keys() - HARMLESS
    lost = any(set(ids_of(stated[key])) - set(ids_of(implied.get(key))) for key in kept if key in IDS)
    return lost or any(_differs(evidence, key, stated[key], implied.get(key)) for key in kept)


def _changes(evidence: ArtifactEvidence) -> Iterator[Finding]:
    base, tuned = evidence.base, evidence.tuned
    after = tuned.document(FILE)
    before = base.document(FILE) if base.has(FILE) else _implied(base)
    if before is None:
        return
    for key in {**before, **after}:
        one, other = before.get(key), after.get(key)
        if key not in HARMLESS and _differs(evidence, key, one, other):
            detail = f"the base says {_said(key, one)}, the tuned model {_said(key, other)}; copy the base's value"
            yield Finding(place(tuned.label(FILE), key), "generation config differs from the base", detail)


def _implied(side: Side) -> Mapping[str, object] | None:
    view = {**(class_defaults(side.config) or {}), **text_view(side.config)}
    return {key: view[key] for key in IDS if key in view} if side.has_config else None


def _differs(evidence: ArtifactEvidence, key: str, before: object, after: object) -> bool:
    if key in IDS:
        one, other = set(ids_of(before)), set(ids_of(after))
        is_added_padding = key == "pad_token_id" and not one
        return one != other and not is_added_padding and not is_alignment(evidence, key, before, after)
    one_value, other_value = _effective(key, before), _effective(key, after)
    return one_value != other_value and not (is_neutral(one_value) and is_neutral(other_value))


def _effective(key: str, value: object) -> object:
    return DEFAULTS.get(key) if value is None else value


def _said(key: str, value: object) -> str:
    return (
        shown(value) if value is not None or key not in DEFAULTS else f"nothing (which is {shown(DEFAULTS[key])})"
    )
