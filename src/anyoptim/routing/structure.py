"""The parameters of a model, read from the module tree in one pass; ``roles.py`` says what each of them is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from anyoptim.names.role import Role
from anyoptim.routing.places import Place, shape_of
from anyoptim.routing.roles import Experts, find_heads, kind_of, lora_role, role_by_type

_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What torch.compile, FSDP1 and activation checkpointing put between the names of a module and its child."""


@dataclass(frozen=True)
class Structure:
    """Every parameter of a model, once, in the order of ``model.named_parameters()``.

    Args:
        places: the parameters, frozen ones too.
        shared: of each further name of a parameter, the module that has it, and the parameter's place.
    """

    places: Sequence[Place]
    shared: Sequence[tuple[str, Place]]


def read_structure(model: nn.Module) -> Structure:
    """Find every parameter's names and role; linear in the number of modules.

    Args:
        model: any module, wrapped or not.
    """
    reader = _Reader()
    reader.read(model, "", "", _Context())
    find_heads(reader.language_model, reader.by_id)
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
        self.experts: dict[int, Experts] = {}
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
            kind = self._kinds[type(module)] = kind_of(module)
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
            role = context.lora or role_by_type(kind, own_name, parameter, module, context.grandparent)
            place = Place(full, bare_name, name, bare, parameter, module, role, below_norm, context.parent)
            self.by_id[id(parameter)] = place
            if kind == "custom" and len(shape_of(parameter)) == 3 and min(shape_of(parameter)) > 1:
                experts = self.experts.setdefault(id(module), Experts(module, context.parent, name))
                experts.stacks.append(place)

    def _read_children(self, module: nn.Module, name: str, bare: str, kind: str, context: _Context) -> None:
        children = module._modules
        if kind == "list" and len(children) > 1 and "expert" in name.rpartition(".")[2].lower():
            self.experts[id(module)] = Experts(module, context.parent, name)
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
            if context.lora is None:
                below = below._replace(lora=lora_role(module, own_name))
            self.read(child, full, child_bare, below)
