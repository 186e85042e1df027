"""Plan: everything decided before anything is built, and the one way to build it."""

from __future__ import annotations

import gc
import inspect
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from anyoptim.arguments.settings import Fields, Setting, Settings, resolve
from anyoptim.building import mends
from anyoptim.building.records import stamp
from anyoptim.building.training_weights import keep_training_weights
from anyoptim.engines.closure import WithClosure
from anyoptim.engines.composite import CompositeOptimizer
from anyoptim.engines.fused_backward import FusedBackward
from anyoptim.errors import OptimArgsError, OptimError, UnsupportedError
from anyoptim.memory.footprint import Footprint, footprint
from anyoptim.memory.state import StateMemory, state_memory
from anyoptim.names.composing import MEMBER
from anyoptim.names.registry import optimizer_info
from anyoptim.names.role import Role
from anyoptim.names.spec import Implementation, OptimizerSpec
from anyoptim.planning.advice import advise, refuse
from anyoptim.planning.table import plan_dict, plan_table
from anyoptim.routing.groups import GroupDict, make_groups
from anyoptim.routing.routes import Routing, route
from anyoptim.text import format_bytes

if TYPE_CHECKING:
    from rich.console import RenderableType


_logger = logging.getLogger(__name__)

_licences_said: set[str] = set()
"""The licences that forbid commercial use and were warned of in this process."""

_RATIO_LEFT = "a warmup ratio needs the number of training steps; set max_steps, or give warmup_steps in optim_args."


@dataclass(frozen=True, repr=False)
class Plan:
    """What would be built: optimizer, hyperparameters, param groups, memory and advice. ``build()`` builds it.

    Args:
        spec: what the name means.
        settings: every hyperparameter with its source, and the implementation.
        routing: where each trainable parameter goes; ``None`` when planned without a model.
        groups: the param groups; empty without a model.
        advice: one sentence for each setting that takes no or an unexpected effect.
        model: the model, or ``None``.
        fields: the TrainingArguments, or what stands for them.
    """

    spec: OptimizerSpec
    settings: Settings
    routing: Routing | None
    groups: tuple[GroupDict, ...]
    advice: tuple[str, ...]
    model: nn.Module | None
    fields: Fields

    @property
    def implementation(self) -> Implementation:
        """The implementation that is built."""
        return self.settings.implementation

    @property
    def hyperparameters(self) -> Mapping[str, Setting]:
        """Every hyperparameter's value and where it came from."""
        return self.settings.values

    @property
    def keywords(self) -> dict[str, object]:
        """The constructor's keyword arguments."""
        return self.settings.of_scope("optimizer")

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
        return footprint(self, ranks, sharding)

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
        if self._warmup_is_a_ratio:
            raise OptimArgsError(f"{self.spec.name}: {_RATIO_LEFT}")
        return self.construct(self.groups if self.implementation.takes_groups else self.model)

    def construct(self, params: nn.Module | Iterable[Any], **changed: object) -> Optimizer:
        """Call the constructor on ``params``: what ``build()`` does with the plan's own groups.

        The Trainer hands in groups itself for optimizers that need none of their own.

        Args:
            params: param groups (copied, so a plan may be built twice), or the model.
            changed: constructor keywords that differ from the plan's.
        """
        for _, each in self._members():
            each.load()  # a missing package is said before any advice
        for sentence in self.advice:
            warnings.warn(f"{self.spec.name}: {sentence}.", stacklevel=3)
        licence = self.implementation.licence
        if not self.implementation.commercial and licence not in _licences_said:
            _licences_said.add(licence)
            warnings.warn(
                f"{self.spec.name}: {self.implementation.package} is under {licence}: not for commercial use.",
                stacklevel=3,
            )
        arguments = params if isinstance(params, nn.Module) else [_copy(each) for each in params]
        try:
            optimizer = self.assemble(arguments, None, **changed)
        except (ValueError, TypeError, AssertionError, RuntimeError) as error:
            if isinstance(error, OptimError):
                raise
            raise OptimArgsError(
                f"{self.spec.name}: {self.implementation.package} refuses its arguments: {error or repr(error)}."
            ) from error
        self._refuse_inert_overrides(optimizer)
        stamp(optimizer, self.spec, self.settings)
        if self._warmup_is_a_ratio:
            optimizer.register_step_pre_hook(_refuse_ratio)
        if self.spec.traits.schedule_free and hasattr(optimizer, "eval"):
            keep_training_weights(optimizer)
        if _logger.isEnabledFor(logging.INFO):
            _logger.info(self.summary)
        if self.spec.traits.needs_closure:
            return WithClosure(optimizer)
        if not self.settings.get("fused_backward"):
            return optimizer
        return FusedBackward(optimizer, waiting=self._waiting)

    @property
    def _waiting(self) -> list[str]:
        """The optimizers inside that cannot update in the backward pass."""
        return [name for name, each in self._members() if each.waits_for_step]

    @property
    def keeps_gradients_of(self) -> frozenset[str]:
        """The names of what waits for ``step()`` although the backward pass updates the rest."""
        waiting, fallback = self._waiting, self.spec.fallback
        return frozenset(
            each.name
            for each in (self.routing.routes if self.routing else ())
            if (self.spec.target_optimizer if each.is_target or fallback is None else fallback.name) in waiting
        )

    @property
    def _warmup_is_a_ratio(self) -> bool:
        return any(isinstance(self.settings.get(name), float) for name in ("warmup_steps", "fallback_warmup_steps"))

    def assemble(
        self, params: nn.Module | Iterable[Any], stands_for: Mapping[Tensor, Tensor] | None = None, **changed: object
    ) -> Optimizer:
        """Call the constructors, and nothing else: no copy of the groups, no advice, no record.

        Args:
            params: param groups, or the model.
            stands_for: the model's parameters by those that stand in for them in ``params``.
            changed: constructor keywords that differ from the plan's.
        """
        optimizer = self._assemble_inside(params, **changed)
        if self.implementation.mends:
            roles: dict[Tensor, Role] = (
                {each.parameter: each.role for each in self.routing.routes} if self.routing else {}
            )
            originals = stands_for or {}
            for name in self.implementation.mends:
                getattr(mends, name)(optimizer, lambda parameter: roles.get(originals.get(parameter, parameter)))
        for wrapper in self.spec.wrappers:
            wrap: Any = wrapper.default.load()
            optimizer = wrap(optimizer, **self.settings.of_scope("wrapper", f"{wrapper.name}_"))
        return optimizer

    def _assemble_inside(self, params: nn.Module | Iterable[Any], **changed: object) -> Optimizer:
        build = self.implementation.load()
        if isinstance(params, nn.Module) and self.implementation.takes != "model":
            named = [(name, each) for name, each in params.named_parameters() if each.requires_grad]
            params = named if self.implementation.takes == "named_parameters" else [each for _, each in named]
        keywords = self._that_it_has(build, {**self.keywords, **changed})
        if self.spec.fallback is None:
            return build(params, **keywords)
        groups = list(params)  # type: ignore[arg-type]  # a hybrid takes no model
        rest = [group for group in groups if group[MEMBER] == self.spec.fallback.name]
        own = [group for group in groups if group[MEMBER] == self.spec.target_optimizer]
        build_rest = self.spec.fallback.default.load()
        taken_over = {
            name: value for name, value in changed.items() if self.settings.source(f"fallback_{name}") == name
        }
        return CompositeOptimizer(
            {
                self.spec.fallback.name: build_rest(
                    rest, **{**self.settings.of_scope("fallback", "fallback_"), **taken_over}
                ),
                self.spec.target_optimizer: build(own, **keywords),
            }
        )

    def _that_it_has(self, build: Callable[..., Optimizer], keywords: dict[str, object]) -> dict[str, object]:
        """Leave out what nobody set and another version of the package does not have."""
        parameters = inspect.signature(build).parameters.values()
        names = {each.name for each in parameters}
        if any(each.kind is each.VAR_KEYWORD for each in parameters):
            return keywords
        return {key: value for key, value in keywords.items() if key in names or self.settings.source(key) != "default"}

    @property
    def optimizer_class(self) -> type[Optimizer]:
        """The class of what is built, before any facade for the backward pass; imports the packages behind it."""
        loaded = [each.load() for _, each in self._members()]
        if self.spec.wrappers:
            outermost: Any = self.spec.wrappers[-1].default.load()
            return outermost if isinstance(outermost, type) else Optimizer
        if len(loaded) > 1:
            return CompositeOptimizer
        return loaded[0] if isinstance(loaded[0], type) and issubclass(loaded[0], Optimizer) else Optimizer

    def _members(self) -> list[tuple[str, Implementation]]:
        """Return the optimizers inside: one, or the two of a hybrid."""
        members = [(self.spec.target_optimizer, self.implementation)]
        return (
            members if self.spec.fallback is None else [*members, (self.spec.fallback.name, self.spec.fallback.default)]
        )

    def _refuse_inert_overrides(self, optimizer: Optimizer) -> None:
        """Raise for an override of a keyword that the optimizer keeps for all groups together."""
        for each in self.routing.routes if self.routing else ():
            adjustment = each.adjustment
            if adjustment is None or not adjustment.label:
                continue
            inert = (
                set(adjustment.values) - set(optimizer.defaults) - set(self.settings.of_scope("target")) - {"lr_ratio"}
            )
            if inert:
                raise OptimArgsError(
                    f"{adjustment.label} sets {sorted(inert)[0]}, which {self.spec.name} has for all groups together;"
                    " set it in optim_args."
                )

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

    def to_dict(self) -> dict[str, object]:
        """Return the plan as plain values that JSON can hold."""
        return plan_dict(self)

    def __repr__(self) -> str:
        return f"<Plan {self.spec.name}, {self.implementation.name}, {len(self.groups)} groups>"

    def __rich__(self) -> RenderableType:
        return plan_table(self)

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=132, color_system=None)
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
    refuse(spec, settings, fields, routing)
    advice = tuple(advise(spec, settings, fields, routing, config))
    return Plan(spec, settings, routing, tuple(groups), advice, model, fields)


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


def _refuse_ratio(optimizer: Optimizer, *_: object) -> None:
    """Stop a Trainer whose own ``create_scheduler`` left the warmup ratio unresolved."""
    if any(isinstance(group.get("warmup_steps"), float) for group in optimizer.param_groups):
        raise OptimArgsError(f"{type(optimizer).__name__}: {_RATIO_LEFT}")


def _copy(group: object) -> object:
    if isinstance(group, Mapping):
        params = group["params"]
        return {**group, "params": list(params) if isinstance(params, (list, tuple)) else params}
    return group
