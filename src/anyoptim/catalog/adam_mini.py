"""Adam-mini, by its authors. Source: https://github.com/zyushun/Adam-mini"""

from __future__ import annotations

from anyoptim.catalog._index import Facts, indexed

SPECS = indexed(
    "adam_mini",
    licence="MIT",
    extra="adam-mini",
    takes="named_parameters",
    limits={"fp16": {"its eps is zero in float16": "adam_mini"}},
    facts={
        "adam_mini": Facts(
            name="adam_mini",
            defaults={"verbose": False},
            hyperparameters={
                "dim": {"taken_from": "config.hidden_size", "help": "hidden size of the transformer"},
                "n_heads": {"taken_from": "config.num_attention_heads", "help": "attention heads"},
                "n_kv_heads": {"taken_from": "config.num_key_value_heads", "help": "key and value heads"},
                "verbose": {"help": "print each parameter's block"},
            },
            refused={"model_sharding": "it is deprecated upstream and always on"},
        )
    },
)
