"""Who owns which parameter, and which of them are exchanged together: by shapes alone, so the same on every process.

Source: layer-wise distribution of optimizers, as in arXiv 2502.16982, section 2.3. Balanced by Graham's rule of the
longest processing time first (SIAM J. Appl. Math. 17, 1969), at most 4/3 of the best there is.
"""

from __future__ import annotations

from collections.abc import Sequence

BATCH_BYTES = 2**26
"""Bytes of the gradients that an owner holds whole at once; a larger one is alone."""


def owners(costs: Sequence[float], ranks: int, loads: Sequence[float] = ()) -> list[int]:
    """Return the owner of each parameter: the costliest first, each to the rank that has least.

    Args:
        costs: what a step on each takes, in any unit.
        ranks: how many there are.
        loads: what each has already.

    Returns:
        ranks from 0 to ``ranks - 1``, in the order of ``costs``.
    """
    load = list(loads) or [0.0] * ranks
    owner = [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda each: (-costs[each], each)):
        owner[index] = min(range(ranks), key=lambda rank: (load[rank], rank))
        load[owner[index]] += costs[index]
    return owner


def batches(owned: Sequence[int], sizes: Sequence[int], order: Sequence[object], bound: float) -> list[list[int]]:
    """Return which parameters are exchanged together: of every owner as many as the bound lets it hold.

    Args:
        owned: the owner of each parameter.
        sizes: bytes of each.
        order: what of an owner's parameters comes first, and side by side: such as the shape.
        bound: bytes of one owner in one batch.

    Returns:
        indices of parameters; each is in one batch.
    """
    of_owner: dict[int, list[int]] = {}
    for index, owner in enumerate(owned):
        of_owner.setdefault(owner, []).append(index)
    made: list[list[int]] = []
    for indices in of_owner.values():
        batch, held = 0, 0
        for index in sorted(indices, key=lambda each: (order[each], each)):
            if held and held + sizes[index] > bound:
                batch, held = batch + 1, 0
            held += sizes[index]
            if batch == len(made):
                made.append([])
            made[batch].append(index)
    return [sorted(each) for each in made]
