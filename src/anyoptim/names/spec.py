"""What one optimizer name means, as plain data that imports neither torch nor the package behind it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from anyoptim.errors import MissingPackageError
from anyoptim.names import packages
from anyoptim.names.hyperparameters import Hyperparameter
from anyoptim.names.role import EVERY_ROLE, Role

if TYPE_CHECKING:
    from torch.optim import Optimizer


Across = Literal["", "local", "owned"]
"""How an optimizer steps where processes share the parameters: on DTensors as it is; on each process's part; whole, on
the process that owns a parameter."""


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
        unsteady: checks that it fails on some machines, with the reason: a last digit decides.
        updates_in_backward: its class has hooks of its own that update on every backward pass, so gradients
            neither accumulate nor are reduced over processes.
        step_copies: copies of the trainable weights that a step of a wrapper holds until its end.
        applied_lr: the key of a group that holds the learning rate of the last step.
        target_roles: the roles that a target may have.
        one_for_all: hyperparameters that it has one value of for all groups, though each group has the key.
        one_group: it counts its steps by group, so that several would count one step several times.
        takes_lora_pairs: each of its groups has to be pairs of a LoRA A and its B, one after the other.
        own_step_size: with ``lr=none``, or without such a keyword, a group's learning rate means nothing to it.
        by_place: what it does to a parameter depends on that one's place among the others, so that no device mesh may
            split its groups.
        loads_state_of: values of groups' keys whose state its ``load_state_dict`` converts, so that a checkpoint may
            hold it.
        resized_state: keys of its state whose tensors change their size as it trains.
        across: how it steps on parameters that several processes share; found by the conformance kit.
        owned_with: values of hyperparameters that make it look at whole parameters, so that these have owners.
        elementwise: each element is updated from its own gradient and state, and the group's values, alone.
        weights_in_state: keys of its state that hold weights, which fewer bits than 24 would spoil.
        exact_state: keys of its state whose tensors are of a parameter's shape by chance only, as rotations of square
            matrices are, or that fewer bits would spoil.
        fused_form: the name in :data:`anyoptim.engines.fused_forms.FORMS` of its very arithmetic; empty: there is none.
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
    unsteady: Mapping[str, str] = field(default_factory=dict)
    updates_in_backward: bool = False
    step_copies: int = 0
    applied_lr: str = "lr"
    target_roles: frozenset[Role] = EVERY_ROLE
    one_for_all: frozenset[str] = frozenset()
    one_group: bool = False
    takes_lora_pairs: bool = False
    own_step_size: bool = False
    by_place: bool = False
    loads_state_of: tuple[Mapping[str, object], ...] = ()
    resized_state: frozenset[str] = frozenset()
    across: Across = ""
    owned_with: Mapping[str, object] = field(default_factory=dict)
    elementwise: bool = False
    weights_in_state: frozenset[str] = frozenset()
    exact_state: frozenset[str] = frozenset()
    fused_form: str = ""

    @property
    def may_fail(self) -> Mapping[str, str]:
        """The checks that it fails, here or elsewhere, with the reason."""
        return {**self.unsteady, **self.limits}

    @property
    def resumable(self) -> bool:
        """Whether a checkpoint restores its state exactly."""
        return "resume" not in self.may_fail

    @property
    def shards(self) -> bool:
        """Whether its step works on the sharded parameters of FSDP2."""
        return "FSDP2" not in self.may_fail

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
        except (ValueError, ImportError):  # a module that is blocked or half-imported has no __spec__
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
        loaded: Callable[..., Optimizer] | None = packages.attribute_of(module, attribute)
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
        flat_pieces: trains right on the flat pieces of parameters, in groups of its own making, that DeepSpeed and
            FSDP1 hand to an optimizer: each element is updated from its own gradient and state alone.
        clips_updates: limits its updates itself, so clipping gradients only weakens it.
        needs_closure: its step evaluates the loss again, at weights of its choosing.
        needs_rate: of a wrapper: it computes with the learning rate of the optimizer inside.
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
    needs_rate: bool = False
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
            :func:`anyoptim.names.composing.pair`.
        target_optimizer: the name of the optimizer of the targets; its own, but for a hybrid.
        wrappers: what is around it, the innermost first; see :func:`anyoptim.names.composing.wrapped`.
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
    def trait_names(self) -> list[str]:
        """The traits that it has, by name."""
        return [name for name, value in vars(self.traits).items() if value is True]

    @property
    def installed(self) -> bool:
        """Whether the packages of the default implementation, and of all that belongs to it, can be found here."""
        others = (*self.wrappers, *((self.fallback,) if self.fallback else ()))
        return self.default.installed and all(each.installed for each in others)

    @property
    def is_wrapper(self) -> bool:
        """Whether it needs another optimizer inside, ``name(other)``, to be one."""
        return self.cannot_wrap is not None
