"""``make gpu``, or ``PYTHONPATH=src python -m benchmarks.gpu --minutes 8``: needs torch, and downloads nothing."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def main() -> int:
    """Measure, and return 1 if a promise is broken and 2 if there is nothing to measure on."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the code")
    parser.add_argument("--minutes", type=float, default=8.0, help="rows that would begin later are not run")
    parser.add_argument("--tiny", action="store_true", help="sizes at which nothing is learnt, for a CPU")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "results", help="for the report")
    given = parser.parse_args()
    deadline = time.monotonic() + 60 * given.minutes
    try:
        import torch
    except ImportError as error:
        sys.stderr.write(
            f"torch does not import in {sys.executable} ({error}); run make gpu with PYTHON= one that has it.\n"
        )
        return 2
    if torch.device(given.device).type == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("torch finds no CUDA device here; --device cpu --tiny tries the code without one.\n")
        return 2
    from benchmarks.gpu.section import FULL, TINY
    from benchmarks.gpu.suite import failed, measure

    sections = measure(given.device, replace(TINY if given.tiny else FULL, deadline=deadline), given.folder)
    for row in failed(sections):
        sys.stderr.write(f"FAIL {row.name}: {row.evidence}\n")
    return bool(failed(sections))


if __name__ == "__main__":
    raise SystemExit(main())
