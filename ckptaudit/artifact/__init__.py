"""The files beside the tensors: what a release's folder says, and where it contradicts itself or its base.

Pure reading, without transformers and without running anything: `open_artifact` reads both sides into frozen
facts, and each quantity is one pure function of them to findings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ckptaudit.artifact.chat_templates import chat_template_changes
from ckptaudit.artifact.config_changes import config_changes
from ckptaudit.artifact.config_shapes import config_shape_faults
from ckptaudit.artifact.dtypes import dtype_faults, export_dtypes, stray_dtypes
from ckptaudit.artifact.facts import ArtifactEvidence, Side
from ckptaudit.artifact.folder import (
    conflicting_weight_files,
    document_faults,
    leftover_adapters,
    leftover_training_state,
    missing_files,
    unindexed_shards,
    unmerged_factors,
    weights_only,
)
from ckptaudit.artifact.generation import generation_config_changes
from ckptaudit.artifact.opening import open_artifact
from ckptaudit.artifact.ranks import rank_disagreements
from ckptaudit.artifact.special_tokens import special_token_changes
from ckptaudit.artifact.ties import tie_faults
from ckptaudit.artifact.tokenizer import tokenizer_changes
from ckptaudit.artifact.vocabulary import vocabulary_faults
from ckptaudit.artifact.wrapped_names import wrapped_names
from ckptaudit.findings import Finding

__all__ = ["QUANTITIES", "ArtifactEvidence", "Side", "open_artifact"]

QUANTITIES: Mapping[str, Callable[[ArtifactEvidence], tuple[Finding, ...]]] = {
    function.__name__: function
    for function in (
        document_faults,
        missing_files,
        weights_only,
        tie_faults,
        config_shape_faults,
        config_changes,
        vocabulary_faults,
        dtype_faults,
        stray_dtypes,
        export_dtypes,
        conflicting_weight_files,
        unindexed_shards,
        leftover_adapters,
        leftover_training_state,
        unmerged_factors,
        wrapped_names,
        tokenizer_changes,
        special_token_changes,
        chat_template_changes,
        generation_config_changes,
        rank_disagreements,
    )
}
"""Every metric of the artifact by name; each counts its findings."""
