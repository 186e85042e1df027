"""Two processes."""

from __future__ import annotations

from anyoptim.testing.checks.verdicts import expect
from anyoptim.testing.sharded import train_sharded
from anyoptim.testing.subject import Subject


def shards(subject: Subject) -> str:
    """Sharded over two processes by FSDP2, it trains as in one process."""
    ((_, (kept, evidence)),) = train_sharded([subject])
    expect(kept, evidence)
    return evidence
