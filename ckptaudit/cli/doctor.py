"""`ckptaudit doctor`: what this machine and this installation can do, and what stands in the way."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from platform import platform, python_version

from ckptaudit import __version__
from ckptaudit.cli.extras import ENABLES, Extra, extras, installed
from ckptaudit.cli.output import show
from ckptaudit.errors import CacheError, ConfigError
from ckptaudit.sizes import format_size

HELP = "show versions, device, memory, threads, cache, extras, and what is amiss"
IN_THE_WAY = 1
"""Exit code where something is amiss that an audit would stumble over."""

PACKAGES = ("torch", "numpy", "scipy", "safetensors", "pytest")


@dataclass(frozen=True)
class Line:
    """One line: what about, what is so, and what to do where that is amiss."""

    name: str
    said: str
    mend: str = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(options: argparse.Namespace) -> int:
    """Print it; 1 where something is amiss."""
    lines = [*_installation(), *_machine(), _cache(), _configuration()]
    for line in lines:
        show(f"{line.name:15}{line.said}" + (f"  <- {line.mend}" if line.mend else ""))
    print("\nextras")
    for extra in extras():
        show(_extra(extra))
    amiss = [line for line in lines if line.mend]
    print(f"\n{len(amiss)} amiss: {', '.join(line.name for line in amiss)}" if amiss else "\nnothing amiss")
    return IN_THE_WAY if amiss else 0


def _installation() -> Iterator[Line]:
    import ckptaudit

    yield Line("ckptaudit", f"{__version__}, pure Python, in {Path(ckptaudit.__file__).parent}")
    yield Line("python", f"{python_version()} on {platform()}, {sys.executable}")
    yield Line("packages", ", ".join(f"{name} {installed(name) or 'missing'}" for name in PACKAGES))
    plugin = any(entry.value == "ckptaudit.plugin" for entry in entry_points(group="pytest11"))
    yield Line(
        "pytest plugin", "registered" if plugin else "not registered", "" if plugin else "install the package"
    )
    # Without it the gate still works, but for settings of pytest that lie beside the weights: see SECURITY.md.
    started = find_spec("ckptaudit_startup") is not None
    mend = "" if started else "install the wheel, or write --base=PATH with the equals sign"
    yield Line("start-up file", "in force" if started else "not installed", mend)


def _machine() -> Iterator[Line]:
    yield _device()
    yield Line("memory", _memory())
    mine = f", {len(os.sched_getaffinity(0))} for this process" if hasattr(os, "sched_getaffinity") else ""
    yield Line("threads", f"{os.cpu_count()} cores{mine}{_torch_threads()}")


def _device() -> Line:
    """Whether torch loads at all is asked by loading it: a build for another machine is installed and does not."""
    try:
        import torch
    except Exception as error:
        said = str(error).partition("\n")[0][:200]
        return Line("device", f"torch does not load ({type(error).__name__}: {said})", "install torch again")
    return Line("device", ", ".join(_devices(torch.cuda.device_count())))


def _torch_threads() -> str:
    torch = sys.modules.get("torch")
    return "" if torch is None else f", torch takes {torch.get_num_threads()}"


def _devices(count: int) -> Iterator[str]:
    import torch

    if not count:
        yield "cpu" if torch.version.cuda is None else "cpu (this torch knows CUDA, and finds no device)"
    for number in range(count):
        facts = torch.cuda.get_device_properties(number)
        yield f"cuda:{number} {facts.name}, {format_size(facts.total_memory)}"


def _memory() -> str:
    """Of the machine; a container may have less."""
    page = os.sysconf("SC_PAGE_SIZE")
    said = format_size(page * os.sysconf("SC_PHYS_PAGES"))
    free = next((line for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")), "")
    limit = next(iter(_lines("/sys/fs/cgroup/memory.max")), "max")
    said += f", {format_size(int(free.split()[1]) * 1024)} available" if free else ""
    return said + (f", this container may have {format_size(int(limit))}" if limit.isdecimal() else "")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _cache() -> Line:
    try:
        from ckptaudit.measurement.cache_location import open_cache
    except Exception as error:
        return Line("cache", f"not looked at, as the package does not load ({type(error).__name__})")
    try:
        cache = open_cache(None)
        if cache is None:
            return Line("cache", "off, or no folder for it")
        held = cache.contents()
    except CacheError as error:
        return Line("cache", str(error), "name another by CKPTAUDIT_CACHE")
    return Line(
        "cache", f"{cache.folder}, {held.entries:,} entries, {format_size(held.size)} of {format_size(cache.limit)}"
    )


def _configuration() -> Line:
    try:
        from ckptaudit.judging.config import find_config, load_config
    except Exception as error:
        return Line("configuration", f"not looked at, as the package does not load ({type(error).__name__})")
    path = find_config([Path.cwd()])
    if path is None:
        return Line("configuration", "none here; `ckptaudit init` writes one")
    try:
        config = load_config(path)
    except ConfigError as error:
        return Line("configuration", error.sentence, "mend the file")
    moved = f"{len(config.overrides)} overrides, {len(config.waivers)} waivers"
    return Line("configuration", f"{path.name}: profile {config.profile or 'release'}, {moved}")


def _extra(extra: Extra) -> str:
    found = ", ".join(f"{name} {there}" for name, there in extra.packages.items() if there)
    lacking = f"pip install 'ckptaudit[{extra.name}]'" if extra.missing else found
    return f"  {extra.name:13}{'missing' if extra.missing else 'here':9}{ENABLES.get(extra.name, ''):50}  {lacking}"
