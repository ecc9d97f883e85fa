"""How the users of the program write the parameters that library errors name."""

from __future__ import annotations

OPTIONS = {
    ("collect", "probes"): "--data",
    ("cache", "cache"): "--audit-cache",
    ("probes", "probes"): "FILE",
    ("attest", "digest"): "--audit-digest",
}
"""Parameters that a command has under another name than the library."""

AS_THE_GATE = ("plan", "measure", "collect-parts")
"""Commands that take the gate's options, or a plan that was made with them."""


def option(command: str, name: str) -> str:
    """How the users of a command write a parameter: `--device`."""
    if command in AS_THE_GATE:
        return f"--{name}" if name in ("base", "tuned") else f"--audit-{name.replace('_', '-')}"
    return OPTIONS.get((command, name), f"--{name.replace('_', '-')}")
