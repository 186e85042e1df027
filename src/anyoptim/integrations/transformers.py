"""``enable()``: every registered name becomes a valid ``optim=`` of the Hugging Face Trainer.

These things of transformers and accelerate are changed, and put back by ``disable()``:

- ``OptimizerNames`` gets a real member for each name (argparse lists members), and its ``_missing_``
  understands other spellings and class paths;
- ``Trainer.get_optimizer_cls_and_kwargs`` answers registered names from :func:`anyoptim.plan`;
- ``Trainer.get_decay_parameter_names`` answers ``in`` from a set: the Trainer looks every parameter
  up in that list, which takes quadratic time;
- ``Trainer.create_scheduler`` resolves a warmup ratio, because only it knows the number of steps;
- ``HfArgumentParser`` takes every name for ``--optim``, pairs, wrappers and class paths too, and answers an unknown one
  with the closest, not with a list of all;
- ``Trainer.training_step`` is repeated for optimizers that evaluate the loss again: ``closures.py``;
- what an ``Accelerator`` does with an optimizer: ``accelerate.py``;
- saving and resuming: ``checkpoints.py``; logs and model cards: ``reports.py``.
"""

from __future__ import annotations

import argparse
import functools
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from anyoptim.arguments.fields import Fields
from anyoptim.building.assemble import class_of
from anyoptim.errors import OptimError, UnknownOptimizerError, UnsupportedError
from anyoptim.integrations.patching import replace
from anyoptim.names import registry
from anyoptim.names.packages import need_transformers
from anyoptim.planning.plan import Plan, plan

if TYPE_CHECKING:
    from torch.optim import Optimizer

_lock = threading.RLock()
_installed: ExitStack | None = None
_scopes = 0
"""How many calls of ``enable()`` have not ended."""


class Enabled:
    """What :func:`enable` returns: as a context manager, its end undoes that call."""

    def __init__(self, installed: ExitStack) -> None:
        self._installed = installed

    def __enter__(self) -> Enabled:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _scopes
        with _lock:
            if self._installed is _installed:  # else disable() came first
                _scopes -= 1
                if not _scopes:
                    disable()


def enable() -> Enabled:
    """Make every registered name a valid ``optim=`` in this process; a second call changes nothing.

    Use it once at the top of a script, or as ``with anyoptim.enable():``; of several such scopes the last one that
    ends undoes it.

    Raises:
        MissingPackageError: transformers or accelerate is not installed; nothing is changed then.
    """
    global _installed, _scopes
    with _lock:
        if _installed is None:
            _installed = _install()
        _scopes += 1
        return Enabled(_installed)


def _install() -> ExitStack:
    need_transformers("anyoptim.enable()")
    from anyoptim.integrations.accelerate import wrap_accelerator
    from anyoptim.integrations.checkpoints import wrap_checkpoints
    from anyoptim.integrations.closures import wrap_closures
    from anyoptim.integrations.reports import wrap_reports

    undo = ExitStack()
    try:
        _extend_names(undo)
        _wrap_parser(undo)
        _wrap_trainer(undo)
        wrap_accelerator(undo)
        wrap_checkpoints(undo)
        wrap_reports(undo)
        wrap_closures(undo)
    except BaseException:
        undo.close()
        raise
    return undo


def disable() -> None:
    """Leave transformers as :func:`enable` found it; without an earlier ``enable()`` nothing happens."""
    global _installed, _scopes
    with _lock:
        if _installed is not None:
            _installed.close()
            _installed, _scopes = None, 0


# ---------------------------------------------------------------- OptimizerNames


def _extend_names(undo: ExitStack) -> None:
    from transformers.training_args import OptimizerNames

    def add(names: Iterable[str]) -> None:
        for name in names:
            if name not in OptimizerNames._value2member_map_:
                undo.callback(_remove_member, OptimizerNames, _add_member(OptimizerNames, name))

    add(registry.known_names())
    registry.on_register.append(add)
    undo.callback(registry.on_register.remove, add)

    def _missing_(cls: Any, value: object) -> object:
        try:
            name = registry.optimizer_info(str(value)).name
        except UnknownOptimizerError as error:
            key = registry.normalise(str(value))
            if key in cls._value2member_map_:
                return cls._value2member_map_[key]
            if any(sign in key for sign in ":+("):
                raise
            raise registry.unknown(str(value), [*registry.known_names(), *cls._value2member_map_]) from error
        add([name])  # a class path is new here
        return cls._value2member_map_[name]

    # ExplicitEnum defines _missing_; OptimizerNames inherits it
    type.__setattr__(OptimizerNames, "_missing_", classmethod(_missing_))
    undo.callback(delattr, OptimizerNames, "_missing_")


def _add_member(names: Any, value: str) -> Any:
    """Add a member as ``enum`` would have; it pickles as the plain string it stands for.

    A ``training_args.bin`` then loads in a process that has no anyoptim.
    """
    member = str.__new__(names, value)
    name = "".join(character if character.isalnum() else "_" for character in value).upper()
    while name in names._member_map_:  # `timm/lamb` beside `timm_lamb`
        name += "_"
    member._name_ = name
    member._value_ = value
    member.__objclass__ = names
    member._sort_order_ = len(names._member_names_)
    member.__reduce_ex__ = lambda protocol: (str, (value,))
    setattr(names, name, member)
    names._member_names_.append(name)
    names._member_map_[name] = member
    names._value2member_map_[value] = member
    if hasattr(names, "_hashable_values_"):  # Python 3.13
        names._hashable_values_.append(value)
    return member


def _remove_member(names: Any, member: Any) -> None:
    names._member_names_.remove(member._name_)
    del names._member_map_[member._name_]
    del names._value2member_map_[member._value_]
    if hasattr(names, "_hashable_values_"):
        names._hashable_values_.remove(member._value_)
    delattr(names, member._name_)


# ---------------------------------------------------------------- the command line


def _wrap_parser(undo: ExitStack) -> None:
    from transformers import HfArgumentParser

    init = HfArgumentParser.__init__

    @functools.wraps(init)
    def init_with_every_name(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        for action in self._actions:
            if "--optim" in action.option_strings and action.choices:
                action.type = functools.partial(_optim_of_text, choices=tuple(action.choices))
                action.choices = None
                action.metavar = "NAME"

    replace(undo, HfArgumentParser, "__init__", init_with_every_name)


def _optim_of_text(text: str, choices: tuple[object, ...]) -> str:
    if text not in choices:
        try:
            registry.optimizer_info(text)
        except OptimError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return text


# ---------------------------------------------------------------- Trainer


def _wrap_trainer(undo: ExitStack) -> None:
    from transformers import Trainer

    original = Trainer.get_optimizer_cls_and_kwargs

    @functools.wraps(original)
    def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[Any, Any]:
        name = str(getattr(args.optim, "value", args.optim))
        if not registry.is_known(name):
            return original(args, model)
        return _cls_and_kwargs(plan(name, model, args), Fields(args))

    replace(undo, Trainer, "get_optimizer_cls_and_kwargs", get_optimizer_cls_and_kwargs)

    get_decay_parameter_names = Trainer.get_decay_parameter_names

    @functools.wraps(get_decay_parameter_names)
    def get_decay_parameter_names_at_once(self: Any, model: Any) -> list[str]:
        return _Names(get_decay_parameter_names(self, model))

    replace(undo, Trainer, "get_decay_parameter_names", get_decay_parameter_names_at_once)

    create_scheduler = Trainer.create_scheduler

    @functools.wraps(create_scheduler)
    def create_scheduler_with_steps(self: Any, num_training_steps: int, *args: Any, **kwargs: Any) -> Any:
        for group in getattr(self.optimizer, "param_groups", ()):
            if isinstance(group.get("warmup_steps"), float):
                group["warmup_steps"] = self.args.get_warmup_steps(num_training_steps)
        return create_scheduler(self, num_training_steps, *args, **kwargs)

    replace(undo, Trainer, "create_scheduler", create_scheduler_with_steps)


class _Names(list[str]):
    """A list of names that knows at once whether one is in it."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(names)
        self._set = frozenset(self)

    def __contains__(self, name: object) -> bool:
        return name in self._set


def _cls_and_kwargs(planned: Plan, fields: Fields) -> tuple[type[Optimizer], dict[str, Any]]:
    """Answer in the shape that transformers itself answers in, on every version.

    The class takes what the caller passes: the Trainer's own groups, a subclass's groups, or, where
    the plan's groups differ from the Trainer's, ``params`` (``model`` for model-first optimizers).
    """
    kwargs: dict[str, Any] = planned.keywords
    own_groups = False
    if not planned.implementation.takes_groups:
        kwargs["model"] = planned.model
    elif not _trainer_makes_them(planned, fields):
        own_groups = True
        kwargs["params"] = [dict(group) for group in planned.groups]
    return _optimizer_class(planned, own_groups=own_groups), kwargs


def _optimizer_class(planned: Plan, *, own_groups: bool) -> type[Optimizer]:
    """Return a class whose call is ``planned.construct``: 4.57 and 5.x both call ``cls(groups, **kwargs)``.

    A class, because transformers 5 calls any other callable as ``factory()(model, **kwargs)``; the
    object it makes is the real optimizer class's own.
    """
    usual_keys = {"params", "weight_decay"}.union(*planned.groups)

    def construct(_: type, params: Any, **kwargs: Any) -> Optimizer:
        if own_groups:
            if any(not isinstance(group, dict) or set(group) - usual_keys for group in params):
                raise UnsupportedError(
                    f"{planned.spec.name} makes its own param groups; groups with settings of their own"
                    " (such as LoRA+ or a learning-rate mapping) do not fit it."
                )
            # a second create_optimizer finds `params` popped from the kwargs and passes the Trainer's groups
            params = planned.groups
        return planned.construct(params, **kwargs)

    base = class_of(planned)
    return type(base.__name__, (base,), {"__new__": construct, "__module__": base.__module__})


def _trainer_makes_them(planned: Plan, fields: Fields) -> bool:
    """Whether the groups that ``Trainer.create_optimizer`` makes by itself are the plan's."""
    if planned.model is None:
        return True
    if planned.implementation.one_group:
        return False
    trainers = fields.number("weight_decay") or 0.0
    return planned.settings.get("weight_decay") in (trainers, None) and all(
        set(group) <= {"params", "weight_decay"} for group in planned.groups
    )
