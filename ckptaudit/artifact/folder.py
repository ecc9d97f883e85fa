"""The folder of the release: more weights than one model, leftovers of training, files missing or unreadable."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ckptaudit.artifact.facts import RELEASES, ArtifactEvidence, IndexFact, Side
from ckptaudit.artifact.generation import FILE, says_more
from ckptaudit.artifact.wording import capped, listed, place, shown
from ckptaudit.findings import Finding

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
OPTIMIZER_FILE = re.compile(
    r"optimizer.*\.(pt|bin|pth|safetensors)|optim_world_size_\d+_rank_\d+\.pt|(bf16_)?zero_pp_rank_.*_optim_states\.pt"
    r"|.*_optim_states\.pt"
)
OPTIMIZER_FOLDER = re.compile(r"optimizer(_\d+)?|global_step\d+")
STEP_FOLDER = re.compile(r"(checkpoint-|global_step_|step[-_]|iter_)\d{1,18}")
TRAINERS = ("trainer_state.json", "scheduler.pt")
OPTIMIZER_TENSOR = re.compile(
    r"(^|\.)(exp_avg|exp_avg_sq|max_exp_avg_sq|momentum_buffer|optimizer|optim|optimizer_state)(\.|$)"
)
FACTOR = re.compile(r"\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(\.|$)")
WRAPPED = re.compile(r"\.(base_layer|original_module|modules_to_save)(\.|$)")
LONGEST = 1000


def conflicting_weight_files(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """A second set of weights in the tuned model's folder that is not the one that was judged."""
    return tuple(
        Finding(
            place(other.file),
            "two sets of weights in one folder",
            f"this audit judged other files, and here {other.difference}"
            + ("; transformers loads this file first" if other.loads_first else "; other tools load this one")
            + "; remove the set that is not meant",
        )
        for other in evidence.tuned.other_weights
    )


def unindexed_shards(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """Shards that no index names, shards that an index names and that are absent, tensors that it passes over."""
    return capped(finding for fact in evidence.tuned.indexes for finding in _index(fact))


def leftover_adapters(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """Files of an adapter beside full weights: transformers would put the adapter on top of them once more."""
    tuned = evidence.tuned
    left = [name for name in ADAPTER_FILES if name in tuned.entries]
    if not left or tuned.is_adapter:
        return ()
    detail = (
        f"{listed(left)} beside full weights: transformers loads the adapter on top of them, this audit does not; "
        "remove it if it is merged, or release the adapter alone"
    )
    return (Finding(place(tuned.label(left[0])), "adapter beside the weights", detail),)


def leftover_training_state(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """Optimizer states among the tensors or beside them, and saves of other steps below the folder.

    A trainer's own save (trainer_state.json, rank files, distributed checkpoints) holds its states by design.
    """
    tuned = evidence.tuned
    return capped([*_optimizer_tensors(tuned), *_optimizer_files(tuned), *_steps(tuned)])


def unmerged_factors(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """LoRA factors and wrapped modules among the tensors of what should be full weights."""
    tuned = evidence.tuned
    if tuned.is_adapter:
        return ()
    base = {t.name for t in evidence.base.tensors}
    names = [t.name for t in tuned.tensors if t.name not in base]
    kinds = (
        (FACTOR, "LoRA factors are not merged", "merge them first (peft: merge_and_unload)"),
        (WRAPPED, "modules are still wrapped by the adapter", "merge and unload the adapter before saving"),
    )
    found = ((what, mend, [n for n in names if pattern.search(n[-LONGEST:])]) for pattern, what, mend in kinds)
    return tuple(
        Finding(own[0], what, f"{len(own):,} tensors, {listed(own)}; {mend}") for what, mend, own in found if own
    )


def missing_files(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """Files that the base has and the tuned folder lacks, though it has others of their kind.

    A folder of nothing but weights and configuration is `weights_only`; an adapter's folder may leave everything to
    its base. Generation settings that say no more than config.json are none.
    """
    base, tuned = evidence.base, evidence.tuned
    if tuned.is_adapter or not tuned.entries or _is_weights_only(base, tuned):
        return ()
    lost = (
        (file, mend) for file, mend in _missing(base, tuned) if file != tuned.label(FILE) or says_more(evidence)
    )
    return tuple(_missing_finding(file, mend) for file, mend in lost)


def weights_only(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """What a folder of nothing but weights and configuration leaves to its base, as saves during training do.

    Not wrong in itself: but tokenizer, stop tokens and templates were not judged, and a release needs them.
    """
    base, tuned = evidence.base, evidence.tuned
    if tuned.is_adapter or not tuned.entries or not _is_weights_only(base, tuned):
        return ()
    return tuple(_missing_finding(file, mend) for file, mend in _missing(base, tuned))


def document_faults(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """Files of the tuned folder that cannot be read, repeat a key, or hold numbers that JSON does not know."""
    return capped(_document_faults(evidence.tuned))


def _index(fact: IndexFact) -> Iterator[Finding]:
    for shard in fact.absent:
        at = place(shard) if shard else place(fact.file, "weight_map")
        detail = f"{place(fact.file)} names {shown(shard)}; copy that file, or save the model again"
        yield Finding(at, "shard is missing", detail)
    for shard in fact.unnamed:
        detail = (
            "no index names it, and engines that load every file of the folder take it; remove it, or save again"
        )
        yield Finding(place(shard), "weights that no index names", detail)
    if fact.unlisted:
        names = [name for name, _ in fact.unlisted]
        shards = sorted({shard for _, shard in fact.unlisted})
        detail = (
            f"{len(names):,} tensors of {listed(shards)} are not listed there ({listed(names)}), and loading whole "
            "shards takes them; save the model again"
        )
        yield Finding(place(fact.file, "weight_map"), "tensors that the index does not list", detail)


def _optimizer_tensors(tuned: Side) -> Iterator[Finding]:
    names = [t.name for t in tuned.tensors if OPTIMIZER_TENSOR.search(t.name[-LONGEST:])]
    if names:
        detail = f"{len(names):,} tensors, {listed(names)}; save the model's state dict alone"
        yield Finding(names[0], "optimizer state among the weights", detail)


def _optimizer_files(tuned: Side) -> Iterator[Finding]:
    if tuned.format not in RELEASES or any(name in tuned.entries for name in TRAINERS):
        return
    for name, entry in tuned.entries.items():
        pattern = OPTIMIZER_FOLDER if entry.kind == "folder" else OPTIMIZER_FILE
        if pattern.fullmatch(name):
            detail = (
                "the release carries the optimizer's state; remove it (it tells of the training data, and is large)"
            )
            yield Finding(place(tuned.label(name)), "optimizer state beside the weights", detail)


def _steps(tuned: Side) -> Iterator[Finding]:
    steps = [n for n, e in tuned.entries.items() if e.kind == "folder" and STEP_FOLDER.fullmatch(n)]
    if steps and tuned.format in RELEASES:
        detail = f"{listed(steps)} lie below the weights that were judged; release one of them, alone"
        yield Finding(place(tuned.label(steps[0])), "saves of several steps in one folder", detail)


def _is_weights_only(base: Side, tuned: Side) -> bool:
    """Neither tokenizer nor generation settings nor template; of a release's format, with a configuration."""
    is_save = tuned.format not in RELEASES
    beside = [n for n in {**tuned.documents, **tuned.texts} if n not in ("config.json", "adapter_config.json")]
    return not beside and not tuned.tokenizer.is_there and (is_save or "config.json" in tuned.documents)


def _missing_finding(file: str, mend: str) -> Finding:
    return Finding(place(file), "missing beside the weights", f"the base has it, the tuned folder has not; {mend}")


def _missing(base: Side, tuned: Side) -> Iterator[tuple[str, str]]:
    if base.has_config and not tuned.has_config and "config.json" not in tuned.documents:
        yield tuned.label("config.json"), "without it nothing builds the model: copy it and check it"
    if base.tokenizer.is_there and not tuned.tokenizer.is_there:
        file = base.tokenizer.file or next(iter(base.tokenizer.digests))
        yield tuned.label(file), "save the tokenizer into the folder (tokenizer.save_pretrained)"
    elif _lacks(base, tuned, "tokenizer_config.json") and tuned.tokenizer.is_there:
        yield tuned.label("tokenizer_config.json"), "save the tokenizer again: special tokens stand there"
    if _lacks(base, tuned, FILE):
        yield tuned.label(FILE), "copy it: stop tokens and sampling defaults stand there"


def _lacks(base: Side, tuned: Side, name: str) -> bool:
    return base.has(name) and name not in tuned.documents


def _document_faults(tuned: Side) -> Iterator[Finding]:
    for name, text in tuned.texts.items():
        if text.problem:
            yield Finding(place(tuned.label(name)), "cannot be read", f"{text.problem}; save it again")
    for name, document in tuned.documents.items():
        at = tuned.label(name)
        if document.problem:
            yield Finding(place(at), "cannot be read", f"{document.problem}; save or download it again")
        for key in document.repeated:
            detail = "readers take the last value, or the first; leave one of them"
            yield Finding(place(at, key), "key occurs twice", detail)
        for number in document.odd:
            yield Finding(
                place(at), "no JSON number", f"{number} is read by some tools only; write a finite number"
            )
