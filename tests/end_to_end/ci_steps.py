"""The steps of a CI service, performed as its runner does: values in the environment, outputs in a file."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def composite(
    action: Mapping[str, Any], inputs: Mapping[str, str], folder: Path, environment: Mapping[str, str]
) -> tuple[int, dict[str, dict[str, str]]]:
    """Perform each `run:` of a GitHub action; the first exit code that is not 0, and the steps' outputs by id."""
    given = {name: str(facts.get("default", "")) for name, facts in action["inputs"].items()} | dict(inputs)
    outputs: dict[str, dict[str, str]] = {}
    for step in action["runs"]["steps"]:
        if "run" not in step:
            continue
        assert step["shell"] == "bash", "a composite action names its shell"
        assert "${{" not in step["run"], "values come by the environment, so that none can write commands"
        told = folder / ".outputs"
        told.write_text("")
        own = {name: _value(text, given, outputs) for name, text in step.get("env", {}).items()}
        run = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        where = os.environ | dict(environment) | own | {"GITHUB_OUTPUT": str(told)}
        ended = subprocess.run(run, cwd=folder, env=where, check=False)
        outputs[step.get("id", "")] = dict(line.split("=", 1) for line in told.read_text().splitlines())
        if ended.returncode:
            return ended.returncode, outputs
    return 0, outputs


def _value(text: str, inputs: Mapping[str, str], outputs: Mapping[str, Mapping[str, str]]) -> str:
    def known(found: re.Match[str]) -> str:
        kind, _, rest = found[1].strip().partition(".")
        if kind == "inputs":
            return inputs[rest]
        step, _, name = rest.partition(".outputs.")
        return outputs[step][name]

    return re.sub(r"\$\{\{(.*?)\}\}", known, text)


def component(text: str, inputs: Mapping[str, str]) -> str:
    """A GitLab component with its inputs filled in: the second of its two documents."""
    return re.sub(r"\$\[\[ inputs\.([\w-]+) \]\]", lambda found: inputs[found[1]], text.partition("\n---\n")[2])
