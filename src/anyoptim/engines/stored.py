"""A facade that changes what lies in memory between steps: what is behind weights in 16 bits, packed state, and where.

Source: arXiv 2602.23349, for any optimizer whose step needs one parameter alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from anyoptim.engines.compiled_pass import CompiledPass
from anyoptim.engines.fused_forms import FORMS
from anyoptim.engines.layout import first_row
from anyoptim.engines.noise import first_seed, next_seed, number_of, seed_of_rows
from anyoptim.engines.offloading import Beside
from anyoptim.engines.on_shards import Chosen, StandIns, TurnsParts, stand_in, stood_for
from anyoptim.engines.ownership import BATCH_BYTES
from anyoptim.engines.packed_state import (
    WEIGHT,
    Storage,
    has_rows,
    state_packed,
    state_unpacked,
    weight_packed,
    wide_weight,
    widened,
    word_of,
)
from anyoptim.engines.packing import HALF
from anyoptim.engines.stepping import step_inside
from anyoptim.engines.stored_batches import Piece, step_batches
from anyoptim.engines.transforms import EAGER, Transforms, compiled_transforms
from anyoptim.engines.wrapper import Wrapper

_SEED = f"{WEIGHT}:stochastic"


class Stored(TurnsParts):
    """Lets an optimizer step in fp32 on weights and state that take fewer bytes between steps, or lie elsewhere.

    A step takes parameters in batches: it unpacks weights and state, lets the optimizer step, and packs. Nothing is
    unpacked but the batch. Group values advance once a step. A parameter's state holds what is packed, and what lies
    behind its weight, as tensors.

    Args:
        optimizer: updates a parameter from its gradient and state and its group's values alone.
        storage: what is held between steps.
        place: where.
        elementwise: it updates each element from that element's gradient and state, so that it can step on some rows
            of a parameter after others.
        bound: bytes of weights, gradients and state that are unpacked at once; a parameter that needs more is alone.
        form: of :data:`anyoptim.engines.fused_forms.FORMS`, what its step is in the groups for which that does it; such
            groups are element-wise, too. Empty: there is none.
        compiled: pack and unpack in compiled passes, and step with them where there is a form.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        storage: Storage,
        place: Beside | None = None,
        *,
        elementwise: bool = False,
        bound: float = BATCH_BYTES,
        form: str = "",
        compiled: bool = False,
    ) -> None:
        super().__init__(optimizer)
        self.storage = storage
        self.place = place or Beside()
        self.elementwise = elementwise
        self.bound = bound
        self.form = form
        self.compiled = compiled
        for parameter, held in optimizer.state.items():  # some constructors make state
            if storage.steps_wide and isinstance(parameter, Tensor) and parameter.dtype in HALF:
                optimizer.state[parameter] = widened(held, parameter)

    def by_rows(self, group: Mapping[str, Any]) -> bool:
        """Whether a step may take some rows of a group's parameter after others."""
        alone = self.elementwise or (bool(self.form) and FORMS[self.form].does(group))
        return alone and self.storage.steps_wide

    @property
    def transforms(self) -> Transforms:
        """What packs and unpacks."""
        return compiled_transforms() if self.compiled else EAGER

    def turn(self, chosen: Chosen, act: Callable[[Any], object]) -> dict[int, Mapping[str, Any]]:
        """Turn unpacked parameters; see :class:`TurnsParts`."""
        return self._run(chosen, act, moves_weights_only=True)

    def update(self, chosen: Chosen) -> dict[int, Mapping[str, Any]]:
        """Update parameters; see :class:`OnShards`."""
        given = [each for each in chosen if self._moves(each[1])]
        at_once = self._at_once(given)
        if not at_once:
            return self._run(given, step_inside, chosen)
        # where a compiled pass steps, group values stay as the first step has made them
        apart, groups = {each for _, each in at_once}, {index for index, _ in at_once}
        rest = [each for each in given if each[1] not in apart]
        return self._run(rest, step_inside, [each for each in chosen if each[0] not in groups])

    def _at_once(self, given: Chosen) -> Chosen:
        """Step on what a compiled pass takes, and return it."""
        state, groups = self.optimizer.state, self.param_groups
        hooks = (self.optimizer._optimizer_step_pre_hooks, self.optimizer._optimizer_step_post_hooks)
        if not (self.compiled and self.form) or any(hooks):
            return []
        compiled = CompiledPass(self.form, self.storage)
        taken = [(index, each) for index, each in given if compiled.takes(groups[index], each, state.get(each, {}))]

        def fetched(one: tuple[int, Tensor]) -> dict[str, Any]:
            return self.place.fetched(state[one[1]], one[1].device)

        for (index, parameter), held in self.place.one_ahead(taken, fetched):
            compiled.step(groups[index], parameter, held)
            before = state[parameter]
            state[parameter] = {key: self._kept(value, before.get(key)) for key, value in held.items()}
        return taken

    def _moves(self, parameter: Tensor) -> bool:
        """Whether a step may move a parameter: a wrapper may without a gradient, as Lookahead does."""
        return parameter.grad is not None or (isinstance(self.optimizer, Wrapper) and parameter in self.state)

    def _run(
        self,
        given: Chosen,
        act: Callable[[Any], object],
        advancing: Chosen = (),
        *,
        moves_weights_only: bool = False,
    ) -> dict[int, Mapping[str, Any]]:
        """Let the optimizer inside do something to parameters, batch by batch."""
        steps = self.stand_ins()
        plain: dict[Tensor, dict[str, Any]] = {}

        def fetched(batch: Sequence[Piece]) -> list[dict[str, Any]]:
            return [self._held(piece) for piece in batch]

        by_rows = {index for index, group in enumerate(self.param_groups) if self.by_rows(group)}
        every = list(step_batches(given, by_rows=by_rows, bound=self.bound))
        for batch, held in self.place.one_ahead(every, fetched):
            self._run_batch(batch, held, steps, act, plain, moves_weights_only=moves_weights_only)
        for parameter, values in plain.items():
            self.optimizer.state[parameter].update(values)
        for index, parameter in advancing:
            steps.advance(index, parameter, with_gradient=False)
        steps.finish()
        return steps.after

    def _run_batch(
        self,
        batch: Sequence[Piece],
        held: Sequence[dict[str, Any]],
        steps: StandIns,
        act: Callable[[Any], object],
        plain: dict[Tensor, dict[str, Any]],
        *,
        moves_weights_only: bool,
    ) -> None:
        """Unpack a batch, let the optimizer act on it, and pack; on return nothing is left unpacked."""
        stand_ins = [self._stand_in(piece, each) for piece, each in zip(batch, held, strict=True)]
        states = (
            state_unpacked(each, tensor.shape, self.transforms) for each, tensor in zip(held, stand_ins, strict=True)
        )
        after = steps.step(
            zip((piece.index for piece in batch), stand_ins, states, strict=True),
            act,
        )
        for piece, tensor in zip(batch, stand_ins, strict=True):
            # what is packed once more may come out otherwise, so state that has not changed stays as it is
            state = {} if moves_weights_only else after.pop(tensor, {})
            self._keep(piece, tensor, state, plain, whole=not moves_weights_only)

    # ------------------------------------------------------------ one piece

    def _held(self, piece: Piece) -> dict[str, Any]:
        """Return the state of a piece where a step needs it, still packed."""
        held: Mapping[str, Any] = self.optimizer.state.get(piece.parameter, {})
        if piece.rows is not None:
            shape = piece.parameter.shape
            held = {
                key: piece.of(value) if has_rows(key, value, shape) else _copied(value) for key, value in held.items()
            }
        return self.place.fetched(held, piece.parameter.device)

    def _stand_in(self, piece: Piece, held: Mapping[str, Any]) -> Tensor:
        """Return a piece as the optimizer steps on it: in fp32, or the very weights."""
        low, gradient = piece.of(piece.parameter.detach()), piece.parameter.grad
        gradient = None if gradient is None else piece.of(gradient)
        if not (self.storage.steps_wide and low.dtype in HALF):
            return stand_in(low, gradient, piece.parameter)
        wide = None if gradient is None else gradient.to(torch.float32)
        return stand_in(wide_weight(low, held, self.transforms), wide, piece.parameter)

    def _keep(
        self,
        piece: Piece,
        tensor: Tensor,
        state: Mapping[str, Any],
        plain: dict[Tensor, dict[str, Any]],
        *,
        whole: bool,
    ) -> None:
        """Pack what a step has left of a piece, and put it where it lies between steps.

        Args:
            piece: it.
            tensor: what has stepped in its place.
            state: of it, after the step.
            plain: takes what is put there when all pieces have stepped.
            whole: the state is all that the piece has from now on.
        """
        if not whole and not self.optimizer.state.get(piece.parameter):
            return  # without state there is one set of weights only
        low = piece.of(piece.parameter.detach())
        after = state_packed(state, self.storage, tensor.shape, self.transforms)
        if self.storage.steps_wide and low.dtype in HALF:
            seed = 0
            if self.storage.master_weights == "stochastic":
                seed = self._seed(piece.parameter)
                after |= {_SEED: seed} if whole else {}
            first = (piece.rows.start if piece.rows else 0) + first_row(stood_for(piece.parameter), piece.parameter)
            seed = seed_of_rows(seed, first)
            made, behind = weight_packed(tensor.detach(), low.dtype, self.storage, seed, self.transforms)
            low.copy_(made)
            after.update(behind)
        if not after:
            return
        before = self.optimizer.state[piece.parameter]
        if piece.rows is None:
            kept = {key: self._kept(value, before.get(key)) for key, value in after.items()}
            self.optimizer.state[piece.parameter] = kept if whole else {**before, **kept}
            return
        values = plain.setdefault(piece.parameter, {})
        for key, value in after.items():
            if has_rows(key, value, tensor.shape):
                # the pieces that follow must not take what this one has made for what was there
                self._write(before if key in before else values, key, value, piece)
            else:
                values[key] = value

    def _kept(self, value: Any, before: object) -> Any:
        return self.place.kept(value, before) if isinstance(value, Tensor) else value

    def _write(self, state: dict[str, Any], key: str, value: Tensor, piece: Piece) -> None:
        """Write some rows of a tensor of the state, which is made where it is not there yet."""
        rows = piece.parameter.shape[0]
        if key not in state:
            state[key] = self.place.empty(value, torch.Size((rows, *value.shape[1:])))
        part = piece.of(state[key])
        if part.data_ptr() != value.data_ptr():
            part.copy_(value, non_blocking=True)

    def _seed(self, parameter: Tensor) -> int:
        """Return the seed of this step's noise for a parameter."""
        held: int | None = self.optimizer.state[parameter].get(_SEED)
        return next_seed(first_seed(number_of(self.optimizer, parameter)) if held is None else held)

    # ------------------------------------------------------------ loading

    def load(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict; what is packed stays so, and is not the inner optimizer's business."""
        state = state_dict["state"]
        own = {key: _unpacked_of(held) for key, held in state.items()}
        self.optimizer.load_state_dict({**state_dict, "state": {key: held for key, held in own.items() if held}})
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        every = [each for group in self.param_groups for each in group["params"]]
        for key, parameter in zip(keys, every, strict=True):
            held = state.get(key, {})
            for name, value in held.items() if isinstance(held, Mapping) else ():
                if word_of(name) or self._was_narrowed(value, self.optimizer.state[parameter].get(name)):
                    self.optimizer.state[parameter][name] = self._loaded(value, parameter)

    def _was_narrowed(self, value: Any, loaded: Any) -> bool:
        """Whether torch has cast a value of the state, which steps in fp32 have made, to its weight's dtype."""
        tensors = isinstance(value, Tensor) and isinstance(loaded, Tensor) and self.storage.steps_wide
        return tensors and value.dtype == torch.float32 and loaded.dtype in HALF

    def _loaded(self, value: Any, parameter: Tensor) -> Any:
        if not isinstance(value, Tensor):
            return value
        return self.place.kept(value, None) if self.place.elsewhere else value.to(parameter.device)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _unpacked_of(held: Any) -> Any:
    return {key: value for key, value in held.items() if not word_of(key)} if isinstance(held, Mapping) else held
