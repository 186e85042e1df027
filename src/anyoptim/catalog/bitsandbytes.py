"""bitsandbytes. Source: https://github.com/bitsandbytes-foundation/bitsandbytes"""

from __future__ import annotations

from typing import Any

from anyoptim.catalog._index import Facts, indexed
from anyoptim.catalog._shared import DECAY
from anyoptim.names.spec import Traits

_MOMENTUM = Facts(defaults={"momentum": 0.9})  # without, bitsandbytes refuses
_ALPHA = {"alpha": {"within": DECAY}}
_ADAM_FIELDS = Traits(adam_fields=True)


def _known_to_transformers(name: str, *aliases: str, **facts: Any) -> Facts:
    return Facts(name=name, aliases=aliases, traits=_ADAM_FIELDS, **facts)


SPECS = indexed(
    "bitsandbytes",
    licence="MIT",
    extra="bitsandbytes",
    mends=("embeddings_in_32_bits", "hooks_around_loading"),
    limits={
        "bf16": {"it takes 32-bit weights only": "pytorchlars"},
        "fp16": {"it takes 32-bit weights only": "pytorchlars"},
        "torch.compile": {
            "torch's tracing of its kernel fails": "lamb lamb_8bit lamb_32bit lars lars_8bit lars_32bit",
        },
    },
    unsteady={
        "bf16": {"on CUDA no kernel takes bf16 beside a small tensor's 32-bit state": "adagrad_8bit rmsprop_8bit"},
    },
    facts={
        "adamw_8bit": _known_to_transformers("adamw_8bit", "adamw_bnb_8bit"),
        "paged_adamw_32bit": _known_to_transformers("paged_adamw_32bit"),
        "paged_adamw_8bit": _known_to_transformers("paged_adamw_8bit"),
        "lion_8bit": _known_to_transformers("lion_8bit"),
        "lion_32bit": _known_to_transformers("lion_32bit"),
        "paged_lion_8bit": _known_to_transformers("paged_lion_8bit"),
        "paged_lion_32bit": _known_to_transformers("paged_lion_32bit"),
        "ademamix": _known_to_transformers("ademamix"),
        "ademamix_8bit": _known_to_transformers("ademamix_8bit"),
        "paged_ademamix_8bit": _known_to_transformers("paged_ademamix_8bit"),
        # the step of the 32-bit classes fails; the general ones are 32-bit by default
        "ademamix_32bit": Facts(implementation={"target": "bitsandbytes.optim.ademamix:AdEMAMix"}),
        "paged_ademamix_32bit": _known_to_transformers(
            "paged_ademamix_32bit", implementation={"target": "bitsandbytes.optim.ademamix:PagedAdEMAMix"}
        ),
        "rmsprop": Facts(name="rmsprop_bnb", hyperparameters=_ALPHA),
        "rmsprop_8bit": Facts(name="rmsprop_bnb_8bit", hyperparameters=_ALPHA),
        "rmsprop_32bit": Facts(name="rmsprop_bnb_32bit", hyperparameters=_ALPHA),
        "sgd": _MOMENTUM,
        "sgd_8bit": _MOMENTUM,
        "sgd_32bit": _MOMENTUM,
        "lars": _MOMENTUM,
        "lars_8bit": _MOMENTUM,
        "lars_32bit": _MOMENTUM,
        "pytorchlars": Facts(defaults={"momentum": 0.9}, implementation={"mends": ()}),
    },
)
