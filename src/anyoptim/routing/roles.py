"""What each parameter of a model is for.

A role follows from the type of the module that holds the parameter, from the model's own ``get_input_embeddings`` and
``get_output_embeddings``, and from shapes: a stack of experts is a 3-d parameter beside a router, which has one row
for each expert.

Names differ from model to model, so they decide nothing but what is called an expert: XLNet keeps its projections by
head in 3-d parameters, too. A list of experts (transformers 4.57) is found by its router alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from anyoptim.names.role import Role
from anyoptim.routing.places import Place, shape_of

# ---------------------------------------------------------------- by type

_NORMS = (nn.GroupNorm, nn.modules.batchnorm._NormBase, nn.LocalResponseNorm, nn.RMSNorm)


def kind_of(module: nn.Module) -> str:
    """Return the kind of a module by its type."""
    kinds: tuple[tuple[str, type | tuple[type, ...]], ...] = (
        ("layer norm", nn.LayerNorm),
        ("linear", nn.Linear),
        ("embedding", (nn.Embedding, nn.EmbeddingBag)),
        ("norm", _NORMS),
        ("convolution", nn.modules.conv._ConvNd),
        ("matrices", (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)),
        ("parametrization", ParametrizationList),
        ("list", (nn.ModuleList, nn.ModuleDict, nn.Sequential)),
    )
    for kind, types in kinds:
        if isinstance(module, types):
            return kind
    if type(module).__module__.partition(".")[0] == "peft":
        return "peft"
    # transformers' Conv1D (GPT-2), and linear layers of other packages
    if {"nf", "nx"} <= vars(module).keys() or {"in_features", "out_features"} <= vars(module).keys():
        return "linear"
    return "norm" if "norm" in type(module).__name__.lower() and not module._modules else "custom"


_BY_TYPE = {
    ("linear", "weight"): Role.HIDDEN_MATRIX,  # also where FSDP1 shows a flat piece of it
    ("convolution", "weight"): Role.CONVOLUTION,
    ("linear", "bias"): Role.BIAS,
    ("convolution", "bias"): Role.BIAS,
    ("embedding", "weight"): Role.EMBEDDING,
}


def role_by_type(
    kind: str, name: str, parameter: nn.Parameter, module: nn.Module, grandparent: nn.Module | None
) -> Role:
    """Return the role that a parameter has by the type of its module.

    Args:
        kind: of the module, see :func:`kind_of`.
        name: of the parameter in it.
        parameter: the parameter.
        module: the module.
        grandparent: the parent of its parent.
    """
    by_type = _BY_TYPE.get((kind, name))
    if by_type is not None:
        return by_type
    if kind in ("norm", "layer norm"):
        return Role.NORM
    dimensions = len(shape_of(parameter))
    if kind == "matrices" and dimensions == 2:
        return Role.HIDDEN_MATRIX
    if kind == "parametrization":
        # it stands below the dict of a module's parametrizations
        return Role.CONVOLUTION if isinstance(grandparent, nn.modules.conv._ConvNd) else Role.OTHER
    if dimensions == 1 and "bias" in name:
        return Role.BIAS
    if kind == "custom" and dimensions == 1 and name == "weight" and _only_vectors(module):
        return Role.NORM
    return Role.OTHER


def _only_vectors(module: nn.Module) -> bool:
    """Whether a module scales its input by a vector: ``weight``, perhaps ``bias``, and nothing else."""
    own = module._parameters
    activation = isinstance(module, nn.PReLU)
    return not activation and not module._modules and own.keys() <= {"weight", "bias"}


# ---------------------------------------------------------------- LoRA

_LORA = {
    "lora_a": Role.LORA_A,
    "lora_embedding_a": Role.LORA_A,
    "lora_b": Role.LORA_B,
    "lora_embedding_b": Role.LORA_B,
}


def lora_role(module: nn.Module, name: str) -> Role | None:
    """Return the role of ``lora_A`` or ``lora_B`` in a module that has the other one too."""
    if name.lower() not in _LORA:
        return None
    held = {each.lower() for each in (*module._modules, *module._parameters)}
    pairs = (("lora_a", "lora_b"), ("lora_embedding_a", "lora_embedding_b"))
    return _LORA[name.lower()] if any(name.lower() in pair and held.issuperset(pair) for pair in pairs) else None


# ---------------------------------------------------------------- by what the model says


def find_heads(owner: Any, by_id: dict[int, Place]) -> None:
    """Give the output head its role: the model's own answer, else what maps to labels outside the base model."""
    if owner is None:
        return
    head, embedding = _ask(owner, "get_output_embeddings"), _ask(owner, "get_input_embeddings")
    if id(embedding) in by_id and by_id[id(embedding)].role is Role.HIDDEN_MATRIX:
        by_id[id(embedding)].role = Role.EMBEDDING
    if id(head) in by_id:
        place = by_id[id(head)]
        place.role = Role.TIED_EMBEDDING if place.role is Role.EMBEDDING else Role.OUTPUT_HEAD
        return
    config, base = getattr(owner, "config", None), getattr(owner, "base_model_prefix", "")
    outputs = {getattr(config, "num_labels", None), getattr(config, "vocab_size", None)} - {None}
    if not base or base not in owner._modules:
        return
    for place in by_id.values():
        outside = place.bare_module.partition(".")[0] != base
        if outside and place.role is Role.HIDDEN_MATRIX and getattr(place.module, "out_features", None) in outputs:
            place.role = Role.OUTPUT_HEAD


def _ask(owner: Any, method: str) -> Tensor | None:
    """Return the weight of the module that a model's own method answers with."""
    try:
        answer = getattr(owner, method)()
    except (NotImplementedError, AttributeError, TypeError):
        return None
    weight = getattr(answer, "weight", None)
    return weight if isinstance(weight, nn.Parameter) and len(shape_of(weight)) == 2 else None


class Experts:
    """The experts of one layer: a module with stacks (E, m, n), or a list of E modules.

    Args:
        module: holds the stacks, or is the list.
        parent: its parent, which holds the router too.
        name: of the module.
    """

    def __init__(self, module: nn.Module, parent: nn.Module | None, name: str) -> None:
        self.module = module
        self.parent = parent
        self.named_so = "expert" in f"{name}.{type(module).__name__}".lower()
        self.stacks: list[Place] = []

    def give_roles(self, by_id: dict[int, Place]) -> None:
        """Give stacks, routers and the experts' biases their roles."""
        counts = {shape_of(each.parameter)[0] for each in self.stacks}
        widths = {size for each in self.stacks for size in shape_of(each.parameter)[1:]}
        if not self.stacks:
            counts = {len(self.module._modules)}
        routers = [each for each in self._beside(by_id) if self._routes(each, counts, widths)]
        if not routers and not self.named_so:
            return  # a 3-d parameter without a router is something else, such as XLNet's projections by head
        for each in routers:
            each.role = Role.ROUTER
        for each in self.stacks:
            each.role = Role.EXPERT_STACK
        if self.stacks:
            for parameter in self.module._parameters.values():
                if parameter is not None and len(shape_of(parameter)) == 2 and shape_of(parameter)[0] in counts:
                    place = by_id[id(parameter)]
                    place.role = Role.BIAS if place.role is Role.OTHER else place.role

    def _beside(self, by_id: dict[int, Place]) -> Iterator[Place]:
        """Yield the parameters of the layer that are not the experts'."""
        if self.stacks:
            for child in self.module.children():
                yield from (by_id[id(each)] for each in child.parameters())
        if self.parent is not None:
            for parameter in self.parent._parameters.values():
                if parameter is not None:
                    yield by_id[id(parameter)]
            for child in self.parent.children():
                if child is not self.module:
                    yield from (by_id[id(each)] for each in child.parameters())

    @staticmethod
    def _routes(place: Place, counts: set[int], widths: set[int]) -> bool:
        shape = shape_of(place.parameter)
        if len(shape) != 2 or place.role not in (Role.HIDDEN_MATRIX, Role.OTHER):
            return False
        # one row for each expert; or one alone, the gate of a shared expert
        return shape[0] in {1, *counts} and (not widths or shape[1] in widths)
