"""Models from a configuration: a file, a preset, an architecture of transformers, or a model in the Hub's cache."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from anyoptim.arguments.values import convert
from anyoptim.errors import OptimError, did_you_mean
from anyoptim.integrations.presets import PRESETS, architectures
from anyoptim.names.packages import load, need_transformers
from anyoptim.text import said


def load_config(source: str) -> Any:
    """Read a model configuration without any network.

    Args:
        source: a name of ``PRESETS``; the path of a ``config.json``, or of a folder that holds one; an architecture of
            transformers such as ``gpt2``, which has its default sizes; or the id of a model whose configuration is in
            the Hub's local cache.

    Raises:
        OptimError: there is none of these, or no configuration in it.
        MissingPackageError: transformers is not installed.
    """
    need_transformers("A model configuration")
    from transformers import CONFIG_MAPPING, LlamaConfig

    if source in PRESETS:
        return LlamaConfig(**PRESETS[source])
    path = Path(source).expanduser()
    if path.is_file() or (path / "config.json").is_file():
        return _read(path)
    if source in CONFIG_MAPPING:
        return _default(source)
    cached = _in_cache(source)
    if cached is not None:
        return _read(cached)
    if path.is_dir():
        raise OptimError(f"The folder {source!r} holds no config.json; give the folder of a saved model.")
    raise OptimError(_unknown(source))


def _read(path: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise OptimError(f"{path} holds no transformers configuration: {said(error)}") from error


def _default(architecture: str) -> Any:
    """Return the configuration of an architecture as transformers makes it from nothing."""
    from transformers import CONFIG_MAPPING

    try:
        return CONFIG_MAPPING[architecture]()
    except Exception as error:  # one made of others needs to be told which; each says so in its own way
        raise OptimError(
            f"The architecture {architecture!r} has no default sizes ({said(error)}); give a config.json."
        ) from error


def _in_cache(model_id: str) -> Path | None:
    """Return where the Hub's local cache holds a model's configuration, if it does."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model_id, "config.json")
    except HFValidationError:  # it can be no id
        return None
    return Path(found) if isinstance(found, str) else None


def _unknown(source: str) -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    cached = [each.name[8:].replace("--", "/") for each in Path(HF_HUB_CACHE).glob("models--*")]
    close = did_you_mean(source, [*PRESETS, *architectures(), *cached])
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source, re.ASCII):
        return (
            f"There is no file {source!r}, nor is it in the Hub's local cache.{close} To fetch its configuration, run:"
            f" hf download {source} config.json"
        )
    return (
        f"No model {source!r}: give a config.json, a folder with one, a preset such as tiny-llama, or an architecture"
        f" of transformers such as gpt2.{close} The configuration of a model of the Hub is"
        " fetched by: hf download ORGANISATION/NAME config.json"
    )


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

    make = _maker(config)
    before = torch.get_default_dtype()
    # drawing random numbers that have no place takes as long as all the rest
    values = _without_values() if device == "meta" else contextlib.nullcontext()
    try:
        torch.set_default_dtype(dtype or before)
        with torch.device(device), values:
            model = make(config)
        model.tie_weights()  # which is left out with the values
    except Exception as error:  # of one model in hundreds: sizes that do not fit, or another package that it needs
        raise OptimError(
            f"transformers {transformers.__version__} cannot build the model of {type(config).__name__}:"
            f" {type(error).__name__}: {said(error)}"
        ) from error
    finally:
        torch.set_default_dtype(before)
    return model


def _maker(config: Any) -> Callable[[Any], Any]:
    """Return what makes the model: the class that the configuration names, else its causal language model, or any."""
    import transformers

    architecture = _architecture(config)
    if architecture is not None:
        return architecture
    autos: tuple[Any, ...] = (transformers.AutoModelForCausalLM, transformers.AutoModel)
    for auto in autos:
        if type(config) in auto._model_mapping:
            return cast("Callable[[Any], Any]", auto.from_config)
    raise OptimError(
        f"transformers {transformers.__version__} has no model for {type(config).__name__} alone; give the"
        " configuration of the whole model."
    )


def _architecture(config: Any) -> Callable[[Any], Any] | None:
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
    return found  # type: ignore[no-any-return]  # as checked


def meta_model(source: str, dtype: str) -> Any:
    """Build a model without storage.

    Args:
        source: see ``load_config``.
        dtype: of the weights, as a person writes it.
    """
    weights: Any = convert(dtype, "torch.dtype", "--dtype")
    return make_model(load_config(source), device="meta", dtype=weights)


def with_adapters(model: Any, rank: int = 16) -> Any:
    """Return a model whose linear layers have LoRA adapters, which alone are trained.

    Args:
        model: a transformers model, which may be on the meta device.
        rank: of the adapters.

    Raises:
        MissingPackageError: peft is not installed.
        OptimError: peft finds nothing to adapt.
    """
    peft = load("peft", needed_by="LoRA", package="peft", install="pip install peft")
    try:
        return peft.get_peft_model(model, peft.LoraConfig(r=rank, target_modules="all-linear"))
    except ValueError as error:
        raise OptimError(f"peft cannot adapt {type(model).__name__}: {said(error)}") from error


def _without_values() -> Any:
    try:
        from transformers.initialization import no_init_weights
    except ImportError:  # transformers 4
        from transformers.modeling_utils import no_init_weights  # type: ignore[no-redef, attr-defined]
    return no_init_weights()
