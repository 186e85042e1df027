"""``enable()``: every registered name becomes a valid ``optim=`` of the Hugging Face Trainer.

These things of transformers and accelerate are changed, and put back by ``disable()``:

- ``OptimizerNames`` gets a real member for each name (argparse lists members), and its ``_missing_``
  understands other spellings and class paths;
- ``Trainer.get_optimizer_cls_and_kwargs`` answers registered names from :func:`anyoptim.plan`, and what is made of
  the answer is taken over where it is made: ``answers.py``;
- ``Trainer.get_decay_parameter_names`` answers ``in`` from a set: the Trainer looks every parameter
  up in that list, which takes quadratic time;
- ``Trainer.create_scheduler`` resolves a warmup ratio, because only it knows the number of steps;
- argparse takes every name, pairs, wrappers and class paths too, where its choices are ``OptimizerNames``, and answers
  an unknown one with the closest, not with a list of all: ``HfArgumentParser`` has copies in other packages;
- ``Trainer.training_step`` is repeated for optimizers that evaluate the loss again: ``closures.py``;
- what an ``Accelerator`` does with an optimizer: ``accelerate.py``;
- saving and resuming: ``checkpoints.py``; logs and model cards: ``reports.py``.
"""

from __future__ import annotations

import argparse
import functools
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from anyoptim.errors import OptimError, UnknownOptimizerError
from anyoptim.integrations.answers import adopt, answer
from anyoptim.integrations.patching import replace
from anyoptim.names import lookup, registry, spelling
from anyoptim.names.packages import need_transformers

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
        _wrap_parsers(undo)
        _extend_names(undo)
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

    def missing(value: object) -> object:
        try:
            name = lookup.optimizer_info(str(value)).name
        except UnknownOptimizerError as error:
            key = spelling.normalise(str(value))
            if key in OptimizerNames._value2member_map_:
                return OptimizerNames._value2member_map_[key]
            if any(sign in key for sign in ":+("):
                raise
            raise spelling.unknown(str(value), [*registry.known_names(), *OptimizerNames._value2member_map_]) from error
        add([name])  # a class path is new here
        return OptimizerNames._value2member_map_[name]

    replace(undo, OptimizerNames, "_missing_", missing)


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


def _wrap_parsers(undo: ExitStack) -> None:
    from transformers.training_args import OptimizerNames

    own = tuple(OptimizerNames._value2member_map_)
    parser = argparse._ActionsContainer  # what a parser and a group of its arguments have in common
    add_argument = parser.add_argument

    @functools.wraps(add_argument)
    def add_argument_with_every_name(self: Any, *args: Any, **kwargs: Any) -> argparse.Action:
        action = add_argument(self, *args, **kwargs)
        choices = action.choices
        if isinstance(choices, (list, tuple)) and all(name in choices for name in own):
            action.type = functools.partial(_optim_of_text, choices=tuple(choices))
            action.choices = None
            action.metavar = "NAME"
        return action

    replace(undo, parser, "add_argument", add_argument_with_every_name)


def _optim_of_text(text: str, choices: tuple[object, ...]) -> str:
    if text not in choices:
        try:
            lookup.optimizer_info(text)
        except OptimError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return text


# ---------------------------------------------------------------- Trainer


def _wrap_trainer(undo: ExitStack) -> None:
    from transformers import Trainer

    original = Trainer.get_optimizer_cls_and_kwargs

    @functools.wraps(original)
    def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[Any, Any]:
        return answer(original, args, model) if lookup.is_known(args.optim) else original(args, model)

    replace(undo, Trainer, "get_optimizer_cls_and_kwargs", get_optimizer_cls_and_kwargs)

    create_optimizer: Callable[..., Any] = Trainer.create_optimizer

    @functools.wraps(create_optimizer)
    def create_optimizer_and_adopt(self: Any, *args: Any, **kwargs: Any) -> Any:
        create_optimizer(self, *args, **kwargs)
        adopt(original, self, *args, **kwargs)
        return self.optimizer

    replace(undo, Trainer, "create_optimizer", create_optimizer_and_adopt)

    train: Callable[..., Any] = Trainer.train

    @functools.wraps(train)
    def train_what_it_makes(self: Any, *args: Any, **kwargs: Any) -> Any:
        create: Callable[..., Any] = self.create_optimizer  # a subclass may make it without Trainer's own

        @functools.wraps(create)
        def create_and_adopt(*args: Any, **kwargs: Any) -> Any:
            made = create(*args, **kwargs)
            adopt(original, self, *args, **kwargs)
            return made

        with ExitStack() as run:
            replace(run, self, "create_optimizer", create_and_adopt)
            return train(self, *args, **kwargs)

    replace(undo, Trainer, "train", train_what_it_makes)

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
