"""Answers that loop: at their end by tokens, anywhere by their text."""

from __future__ import annotations

import pytest

from tests.rollouts.judged import readings
from tests.rollouts.simulated import run_rows, table_of

LOOP = "the same words again and " * 80 + "then something else at the end."


@pytest.mark.parametrize("with_tokens", [True, False])
def test_a_loop_in_the_middle_of_a_text_is_seen_with_and_without_its_tokens(with_tokens: bool) -> None:
    rows = run_rows(steps=1)
    for place, row in enumerate(rows):
        row["response"] = LOOP if place % 4 == 0 else f"answer {place}: {row['token_ids']}"
        if not with_tokens:
            row["token_ids"] = None
    (found,) = readings(table_of(rows), "repetition_share")
    assert found.value == pytest.approx(0.25)
