"""Several processes."""

from __future__ import annotations

from collections.abc import Callable

from anyoptim.testing.checks.verdicts import NotApplicable, expect
from anyoptim.testing.sharded import MOVES, NEEDS, RESUMES, TRAINS, TRAINS_HYBRID, Findings, train_sharded
from anyoptim.testing.subject import Subject


def _check(name: str, doc: str) -> Callable[[Subject], str]:
    def check(subject: Subject) -> str:
        found = _findings(subject)
        if name not in found:
            raise NotApplicable(f"it needs {NEEDS[name]}")
        kept, evidence = found[name]
        expect(kept, evidence)
        return evidence

    check.__doc__ = doc
    return check


shards = _check(TRAINS, "Sharded over two processes by FSDP2, it trains as in one process.")
resumes_sharded = _check(RESUMES, "Sharded, it goes on from full and sharded state dicts as if it had never stopped.")
shards_replicas = _check(TRAINS_HYBRID, "Sharded over two of four processes by HSDP, it trains as in one process.")
moves = _check(MOVES, "It goes on with another number of processes as if it had never stopped.")


def _findings(subject: Subject) -> Findings:
    if "sharded" not in subject.kept:
        ((_, found),) = train_sharded([subject])
        subject.kept["sharded"] = found
    return subject.kept["sharded"]  # type: ignore[return-value]  # as it was put there
