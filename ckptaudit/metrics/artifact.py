"""What the files beside the tensors say, against each other and the base: a metric for each kind of fault."""

from __future__ import annotations

from ckptaudit.artifact import QUANTITIES
from ckptaudit.metrics.findings import FindingsMetric
from ckptaudit.metrics.metric import register

for _name, _find in QUANTITIES.items():
    register(
        FindingsMetric(
            name=_name,
            unit="findings",
            formula=f"#{{{_name.replace('_', ' ')} of the tuned folder}}",
            source="definition",
            scope="artifact",
            find=_find,
        )
    )
