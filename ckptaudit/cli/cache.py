"""`ckptaudit cache`: where the factors of base checkpoints are kept, how much there is, and away with it."""

from __future__ import annotations

import argparse

from ckptaudit.errors import printable
from ckptaudit.measurement.base_cache import Contents, open_cache
from ckptaudit.sizes import format_size

HELP = "show or clear what is kept about base checkpoints"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and where."""
    parser.add_argument("action", choices=["info", "clear"], help="show folder and size; or remove all")
    parser.add_argument("--audit-cache", metavar="DIR", help="the folder; default: the one that the gate uses")


def run(options: argparse.Namespace) -> int:
    """Print what there is, or what went. Raises CacheError."""
    cache = open_cache(options.audit_cache)
    if cache is None:
        print("no cache: it is off, or there is no folder for one")
    elif options.action == "clear":
        print(f"removed {_counted(cache.clear())} from {printable(cache.folder)}")
    else:
        print(f"folder  {printable(cache.folder)}")
        print(f"holds   {_counted(cache.contents())}")
        print(f"limit   {format_size(cache.limit)}")
    return 0


def _counted(contents: Contents) -> str:
    return f"{contents.entries:,} {'entry' if contents.entries == 1 else 'entries'}, {format_size(contents.size)}"
