"""The chat template against the base's: the text around a prompt that the model was trained on."""

from __future__ import annotations

from collections.abc import Iterator

from ckptaudit.artifact.facts import ArtifactEvidence, Side
from ckptaudit.artifact.wording import capped, place, shown
from ckptaudit.findings import Finding

MEND = "copy the base's template, or release the one that training used and say so"


def chat_template_changes(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """Chat templates that differ from the base's, are missing, or were added. Line ends do not count.

    Nothing to compare where the tuned folder has no tokenizer at all.
    """
    base, tuned = evidence.base, evidence.tuned
    has_tokenizer = tuned.tokenizer.is_there or tuned.has("tokenizer_config.json") or bool(tuned.templates)
    has_base = base.tokenizer.is_there or base.has("tokenizer_config.json") or bool(base.templates)
    return capped(_changes(base, tuned)) if has_tokenizer and has_base else ()


def _changes(base: Side, tuned: Side) -> Iterator[Finding]:
    for name in sorted({*base.templates, *tuned.templates}):
        before, after = (side.templates.get(name) for side in (base, tuned))
        if before is None or after is None or _plain(before) != _plain(after):
            fault = "chat template added" if before is None else "chat template missing" if after is None else ""
            yield Finding(
                place(tuned.label(_file(base, tuned, name)), _key(name)),
                fault or "chat template differs from the base",
                f"the base has {_said(before)}, the tuned model {_said(after)}; {MEND}",
            )


def _plain(template: str) -> str:
    return "\n".join(line.rstrip("\r") for line in template.split("\n")).strip()


def _file(base: Side, tuned: Side, name: str) -> str:
    return tuned.template_files.get(name) or base.template_files.get(name, "tokenizer_config.json")


def _key(name: str) -> str:
    return "chat_template" if name == "default" else f"chat_template.{name}"


def _said(template: str | None) -> str:
    return "none" if template is None else f"{len(template):,} characters, {shown(template[:60])}"
