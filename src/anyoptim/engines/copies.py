"""What of an optimizer goes into a copy and a pickle: all that it trains with.

torch keeps three attributes, the groups, the state and the defaults; the optimizers of many packages, and ours, have
more, and a copy without them fails in its first step.
"""

from __future__ import annotations

import copyreg
from typing import Any

from torch.optim import Optimizer

_OF_THE_ORIGINAL = {"step", "train", "eval", "training_weights", "_opt_called", "_wrapped_by_lr_sched"}
"""What schedulers, mends and hooks hang on one object: methods that they counted or changed."""
_MARK = "_copied_whole"


def copy_whole(optimizer: Optimizer) -> None:
    """Let an optimizer be copied and pickled with all of its attributes; a process without anyoptim can load that.

    Other objects of its class are copied as before.
    """
    setattr(optimizer, _MARK, True)
    copyreg.pickle(type(optimizer), _reduced)


def kept_attributes(optimizer: Optimizer) -> dict[str, Any]:
    """Return the attributes of an optimizer that make up its copy. Hooks stay behind, as they do with torch's."""
    return {
        name: value
        for name, value in vars(optimizer).items()
        if name not in _OF_THE_ORIGINAL and not name.startswith("_optimizer_")
    }


def _reduced(optimizer: Optimizer) -> Any:
    if _MARK not in vars(optimizer) or type(optimizer).__getstate__ is not Optimizer.__getstate__:
        return optimizer.__reduce_ex__(2)  # a class may know better what it needs
    return copyreg.__newobj__, (type(optimizer),), kept_attributes(optimizer)  # type: ignore[attr-defined]  # typeshed
