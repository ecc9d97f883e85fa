"""The ways a request can be unanswerable. A broken claim is not among them: that is a verdict."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import ClassVar

# Printable by their Unicode category, and yet drawn as nothing: fillers, joiners, variation selectors.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)

_LONG = re.compile(r"\S{401,}")
"""A path, an id or a pattern of which nobody reads more than the ends."""

Spelling = Callable[[str], str]
"""How a front end writes a parameter: `memory` is `--audit-memory` for pytest and `memory=` in Python."""

_PARAMETER = re.compile("‹([a-z_]{1,40})›")


def parameter(name: str) -> str:
    """A parameter in the text of an error or a verdict, which the front end then writes as its users do."""
    return f"‹{name}›"


def spelled(text: str, spelling: Spelling) -> str:
    """The text with every parameter written as a front end's users know it."""
    return _PARAMETER.sub(lambda found: spelling(found[1]), text)


def python_spelling(name: str) -> str:
    """A parameter as a keyword argument."""
    return f"{name}="


class CkptAuditError(Exception):
    """Base of every error this package raises; its text is one sentence for the user.

    The text names parameters by `parameter`, never by one front end's options. `page` is the page of the
    documentation that explains more.
    """

    page: ClassVar[str] = ""

    def __str__(self) -> str:
        return self.spelled(python_spelling)

    @property
    def sentence(self) -> str:
        """The bare text, its parameters as `parameter` wrote them: for a record that a front end spells later."""
        return super().__str__()

    def spelled(self, spelling: Spelling) -> str:
        """The text for one front end, in one line that hides nothing, ending with the page that explains more."""
        text = _LONG.sub(_shortened, printable(spelled(self.sentence, spelling)))
        return f"{text} See {self.page}." if self.page else text


class CheckpointError(CkptAuditError):
    """A checkpoint cannot be read: missing, truncated, malformed, or of no known format."""

    page = "docs/formats.md"


class PairingError(CkptAuditError):
    """Base and tuned share nothing that can be compared."""

    page = "docs/architectures.md"


class MeasurementError(CkptAuditError):
    """A quantity was asked for that cannot be computed, or on a device that is not there."""


class CheckDefinitionError(CkptAuditError):
    """A check file is badly written; the text names the file, the key and what is allowed."""

    page = "docs/writing-checks.md"


class ReportError(CkptAuditError):
    """The file of an earlier audit cannot be read, or a report cannot be written."""

    page = "docs/reports.md"


class BaselineError(CkptAuditError):
    """What a new run is to be compared with cannot be: no audit, or one of another base."""

    page = "docs/many-runs.md"


class CalibrationError(CkptAuditError):
    """No limit can be learned: a trusted run fails what no limit moves, or lies past a published separation."""

    page = "docs/calibration.md"


class ConfigError(CkptAuditError):
    """The configuration is badly written, or names what is not there; the text names file and key."""

    page = "docs/configuration.md"


class CacheError(CkptAuditError):
    """The cache was asked for in a place that cannot be a folder, or with a limit that is no size."""

    page = "docs/cache.md"


class CollectionError(CkptAuditError):
    """Gradients cannot be collected: no such model or probes, or nothing to score."""

    page = "docs/claims.md"


class PromotionError(CkptAuditError):
    """A release cannot be promoted: the gate is closed, or the registry or webhook refuses."""

    page = "docs/ci.md"


class AttestationError(CkptAuditError):
    """Evidence cannot be signed or read: no key, no envelope, or a folder that is not what was audited."""

    page = "docs/evidence.md"


class ProbeError(CollectionError):
    """A file of probes is badly written, or a probe cannot be put to the model; the text names line and key."""

    page = "docs/probes.md"


class RolloutError(CkptAuditError):
    """What a trainer logged cannot be read: no known format, a damaged file, or columns that contradict."""

    page = "docs/rollouts.md"


class ShardError(CkptAuditError):
    """A plan of what is to be measured, or a share of it, cannot be used: damaged, foreign, or of changed files."""

    page = "docs/scale.md"


def ended(text: str) -> str:
    """A sentence with its full stop, unless it ends in a question."""
    return text if text.endswith(("?", ".")) else f"{text}."


def printable(text: object) -> str:
    """The text with everything escaped that is not seen as it is, so that a hostile name cannot drive a terminal.

    Control characters, directional and zero-width ones, line separators, lone surrogates, blanks other than the
    space, and letters that are drawn as nothing. Tensor names and paths come from files that somebody else wrote;
    a newline or an escape sequence in one would otherwise forge lines of the report.
    """
    clean = str(text)
    if not clean.isprintable():
        clean = "".join(c if c.isprintable() else _escaped(c) for c in clean)
    return _UNSEEN.sub(lambda found: _escaped(found[0]), clean)


def _shortened(found: re.Match[str]) -> str:
    word = found[0]
    return f"{word[:150]}...{word[-150:]} ({len(word):,} characters)"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def nearest(name: str, known: Iterable[str]) -> str:
    """A phrase naming what was probably meant, or all that is known."""
    names = list(known)
    close = get_close_matches(name, names, n=3, cutoff=0.4)
    return f"did you mean {', '.join(close)}?" if close else f"known are {', '.join(names)}."
