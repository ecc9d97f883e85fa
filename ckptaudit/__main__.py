"""`python -m ckptaudit` is the same program as `ckptaudit`."""

from __future__ import annotations

import sys

from ckptaudit.cli import main

if __name__ == "__main__":
    sys.exit(main())
