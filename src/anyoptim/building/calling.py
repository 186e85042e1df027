"""Calling what makes optimizers, which may be anybody's, and holding what it returns against what was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from torch import Tensor, nn
from torch.optim import Optimizer

from anyoptim.errors import MissingPackageError, OptimError
from anyoptim.text import said, shortened


def made_by(
    build: Callable[..., object], what: str, params: nn.Module | Iterable[object] | Optimizer, **keywords: object
) -> Optimizer:
    """Return what a class, a factory or a wrapper makes of parameters.

    Args:
        build: it.
        what: the name it stands for and its class path, for messages.
        params: its first argument: a model, parameters, pairs of name and parameter, groups of any of these, or the
            optimizer that is wrapped.
        keywords: its other ones.

    Raises:
        OptimError: it makes no optimizer, or one of other parameters, or ends the program instead.
        MissingPackageError: it imports what is not installed.
    """
    given = Counter(map(id, _trained(params)))
    may_have = set(map(id, params.parameters())) if isinstance(params, nn.Module) else set(given)
    try:
        optimizer = build(params, **keywords)
    except OptimError:
        raise
    except ImportError as error:
        raise MissingPackageError(f"{what} does not find what it imports: {said(error)}.") from error
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise OptimError(f"{what} made no optimizer, but raised {type(error).__name__}: {said(error)}.") from error
    if not isinstance(optimizer, Optimizer):
        raise OptimError(f"{what} returned {shortened(optimizer)}, which is no torch.optim.Optimizer.")
    has = Counter(map(id, _trained(optimizer)))
    missing, others = given.keys() - has.keys(), has.keys() - may_have
    if missing or others or (has and max(has.values()) > 1):
        wrong = f"without {len(missing)} of the {len(given)} parameters" if missing else "with parameters twice"
        wrong = f"with {len(others)} parameters that it was not given" if others else wrong
        raise OptimError(f"{what} returned {type(optimizer).__name__} {wrong}; it has to train all, each once.")
    return optimizer


def _trained(params: nn.Module | Iterable[object] | Optimizer) -> Iterator[Tensor]:
    """Yield the parameters of a model, an optimizer, groups, or pairs of name and parameter."""
    if isinstance(params, nn.Module):
        yield from (each for each in params.parameters() if each.requires_grad)
        return
    if isinstance(params, Tensor):
        yield params
        return
    for each in params.param_groups if isinstance(params, Optimizer) else params:
        if isinstance(each, Mapping):
            yield from _trained(each["params"])
        elif isinstance(each, Tensor):
            yield each
        elif isinstance(each, tuple):
            yield each[1]
