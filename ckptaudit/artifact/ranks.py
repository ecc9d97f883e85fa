"""Ranks that disagree: tensors that each rank stores complete, and the export beside the rank files."""

from __future__ import annotations

from ckptaudit.artifact.facts import ArtifactEvidence
from ckptaudit.artifact.wording import capped, place
from ckptaudit.findings import Finding


def rank_disagreements(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """Unsharded tensors that differ between ranks, and an export in `huggingface/` that is another model."""
    return capped(
        Finding(
            fact.tensor or place(fact.file),
            "ranks disagree" if fact.tensor else "export beside the rank files differs",
            f"{fact.file}: {fact.difference}; "
            + (
                "the ranks were not synchronised: merge with the trainer's own script from a save that is"
                if fact.tensor
                else "export again from these rank files, or remove it"
            ),
        )
        for fact in evidence.tuned.ranks
    )
