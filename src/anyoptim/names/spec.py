"""What one optimizer name means, as plain data that imports neither torch nor the package behind it."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from anyoptim.errors import MissingPackageError, OptimError
from anyoptim.names import packages
from anyoptim.names.role import EVERY_ROLE, Role

if TYPE_CHECKING:
    from torch.optim import Optimizer


class _Marker:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


REQUIRED: Final = _Marker("required")
"""The default of a hyperparameter that has none."""

ITS_OWN: Final = _Marker("its own")
"""A default that is no plain value (a function, a marker): the constructor is not given the keyword."""


@dataclass(frozen=True)
class Interval:
    """The numbers a hyperparameter may take; ``str()`` writes it as mathematics does."""

    low: float = float("-inf")
    high: float = float("inf")
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        if self.high == float("inf"):
            return f"{'>' if self.open_low else '>='} {self.low:g}"
        return f"in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


@dataclass(frozen=True)
class Hyperparameter:
    """One keyword that ``optim_args`` accepts.

    Args:
        name: the name in the paper or the backing constructor.
        type: its annotation (``float``, ``bool | None``, ``tuple[float, float]``, ``Literal[...]``,
            ``"torch.dtype"``), which decides how text is read. ``None``: read by the look of it.
        default: the value when nobody sets it, or ``REQUIRED``, or ``ITS_OWN``.
        help: one line for a person.
        within: the allowed range, of each element for a tuple.
        scope: ``"optimizer"``: a constructor keyword, for every group. ``"target"``: a key of the
            groups that hold target modules only. ``"facade"``: read by the plan, which wraps what it builds.
            ``"fallback"``: a constructor keyword of the optimizer of all that is no target, ``fallback_`` before its
            own name. ``"wrapper"``: a constructor keyword of a wrapper, the wrapper's name before its own.
            ``"groups"``: overrides of single groups, which every optimizer takes.
        taken_from: the field of TrainingArguments, ``args.max_steps``, or of the model's configuration,
            ``config.hidden_size``, that gives the value where the user does not.
    """

    name: str
    type: object
    default: object = REQUIRED
    help: str = ""
    within: Interval | None = None
    scope: Literal["optimizer", "target", "facade", "fallback", "wrapper", "groups"] = "optimizer"
    taken_from: str = ""


FUSED_BACKWARD = Hyperparameter(
    "fused_backward", bool, False, "update inside the backward pass, so gradients never pile up", scope="facade"
)
"""For implementations whose step updates each parameter from its own gradient, state and group alone."""


@dataclass(frozen=True)
class GroupFlag:
    """A key of param groups by which one constructor serves two algorithms, such as ``use_muon``.

    Args:
        key: its name.
        target: its value in groups of targets.
        rest: its value in all other groups.
    """

    key: str
    target: object
    rest: object


@dataclass(frozen=True)
class Implementation:
    """One way to build an optimizer.

    Args:
        name: ``"native"`` (in ``anyoptim.engines``) or ``"upstream"`` (the package's own class).
        target: ``"module:attribute"`` of the class or factory, imported by :meth:`load` only; or the
            object itself, when the user holds it already.
        hyperparameters: what its constructor takes besides parameters.
        package: the distribution it comes from, as pip names it.
        licence: the SPDX name of that package's licence.
        extra: the extra of anyoptim that installs ``package``; empty when it is a core dependency.
        takes: what the constructor's first argument is: param groups, parameters alone, pairs of name and
            parameter, or the model.
        group_flag: what tells its targets from the rest within one optimizer.
        skips_init: its module is imported without its package's ``__init__``, which needs what it does not.
        mends: functions of ``anyoptim.building.mends``, by name, that are applied to what is built.
        install: how it is installed, where that is neither an extra nor ``pip install`` of the package.
        device: the accelerator that it cannot do without, as torch names it; empty: it runs on a CPU too.
        refused: keywords that would break the build, or that only another implementation takes, with the reason.
        unsupported: keywords of a facade that would train wrongly, with the reason.
        needs_process_group: it calls torch.distributed in one process, too.
        unusable: why no loop that calls ``step()`` can train with it; empty: one can.
        limits: checks of ``anyoptim.testing`` that it fails, with the reason.
        updates_in_backward: its class has hooks of its own that update on every backward pass, so gradients
            neither accumulate nor are reduced over processes.
        applied_lr: the key of a group that holds the learning rate of the last step.
        target_roles: the roles that a target may have.
    """

    name: str
    target: str | Callable[..., Optimizer]
    hyperparameters: tuple[Hyperparameter, ...]
    package: str
    licence: str
    extra: str = ""
    takes: Literal["groups", "parameters", "named_parameters", "model"] = "groups"
    group_flag: GroupFlag | None = None
    skips_init: bool = False
    mends: tuple[str, ...] = ()
    device: str = ""
    install: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)
    unsupported: Mapping[str, str] = field(default_factory=dict)
    needs_process_group: bool = False
    unusable: str = ""
    limits: Mapping[str, str] = field(default_factory=dict)
    updates_in_backward: bool = False
    applied_lr: str = "lr"
    target_roles: frozenset[Role] = EVERY_ROLE

    @property
    def resumable(self) -> bool:
        """Whether a checkpoint restores its state exactly."""
        return "resume" not in self.limits

    @property
    def shards(self) -> bool:
        """Whether its step works on the sharded parameters of FSDP2."""
        return "DTensor" not in self.limits

    @property
    def commercial(self) -> bool:
        """Whether its licence allows commercial use, as far as it states one."""
        return "-NC" not in self.licence

    @property
    def takes_groups(self) -> bool:
        """Whether it has param groups that we make."""
        return self.takes == "groups"

    @property
    def waits_for_step(self) -> bool:
        """Whether it cannot update in the backward pass, where another optimizer beside it does."""
        return "fused_backward" in self.unsupported

    @property
    def installed(self) -> bool:
        """Whether the package can be found; does not import it."""
        if not isinstance(self.target, str):
            return True
        top_level = self.target.partition(":")[0].partition(".")[0]
        try:
            return importlib.util.find_spec(top_level) is not None
        except ValueError:  # a module that is blocked or half-imported has no __spec__
            return False

    @property
    def pip_install(self) -> str:
        """The command that installs what this implementation needs."""
        if self.install:
            return self.install
        return f"pip install 'anyoptim[{self.extra}]'" if self.extra else f"pip install {self.package}"

    @property
    def class_path(self) -> str:
        """Where the class or factory lives, as ``module:Class``."""
        return self.target if isinstance(self.target, str) else f"{self.target.__module__}:{self.target.__qualname__}"

    def load(self) -> Callable[..., Optimizer]:
        """Import and return the class or factory.

        Raises:
            MissingPackageError: the package is not installed.
        """
        if not isinstance(self.target, str):
            return self.target
        module_name, _, attribute = self.target.partition(":")
        module = packages.load(
            module_name,
            needed_by=self.class_path,
            package=self.package,
            install=self.pip_install,
            skips_init=self.skips_init,
        )
        loaded: Callable[..., Optimizer] | None = getattr(module, attribute, None)
        if loaded is None:
            raise MissingPackageError(
                f"The installed {self.package} has no {attribute}. Install a newer one: {self.pip_install} --upgrade"
            )
        return loaded


@dataclass(frozen=True)
class Traits:
    """Facts about an algorithm that planning, advice, tests and the demo are driven by.

    Args:
        needs_targets: it treats the matrices that ``optim_target_modules`` chooses in another way than the rest.
        targets: the targets if the user names none; empty: it is an error to name none.
        schedule_free: averages weights itself, so it wants a constant learning rate and has
            ``train()`` and ``eval()`` modes.
        flat_pieces: trains right on the flat pieces of parameters, in groups of its own making, that DeepSpeed hands
            to an optimizer: each element is updated from its own gradient and state alone.
        clips_updates: limits its updates itself, so clipping gradients only weakens it.
        needs_closure: its step evaluates the loss again, at weights of its choosing.
        second_order: its step differentiates the gradients, so the backward pass must record itself.
        consumes_gradients: its step leaves no gradients behind.
        adam_fields: TrainingArguments' ``adam_beta1``, ``adam_beta2`` and ``adam_epsilon`` always apply,
            as transformers does for this name; otherwise only those the user changed apply.
    """

    needs_targets: bool = False
    targets: str = ""
    schedule_free: bool = False
    flat_pieces: bool = False
    clips_updates: bool = False
    needs_closure: bool = False
    second_order: bool = False
    consumes_gradients: bool = False
    adam_fields: bool = False

    @property
    def names_targets(self) -> bool:
        """Whether the user has to name the targets."""
        return self.needs_targets and not self.targets


@dataclass(frozen=True)
class OptimizerSpec:
    """What one name means.

    Args:
        name: lower snake case, or ``package/name``, or a class path ``module:Class``.
        summary: one line for a person.
        implementations: the first is the default.
        traits: see :class:`Traits`.
        paper: where the algorithm is published.
        usual_lr: lowest and highest learning rate in common use; advice is given far outside of it.
        aliases: other names for the same thing.
        fallback: the optimizer of all parameters that are no targets, where it is another one; see
            :meth:`with_fallback`.
        target_optimizer: the name of the optimizer of the targets; its own, but for a hybrid.
        wrappers: what is around it, the innermost first; see :meth:`wrapped_in`.
        cannot_wrap: of a wrapper, which builds nothing by itself: the traits of what it cannot wrap, with the reason.
    """

    name: str
    summary: str
    implementations: tuple[Implementation, ...]
    traits: Traits = Traits()
    paper: str = ""
    usual_lr: tuple[float, float] | None = None
    aliases: tuple[str, ...] = ()
    fallback: OptimizerSpec | None = None
    target_optimizer: str = ""
    wrappers: tuple[OptimizerSpec, ...] = ()
    cannot_wrap: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if not self.target_optimizer:
            object.__setattr__(self, "target_optimizer", self.name)

    @property
    def default(self) -> Implementation:
        """The implementation that is built unless ``implementation=`` names another."""
        return self.implementations[0]

    @property
    def hyperparameters(self) -> tuple[Hyperparameter, ...]:
        """The hyperparameters of the default implementation."""
        return self.default.hyperparameters

    @property
    def fused_backward(self) -> bool:
        """Whether it updates inside the backward pass unless told otherwise."""
        return any(each.name == "fused_backward" and each.default is True for each in self.hyperparameters)

    @property
    def package(self) -> str:
        """The distribution behind the default implementation."""
        return self.default.package

    @property
    def licence(self) -> str:
        """The licence of that distribution."""
        return self.default.licence

    @property
    def installed(self) -> bool:
        """Whether the packages of the default implementation, and of all that belongs to it, can be found here."""
        others = (*self.wrappers, *((self.fallback,) if self.fallback else ()))
        return self.default.installed and all(each.installed for each in others)

    @property
    def is_wrapper(self) -> bool:
        """Whether it needs another optimizer inside, ``name(other)``, to be one."""
        return self.cannot_wrap is not None

    def with_fallback(self, fallback: OptimizerSpec, name: str, **described: object) -> OptimizerSpec:
        """Return a hybrid: this optimizer on the targets, another one on all other parameters.

        Its hyperparameters are this one's and, with ``fallback_`` before their names, the other's.

        Args:
            fallback: the other one; it treats every parameter alike.
            name: of the hybrid.
            described: other fields of the new spec.

        Raises:
            OptimError: one of the two cannot be part of a hybrid.
        """
        for member in (self, fallback):
            if member.wrappers or member.is_wrapper:
                raise OptimError(f"{name}: a wrapper goes around a pair, as in lookahead(muon+lion), not into one.")
        if fallback.traits.needs_targets:
            raise OptimError(f"{name}: {fallback.name} works on target modules, so it cannot train the rest.")
        if self.target_optimizer == fallback.name:
            raise OptimError(f"{name} is {fallback.name} twice; give groups= settings of their own instead.")
        theirs = fallback.default
        prefixed = tuple(
            replace(each, name=f"fallback_{each.name}", help=f"{each.help}, of {fallback.name}", scope="fallback")
            for each in theirs.hyperparameters
            if each.scope == "optimizer"
        )
        facades = tuple(each for each in theirs.hyperparameters if each.scope == "facade")
        implementations = []
        for each in self.implementations:
            own = tuple(one for one in each.hyperparameters if one.scope != "fallback")
            has = {one.name for one in own}
            added = tuple(replace(one, default=False) for one in facades if one.name not in has)
            limits = {**theirs.limits, **each.limits}
            implementations.append(replace(each, hyperparameters=(*own, *added, *prefixed), limits=limits))
        traits = replace(
            self.traits,
            needs_targets=True,
            targets=self.traits.targets or "hidden-matrices",
            schedule_free=self.traits.schedule_free or fallback.traits.schedule_free,
            clips_updates=self.traits.clips_updates or fallback.traits.clips_updates,
            flat_pieces=False,
        )
        changed: dict[str, Any] = {"implementations": tuple(implementations), "traits": traits, **described}
        return replace(self, name=name, fallback=fallback, target_optimizer=self.target_optimizer, **changed)

    def wrapped_in(self, wrapper: OptimizerSpec) -> OptimizerSpec:
        """Return this optimizer inside of a wrapper, as ``wrapper(this)``.

        Its hyperparameters are this one's and, with the wrapper's name before theirs, the wrapper's.

        Raises:
            OptimError: the wrapper cannot work around this one.
        """
        name = f"{wrapper.name}({self.name})"
        if wrapper.cannot_wrap is None:
            raise OptimError(f"{name}: {wrapper.name} is no wrapper; `anyoptim list '*(*)'` shows those that are.")
        if self.is_wrapper:
            raise OptimError(
                f"{name}: {self.name} is a wrapper itself; write {wrapper.name}({self.name}(adamw_torch))."
            )
        if any(each.name == wrapper.name for each in self.wrappers):
            raise OptimError(f"{name}: {wrapper.name} is there twice.")
        for trait, reason in wrapper.cannot_wrap.items():
            if getattr(self.traits, trait):
                raise OptimError(f"{name} cannot work: {reason}.")
        if self.default.updates_in_backward:
            raise OptimError(f"{name} cannot work: {self.package} updates inside the backward pass, out of its reach.")
        theirs = wrapper.default
        added = tuple(
            replace(each, name=f"{wrapper.name}_{each.name}", help=f"{each.help}, of {wrapper.name}", scope="wrapper")
            for each in theirs.hyperparameters
        )
        waits = {"fused_backward": f"{wrapper.name} needs every gradient of a step at once"}
        implementations = tuple(
            replace(
                each,
                hyperparameters=(*(one for one in each.hyperparameters if one.name != "fused_backward"), *added),
                unsupported={**each.unsupported, **waits},
                limits={**theirs.limits, **each.limits},
                device=each.device or theirs.device,
            )
            for each in self.implementations
        )
        traits = replace(
            self.traits,
            schedule_free=self.traits.schedule_free or wrapper.traits.schedule_free,
            needs_closure=self.traits.needs_closure or wrapper.traits.needs_closure,
            flat_pieces=False,
        )
        return replace(
            self,
            name=name,
            summary=f"{self.summary}; inside of {wrapper.summary}",
            aliases=(),
            implementations=implementations,
            traits=traits,
            usual_lr=wrapper.usual_lr or self.usual_lr,
            wrappers=(*self.wrappers, wrapper),
        )

    def upstream(self, name: str) -> OptimizerSpec:
        """Return the spec of the package's own class, where an engine of ours is the default.

        Args:
            name: with the package before it.
        """
        own = tuple(each for each in self.implementations if each.name == "upstream")
        return replace(self, name=name, implementations=own, aliases=(), summary=f"{self.summary}, by {own[0].package}")

    def variant(
        self,
        name: str,
        *,
        summary: str | None = None,
        aliases: tuple[str, ...] = (),
        usual_lr: tuple[float, float] | None = None,
        **defaults: object,
    ) -> OptimizerSpec:
        """Return a spec of another name that differs in hyperparameter defaults.

        Raises:
            OptimError: a default is given for a hyperparameter that no implementation has.
        """
        unknown = defaults.keys() - {
            hyperparameter.name for each in self.implementations for hyperparameter in each.hyperparameters
        }
        if unknown:
            raise OptimError(f"{self.name} has no hyperparameter {sorted(unknown)[0]!r} to vary.")
        implementations = tuple(
            replace(
                each,
                hyperparameters=tuple(
                    replace(one, default=defaults.get(one.name, one.default)) for one in each.hyperparameters
                ),
            )
            for each in self.implementations
        )
        return replace(
            self,
            name=name,
            target_optimizer=name,
            summary=summary or self.summary,
            aliases=aliases,
            usual_lr=usual_lr or self.usual_lr,
            implementations=implementations,
        )


def hyperparameters_of(constructor: Callable[..., object]) -> tuple[Hyperparameter, ...]:
    """Read hyperparameters from a constructor's signature, for optimizers that have no hand-written data.

    Args:
        constructor: a class or factory whose first argument is the parameters (or the model).
    """
    try:
        signature = inspect.signature(constructor, eval_str=True)
    except (NameError, TypeError):  # annotations that only a type checker can see
        signature = inspect.signature(constructor)
    return tuple(
        Hyperparameter(
            parameter.name,
            _evaluated(parameter.annotation),
            REQUIRED if parameter.default is parameter.empty else parameter.default,
        )
        for parameter in list(signature.parameters.values())[1:]
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    )


def _evaluated(annotation: object) -> object:
    """Return an annotation, or ``None`` where there is none or it is still text."""
    return None if annotation is inspect.Parameter.empty or isinstance(annotation, str) else annotation


def spec_of(constructor: Callable[..., Optimizer], name: str, *, summary: str = "") -> OptimizerSpec:
    """Describe a class or factory under ``name``, taking hyperparameters from its signature."""
    package = constructor.__module__.partition(".")[0]
    doc = (inspect.getdoc(constructor) or "").partition("\n")[0]
    implementation = Implementation(
        name="upstream",
        target=constructor,
        hyperparameters=hyperparameters_of(constructor),
        package=package,
        licence="",
    )
    return OptimizerSpec(name=name, summary=summary or doc, implementations=(implementation,))
