"""The extras that the package offers: what each enables, what it needs, and what of that is here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

ENABLES = {
    "attest": "attest, verify: signed evidence of an audit",
    "behavior": "profile behavior: the model is run on probes",
    "collect": "collect, probes: models that are run on text",
    "completion": "completion: words that a shell completes",
    "hub": "models by their id on the Hugging Face hub",
    "mlflow": "report --mlflow, promote mlflow",
    "pandas": "AuditResult.to_pandas",
    "parquet": "--audit-parquet; measure, collect PLAN: shards of an audit",
    "plot": "--audit-plot",
    "ray": "--audit-workers ray: actors of a cluster",
    "polars": "AuditResult.to_polars",
    "remote": "checkpoints in S3, GCS and Azure",
    "rollouts": "--audit-rollouts, rollouts: what a trainer logged",
    "tensorboard": "report --tensorboard",
    "trackio": "report --trackio",
    "train": "the fixtures' recipe",
    "wandb": "report --wandb",
    "xdist": "-n: several processes",
}
"""In a few words; an extra that has none here is shown by its name alone."""

FOR_DEVELOPMENT = ("dev", "core-tests")
_REQUIREMENT = re.compile(r"""([A-Za-z0-9._-]+).*extra == ['"]([\w-]+)['"]""")


@dataclass(frozen=True)
class Extra:
    """One extra: the packages that it brings by name, with the version that is here, or ""."""

    name: str
    packages: dict[str, str]

    @property
    def missing(self) -> list[str]:
        """Packages that are not here."""
        return [name for name, found in self.packages.items() if not found]


def extras() -> tuple[Extra, ...]:
    """Those of the installed package, by name; the ones for its own development left out."""
    found: dict[str, dict[str, str]] = {}
    for package, extra in _requirements():
        if extra not in FOR_DEVELOPMENT:
            found.setdefault(extra, {})[package] = installed(package)
    return tuple(Extra(name, packages) for name, packages in sorted(found.items()))


def installed(package: str) -> str:
    """The version of a package that is here, or ""."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def bringing(module: str, command: str = "") -> str:
    """The extra that brings a module that is not there, or ""; the one of the command's name before others."""
    wanted = module.partition(".")[0].replace("_", "-").lower()
    found = [
        extra
        for package, extra in _requirements()
        if package.lower().replace("_", "-") in (wanted, f"{wanted}-skinny") and extra not in FOR_DEVELOPMENT
    ]
    return command if command in found else next(iter(found), "")


def _requirements() -> Iterator[tuple[str, str]]:
    try:
        lines = requires("ckptaudit") or ()
    except PackageNotFoundError:
        return
    for line in lines:
        if match := _REQUIREMENT.match(line):
            yield match[1], match[2]
