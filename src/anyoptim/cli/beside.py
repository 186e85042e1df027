"""Several names side by side: what differs first."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from anyoptim.names.spec import OptimizerSpec
from anyoptim.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

MOST = 4
"""Names that stand side by side in a terminal."""
_MODEL = "tiny-llama"
_NONE = "-"


def beside(specs: Sequence[OptimizerSpec]) -> RenderableType:
    """Return a table with a column for each name: facts, then hyperparameters, of each kind those that differ first.

    Args:
        specs: at least two.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", overflow="fold")
    for spec in specs:
        table.add_column(spec.name, overflow="fold")
    for title, rows in (("", _facts(specs)), ("optim_args", _defaults(specs))):
        if title:
            table.add_row()
            table.add_row(Text(title, style="bold"))
        for label, cells in sorted(rows, key=lambda row: len({*row[1]}) == 1):
            table.add_row(label, *map(Text, cells), style="dim" if len({*cells}) == 1 else "")
    return table


_Row = tuple[str, list[str]]


def _facts(specs: Sequence[OptimizerSpec]) -> Iterator[_Row]:
    yield "what it is", [each.summary for each in specs]
    yield "paper", [each.paper or _NONE for each in specs]
    yield "usual lr", [f"{each.usual_lr[0]:g} to {each.usual_lr[1]:g}" if each.usual_lr else _NONE for each in specs]
    yield "package", [each.package + ("" if each.installed else " (not installed)") for each in specs]
    yield "licence", [each.licence or "not stated" for each in specs]
    state = [_state(each) for each in specs]
    if any(state):
        yield f"bytes of state each, {_MODEL}", [each or _NONE for each in state]
    traits = dict.fromkeys(name for each in specs for name in each.trait_names)
    for name in traits:
        yield name.replace("_", " "), ["yes" if name in each.trait_names else _NONE for each in specs]
    for name in dict.fromkeys(name for each in specs for name in sorted(each.default.may_fail)):
        yield f"limit: {name}", [each.default.may_fail.get(name, _NONE) for each in specs]


def _defaults(specs: Sequence[OptimizerSpec]) -> Iterator[_Row]:
    """Yield the default of each hyperparameter that one of them has."""
    values = [{value.name: str(plain(value.default)) for value in each.hyperparameters} for each in specs]
    for name in dict.fromkeys(name for each in values for name in each):
        yield name, [each.get(name, _NONE) for each in values]


def _state(spec: OptimizerSpec) -> str:
    """Return the bytes of state for each element of a small Llama with what suits the optimizer, or "" if unknown."""
    if importlib.util.find_spec("transformers") is None:
        return ""
    from anyoptim.errors import OptimError
    from anyoptim.integrations.models import meta_model
    from anyoptim.planning.plan import plan
    from anyoptim.planning.suggestions import suited_arguments

    try:
        model = meta_model(_MODEL, "float32")
        planned = plan(spec.name, model, suited_arguments(spec.name, width=model.config.hidden_size))
        state = planned.state_bytes
    except OptimError:  # another kind of model, a wrapper without a name inside, a missing package
        return ""
    return "" if state is None else f"{state / sum(each.numel() for each in model.parameters()):.3g}"
