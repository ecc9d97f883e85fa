"""Fetch the charts' library into the package; for maintainers, and npm must be installed.

The manifest names package, version and npm's integrity hash; nothing that does not match is unpacked.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import tarfile
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

VENDOR = Path(__file__).parent.parent / "ckptaudit" / "report" / "html" / "vendor"


def main() -> None:
    """Download, verify, unpack the files that the manifest lists."""
    manifest = tomllib.loads((VENDOR / "manifest.toml").read_text(encoding="utf-8"))
    with TemporaryDirectory() as folder:
        name = f"{manifest['package']}@{manifest['version']}"
        subprocess.run(["npm", "pack", "--silent", name], cwd=folder, check=True)
        archive = next(Path(folder).glob("*.tgz"))
        _verify(archive.read_bytes(), manifest["integrity"])
        with tarfile.open(archive) as files:
            for entry in manifest["file"]:
                content = files.extractfile(f"package/{entry['path']}")
                assert content is not None, f"{name} has no {entry['path']}"
                data = content.read()
                assert hashlib.sha256(data).hexdigest() == entry["sha256"], f"{entry['path']} has another digest"
                (VENDOR / entry["as"]).write_bytes(data)


def _verify(archive: bytes, integrity: str) -> None:
    algorithm, _, expected = integrity.partition("-")
    found = base64.b64encode(hashlib.new(algorithm, archive).digest()).decode()
    if found != expected:
        raise SystemExit(f"the archive's {algorithm} is {found}, not {expected}; nothing was unpacked")


if __name__ == "__main__":
    main()
