"""``check_optimizer``: every check on one name, each with a verdict and a reason."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from anyoptim.errors import OptimError
from anyoptim.names.packages import need_transformers
from anyoptim.names.spec import Implementation, OptimizerSpec
from anyoptim.testing.checks import CHECKS, NotApplicable
from anyoptim.testing.subject import Subject

__all__ = ["CHECKS", "Report", "Verdict", "check_optimizer"]


@dataclass(frozen=True)
class Verdict:
    """What one check found.

    Args:
        check: its name.
        status: ``"pass"``; ``"fail"``: a promise is not kept, or a limit that the spec states does not show;
            ``"limit"``: fails as the spec says; ``"n/a"``: there is nothing to check.
        reason: the evidence, in one line.
    """

    check: str
    status: Literal["pass", "fail", "limit", "n/a"]
    reason: str


@dataclass(frozen=True)
class Report:
    """Every verdict on one name; ``bool()`` of it is whether none is ``"fail"``."""

    name: str
    verdicts: tuple[Verdict, ...]

    def __bool__(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> tuple[Verdict, ...]:
        """The verdicts that are ``"fail"``."""
        return tuple(each for each in self.verdicts if each.status == "fail")

    def __str__(self) -> str:
        return "\n".join(f"{each.status:5} {each.check}: {each.reason}" for each in self.verdicts)


def check_optimizer(
    name: str,
    *,
    checks: Collection[str] | None = None,
    device: str = "cpu",
    on_verdict: Callable[[Verdict], None] = lambda _: None,
    **fields: Any,
) -> Report:
    """Check an optimizer against what its spec says of it; in a test, ``assert check_optimizer("mine")``.

    Args:
        name: a registered name, a class path, a pair or a wrapped name.
        checks: names of ``CHECKS``; all of them if ``None``.
        device: where models train, as torch names its kind; two processes are tried on the CPU whatever it is.
        on_verdict: told each verdict as soon as it is there.
        fields: fields of TrainingArguments that it needs, such as ``optim_args="rank=8"``.

    Raises:
        UnknownOptimizerError: no such name.
        MissingPackageError: the package behind it, or transformers, is not installed.
        OptimError: there is no such device here.
    """
    need_transformers("The conformance kit")
    from anyoptim.integrations.transformers import enable

    subject = Subject(name, fields, device)
    subject.spec.default.load()
    wanted = list(CHECKS if checks is None else checks)
    reason = impossible(subject.spec)
    verdicts = []
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with enable(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for check in wanted:
            found = Verdict(check, "limit", reason) if reason else judged(_made(check, subject), subject.spec.default)
            verdicts.append(found)
            on_verdict(found)
    return Report(name, tuple(verdicts))


def impossible(spec: OptimizerSpec) -> str:
    """Return why nothing can be checked here, or ""."""
    own = spec.default
    return (
        own.unusable
        or ("it needs several processes" if own.needs_process_group else "")
        or ("it takes LoRA adapters only" if own.takes_lora_pairs else "")
    )


def _made(check: str, subject: Subject) -> Verdict:
    from transformers import set_seed

    set_seed(0)  # some optimizers draw random numbers
    try:
        return Verdict(check, "pass", CHECKS[check](subject))
    except NotApplicable as reason:
        return Verdict(check, "n/a", str(reason))
    except OptimError as error:
        return Verdict(check, "fail", str(error))
    except Exception as error:  # a stranger's optimizer may raise anything
        text = str(error).strip().partition("\n")[0]
        return Verdict(
            check, "fail", text if isinstance(error, AssertionError) and text else f"{type(error).__name__}: {text}"
        )


def judged(found: Verdict, implementation: Implementation) -> Verdict:
    """Hold a verdict against the limit that the spec states, if it states one."""
    limit, unsteady = (each.get(found.check) for each in (implementation.limits, implementation.unsteady))
    if found.status == "fail" and (limit or unsteady):
        return Verdict(found.check, "limit", f"{limit or unsteady} ({found.reason})")
    if found.status == "pass" and limit:
        return Verdict(found.check, "fail", f"the spec says that it fails ({limit}), but: {found.reason}")
    return found
