"""What was decided for one optimizer on one model, as frozen data: nothing here builds or measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from anyoptim.arguments.fields import Fields
from anyoptim.arguments.settings import Setting, Settings
from anyoptim.names.spec import Implementation, OptimizerSpec
from anyoptim.routing.groups import GroupDict
from anyoptim.routing.routes import Routing


@dataclass(frozen=True, repr=False)
class Blueprint:
    """Everything that building and measuring need to know.

    Args:
        spec: what the name means.
        settings: every hyperparameter with its source, and the implementation.
        routing: where each trainable parameter goes; ``None`` when planned without a model.
        groups: the param groups; empty without a model.
        model: the model, or ``None``.
        fields: the TrainingArguments, or what stands for them.
    """

    spec: OptimizerSpec
    settings: Settings
    routing: Routing | None
    groups: tuple[GroupDict, ...]
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

    @property
    def members(self) -> tuple[tuple[str, Implementation], ...]:
        """The optimizers inside, by name: one, or the two of a hybrid."""
        own = (self.spec.target_optimizer, self.implementation)
        fallback = self.spec.fallback
        return (own,) if fallback is None else (own, (fallback.name, fallback.default))

    @property
    def waiting(self) -> list[str]:
        """The optimizers inside that cannot update in the backward pass."""
        return [name for name, each in self.members if each.waits_for_step]

    @property
    def keeps_gradients_of(self) -> frozenset[str]:
        """The names of the parameters that wait for ``step()`` although the backward pass updates the rest."""
        waiting, fallback = self.waiting, self.spec.fallback
        return frozenset(
            each.name
            for each in (self.routing.routes if self.routing else ())
            if (self.spec.target_optimizer if each.is_target or fallback is None else fallback.name) in waiting
        )

    @property
    def warmup_is_a_ratio(self) -> bool:
        """Whether a warmup is a share of training steps whose number is not known yet."""
        return any(
            each.keyword == "warmup_steps" and isinstance(self.settings.get(each.name), float)
            for each in self.implementation.hyperparameters
        )
