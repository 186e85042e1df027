"""Seeds of the noise that rounds weights by chance: of the run, of a parameter, of a step and of a part of a parameter.

A parameter's seed stands in its state, so a resumed run goes on with the noise of the run that was interrupted.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from anyoptim.engines.distributed import several_processes
from anyoptim.engines.on_shards import stood_for
from anyoptim.engines.stepping import original_of

_GOLDEN = 0x9E3779B97F4A7C15


def first_seed(number: int) -> int:
    """Return the seed of a parameter's noise before its first step, from the run's own.

    Of several processes, which a script may give a seed each, all have the same: replicas would drift apart.
    """
    own = 0 if several_processes() else torch.initial_seed()
    return (own + _GOLDEN * number) % 2**62


def next_seed(seed: int) -> int:
    """Return the seed of the step that follows (Knuth's MMIX generator)."""
    return (seed * 6364136223846793005 + 1442695040888963407) % 2**62


def seed_of_rows(seed: int, first: int) -> int:
    """Return the seed of a parameter's rows from a first one on: no two, on whichever process, get the same noise."""
    return (seed + 0x9E3779B9 * first) % 2**62


def number_of(optimizer: Optimizer, parameter: Tensor) -> int:
    """Return the place of a parameter among all, in whichever order and on whichever process they step."""
    every = (each for group in original_of(optimizer).param_groups for each in group["params"])
    whole = stood_for(parameter)
    return next((place for place, each in enumerate(every) if each is whole), 0)
