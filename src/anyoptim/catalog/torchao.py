"""torchao. Source: https://github.com/pytorch/ao, torchao/optim"""

from __future__ import annotations

from anyoptim.catalog._index import Facts, indexed
from anyoptim.names.composing import variant
from anyoptim.names.spec import Traits

_ADAM_FIELDS = Traits(adam_fields=True)

_PACKAGE = indexed(
    "torchao",
    licence="BSD-3-Clause",
    extra="torchao",
    facts={
        "adamw_4bit": Facts(aliases=("ao_adamw_4bit",), traits=_ADAM_FIELDS),
        "adamw_8bit": Facts(name="adamw_torch_8bit", aliases=("ao_adamw_8bit",), traits=_ADAM_FIELDS),
        "adamw_fp8": Facts(aliases=("ao_adamw_fp8",)),
    },
)

SPECS = (
    *_PACKAGE,
    # transformers gives it larger blocks than the package does
    *(variant(spec, "adamw_torch_4bit", block_size=256) for spec in _PACKAGE if spec.name == "torchao/adamw_4bit"),
)
