"""Real architectures of transformers, from small configurations, on the meta device."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers

SIZES = {
    "hidden_size": 64,
    "d_model": 64,
    "n_embd": 64,
    "dim": 64,
    "embed_dim": 32,
    "intermediate_size": 128,
    "ffn_dim": 128,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "hidden_dim": 128,
    "d_ff": 128,
    "num_hidden_layers": 2,
    "n_layers": 2,
    "n_layer": 2,
    "num_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_decoder_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "vocab_size": 128,
    "pad_token_id": 0,
    "num_experts": 4,
    "num_local_experts": 4,
    "moe_intermediate_size": 64,
    "embedding_size": 32,
    "n_routed_experts": 4,
    "first_k_dense_replace": 1,
}

NAMES = [
    "LlamaForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "MistralForCausalLM",
    "PhiForCausalLM",
    "Phi3ForCausalLM",
    "GPT2LMHeadModel",
    "GPTNeoXForCausalLM",
    "OPTForCausalLM",
    "BloomForCausalLM",
    "FalconForCausalLM",
    "MptForCausalLM",
    "StableLmForCausalLM",
    "Starcoder2ForCausalLM",
    "Olmo2ForCausalLM",
    "CohereForCausalLM",
    "MambaForCausalLM",
    "BertForMaskedLM",
    "RobertaForMaskedLM",
    "DistilBertForMaskedLM",
    "AlbertForMaskedLM",
    "ElectraForMaskedLM",
    "DebertaV2ForMaskedLM",
    "ModernBertForMaskedLM",
    "T5ForConditionalGeneration",
    "BartForConditionalGeneration",
    "ViTForImageClassification",
    "SwinForImageClassification",
    "WhisperForConditionalGeneration",
    "Wav2Vec2ForCTC",
    "CLIPModel",
    "MixtralForCausalLM",
    "Qwen3MoeForCausalLM",
]
MORE = [
    "BertForSequenceClassification",
    "ConvNextForImageClassification",
    "DeepseekV3ForCausalLM",
    "GptOssForCausalLM",
    "JambaForCausalLM",
    "Llama4ForCausalLM",
    "LlamaForSequenceClassification",
    "OlmoeForCausalLM",
    "PhimoeForCausalLM",
    "Qwen2MoeForCausalLM",
    "XLNetLMHeadModel",
]
"""For roles, on the newest transformers only."""


@cache
def architecture(name: str) -> Any:
    """Build one architecture without allocating its weights."""
    with torch.device("meta"):
        return small(name)


def small(name: str, **changed: Any) -> Any:
    """Build one architecture, with further values for its configuration."""
    cls = getattr(transformers, name)
    config_class = cls.config_class
    # every config takes it; Phi's and StableLM's of transformers 5.0 don't set it, though the models read it
    known = {"pad_token_id": None, **vars(config_class())}
    attributes = {**known, **{key: key for key in getattr(config_class, "attribute_map", {})}}
    # of a name and its alias, one is enough
    mapped = set(getattr(config_class, "attribute_map", {}))
    sizes = {key: value for key, value in SIZES.items() if key in attributes and key not in mapped}
    if name.startswith("Swin"):
        sizes = {}
    return cls(config_class(**{**sizes, **changed}))
