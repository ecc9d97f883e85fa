"""Names that a wrapper of the training left on the tensors: no model class looks for them."""

from __future__ import annotations

from collections import Counter

from ckptaudit.artifact.facts import RELEASES, ArtifactEvidence
from ckptaudit.artifact.wording import listed
from ckptaudit.findings import Finding
from ckptaudit.naming.rules import rules

IN_FRONT = ("module", "base_model", "pretrained_model", "actor", "actor_module", "policy")
"""What data-parallel wrappers, adapters and trainers put in front; the rules of names have what stands anywhere."""


def wrapped_names(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """Wrappers in the names of a release's tensors that the base's names lack.

    from_pretrained finds none of these tensors, warns, and begins with random weights. A trainer's own save is no
    release, and its names are for that trainer.
    """
    tuned = evidence.tuned
    if tuned.is_adapter or tuned.format not in RELEASES:
        return ()
    usual = {word for tensor in evidence.base.tensors for word in tensor.name.split(".")}
    left = {*rules().inner_wrappers, *IN_FRONT} - usual
    wrapped = {t.name: words for t in tuned.tensors if (words := [w for w in t.name.split(".") if w in left])}
    if not wrapped:
        return ()
    counts = Counter(word for words in wrapped.values() for word in dict.fromkeys(words))
    named = " and ".join(f'"{word}."' for word, _ in counts.most_common())
    detail = (
        f"{named} in the names of {len(wrapped):,} of {len(tuned.tensors):,} tensors ({listed(wrapped)}): "
        "loaders look for the names of the base and would begin with random weights; save the state of the "
        "unwrapped model (its save_pretrained), or take the words off"
    )
    return (Finding(next(iter(wrapped)), "names of a wrapped model", detail),)
