"""The parameters of a model with their names and roles, read from the module tree in one pass.

A role follows from the type of the module that holds the parameter, from the model's own ``get_input_embeddings`` and
``get_output_embeddings``, and from shapes: a stack of experts is a 3-d parameter beside a router, which has one row
for each expert.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from anyoptim.names.role import Role

_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What torch.compile, FSDP1 and activation checkpointing put between the names of a module and its child."""

_LORA = {
    "lora_a": Role.LORA_A,
    "lora_embedding_a": Role.LORA_A,
    "lora_b": Role.LORA_B,
    "lora_embedding_b": Role.LORA_B,
}


@dataclass(slots=True)
class Place:
    """One parameter and where it stands.

    Args:
        name: its first name in ``model.named_parameters()``.
        bare_name: that name without what wrappers (DDP, FSDP, torch.compile, PEFT) put into it.
        module_name: the name of the module that holds it.
        bare_module: that name without what wrappers put into it.
        parameter: the parameter.
        module: the module that holds it.
        role: what it is for.
        below_layer_norm: whether an ``nn.LayerNorm`` holds it, at any depth.
    """

    name: str
    bare_name: str
    module_name: str
    bare_module: str
    parameter: nn.Parameter
    module: nn.Module
    role: Role
    below_layer_norm: bool

    @property
    def numel(self) -> int:
        """How many elements it has in its model."""
        return math.prod(shape_of(self.parameter))

    @property
    def has_more_names(self) -> bool:
        """Whether a target pattern may mean it by another name than its module's."""
        return self.bare_module != self.module_name or self.name.rpartition(".")[2] != "weight"

    @property
    def more_names(self) -> tuple[str, ...]:
        """The module's bare name, and of a parameter that is no ``weight`` its own."""
        own = () if self.name.rpartition(".")[2] == "weight" else (self.name, self.bare_name)
        return (self.bare_module, *own)


@dataclass(frozen=True)
class Structure:
    """Every parameter of a model, once, in the order of ``model.named_parameters()``.

    Args:
        places: the parameters, frozen ones too.
        shared: of each further name of a parameter, the module that has it, and the parameter's place.
    """

    places: Sequence[Place]
    shared: Sequence[tuple[str, Place]]


def shape_of(parameter: Tensor) -> tuple[int, ...]:
    """Return the shape that a parameter has in its model, also while DeepSpeed's ZeRO-3 keeps it in pieces."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def read_structure(model: nn.Module) -> Structure:
    """Find every parameter's names and role; linear in the number of modules.

    Args:
        model: any module, wrapped or not.
    """
    reader = _Reader()
    reader.read(model, "", "", _Context())
    _find_heads(reader)
    for experts in reader.experts.values():
        experts.give_roles(reader.by_id)
    return Structure(list(reader.by_id.values()), reader.shared)


class _Context(NamedTuple):
    """What a module knows of those above it."""

    parent: nn.Module | None = None
    grandparent: nn.Module | None = None
    lora: Role | None = None
    below_norm: bool = False
    names_adapters: bool = False
    """Whether its children are adapters of PEFT by name: ``lora_A.default``."""


class _Reader:
    """One pass through a module tree, in the order of ``named_modules()``."""

    def __init__(self) -> None:
        self.by_id: dict[int, Place] = {}
        self.shared: list[tuple[str, Place]] = []
        self.experts: dict[int, _Experts] = {}
        self.language_model: Any = None
        """The first module that can say what its embeddings are."""
        self._seen: set[int] = set()
        self._kinds: dict[type[nn.Module], str] = {}

    def read(self, module: nn.Module, name: str, bare: str, context: _Context) -> None:
        if id(module) in self._seen:
            return
        self._seen.add(id(module))
        kind = self._kinds.get(type(module))
        if kind is None:
            kind = self._kinds[type(module)] = _kind(module)
        if self.language_model is None and hasattr(type(module), "get_output_embeddings"):
            self.language_model = module
        if module._parameters:
            self._read_parameters(module, name, bare, kind, context)
        if module._modules:
            self._read_children(module, name, bare, kind, context)

    def _read_parameters(self, module: nn.Module, name: str, bare: str, kind: str, context: _Context) -> None:
        # transformers asks the type of children only
        below_norm = context.below_norm or (kind == "layer norm" and context.parent is not None)
        for own_name, parameter in module._parameters.items():
            if parameter is None:
                continue
            known = self.by_id.get(id(parameter))
            if known is not None:
                self.shared.append((name, known))
                continue
            full = f"{name}.{own_name}" if name else own_name
            bare_name = full if bare == name else f"{bare}.{own_name}" if bare else own_name
            role = context.lora or _role(kind, own_name, parameter, module, context)
            place = Place(full, bare_name, name, bare, parameter, module, role, below_norm)
            self.by_id[id(parameter)] = place
            if kind == "custom" and len(shape_of(parameter)) == 3 and min(shape_of(parameter)) > 1:
                experts = self.experts.setdefault(id(module), _Experts(module, context.parent, name))
                experts.stacks.append(place)

    def _read_children(self, module: nn.Module, name: str, bare: str, kind: str, context: _Context) -> None:
        children = module._modules
        if kind == "list" and len(children) > 1 and "expert" in name.rpartition(".")[2].lower():
            self.experts[id(module)] = _Experts(module, context.parent, name)
        lone_wrapper = len(children) == 1 and not module._parameters
        unnamed = kind == "peft" or context.names_adapters
        below_norm = context.below_norm or (kind == "layer norm" and context.parent is not None)
        usual = _Context(module, context.parent, context.lora, below_norm)
        for own_name, child in children.items():
            if child is None:
                continue
            full = f"{name}.{own_name}" if name else own_name
            if unnamed or own_name in _WRAPPERS or (lone_wrapper and own_name == "module"):
                child_bare = bare
            else:
                child_bare = full if bare == name else f"{bare}.{own_name}" if bare else own_name
            below = usual
            if kind == "peft" and isinstance(child, (nn.ModuleDict, nn.ParameterDict)):
                below = below._replace(names_adapters=True)
            if context.lora is None and own_name.lower() in _LORA:
                below = below._replace(lora=_lora_role(module, own_name))
            self.read(child, full, child_bare, below)


def _lora_role(module: nn.Module, name: str) -> Role | None:
    """Return the role of ``lora_A`` or ``lora_B`` in a module that has the other one too."""
    held = {each.lower() for each in (*module._modules, *module._parameters)}
    pairs = (("lora_a", "lora_b"), ("lora_embedding_a", "lora_embedding_b"))
    return _LORA[name.lower()] if any(name.lower() in pair and held.issuperset(pair) for pair in pairs) else None


# ---------------------------------------------------------------- roles by type

_NORMS = (nn.GroupNorm, nn.modules.batchnorm._NormBase, nn.LocalResponseNorm, nn.RMSNorm)


def _kind(module: nn.Module) -> str:
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


def _role(kind: str, name: str, parameter: nn.Parameter, module: nn.Module, context: _Context) -> Role:
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
        return Role.CONVOLUTION if isinstance(context.grandparent, nn.modules.conv._ConvNd) else Role.OTHER
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


# ---------------------------------------------------------------- roles by what the model says


def _find_heads(reader: _Reader) -> None:
    """Give the output head its role: the model's own answer, else what maps to labels outside the base model."""
    owner, by_id = reader.language_model, reader.by_id
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


class _Experts:
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
