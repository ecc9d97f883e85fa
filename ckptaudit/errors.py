"""The ways a request can be unanswerable. A broken claim is not among them: that is a verdict."""

from __future__ import annotations


class CkptAuditError(Exception):
    """Base of every error this package raises; its text is one sentence for the user."""


class CheckpointError(CkptAuditError):
    """A checkpoint cannot be read: missing, truncated, malformed, or of no known format."""


class PairingError(CkptAuditError):
    """Base and tuned share nothing that can be compared."""


class MeasurementError(CkptAuditError):
    """A quantity was asked for that cannot be computed, or on a device that is not there."""


class CheckDefinitionError(CkptAuditError):
    """A check file is badly written; the text names the file, the key and what is allowed."""


class ReportError(CkptAuditError):
    """The file of an earlier audit cannot be read, or a report cannot be written."""


class BaselineError(CkptAuditError):
    """What a new run is to be compared with cannot be: no audit, or one of another base."""


class CalibrationError(CkptAuditError):
    """No limit can be learned: a trusted run fails what no limit moves, or lies past a published separation."""


class ConfigError(CkptAuditError):
    """The configuration is badly written, or speaks of what is not there; the text names file and key."""


class CacheError(CkptAuditError):
    """The cache was asked for in a place that cannot be a folder, or with a limit that is no size."""


class CollectionError(CkptAuditError):
    """Gradients cannot be collected: no such model or probes, or nothing to score."""


def ended(text: str) -> str:
    """A sentence with its full stop, unless it ends in a question."""
    return text if text.endswith(("?", ".")) else f"{text}."


def printable(text: object) -> str:
    """The text with control characters escaped, so that a hostile name cannot drive a terminal.

    Tensor names and paths come from files that somebody else wrote; a newline or an escape
    sequence in one would otherwise forge lines of the report.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
