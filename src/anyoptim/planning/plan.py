"""``plan`` and ``get_optimizer``: a blueprint with what is said of it, and the way to build it."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from anyoptim.arguments.fields import Fields
from anyoptim.arguments.settings import resolve
from anyoptim.building.assemble import RATIO_LEFT, adopt, construct
from anyoptim.building.blueprint import Blueprint
from anyoptim.building.records import built
from anyoptim.building.storing import is_stored
from anyoptim.errors import OptimArgsError, OptimError, UnsupportedError
from anyoptim.memory.fitting import FitsOnly
from anyoptim.memory.footprint import Footprint, footprint
from anyoptim.memory.state import StateMemory, state_memory
from anyoptim.names.lookup import optimizer_info
from anyoptim.planning.advice import advise
from anyoptim.planning.curves import Schedule
from anyoptim.planning.models import refuse_model
from anyoptim.planning.page import plan_page
from anyoptim.planning.refusals import refuse, refuse_flat_pieces
from anyoptim.planning.table import plan_dict, plan_table
from anyoptim.routing.groups import make_groups
from anyoptim.routing.routes import route
from anyoptim.text import format_bytes

if TYPE_CHECKING:
    from rich.console import RenderableType

BESIDE = "adamw_torch"
"""Whose memory stands beside a plan's."""

_logger = logging.getLogger(__name__)

_licences_said: set[str] = set()
"""The licences that forbid commercial use and were warned of in this process."""


@dataclass(frozen=True, repr=False)
class Plan(Blueprint):
    """What would be built: optimizer, hyperparameters, param groups, memory and advice. ``build()`` builds it.

    Args:
        advice: one sentence for each setting that takes no or an unexpected effect.
    """

    advice: tuple[str, ...]

    @cached_property
    def memory(self) -> StateMemory:
        """Bytes of optimizer state after the first step, and how they were found."""
        return state_memory(self)

    @property
    def state_bytes(self) -> int | None:
        """Bytes of optimizer state after the first step, before anything is built; ``None`` if unknown."""
        return self.memory.total

    def footprint(self, ranks: int = 1, sharding: str = "fsdp2") -> Footprint:
        """Predict what the fullest of several processes holds: weights, gradients and optimizer state.

        Args:
            ranks: processes; one shards nothing.
            sharding: ``"ddp"``, ``"fsdp2"``, ``"zero1"``, ``"zero2"`` or ``"zero3"``.

        Raises:
            OptimError: see :func:`anyoptim.memory.footprint.footprint`.
        """
        return footprint(self, ranks, sharding, lambda: self.memory)

    def instead(self, name: str) -> Plan:
        """Plan another optimizer for the same model and TrainingArguments, with nothing of this one's own."""
        return plan(name, self.model, self.fields.args, optim_args=None, optim_target_modules=None)

    def build(self) -> Optimizer:
        """Build the optimizer, giving each piece of advice as a ``UserWarning``.

        Raises:
            OptimError: it was planned without a model, or the constructor refuses its arguments.
            MissingPackageError: the package behind it is not installed.
        """
        if self.model is None:
            raise OptimError(f"{self.spec.name} was planned without a model; pass one to build it.")
        if self.warmup_is_a_ratio:
            raise OptimArgsError(f"{self.spec.name}: {RATIO_LEFT}")
        return self.construct(self.groups if self.implementation.takes_groups else self.model)

    def construct(self, params: nn.Module | Iterable[Any], **changed: object) -> Optimizer:
        """Call the constructor on ``params``: what ``build()`` does with the plan's own groups.

        The Trainer hands in groups itself for optimizers that need none of their own.

        Args:
            params: param groups (copied, so a plan may be built twice), or the model.
            changed: constructor keywords that differ from the plan's.
        """
        for _, each in self.members:
            each.load()  # a missing package is said before any advice
        self._say()
        optimizer = construct(self, params, **changed)
        self._expect(optimizer)
        self._log()
        return optimizer

    def adopt(self, optimizer: Optimizer) -> None:
        """Take over what somebody else has built of the plan's class and keywords, as if ``construct()`` had."""
        self._say()
        adopt(self, optimizer)
        self._expect(optimizer)
        self._log()

    def _expect(self, optimizer: Optimizer) -> None:
        """Let what was built refuse state that its steps could not use."""
        inside = built(optimizer)
        if inside is not None:
            FitsOnly(self, inside)

    def _say(self) -> None:
        """Give each piece of advice, and what the licence forbids, as a warning."""
        for sentence in self.advice:
            warnings.warn(f"{self.spec.name}: {sentence}.", stacklevel=4)
        licence = self.implementation.licence
        if not self.implementation.commercial and licence not in _licences_said:
            _licences_said.add(licence)
            warnings.warn(
                f"{self.spec.name}: {self.implementation.package} is under {licence}: not for commercial use.",
                stacklevel=4,
            )

    def _log(self) -> None:
        if _logger.isEnabledFor(logging.INFO):
            _logger.info(self.summary)

    @property
    def summary(self) -> str:
        """One line: class, implementation, groups and predicted state."""
        fallback = self.spec.fallback
        beside = f" and {fallback.default.class_path} for all that is no target" if fallback else ""
        when = ", updating inside the backward pass" if self.settings.get("fused_backward") else ""
        groups = ", ".join(str(len(group["params"])) for group in self.groups) or "the caller's own"
        return (
            f"{self.spec.name}: {self.implementation.class_path} ({self.implementation.name} implementation of"
            f" {self.implementation.package}){beside}{when}, {len(self.groups)} groups of {groups} parameters,"
            f" optimizer state {format_bytes(self.state_bytes)} (predicted)"
        )

    def to_dict(self, ranks: int = 1, sharding: str = "fsdp2", memory: int | None = None) -> dict[str, object]:
        """Return the plan as plain values that JSON can hold; arguments as of :meth:`table`."""
        return plan_dict(self, self.advice, self.memory, self._beside(ranks, sharding), ranks, sharding, memory)

    def table(self, ranks: int = 1, sharding: str = "fsdp2", memory: int | None = None) -> RenderableType:
        """Return the plan as rich tables, and bars of its memory.

        Args:
            ranks: as of :meth:`footprint`.
            sharding: as of :meth:`footprint`.
            memory: bytes that one process has: bars and a sentence say whether it fits.
        """
        return plan_table(self, self.advice, self._beside(ranks, sharding), ranks, sharding, memory)

    def to_html(
        self,
        ranks: int = 1,
        sharding: str = "fsdp2",
        memory: int | None = None,
        *,
        schedule: Schedule | None = None,
        model: str = "",
        command: str = "",
    ) -> str:
        """Return the plan as one page that needs nothing else: memory, the model by layers, rates, advice.

        Args:
            ranks: as of :meth:`footprint`.
            sharding: as of :meth:`footprint`.
            memory: bytes that one process has: bars and a sentence say whether it fits.
            schedule: what becomes of the rates; :func:`anyoptim.integrations.schedules.schedule_of` finds it.
            model: what the page calls the model; its class if "".
            command: what makes the same page again.

        Raises:
            OptimError: it was planned without a model.
            MissingPackageError: jinja2 is not installed.
        """
        if self.model is None:
            raise OptimError(f"{self.spec.name} was planned without a model; pass one to draw it.")
        beside = self._beside(ranks, sharding)
        name = model or type(self.model).__name__
        return plan_page(self, self.advice, beside, ranks, sharding, memory, schedule, name, command)

    def _beside(self, ranks: int, sharding: str) -> dict[str, Footprint]:
        """Return its own memory and AdamW's, by name; nothing without a model."""
        if self.routing is None:
            return {}
        found = {self.spec.name: self.footprint(ranks, sharding)}
        if self.spec.name != BESIDE or is_stored(self.settings):
            other = BESIDE if self.spec.name != BESIDE else f"{BESIDE} as it is"
            found[other] = self.instead(BESIDE).footprint(ranks, sharding)
        return found

    def __repr__(self) -> str:
        return f"<Plan {self.spec.name}, {self.implementation.name}, {len(self.groups)} groups>"

    def __rich__(self) -> RenderableType:
        return self.table()

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=132, color_system=None, markup=False, emoji=False, highlight=False)
        with console.capture() as capture:
            console.print(self)
        return capture.get().rstrip()


def plan(name: str, model: nn.Module | None, args: object = None, **overrides: object) -> Plan:
    """Decide what ``get_optimizer`` would build; builds and allocates nothing.

    Args:
        name: a registered name, an alias or a class path ``module:Class``.
        model: the model to optimize, also on the meta device; ``None`` plans hyperparameters only.
        args: a ``TrainingArguments``, any object or mapping with its field names, or ``None``.
        overrides: hyperparameters by name (``lr=``, ``rank=``), ``optim_args=``, ``optim_target_modules=``, and
            what differs for some parameters (``groups=``, ``no_decay=``, ``layer_decay=``, ``lora_plus_ratio=``,
            ``embedding_lr=``); they win over ``args``.

    Raises:
        OptimError: of the kind that says what is wrong; see ``anyoptim.errors``.
    """
    spec = optimizer_info(name)
    if model is not None and not isinstance(model, nn.Module):
        raise OptimError(f"{spec.name}: model must be a torch.nn.Module, not {type(model).__name__}.")
    fields = Fields(args)
    optim_args = overrides.pop("optim_args", fields.get("optim_args"))
    target_modules = overrides.pop("optim_target_modules", fields.get("optim_target_modules"))
    if spec.is_wrapper:
        raise UnsupportedError(
            f"{spec.name} goes around another optimizer: write {spec.name}(adamw_torch), for example."
        )
    if model is not None:
        refuse_flat_pieces(spec, model)
    config = getattr(model, "config", None)
    settings = resolve(spec, fields, optim_args, overrides, config)
    needs_targets = spec.traits.needs_targets
    if model is None:
        if needs_targets or not settings.implementation.takes_groups:
            raise UnsupportedError(f"{spec.name} needs the model: it cannot be planned from arguments alone.")
        routing, groups = None, []
    else:
        with _collector_paused():
            routing = route(model, spec, settings, target_modules)
            groups = make_groups(routing, spec, settings)
    refuse(spec, settings, fields, routing, model)
    if model is not None and routing is not None:
        refuse_model(spec, settings, model, routing, groups)
    advice = tuple(advise(spec, settings, fields, routing))
    return Plan(spec, settings, routing, tuple(groups), model, fields, advice)


def get_optimizer(name: str, model: nn.Module, args: object = None, **overrides: object) -> Optimizer:
    """Build any optimizer by its name, as the Trainer would with the same arguments.

    Args:
        name: a registered name, an alias or a class path ``module:Class``.
        model: the model to optimize.
        args: a ``TrainingArguments``, any object or mapping with its field names, or ``None``.
        overrides: hyperparameters by name, ``optim_args=``, ``optim_target_modules=``, ``groups=`` and the others that
            :func:`plan` takes.

    Raises:
        OptimError: of the kind that says what is wrong; see ``anyoptim.errors``.
    """
    return plan(name, model, args, **overrides).build()


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Make many objects that all stay, without the garbage collector's walks through the whole model meanwhile."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
