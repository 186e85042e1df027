"""Models from a configuration: a preset, a transformers ``config.json``, or a checkpoint folder."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch

from anyoptim.arguments.values import convert
from anyoptim.errors import OptimError, did_you_mean
from anyoptim.integrations.presets import PRESETS
from anyoptim.names.packages import need_transformers


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

    Raises:
        OptimError: the class is no model of transformers for this configuration, or there is none.
    """
    import transformers

    architecture = _architecture(config)
    before = torch.get_default_dtype()
    # drawing random numbers that have no place takes as long as all the rest
    values = _without_values() if device == "meta" else contextlib.nullcontext()
    try:
        torch.set_default_dtype(dtype or before)
        with torch.device(device), values:
            if architecture is not None:
                return architecture(config)
            autos: tuple[Any, ...] = (transformers.AutoModelForCausalLM, transformers.AutoModel)
            for auto in autos:
                if type(config) in auto._model_mapping:
                    return auto.from_config(config)
    finally:
        torch.set_default_dtype(before)
    raise OptimError(f"transformers {transformers.__version__} has no model for {type(config).__name__}.")


def _architecture(config: Any) -> Any:
    """Return the class that a configuration names, if it names one: a file must not call whatever it likes."""
    import transformers

    name = next(iter(getattr(config, "architectures", None) or ()), None)
    if name is None:
        return None
    found: Any = getattr(transformers, str(name), None)
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    if not (is_model and found.config_class is not None and isinstance(config, found.config_class)):
        raise OptimError(
            f"architectures names {name!r}, which is no model of transformers {transformers.__version__} for"
            f" {type(config).__name__}; without that entry its causal language model is taken."
        )
    return found


def meta_model(source: str, dtype: str) -> Any:
    """Build a model without storage.

    Args:
        source: see ``load_config``.
        dtype: of the weights, as a person writes it.
    """
    weights: Any = convert(dtype, "torch.dtype", "--dtype")
    return make_model(load_config(source), device="meta", dtype=weights)


def _without_values() -> Any:
    try:
        from transformers.initialization import no_init_weights
    except ImportError:  # transformers 4
        from transformers.modeling_utils import no_init_weights  # type: ignore[no-redef, attr-defined]
    return no_init_weights()
