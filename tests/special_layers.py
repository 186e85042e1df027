"""The layers of each architecture: its stacks of blocks in order, and what counts as after the last of them.

What is in no stack and not after them is before the first layer: embeddings, their norms, a front-end. What ends an
encoder counts as its decoder's first layer.
"""

from __future__ import annotations

LAYERS: dict[str, tuple[list[str], list[str]]] = {
    "LlamaForCausalLM": (["model.layers"], ["model.norm", "lm_head"]),
    "Qwen2ForCausalLM": (["model.layers"], ["model.norm", "lm_head"]),
    "Qwen3ForCausalLM": (["model.layers"], ["model.norm", "lm_head"]),
    "GemmaForCausalLM": (["model.layers"], ["model.norm"]),
    "Gemma2ForCausalLM": (["model.layers"], ["model.norm"]),
    "MistralForCausalLM": (["model.layers"], ["model.norm", "lm_head"]),
    "PhiForCausalLM": (["model.layers"], ["model.final_layernorm", "lm_head"]),
    "Phi3ForCausalLM": (["model.layers"], ["model.norm", "lm_head"]),
    "GPT2LMHeadModel": (["transformer.h"], ["transformer.ln_f"]),
    "GPTNeoXForCausalLM": (["gpt_neox.layers"], ["gpt_neox.final_layer_norm", "lm_head"]),
    "OPTForCausalLM": (["model.decoder.layers"], ["model.decoder.final_layer_norm"]),
    "BloomForCausalLM": (["transformer.h"], ["transformer.ln_f"]),
    "FalconForCausalLM": (["transformer.h"], ["transformer.ln_f"]),
    "MptForCausalLM": (["transformer.blocks"], ["transformer.norm_f"]),
    "StableLmForCausalLM": (["model.layers"], ["model.norm", "lm_head"]),
    "Starcoder2ForCausalLM": (["model.layers"], ["model.norm"]),
    "Olmo2ForCausalLM": (["model.layers"], ["model.norm", "lm_head"]),
    "CohereForCausalLM": (["model.layers"], ["model.norm"]),
    "MambaForCausalLM": (["backbone.layers"], ["backbone.norm_f"]),
    "BertForMaskedLM": (
        ["bert.encoder.layer"],
        ["cls.predictions"],
    ),
    "RobertaForMaskedLM": (["roberta.encoder.layer"], ["lm_head"]),
    "DistilBertForMaskedLM": (
        ["distilbert.transformer.layer"],
        ["vocab_transform", "vocab_layer_norm", "vocab_projector"],
    ),
    "AlbertForMaskedLM": ([], []),
    "ElectraForMaskedLM": (
        ["electra.encoder.layer"],
        ["generator_predictions", "generator_lm_head"],
    ),
    "DebertaV2ForMaskedLM": (
        ["deberta.encoder.layer"],
        ["cls.predictions"],
    ),
    "ModernBertForMaskedLM": (["model.layers"], ["model.final_norm", "head", "decoder"]),
    "T5ForConditionalGeneration": (["encoder.block", "decoder.block"], ["decoder.final_layer_norm"]),
    "BartForConditionalGeneration": (["model.encoder.layers", "model.decoder.layers"], []),
    "ViTForImageClassification": (["vit.layers"], ["vit.layernorm", "classifier"]),
    "SwinForImageClassification": (["swin.encoder.layers"], ["swin.layernorm", "classifier"]),
    "WhisperForConditionalGeneration": (["model.encoder.layers", "model.decoder.layers"], ["model.decoder.layer_norm"]),
    "Wav2Vec2ForCTC": (["wav2vec2.encoder.layers"], ["lm_head"]),
    "CLIPModel": (
        ["text_model.encoder.layers", "vision_model.encoder.layers"],
        ["vision_model.post_layernorm", "visual_projection", "text_projection"],
    ),
    "MixtralForCausalLM": (["model.layers"], ["model.norm", "lm_head"]),
    "Qwen3MoeForCausalLM": (["model.layers"], ["model.norm", "lm_head"]),
    "BertForSequenceClassification": (["bert.encoder.layer"], ["bert.pooler.dense", "classifier"]),
    "ConvNextForImageClassification": (["convnext.encoder.stages"], ["convnext.layernorm", "classifier"]),
    "DeepseekV3ForCausalLM": (["model.layers"], ["model.norm", "lm_head"]),
    "GptOssForCausalLM": (["model.layers"], ["model.norm", "lm_head"]),
    "JambaForCausalLM": (["model.layers"], ["model.final_layernorm", "lm_head"]),
    "Llama4ForCausalLM": (["model.layers"], ["model.norm", "lm_head"]),
    "LlamaForSequenceClassification": (["model.layers"], ["model.norm", "score"]),
    "OlmoeForCausalLM": (["model.layers"], ["model.norm", "lm_head"]),
    "PhimoeForCausalLM": (["model.layers"], ["model.norm", "lm_head"]),
    "Qwen2MoeForCausalLM": (["model.layers"], ["model.norm", "lm_head"]),
    "XLNetLMHeadModel": (["transformer.layer"], ["lm_loss"]),
}
