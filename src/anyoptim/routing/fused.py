"""Which projections of transformers' models hold several in one weight, and in which order: a table.

A shape does not say whether q, k and v stand one after the other or alternate by head, so nothing is taken from it:
what is not in this table stays whole. ``tests/test_pieces.py`` holds each row against the real module's forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from torch import nn


class Order(Enum):
    """How the outputs of a fused projection are ordered."""

    IN_TURN = "one after the other"
    BY_GROUP = "for each key-value head its queries, its key, its value"
    BY_FOUR = "in four blocks, as of the four devices that CodeGen was trained on"
    ALTERNATING = "element by element"


@dataclass(frozen=True)
class Fused:
    """One kind of fused projection.

    Args:
        names: of what is in it, in its order.
        attribute: the projection's name in the module that uses it.
        models: folders of transformers whose modules have it so; ``torch``: torch's own.
        order: of its outputs.
    """

    names: tuple[str, ...]
    attribute: str
    models: frozenset[str]
    order: Order


def _fused(names: str, attribute: str, models: str, order: Order = Order.IN_TURN) -> Fused:
    return Fused(tuple(names.split()), attribute, frozenset(models.split()), order)


FUSED = (
    _fused("q k v", "c_attn", "gpt2 imagegpt decision_transformer openai"),
    _fused("k v", "c_attn", "gpt2 imagegpt decision_transformer"),  # of cross-attention
    _fused("q k v", "Wqkv", "dbrx modernbert mpt"),
    _fused("q k v", "qkv_proj", "phi3 phi4_multimodal"),
    _fused("q k v", "att_proj", "bark"),
    _fused("q k v", "qkv_linear", "layoutlmv2"),
    _fused("q k v", "in_proj_weight", "torch"),
    _fused(
        "q k v",
        "qkv",
        "blip blip_2 cohere_compass deepseek_ocr2 ernie4_5_vl_moe exaone4_5 glm4v glm4v_moe glm5_next glm_image glm_ocr"
        " got_ocr2 instructblip instructblipvideo mgp_str pp_formulanet"
        " pp_ocrv5_mobile_rec pp_ocrv5_server_rec pp_ocrv6_small_rec qwen2_5_vl qwen2_vl qwen3_5 qwen3_5_moe"
        " qwen3_omni_moe qwen3_vl qwen3_vl_moe qwen4_exp sam sam2 sam_hq seggpt slanext timesformer unlimited_ocr"
        " vitdet",
    ),
    _fused("q k v", "query_key_value", "bloom falcon gpt_neox gpt_neox_japanese persimmon", Order.BY_GROUP),
    _fused("q k v", "c_attn", "gpt_bigcode", Order.BY_GROUP),
    _fused("q k v", "in_proj", "deberta", Order.BY_GROUP),
    _fused("q k v", "qkv_proj", "minimax", Order.BY_GROUP),
    _fused("q v k", "qkv_proj", "codegen", Order.BY_FOUR),
    _fused(
        "gate up",
        "gate_up_proj",
        "dia glm glm4 glm4v glm_image glm_ocr llama4 phi3 phi4_multimodal",
    ),
    _fused("gate up", "gate_up_proj", "gpt_oss", Order.ALTERNATING),
)
SEEM_FUSED = frozenset(
    {*(each.attribute for each in FUSED), "to_kv", "wqkv", "W_pack", "in_proj_qkv", "in_proj_qkvz"} - {"in_proj"}
)
"""What fused projections are called, also in models of other packages."""
SEPARATE = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
    ("to_q", "to_k", "to_v"),
)
"""What attention modules call projections that are not fused: the outputs of each are its heads, one after another."""


def fused_in(owner: nn.Module, attribute: str) -> Iterator[Fused]:
    """Yield what a projection may be in the module that uses it, found by the class's home in transformers."""
    homes = set(_homes(owner))
    for each in FUSED:
        if each.attribute == attribute and homes & each.models:
            yield each
    # experts of transformers 5 say how they are laid out
    if homes and attribute == "gate_up_proj" and hasattr(owner, "is_transposed"):
        yield _fused("gate up", attribute, "", _order_of_experts(owner))


def _order_of_experts(owner: nn.Module) -> Order:
    return Order.IN_TURN if getattr(owner, "is_concatenated", True) else Order.ALTERNATING


def _homes(owner: nn.Module) -> Iterator[str]:
    for cls in type(owner).__mro__:  # FSDP2 makes a class of its own
        package, *rest = cls.__module__.split(".")
        if package == "transformers" and rest[:1] == ["models"] and len(rest) > 2:
            yield rest[1]
        elif cls is nn.MultiheadAttention:
            yield "torch"
