"""A model that is never run, gradients made by hand, and an optimizer on them: what every section but the kit uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor, nn

import anyoptim
from anyoptim.errors import OptimError
from anyoptim.memory.state import local_bytes, measured_state_bytes
from anyoptim.names.spec import Implementation
from anyoptim.testing.subject import Subject

_INSIDE = "sgd"
"""What our wrappers are tried around: its step reads no value on any device, so that all that shows is theirs."""


class Model(nn.Module):
    """Parameters of a small transformer's shapes and roles."""

    def __init__(self, hidden: int, layers: int, vocabulary: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, hidden)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    **{name: nn.Linear(hidden, hidden, bias=False) for name in ("q", "k", "v", "o")},
                    "up": nn.Linear(hidden, 3 * hidden),
                    "down": nn.Linear(3 * hidden, hidden, bias=False),
                    "norm": nn.LayerNorm(hidden),
                }
            )
            for _ in range(layers)
        )
        self.lm_head = nn.Linear(hidden, vocabulary, bias=False)


def model_on(device: str, shape: tuple[int, int, int]) -> Model:
    """Build a model where it is to be, the same one each time."""
    torch.manual_seed(0)
    with torch.device(device):
        return Model(*shape)


class Gradients:
    """Gradients of a model, made by hand.

    Args:
        model: whose they are.
        draw: makes that of a parameter.
    """

    def __init__(self, model: nn.Module, draw: Callable[[Tensor], Tensor] = torch.randn_like) -> None:
        self.drawn = {each: draw(each) * 1e-3 for each in model.parameters()}
        self._given = {each: torch.empty_like(kept) for each, kept in self.drawn.items()}

    @property
    def bytes(self) -> int:
        """Of one of each: there are two, as drawn and as given."""
        return sum(map(local_bytes, self.drawn.values()))

    def give(self) -> None:
        """Fill them in, which a step may have changed or dropped, in the same memory each time."""
        for parameter, gradient in self._given.items():
            parameter.grad = gradient.copy_(self.drawn[parameter])


class Trial:
    """An optimizer on a model, ready to step.

    Args:
        name: as in ``optim=``.
        model: what it trains.
        optim_args: as in TrainingArguments, beside what the name needs.
        gradients: of the model; its own if ``None``.
        rank: of a low-rank optimizer, where its own default may be larger than small matrices allow.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        optim_args: str = "",
        *,
        gradients: Gradients | None = None,
        rank: int = 4,
    ) -> None:
        spec = anyoptim.optimizer_info(name)
        ranked = any(
            each.name == "rank" and isinstance(each.default, int) and each.default > 8 for each in spec.hyperparameters
        )
        given = ",".join(filter(None, (optim_args, f"rank={rank}" if ranked else "")))
        self.model = model
        self.subject = Subject(name, {"optim_args": given or None})
        self.plan = self.subject.plan(model)
        self.optimizer = self.subject.build(model)
        self.gradients = gradients or Gradients(model)

    def step(self) -> None:
        """Take a step with the gradients that are there."""

        def again() -> float:
            self.gradients.give()
            return 0.0

        self.optimizer.step(again) if self.subject.spec.traits.needs_closure else self.optimizer.step()

    def steps(self, count: int) -> None:
        """Fill the gradients and take a step, so many times."""
        for _ in range(count):
            self.gradients.give()
            self.step()

    def train(self) -> None:
        """Get the gradients by a backward pass, in which some optimizers update, and take a step."""
        self.optimizer.zero_grad()
        losses = [(parameter * gradient).sum() for parameter, gradient in self.gradients.drawn.items()]
        torch.autograd.backward(losses)
        self.step()

    def counts_steps(self, tensor: Tensor) -> bool:
        """Whether a tensor is torch's count of steps, which is in the host's memory wherever a parameter is."""
        return any(tensor is each.get("step") for each in self.optimizer.state.values())

    @property
    def parameter_bytes(self) -> int:
        """Of the model."""
        return sum(map(local_bytes, self.model.parameters()))

    @property
    def given_bytes(self) -> int:
        """Of the gradients that are there."""
        return sum(local_bytes(each.grad) for each in self.model.parameters() if each.grad is not None)

    @property
    def state_bytes(self) -> int:
        """Of the optimizer."""
        return measured_state_bytes(self.optimizer)


def engines() -> list[str]:
    """Return the names of our engines, and our wrappers around another optimizer."""
    found = []
    for name in anyoptim.list_optimizers(package="anyoptim"):
        wraps = anyoptim.optimizer_info(name).is_wrapper
        found.append(f"{name}({_INSIDE})" if wraps else name)
    return found


def upstream_of(name: str) -> tuple[Implementation | None, str]:
    """Return the package's own class behind one of our names, or why there is none to step beside ours."""
    spec = anyoptim.optimizer_info(name)
    others = [each for each in spec.implementations if each.name == "upstream"]
    if spec.default in others:
        return None, ""
    if not others:
        return None, "no package has it"
    if others[0].updates_in_backward:
        return None, f"{others[0].package} updates inside its backward pass only"
    if not others[0].installed:
        return None, f"{others[0].package} is not installed"
    try:
        others[0].load()
    except OptimError as error:
        return None, str(error)
    return others[0], ""


def largest_difference(left: nn.Module, right: nn.Module) -> float:
    """Return by how much the weights of two models on the same devices differ; NaN is not lost."""
    mine, theirs = left.state_dict(), right.state_dict()
    return float(torch.tensor([float((mine[name] - theirs[name]).abs().max()) for name in mine]).max())


@contextmanager
def any_basis() -> Iterator[None]:
    """Skip the decompositions of first steps, which take minutes: no number of the step after depends on them."""

    def svd(matrix: Tensor, full_matrices: bool = True, **_: object) -> tuple[Tensor, Tensor, Tensor]:
        *stack, rows, columns = matrix.shape
        least = min(rows, columns)
        left, right = matrix.new_empty(*stack, rows, least), matrix.new_empty(*stack, least, columns)
        return left.normal_(std=rows**-0.5), matrix.new_ones(*stack, least), right.normal_(std=columns**-0.5)

    with mock.patch.object(torch.linalg, "svd", svd):
        yield
