"""Two processes."""

from __future__ import annotations

from anyoptim.testing.checks.verdicts import NotApplicable, expect
from anyoptim.testing.sharded import RESUMES, TRAINS, Findings, train_sharded
from anyoptim.testing.subject import Subject


def shards(subject: Subject) -> str:
    """Sharded over two processes by FSDP2, it trains as in one process."""
    kept, evidence = _findings(subject)[TRAINS]
    expect(kept, evidence)
    return evidence


def resumes_sharded(subject: Subject) -> str:
    """Sharded, it goes on from full and sharded state dicts as if it had never stopped."""
    found = _findings(subject)
    if RESUMES not in found:
        raise NotApplicable("it does not train there")
    kept, evidence = found[RESUMES]
    expect(kept, evidence)
    return evidence


def _findings(subject: Subject) -> Findings:
    if "sharded" not in subject.kept:
        ((_, found),) = train_sharded([subject])
        subject.kept["sharded"] = found
    return subject.kept["sharded"]  # type: ignore[return-value]  # as it was put there
