"""How the users of the program write the parameters that library errors name."""

from __future__ import annotations

OPTIONS = {
    ("collect", "probes"): "--data",
    ("cache", "cache"): "--audit-cache",
    ("probes", "probes"): "FILE",
    ("attest", "digest"): "--audit-digest",
}
"""Parameters that a command has under another name than the library."""


def option(command: str, name: str) -> str:
    """How the users of a command write a parameter: `--device`."""
    return OPTIONS.get((command, name), f"--{name.replace('_', '-')}")
