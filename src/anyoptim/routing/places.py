"""One parameter and where it stands in its model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from anyoptim.names.role import Role


@dataclass(slots=True)
class Place:
    """One parameter and where it stands.

    Args:
        name: its first name in ``model.named_parameters()``.
        bare_name: that name without what wrappers (DDP, FSDP, torch.compile, PEFT) put into it.
        module_name: the name of the module that holds it.
        bare_module: that name without what wrappers put into it.
        parameter: the parameter.
        module: the module that holds it.
        role: what it is for.
        below_layer_norm: whether an ``nn.LayerNorm`` holds it, at any depth.
        parent: the module that uses ``module``.
    """

    name: str
    bare_name: str
    module_name: str
    bare_module: str
    parameter: nn.Parameter
    module: nn.Module
    role: Role
    below_layer_norm: bool
    parent: nn.Module | None

    @property
    def numel(self) -> int:
        """How many elements it has in its model."""
        return math.prod(shape_of(self.parameter))

    @property
    def has_more_names(self) -> bool:
        """Whether a target pattern may mean it by another name than its module's."""
        return self.bare_module != self.module_name or self.name.rpartition(".")[2] != "weight"

    @property
    def more_names(self) -> tuple[str, ...]:
        """The module's bare name, and of a parameter that is no ``weight`` its own."""
        own = () if self.name.rpartition(".")[2] == "weight" else (self.name, self.bare_name)
        return (self.bare_module, *own)


def shape_of(parameter: Tensor) -> tuple[int, ...]:
    """Return the shape that a parameter has in its model, also while DeepSpeed's ZeRO-3 keeps it in pieces."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
