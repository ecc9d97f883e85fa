"""Builds the one compiled part, the C files of ckptaudit/linalg, where there is a C compiler."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = ("ckptaudit/linalg/fast/update.c", "ckptaudit/linalg/fast/tridiagonal.c")
LIBRARY = "ckptaudit/linalg/fast/_compiled.so"
OPTIONS = ("-O3", "-fopenmp-simd", "-fno-math-errno", "-Wno-psabi", "-fPIC", "-shared")
WAYS: tuple[tuple[str, ...], ...] = ((), ("-DONE_TARGET",))
"""A body for each generation of processors, or, where compiler or loader cannot tell these apart, one for all."""


class Compile(BuildHookInterface):
    """Compiles into the source tree, where editable installations find it, and adds the result to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        (root / LIBRARY).unlink(missing_ok=True)
        sources = [root / source for source in SOURCES]
        if not any(compiled(sources, root / LIBRARY, way) for way in WAYS):
            self.app.display_warning("no C compiler: sparse updates will be treated as dense")
            return
        build_data["artifacts"].append(LIBRARY)
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"


def compiled(sources: list[Path], library: Path, way: tuple[str, ...]) -> bool:
    """Whether the compiler made the library; it appears as a whole or not at all."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if not compiler or shutil.which(compiler[0]) is None:
        return False
    made = library.with_suffix(f".{os.getpid()}")
    try:
        command = [*compiler, *OPTIONS, *way, "-o", str(made), *map(str, sources), "-lm"]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return False
        made.replace(library)
        return True
    except OSError:
        return False
    finally:
        made.unlink(missing_ok=True)
