"""Any text at all, through every door: only ``OptimError`` comes back, soon, and no memory is left behind."""

from __future__ import annotations

import pytest
from fuzzing import fuzz
from processes import in_new_process


def test_any_text_is_read_or_refused() -> None:
    assert in_new_process(fuzz, 0, 20_000) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_any_of_many_texts_is_read_or_refused(seed: int) -> None:
    assert in_new_process(fuzz, seed, 50_000) == 0
