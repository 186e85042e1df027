"""``monitor=true``: which parameters are measured together, and what is said of what they do."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from anyoptim.building.blueprint import Blueprint
from anyoptim.building.storing import keeps_what_is_lost, mend_of_lost_updates
from anyoptim.engines.monitor import Monitor
from anyoptim.engines.monitor_advice import Advice
from anyoptim.engines.packing import HALF
from anyoptim.engines.readings import Label
from anyoptim.names.composing import MEMBER
from anyoptim.names.role import LINEAR, Role
from anyoptim.routing.layers import layer_numbers
from anyoptim.routing.routes import Route
from anyoptim.routing.structure import read_structure

_MEASURED_AS_MATRICES = LINEAR - {Role.LORA_B}
"""LoRA's B begins at zero, where any update is large."""


def monitored(optimizer: Optimizer, blueprint: Blueprint) -> None:
    """Let an optimizer measure its steps, if a blueprint says so: as ``optimizer.monitor``."""
    if not blueprint.settings.get("monitor"):
        return
    settings = blueprint.settings
    labels = _Labels(blueprint)
    monitor = Monitor(
        [[labels.of(group, parameter) for parameter in group["params"]] for group in optimizer.param_groups],
        advise=Advice(blueprint.spec.name, mend_of_lost_updates(settings)),
    )
    monitor.attach(optimizer)
    setattr(optimizer, "monitor", monitor)  # noqa: B010  # mypy knows no such attribute


def monitor_of(optimizer: Any) -> Monitor | None:
    """Return an optimizer's monitor, from inside accelerate's wrapper; ``None`` where it has none."""
    found = getattr(getattr(optimizer, "optimizer", optimizer), "monitor", None)
    found = getattr(optimizer, "monitor", None) if found is None else found
    return found if isinstance(found, Monitor) else None


class _Labels:
    """What is known of each parameter of a blueprint."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._rounds = not keeps_what_is_lost(blueprint.settings)
        self._rates = {name: each.applied_lr for name, each in blueprint.members}
        self._rate = blueprint.implementation.applied_lr
        self._routes: dict[Tensor, Route] = {
            each.parameter: each for each in (blueprint.routing.routes if blueprint.routing else ())
        }
        self._layers: dict[str, str] = {}
        if blueprint.model is not None:
            numbers, last = layer_numbers(blueprint.model, read_structure(blueprint.model).places)
            self._layers = {name: _layer(number, last) for name, number in numbers.items()}

    def of(self, group: dict[str, Any], parameter: Tensor) -> Label:
        """Return what is known of a parameter of a group."""
        rate = self._rates.get(group.get(MEMBER, ""), self._rate)
        route = self._routes.get(parameter)
        if route is None:
            return Label(rate=rate)
        return Label(
            role=str(route.role).lower().replace(" ", "_"),
            layer=self._layers.get(route.name, ""),
            is_matrix=route.role in _MEASURED_AS_MATRICES,
            rounds=self._rounds and parameter.dtype in HALF,
            rate=rate,
        )


def _layer(number: int, last: int) -> str:
    """Return a layer's name in keys, numbered as the model numbers its blocks."""
    if number in (0, last):
        return "before_layers" if number == 0 else "after_layers"
    return f"layer_{number - 1:0{max(2, len(str(last - 2)))}}"
