"""torchao. Source: https://github.com/pytorch/ao, torchao/optim"""

from __future__ import annotations

from anyoptim.catalog._index import Facts, indexed
from anyoptim.names.composing import variant
from anyoptim.names.spec import OptimizerSpec, Traits
from anyoptim.names.unmade import Unmade

_ADAM_FIELDS = Traits(adam_fields=True)

_PACKAGE = indexed(
    "torchao",
    licence="BSD-3-Clause",
    extra="torchao",
    mends=("plain_parts_of_shards",),
    limits={
        "deepcopy and pickle": {"torchao's quantized state cannot be copied": "*"},
        "elastic": {"its blocks end where shards do, so another number of processes has others": "*"},
    },
    facts={
        "adamw_4bit": Facts(aliases=("ao_adamw_4bit",), traits=_ADAM_FIELDS),
        "adamw_8bit": Facts(name="adamw_torch_8bit", aliases=("ao_adamw_8bit",), traits=_ADAM_FIELDS),
        "adamw_fp8": Facts(aliases=("ao_adamw_fp8",)),
    },
)


def _adamw_4bit() -> OptimizerSpec:
    package_own = next(each for each in _PACKAGE if each.name == "torchao/adamw_4bit")
    # transformers gives it larger blocks than the package does
    return variant(package_own.make(), "adamw_torch_4bit", block_size=256)


SPECS = (*_PACKAGE, Unmade("adamw_torch_4bit", _adamw_4bit))
