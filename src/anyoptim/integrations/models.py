"""Models from a configuration: a preset, a transformers ``config.json``, or a checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from anyoptim.errors import OptimError, did_you_mean
from anyoptim.packages import need_transformers

_LLAMA = {"vocab_size": 256, "max_position_embeddings": 512, "tie_word_embeddings": False}
PRESETS: dict[str, dict[str, Any]] = {
    "tiny-llama": {
        **_LLAMA,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    "llama-60m": {
        "vocab_size": 32000,
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
    },
    "llama-7b": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
}
"""Llama configurations by name: the demo's byte-level one, and sizes of the APOLLO and GaLore papers."""


def load_config(source: str) -> Any:
    """Read a model configuration without any network.

    Args:
        source: a name of ``PRESETS``, the path of a ``config.json``, or of a folder that holds one.

    Raises:
        OptimError: no such preset or file, or no configuration in it.
        MissingPackageError: transformers is not installed.
    """
    need_transformers("A model configuration")
    from transformers import AutoConfig, LlamaConfig

    if source in PRESETS:
        return LlamaConfig(**PRESETS[source])
    path = Path(source).expanduser()
    if not path.exists():
        raise OptimError(
            f"No model {source!r}: give a config.json, a folder with one, or a preset "
            f"({', '.join(PRESETS)}).{did_you_mean(source, PRESETS)}"
        )
    try:
        return AutoConfig.from_pretrained(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise OptimError(f"{path} holds no transformers configuration: {str(error).partition(chr(10))[0]}") from error


def make_model(config: Any, *, device: str = "cpu", dtype: torch.dtype | None = None) -> Any:
    """Build the model of a configuration with random weights.

    Args:
        config: a transformers configuration; its ``architectures`` entry names the class, and a causal
            language model is tried without one.
        device: ``"meta"`` allocates nothing.
        dtype: of the weights; torch's default if ``None``.
    """
    import transformers

    name = next(iter(getattr(config, "architectures", None) or ()), "")
    architecture = getattr(transformers, name, None)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype or before)
        with torch.device(device):
            if architecture is not None:
                return architecture(config)
            autos: tuple[Any, ...] = (transformers.AutoModelForCausalLM, transformers.AutoModel)
            for auto in autos:
                if type(config) in auto._model_mapping:
                    return auto.from_config(config)
    finally:
        torch.set_default_dtype(before)
    raise OptimError(f"transformers {transformers.__version__} has no model for {type(config).__name__}.")
