"""Models by name; imports nothing heavy."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

_LLAMA = {"vocab_size": 256, "max_position_embeddings": 512, "tie_word_embeddings": False}
PRESETS: dict[str, dict[str, Any]] = {
    "tiny-llama": {
        **_LLAMA,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    **{
        f"llama-{size}": {
            "vocab_size": 32000,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": key_value_heads,
        }
        for size, (hidden, intermediate, layers, heads, key_value_heads) in {
            "60m": (512, 1376, 8, 8, 8),
            "130m": (768, 2048, 12, 12, 12),
            "350m": (1024, 2736, 24, 16, 16),
            "1b": (2048, 5461, 24, 32, 32),
            "7b": (4096, 11008, 32, 32, 32),
            "13b": (5120, 13824, 40, 40, 40),
            "70b": (8192, 28672, 80, 64, 8),
        }.items()
    },
}
"""Llama configurations by name: a byte-level one, the sizes of the APOLLO and GaLore papers, and Llama 2's largest."""


@cache
def architectures() -> tuple[str, ...]:
    """Return the names that the installed transformers has for its architectures, such as ``gpt2``.

    They are read from its source, since importing them takes seconds, for which no shell should wait.
    """
    found = importlib.util.find_spec("transformers")
    if found is None or found.origin is None:
        return ()
    folder = Path(found.origin).parent / "models" / "auto"
    files = (folder / "auto_mappings.py", folder / "configuration_auto.py")  # in transformers 4 there is one
    text = "".join(each.read_text(encoding="utf-8") for each in files if each.is_file())
    return tuple(dict.fromkeys(re.findall(r'"([\w.-]+)"[,:] "(?!AutoConfig")\w+Config"', text)))
