"""What a parameter is for in its model, and which sets of roles have a name; imports nothing heavy."""

from __future__ import annotations

from enum import Enum


class Role(str, Enum):
    """The role of a parameter; ``routing.roles`` decides it."""

    HIDDEN_MATRIX = "hidden matrix"
    EXPERT_STACK = "expert stack"
    """Weights of all experts of a layer in one parameter, (E, m, n)."""
    EMBEDDING = "embedding"
    TIED_EMBEDDING = "tied embedding"
    """An embedding whose weight is the output head's too."""
    OUTPUT_HEAD = "output head"
    ROUTER = "router"
    NORM = "norm"
    BIAS = "bias"
    CONVOLUTION = "convolution"
    LORA_A = "LoRA A"
    LORA_B = "LoRA B"
    OTHER = "other"

    def __str__(self) -> str:
        return self.value


EVERY_ROLE = frozenset(Role)
EMBEDDINGS = frozenset({Role.EMBEDDING, Role.TIED_EMBEDDING})
LINEAR = frozenset(
    {Role.HIDDEN_MATRIX, Role.EXPERT_STACK, Role.OUTPUT_HEAD, Role.ROUTER, Role.LORA_A, Role.LORA_B},
)
"""The weights of linear maps: what a target pattern means unless it names something else alone."""
NAMED_ALONE = EMBEDDINGS | {Role.CONVOLUTION}
"""What a target pattern means if it matches no linear map."""
MATRICES = LINEAR | EMBEDDINGS

ROLE_TARGETS = {
    "all-linear": LINEAR,
    "hidden-matrices": frozenset({Role.HIDDEN_MATRIX, Role.EXPERT_STACK}),
}
"""Values of ``optim_target_modules`` that select by role."""
ROLE_NOUNS = {"all-linear": "linear map", "hidden-matrices": "hidden matrix"}
"""What each of them is a set of."""
