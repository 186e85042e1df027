"""What was built: stamped on the optimizer and its state dict, so that logs, cards and checkpoints can name it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import Tensor

from anyoptim.arguments.settings import Settings
from anyoptim.building.state_dicts import CARRIED
from anyoptim.engines.composite import CompositeOptimizer
from anyoptim.errors import CheckpointError
from anyoptim.names.composing import MEMBER
from anyoptim.names.hyperparameters import Hyperparameter
from anyoptim.names.spec import OptimizerSpec, Traits
from anyoptim.text import plain

if TYPE_CHECKING:
    from torch.optim import Optimizer

STATE_DICT_KEY = "anyoptim"
_ANOTHER_RATE = (
    " For another learning_rate, begin a new run with the checkpoint's weights, from_pretrained('.../checkpoint-N'),"
    " and without resume_from_checkpoint."
)


@dataclass(frozen=True)
class Writer:
    """Which optimizer wrote a state dict.

    Args:
        name: the registered name.
        implementation: which of its implementations.
        package: the distribution that implements it.
        version: of that package.
    """

    name: str
    implementation: str
    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} ({self.implementation}, {self.package} {self.version})"

    def same_optimizer(self, other: Writer) -> bool:
        """Whether the other's state fits: versions may differ."""
        return (self.name, self.implementation) == (other.name, other.implementation)


@dataclass(frozen=True)
class Place:
    """Where groups hold a hyperparameter.

    Args:
        key: of a group.
        member: the optimizer of a hybrid whose groups these are; empty: all groups.
    """

    key: str
    member: str = ""

    def values(self, groups: Iterable[Mapping[str, object]]) -> list[tuple[int, object]]:
        """Return the value of each group that has one, with the group's index."""
        return [
            (index, group[self.key])
            for index, group in enumerate(groups)
            if self.key in group and group.get(MEMBER, self.member) in (self.member, "")
        ]


@dataclass(frozen=True)
class Record:
    """One optimizer that was built.

    Args:
        writer: its name, implementation and version.
        class_path: of its class, ``module:Class``.
        hyperparameters: every value as planned.
        places: where groups hold each of them.
        applied_lr: the key of a group that holds the learning rate of the last step.
        traits: of its spec.
    """

    writer: Writer
    class_path: str
    hyperparameters: Mapping[str, object]
    places: Mapping[str, Place]
    applied_lr: str
    traits: Traits


_records: WeakKeyDictionary[Optimizer, Record] = WeakKeyDictionary()


def stamp(optimizer: Optimizer, spec: OptimizerSpec, settings: Settings) -> None:
    """Remember what an optimizer is, write it into its state dicts, and say what those that it loads change."""
    implementation = settings.implementation
    writer = Writer(spec.name, implementation.name, implementation.package, _version(implementation.package))
    _records[optimizer] = Record(
        writer,
        implementation.class_path,
        {name: setting.value for name, setting in settings.values.items()},
        {each.name: _place(each, spec) for each in implementation.hyperparameters},
        (spec.fallback.default if spec.fallback else implementation).applied_lr,  # of the first group
        spec.traits,
    )
    optimizer.register_state_dict_post_hook(_sign)
    optimizer.register_load_state_dict_pre_hook(_say_what_it_brings)
    optimizer.register_load_state_dict_post_hook(_complete)


def _place(hyperparameter: Hyperparameter, spec: OptimizerSpec) -> Place:
    if hyperparameter.scope == "wrapper":
        return Place(hyperparameter.name)
    own = spec.target_optimizer if spec.fallback else ""
    return Place(hyperparameter.keyword, hyperparameter.member or own)


def built(optimizer: Any) -> Optimizer | None:
    """Return the optimizer that anyoptim built, from inside accelerate's wrapper and our facades; or ``None``."""
    while optimizer is not None and optimizer not in _records:
        optimizer = vars(optimizer).get("optimizer")
    return optimizer  # type: ignore[no-any-return]  # what is in _records


def record_of(optimizer: Any) -> Record | None:
    """Return what an optimizer, or the one inside of it, was built as; ``None`` if not by anyoptim."""
    found = built(optimizer)
    return None if found is None else _records[found]


def forget_other_parameters(optimizer: Optimizer) -> None:
    """Drop state of parameters that are in no group: those that were replaced after construction."""
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    for parameter in [each for each in optimizer.state if isinstance(each, Tensor) and each not in held]:
        del optimizer.state[parameter]


def hyperparameters_in_use(optimizer: Any) -> dict[str, object]:
    """Return the hyperparameters that an optimizer runs with, as plain values.

    A loaded state dict brings its own: where the groups no longer hold what was planned, theirs counts. The
    learning rate is the one before any schedule.
    """
    record = record_of(optimizer)
    if record is None:
        return {}
    found: dict[str, object] = {}
    scheduled = "initial_lr" in optimizer.param_groups[0]
    for name, planned in record.hyperparameters.items():
        place = record.places.get(name, Place(name))
        if place.key == "lr" and scheduled:
            place = replace(place, key="initial_lr")
        held = [value for _, value in place.values(optimizer.param_groups)]
        found[name] = plain(planned if not held or _among(planned, *held) else held[0])
    return found


def describe(optimizer: Any) -> dict[str, object]:
    """Return what was built and the hyperparameters in use, as plain values that JSON can hold."""
    record = record_of(optimizer)
    if record is None:
        return {}
    return {**asdict(record.writer), "class": record.class_path, "hyperparameters": hyperparameters_in_use(optimizer)}


def refuse_other(written_by: Mapping[str, object], optimizer: Any, where: str) -> None:
    """Raise a ``CheckpointError`` if a record in a file names another optimizer than this one.

    Args:
        written_by: name, implementation, package and version, as :func:`describe` gives them.
        optimizer: the one that is to load.
        where: what holds the record, for the message.
    """
    record = record_of(optimizer)
    if record is None:
        return
    wrote = Writer(*(str(written_by.get(each, "?")) for each in ("name", "implementation", "package", "version")))
    if not wrote.same_optimizer(record.writer):
        raise CheckpointError(
            f"{where} was written by {wrote}, not by {record.writer}; resume with optim={wrote.name!r}"
            f"{'' if wrote.name != record.writer.name else f' and implementation={wrote.implementation}'},"
            " or start the optimizer afresh."
        )


def refuse_state_of_another(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
    """Raise a ``CheckpointError`` if a state dict is another optimizer's, or of other groups."""
    record = _records[optimizer]
    if "param_groups" not in state_dict:
        raise CheckpointError(
            f"This state has no param_groups, so {record.writer.name} cannot be resumed from it. Start it afresh."
        )
    saved, live = state_dict["param_groups"], optimizer.param_groups
    written_by = state_dict.get(STATE_DICT_KEY)
    if written_by is not None:
        refuse_other(written_by, optimizer, "This state")
    elif missing := _missing_keys(saved, live):
        raise CheckpointError(
            f"This state was written by another optimizer than {record.writer}, and does not say which: its groups"
            f" have no {missing[0]!r}. Resume with the optimizer that wrote it, or start afresh."
        )
    sizes = [[len(group["params"]) for group in groups] for groups in (saved, live)]
    if sizes[0] != sizes[1]:
        raise CheckpointError(
            f"This state of {record.writer.name} has groups of {sizes[0]} parameters, the optimizer of {sizes[1]};"
            " resume with the model, optim_target_modules and frozen parameters that it was written with."
        )


def _sign(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    state_dict[STATE_DICT_KEY] = asdict(_records[optimizer].writer)


def _say_what_it_brings(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Warn of each hyperparameter that a state dict overrules."""
    record = _records[optimizer]
    saved, live = state_dict["param_groups"], optimizer.param_groups
    for name, place in record.places.items():
        is_rate = place.key == "lr"
        planned = replace(place, key="initial_lr") if is_rate else place  # a rate may be scheduled since
        before = dict(planned.values(saved))
        pairs = [(before[index], value) for index, value in planned.values(live) if index in before]
        changed = [pair for pair in pairs if pair[1] is not None and not _among(*pair)]
        if changed:
            warnings.warn(
                f"{record.writer.name}: {name}={changed[0][1]} has no effect: the state that is resumed was written"
                f" with {name}={changed[0][0]}, which goes on." + (_ANOTHER_RATE if is_rate else ""),
                stacklevel=5,
            )


def _complete(optimizer: Optimizer) -> None:
    """Give groups the keys that a checkpoint has lost: torch's distributed ones keep none of a group that is empty."""
    for group in (each for each in optimizer.param_groups if not each["params"]):
        member = optimizer.owner(group) if isinstance(optimizer, CompositeOptimizer) else optimizer
        for key, value in member.defaults.items():
            group.setdefault(key, value)


def _missing_keys(saved: Sequence[Mapping[str, object]], live: Sequence[Mapping[str, object]]) -> list[str]:
    """Return keys that saved groups lack, if they have others instead: versions of one optimizer only add keys."""
    added = {"initial_lr", *CARRIED}  # by schedulers, and for torch's distributed checkpoints
    for group, mine in zip(saved, live, strict=False):
        lacking, instead = set(mine) - set(group) - added, set(group) - set(mine) - added
        if lacking and instead:
            return sorted(lacking)
    return []


def _among(value: object, *held: object) -> bool:
    return any(plain(value) == plain(each) for each in held)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
