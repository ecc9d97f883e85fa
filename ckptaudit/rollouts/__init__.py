"""What a trainer logged about its rollouts, as one table, and the quantities that tell whether a run was sound.

`readers` turn a trainer's folder into the canonical table, `scalars` its curves into rows of one shape,
`measure` both into readings: one pass, bounded memory. Needs pyarrow, which comes with `ckptaudit[rollouts]`.
"""

from __future__ import annotations
