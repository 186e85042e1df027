"""A learning rate from one optimizer to another: both train one model for a few steps, and the rate is sought at which
the other moves the weights as far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anyoptim.comparing.progress import Show, in_lines
from anyoptim.comparing.ratios import Ratio, deciding, deciding_fallback, moved, ratio
from anyoptim.comparing.subjects import subject
from anyoptim.comparing.tasks import Task
from anyoptim.comparing.thumb import highest_rate, is_scale, rule_for
from anyoptim.comparing.translation import Translation
from anyoptim.comparing.updates import DivergedError, Trial, try_rate
from anyoptim.errors import OptimError
from anyoptim.names.lookup import optimizer_info
from anyoptim.names.spec import OptimizerSpec
from anyoptim.planning.suggestions import suited_arguments, usual_rates

STEPS, LEAST = 40, 5
"""Of each trial, and the fewest."""
SEEDS = 2
NEAR = 1.1
"""Updates whose sizes differ by less are alike."""
FALLING = 0.5
"""The mean of a schedule that falls to zero: a schedule-free optimizer, whose rate stays, gets so much of it."""
_TRIALS = 3
"""So often the other optimizer is tried, each time at what the time before has shown."""


def translate(
    source: str,
    target: str,
    *,
    lr: float,
    weight_decay: float | None = None,
    betas: Sequence[float] | None = None,
    model: str | None = None,
    task: str | Task | None = None,
    steps: int = STEPS,
    seeds: int = SEEDS,
    optim_args: Mapping[str, str] | None = None,
    show: Show = in_lines,
) -> Translation:
    """Propose the learning rate at which another optimizer moves a model's weights as far as one whose rate is known.

    Both train for a few steps from the same weights on the same data, the other one again at what the first trial has
    shown, since not every update grows with the rate.

    Args:
        source: the optimizer whose rate is known.
        target: the other one.
        lr: the known rate.
        weight_decay: the known decay; what is taken away at each step, rate times decay, stays.
        betas: the known ones.
        model: what is trained, as ``--model`` takes it, on bytes of text; the task's own if ``None``.
        task: one, or its name: a built-in one or ``module:function``; see ``load_task``.
        steps: of each trial.
        seeds: how many weights and orders of data are tried.
        optim_args: by name, what else is said to the two.
        show: shows how far it is.

    Raises:
        OptimError: a name, model or task that is none, a rate that is not positive, or a training that fails.
        MissingPackageError: a package is not installed.
    """
    specs = optimizer_info(source), optimizer_info(target)
    said = {optimizer_info(name).name: text for name, text in (optim_args or {}).items()}
    if not (math.isfinite(lr) and lr > 0):
        raise OptimError(f"lr={lr:g} is no learning rate to translate; give a positive one.")
    if steps < LEAST or seeds < 1:
        raise OptimError(f"Updates are measured in {LEAST} or more steps of one or more seeds.")
    if is_scale(specs[0]):
        raise OptimError(f"{specs[0].name} finds its rate itself: lr={lr:g} says nothing about another optimizer's.")
    if is_scale(specs[1]):
        return _itself(specs, lr)
    pair = _Pair(*specs, lr, said, subject(model, task), steps, seeds, _beta_fields(betas), show)
    return pair.translation(weight_decay, tuple(betas) if betas else None)


def _itself(specs: tuple[OptimizerSpec, OptimizerSpec], lr: float) -> Translation:
    source, target = specs
    why = f"{target.name} finds its rate itself; leave lr=1."
    arguments = suited_arguments(target.name, learning_rate=1.0)
    return Translation(source.name, target.name, lr, 1.0, 1.0, 1.0, "itself", why, None, None, None, arguments)


def _beta_fields(betas: Sequence[float] | None) -> dict[str, object]:
    return {f"adam_beta{number}": value for number, value in enumerate(betas or (), start=1) if number < 3}


@dataclass(frozen=True)
class _Rates:
    """Of one trial: the rate, and the fallback's where it is set for it."""

    rate: float
    fallback: float | None = None

    def divided(self, by: Ratio, fallback_by: Ratio | None) -> _Rates:
        fallback = self.fallback / fallback_by.middle if self.fallback and fallback_by else self.fallback
        return _Rates(self.rate / by.middle, fallback)


@dataclass(frozen=True)
class _Found:
    """What the trials have shown.

    Args:
        sources: trials of the known optimizer.
        targets: the last ones of the other one.
        tried: at these rates.
        by: how far the other one moved the weights in them.
        best: the rates that follow.
        too_high: a rate that would follow, and diverges.
    """

    sources: list[Trial]
    targets: list[Trial]
    tried: _Rates
    by: Ratio
    best: _Rates
    too_high: float | None = None


@dataclass(frozen=True)
class _Pair:
    """Two optimizers on a task."""

    source: OptimizerSpec
    target: OptimizerSpec
    lr: float
    said: Mapping[str, str]
    task: Task
    steps: int
    seeds: int
    fields: Mapping[str, object]
    show: Show

    def translation(self, weight_decay: float | None, betas: tuple[float, ...] | None) -> Translation:
        """Try both, and say what follows."""
        notes: list[str] = []
        if self.source.usual_lr and self.lr > self.source.usual_lr[1]:
            notes.append(
                f"lr={self.lr:g} is above what is usual for {self.source.name} ({self.source.usual_lr[1]:g}): this is a"
                " guess."
            )
        found = self._searched()
        if found.too_high is not None:
            notes.append(f"As far would be lr={found.too_high:.2g}, where {self.target.name} diverges.")
        elif not 1 / 2 < found.by.middle < 2:
            notes.append(f"What {self.target.name} moves hardly grows with its rate: this one is a guess.")
        mean = FALLING ** (self.target.traits.schedule_free - self.source.traits.schedule_free)
        if mean != 1:
            notes.append(f"One of the two keeps its rate while the other's falls: that counts {mean:g} times.")
        rate, method, why = self._decided(found.best.rate * mean, notes)
        rate = _two_digits(rate)
        fallback = None if found.best.fallback is None else _two_digits(found.best.fallback)
        decay = self._decay(weight_decay, rate, notes)
        kept = self._betas(betas, notes)
        arguments = suited_arguments(
            self.target.name, learning_rate=rate, width=self._width, optim_args=self._text(self.target, fallback)
        )
        if decay is not None:
            arguments["weight_decay"] = decay
        if kept is not None:
            arguments.update(_beta_fields(kept))
        return Translation(
            self.source.name,
            self.target.name,
            self.lr,
            rate,
            _two_digits(mean * found.tried.rate / found.by.high),
            _two_digits(mean * found.tried.rate / found.by.low),
            method,
            why,
            fallback,
            decay,
            kept,
            arguments,
            tuple(moved(found.sources, found.targets)),
            tuple(notes),
        )

    def _decided(self, measured: float, notes: list[str]) -> tuple[float, str, str]:
        """Return the rate that is proposed, how it was found, and why it is that one."""
        rule = rule_for(self.source, self.target)
        if rule is not None:
            rate = rule.rate(self.lr, self.source, self.target)
            if rule.decides:
                return rate, "rule", rule.says
            notes.append(f"A rule of thumb ({rule.source}): {rule.says}; that would be lr={rate:.2g}.")
        highest = highest_rate(self.lr, self.source, self.target)
        if measured > highest:
            notes.append(f"It would move the hidden matrices as far at lr={measured:.2g}.")
            return highest, "range", "it stays as near to its usual range as the known rate"
        return measured, "measured", "there it moves the hidden matrices as far"

    def _searched(self) -> _Found:
        """Try the known one, and the other one at what each trial before has shown."""
        sources = [self._try(self.source, _Rates(self.lr), seed) for seed in range(self.seeds)]
        rates, targets = self._beginning()
        measured = self._ratios(sources, targets)
        for _ in range(_TRIALS - 1):
            proposed = rates.divided(*measured)
            try:
                tried = [self._try(self.target, proposed, seed) for seed in range(self.seeds)]
            except DivergedError:
                return _Found(sources, targets, rates, measured[0], rates, too_high=proposed.rate)
            rates, targets, measured = proposed, tried, self._ratios(sources, tried)
            if all(each is None or abs(math.log(each.middle)) < math.log(NEAR) for each in measured):
                break
        return _Found(sources, targets, rates, measured[0], rates.divided(*measured))

    def _beginning(self) -> tuple[_Rates, list[Trial]]:
        """Try the other one as far from its usual rates as the known one is, or at a tenth where that diverges."""
        rate = self._guess(self.target)
        fallback = self._guess(self.target.fallback) if self._sets_fallback and self.target.fallback else None
        for tenth in (1.0, 0.1, 0.01):
            rates = _Rates(rate * tenth, fallback)
            try:
                return rates, [self._try(self.target, rates, 0)]
            except DivergedError as error:
                last = error
        raise last

    def _guess(self, spec: OptimizerSpec) -> float:
        (low, _, high), (own_low, _, own_high) = usual_rates(spec), usual_rates(self.source)
        return self.lr * math.sqrt(low * high / (own_low * own_high))

    @property
    def _sets_fallback(self) -> bool:
        return self.target.fallback is not None and "fallback_lr=" not in self.said.get(self.target.name, "")

    @property
    def _width(self) -> int | None:
        return getattr(getattr(self.task.model(), "config", None), "hidden_size", None)

    def _text(self, spec: OptimizerSpec, fallback: float | None) -> str:
        own = self.said.get(spec.name, "")
        return ",".join(filter(None, [own, "" if fallback is None else f"fallback_lr={fallback:.3g}"]))

    def _try(self, spec: OptimizerSpec, rates: _Rates, seed: int) -> Trial:
        with self.show(f"{spec.name} lr {rates.rate:.2g} seed {seed}", self.steps) as work:
            trial = try_rate(
                spec.name,
                rates.rate,
                self.task,
                steps=self.steps,
                seed=seed,
                optim_args=self._text(spec, rates.fallback),
                fields=self.fields if spec is self.source or _same_betas(self.source, self.target) else {},
                on_step=work.step,
            )
            work.end(f"loss {trial.losses[0]:.3f} to {trial.losses[-1]:.3f}")
        return trial

    @staticmethod
    def _ratios(sources: Sequence[Trial], targets: Sequence[Trial]) -> tuple[Ratio, Ratio | None]:
        fallback = deciding_fallback(targets[0])
        return (
            ratio(sources, targets, deciding(targets[0])),
            None if fallback is None else ratio(sources, targets, fallback),
        )

    def _decay(self, given: float | None, rate: float, notes: list[str]) -> float | None:
        """Return the decay that takes as much away at each step."""
        if given is None:
            return None
        if not any(each.name == "weight_decay" for each in self.target.hyperparameters):
            notes.append(f"{self.target.name} takes no weight decay.")
            return None
        if given:
            notes.append(
                f"Rate times decay stays at {self.lr * given:.2g}, which a weight loses at each step where decay is"
                " apart from the gradient."
            )
        return _two_digits(given * self.lr / rate)

    def _betas(self, given: tuple[float, ...] | None, notes: list[str]) -> tuple[float, ...] | None:
        """Return the betas, where both have the same ones by default and so mean the same by them."""
        if given is None:
            return None
        if _same_betas(self.source, self.target):
            return given
        notes.append(f"The betas of {self.target.name} mean something else: it keeps its own.")
        return None


def _same_betas(source: OptimizerSpec, target: OptimizerSpec) -> bool:
    return _default_betas(source) is not None and _default_betas(source) == _default_betas(target)


def _default_betas(spec: OptimizerSpec) -> object:
    return next((each.default for each in spec.hyperparameters if each.name == "betas"), None)


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")
