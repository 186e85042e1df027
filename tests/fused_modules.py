"""Real modules of transformers with fused projections, small, and what they make of the pieces of a weight."""

from __future__ import annotations

import importlib.util
import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from architectures import SIZES, small
from torch import Tensor, nn

from anyoptim.engines.pieces import cut, join

MODELS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "bark": [("BarkSemanticModel", {})],
    "bloom": [("BloomForCausalLM", {})],
    "codegen": [("CodeGenForCausalLM", {"rotary_dim": 8}), ("CodeGenForCausalLM", {"rotary_dim": 8, "n_head": 8})],
    "dbrx": [("DbrxForCausalLM", {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4}})],
    "deberta": [("DebertaForMaskedLM", {}), ("DebertaForMaskedLM", {"relative_attention": True})],
    "decision_transformer": [("DecisionTransformerGPT2Model", {"use_cache": True})],
    "dia": [("DiaModel", {})],
    "falcon": [
        ("FalconForCausalLM", {"multi_query": True, "new_decoder_architecture": False}),
        ("FalconForCausalLM", {"multi_query": False, "new_decoder_architecture": False}),
        ("FalconForCausalLM", {"multi_query": False, "new_decoder_architecture": False, "alibi": True}),
        ("FalconForCausalLM", {"new_decoder_architecture": True, "num_kv_heads": 2}),
        ("FalconForCausalLM", {"new_decoder_architecture": True, "num_kv_heads": 4}),
    ],
    "gpt2": [("GPT2LMHeadModel", {})],
    "gpt_bigcode": [("GPTBigCodeForCausalLM", {"multi_query": each}) for each in (True, False)],
    "gpt_neox": [("GPTNeoXForCausalLM", {})],
    "gpt_neox_japanese": [("GPTNeoXJapaneseForCausalLM", {})],
    "gpt_oss": [("GptOssForCausalLM", {})],
    "imagegpt": [("ImageGPTForCausalImageModeling", {})],
    "llama4": [("Llama4ForCausalLM", {})],
    "minimax": [("MiniMaxForCausalLM", {})],
    "modernbert": [("ModernBertForMaskedLM", {})],
    "mpt": [("MptForCausalLM", {})],
    "openai": [("OpenAIGPTLMHeadModel", {})],
    "persimmon": [("PersimmonForCausalLM", {})],
    "phi3": [("Phi3ForCausalLM", {}), ("Phi3ForCausalLM", {"num_key_value_heads": 4})],
}
"""Those whose modules run in a model only, by their folder in transformers; the others run by themselves."""
EXPERTS = [
    ("MixtralForCausalLM", {}),
    ("Qwen3MoeForCausalLM", {"num_experts_per_tok": 2}),
    ("OpenAIPrivacyFilterForTokenClassification", {}),
    ("AriaTextForCausalLM", {}),
]
"""Experts of transformers 5 that say themselves how they are laid out."""
RESIDUAL = {"bloom": "dense"}
"""Modules that add what they are given: the child whose input is looked at instead."""

INPUTS = {"DecisionTransformerGPT2Model": {"inputs_embeds": torch.randn(2, 8, 64)}}
"""Of those that take no tokens."""


class _Seen(Exception):
    """Ends a model's forward where all has been seen."""


@dataclass
class Used:
    """A module in which a weight is used, and a way to run it.

    Args:
        weight: the fused one, in ``owner``.
        run: returns what the owner makes with its present weights.
    """

    owner: nn.Module
    weight: Tensor
    run: Callable[[], Tensor]

    def given(self, values: dict[str, Any], names: list[str], **changed: int) -> Tensor:
        """Return what comes out with random pieces, but for those in ``changed``: 0, or drawn with another seed."""
        with torch.no_grad():
            self.weight.copy_(_random(self.weight, 1))
            pieces = cut(self.weight.clone(), values)
            for place, name in enumerate(names):
                if name in changed:
                    seed = changed[name]
                    pieces[place] = _random(pieces[place], seed) if seed else torch.zeros_like(pieces[place])
            self.weight.copy_(join(pieces, values, self.weight.shape))
            return self.run()


def in_model(model: nn.Module, owner: nn.Module, weight: Tensor, child: str = "", **inputs: Any) -> Used:
    """Return a module that runs inside of its model: what it returns, or what one of its children is given."""

    def end(_: nn.Module, given: Any, made: Any = None) -> None:
        raise _Seen(_first(given if made is None else made))

    if child:
        owner.get_submodule(child).register_forward_pre_hook(end)
    else:
        owner.register_forward_hook(end)
    _calm(owner)

    def run() -> Tensor:
        try:
            model(**(inputs or INPUTS.get(type(model).__name__, {"input_ids": torch.arange(2, 18).view(2, 8)})))
        except _Seen as seen:
            return seen.args[0]  # type: ignore[no-any-return]  # what was raised above
        raise AssertionError(f"{type(owner).__name__} did not run")

    return Used(owner, weight, run)


def models(folder: str) -> Iterator[tuple[nn.Module, str]]:
    """Yield the models of a folder, and what to look at in them."""
    for name, changed in MODELS[folder]:
        yield small(name, **changed).eval(), RESIDUAL.get(folder, "")


def alone(folder: str, attribute: str) -> Iterator[tuple[nn.Module, Callable[[Tensor], Used]]]:
    """Yield the modules of a folder that have a projection of that name, each in a holder, and how to run them."""
    module = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
    for _, cls in inspect.getmembers(module, inspect.isclass):
        own = issubclass(cls, nn.Module) and cls.__module__ == module.__name__
        if own and "__init__" in vars(cls) and f"self.{attribute} = nn.Linear" in inspect.getsource(cls.__init__):
            owner = _build(cls, module).eval()
            _calm(owner)
            holder = nn.Module()
            holder.owner = owner
            yield holder, lambda weight, owner=owner: Used(owner, weight, _runs(owner, weight.shape[-1]))


def is_installed(folder: str) -> bool:
    """Whether this transformers has a folder."""
    return importlib.util.find_spec(f"transformers.models.{folder}") is not None


_SMALL = {"layer_idx": 0, "window_size": 0}


def _build(cls: Any, module: Any) -> Any:
    """Call a module's constructor: with its configuration, and small numbers for all else."""
    _, *parameters = inspect.signature(cls.__init__).parameters.values()
    given: list[Any] = []
    for each in parameters:
        hint = getattr(module, each.annotation, None) if isinstance(each.annotation, str) else each.annotation
        kinds = [hint, *typing.get_args(hint)]
        kind = next((one for one in kinds if inspect.isclass(one) and one.__name__.endswith("Config")), None)
        if each.name == "config":
            # of several without a hint, the vision tower's
            found = [name for name in dir(module) if name.endswith(("VisionConfig", "Config")) and name[:3] != "Pre"]
            kind = kind or getattr(module, min(found, key=lambda name: "Vision" not in name))
            base = kind()
            sizes = {key: value for key, value in SIZES.items() if _is_size(base, key)}
            config = kind(**sizes)
            config._attn_implementation = "eager"
            given.append(config)
        elif each.kind is each.POSITIONAL_OR_KEYWORD and (each.default is each.empty or each.name in _SMALL):
            given.append(_SMALL.get(each.name, 64))
    return cls(*given)


def _is_size(config: Any, key: str) -> bool:
    return isinstance(getattr(config, key, None), int) and not key.endswith("layers")


def _runs(owner: nn.Module, width: int) -> Callable[[], Tensor]:
    """Return a call of a module, with inputs of the shape that it takes."""
    steps = 16
    size = getattr(owner, "head_dim", width // 4)
    names = inspect.signature(owner.forward).parameters
    for shape in ((1, steps, width), (steps, width), (1, 4, 4, width)):
        for rotary in ((steps, size), (1, steps, size)):
            torch.manual_seed(0)
            hidden = torch.randn(shape)
            others = {
                "cu_seqlens": torch.tensor([0, steps], dtype=torch.int32),
                "position_embeddings": (torch.ones(rotary), torch.zeros(rotary)),
                "attention_mask": torch.zeros(1, 1, 1, steps),
                "max_seqlen": steps,
                "rel_pos": 0.0,
                "layer_idx": 0,
                "rel_2d_pos": 0.0,
                "rotary_pos_emb": None,
            }
            given = {key: value for key, value in others.items() if key in list(names)[1:]}
            try:
                owner(hidden, **given)
            except (RuntimeError, ValueError, IndexError):
                continue
            return lambda hidden=hidden, given=given: _first(owner(hidden, **given))
    raise AssertionError(f"{type(owner).__name__} cannot be run")


def _calm(owner: nn.Module) -> None:
    """Leave nothing in a module that makes something of zeros; some initialize their weights to next to nothing."""
    with torch.no_grad():
        for name, parameter in owner.named_parameters():
            if "bias" in name or "rel_pos" in name:
                parameter.zero_()
            elif parameter.dim() > 1:
                parameter.copy_(_random(parameter, 7))


def _random(like: Tensor, seed: int) -> Tensor:
    return 0.3 * torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def _first(made: Any) -> Tensor:
    return _first(made[0]) if isinstance(made, (tuple, list)) else made.detach().clone()


transformers.logging.set_verbosity_error()
