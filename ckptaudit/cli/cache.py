"""`ckptaudit cache`: where factors of base checkpoints are kept, how much there is; fill it, or clear it."""

from __future__ import annotations

import argparse

from ckptaudit.cli.output import show
from ckptaudit.cli.progress import measuring
from ckptaudit.errors import CacheError, parameter, printable
from ckptaudit.measurement.base_cache import OFF, Contents, FactorCache
from ckptaudit.measurement.cache_location import open_cache
from ckptaudit.sizes import format_size

HELP = "show, fill or clear what is kept about base checkpoints"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and where."""
    parser.add_argument(
        "action",
        choices=["info", "warm", "clear"],
        help="show folder and size; compute and keep what a gate needs of a base; or remove all",
    )
    parser.add_argument("--audit-cache", metavar="DIR", help="the folder; default: the one that the gate uses")
    parser.add_argument("--base", metavar="PATH", help="the base to warm the cache for")
    parser.add_argument("--audit-exact", action="store_true", help="warm it for gates with --audit-exact")
    parser.add_argument("--audit-device", metavar="DEVICE", default="auto", help="cpu, cuda, cuda:N or auto")


def run(options: argparse.Namespace) -> int:
    """Print what there is, what was kept, or what went. Raises CkptAuditError."""
    if options.action == "warm":
        return _warm(options)
    if options.base is not None:
        raise CacheError(f"{parameter('base')} {printable(options.base)}: is for `ckptaudit cache warm` alone.")
    cache = open_cache(options.audit_cache)
    if cache is None:
        print("no cache: it is off, or there is no folder for one")
    elif options.action == "clear":
        print(f"removed {_counted(cache.clear())} from {printable(cache.folder)}")
    else:
        _show(cache)
    return 0


def _show(cache: FactorCache) -> None:
    print(f"folder  {printable(cache.folder)}")
    print(f"holds   {_counted(cache.contents())}")
    print(f"limit   {format_size(cache.limit)}")
    if cache.shared is not None:
        print(f"below   {printable(cache.shared)}, which is only read")


def _warm(options: argparse.Namespace) -> int:
    from ckptaudit.options import AuditOptions
    from ckptaudit.pipeline.warming import warm

    if options.base is None:
        raise CacheError(f"ckptaudit cache warm: of which base? Give {parameter('base')} PATH.")
    if options.audit_cache == OFF:
        raise CacheError(f"{parameter('cache')} {OFF}: there is nothing to warm; name a folder.")
    asked = AuditOptions(
        base=options.base,
        tuned=(options.base,),
        cache=options.audit_cache,
        exact=options.audit_exact,
        device=options.audit_device,
    )
    with measuring() as watch:
        cache, failures = warm(asked, watch)
    for line in failures:
        show(f"not computed: {line}")
    print(f"kept    {cache.written:,} new of {_counted(cache.contents())} in {printable(cache.folder)}")
    troubles = [trouble for trouble in (cache.trouble, cache.shortage) if trouble]
    for trouble in troubles:
        show(f"note: {trouble}")
    return 1 if failures or troubles else 0


def _counted(contents: Contents) -> str:
    return f"{contents.entries:,} {'entry' if contents.entries == 1 else 'entries'}, {format_size(contents.size)}"
