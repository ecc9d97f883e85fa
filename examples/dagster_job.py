"""An asset check that fails while the gate is closed, and blocks what depends on the checkpoint."""

import subprocess

from dagster import AssetCheckResult, Definitions, asset_check


@asset_check(asset="checkpoint", blocking=True)
def gate() -> AssetCheckResult:
    """Judge runs/latest against base."""
    command = ["ckptaudit", "audit", "--base=base", "--tuned=runs/latest", "--audit-json=audit.json"]
    return AssetCheckResult(passed=subprocess.run(command, check=False).returncode == 0)


definitions = Definitions(asset_checks=[gate])
