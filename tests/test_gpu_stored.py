"""The GPU suite's rows on packed state find what they are there for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from anyoptim.engines.offloading import HostMemory
from benchmarks.gpu import stored
from benchmarks.gpu.section import TINY


def test_other_bits_on_a_device_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here, those of a device are the CPU's with one of another sign of zero, which is equal by value."""
    whole, calls = stored._packed, []

    def packed(device: str) -> Iterator[tuple[str, torch.Tensor]]:
        calls.append(device)
        for name, values in whole(device):
            if name == "join torch.bfloat16 24 (0)" and len(calls) == 1:
                values[values == 0] = -0.0
            yield name, values

    monkeypatch.setattr(stored, "_packed", packed)
    row = stored.packing_row("cpu")
    assert (row.verdict, calls) == ("fail", ["cpu", "cpu"])
    assert re.fullmatch(r"other bits than on the CPU: \d+ of join torch\.bfloat16 24 \(0\)", row.evidence)


def test_state_that_comes_too_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(self: HostMemory, held: Any, device: torch.device) -> dict[str, Any]:
        return {key: torch.zeros_like(value) if key == "exp_avg:int8" else value for key, value in held.items()}

    monkeypatch.setattr(HostMemory, "fetched", stale)
    assert stored.elsewhere_row("offload=cpu", "cpu", TINY).evidence.startswith("other weights after 5 steps: by ")
    assert stored.elsewhere_row("offload=disk", "cpu", TINY).verdict == "pass"
