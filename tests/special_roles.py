"""The roles that are neither a hidden matrix nor a norm nor a plain bias, by architecture; N stands for layers."""

from __future__ import annotations

SPECIAL: dict[str, dict[str, list[str]]] = {
    "LlamaForCausalLM": {
        "embedding": ["model.embed_tokens.weight"],
        "output head": ["lm_head.weight"],
    },
    "Qwen2ForCausalLM": {
        "embedding": ["model.embed_tokens.weight"],
        "output head": ["lm_head.weight"],
    },
    "Qwen3ForCausalLM": {
        "embedding": ["model.embed_tokens.weight"],
        "output head": ["lm_head.weight"],
    },
    "GemmaForCausalLM": {
        "tied embedding": ["model.embed_tokens.weight"],
    },
    "Gemma2ForCausalLM": {
        "tied embedding": ["model.embed_tokens.weight"],
    },
    "MistralForCausalLM": {
        "embedding": ["model.embed_tokens.weight"],
        "output head": ["lm_head.weight"],
    },
    "PhiForCausalLM": {
        "embedding": ["model.embed_tokens.weight"],
        "output head": ["lm_head.weight"],
    },
    "Phi3ForCausalLM": {
        "embedding": ["model.embed_tokens.weight"],
        "output head": ["lm_head.weight"],
    },
    "GPT2LMHeadModel": {
        "tied embedding": ["transformer.wte.weight"],
        "embedding": ["transformer.wpe.weight"],
    },
    "GPTNeoXForCausalLM": {
        "embedding": ["gpt_neox.embed_in.weight"],
        "output head": ["lm_head.weight"],
    },
    "OPTForCausalLM": {
        "tied embedding": ["model.decoder.embed_tokens.weight"],
        "embedding": ["model.decoder.embed_positions.weight"],
    },
    "BloomForCausalLM": {
        "tied embedding": ["transformer.word_embeddings.weight"],
    },
    "FalconForCausalLM": {
        "tied embedding": ["transformer.word_embeddings.weight"],
    },
    "MptForCausalLM": {
        "tied embedding": ["transformer.wte.weight"],
    },
    "StableLmForCausalLM": {
        "embedding": ["model.embed_tokens.weight"],
        "output head": ["lm_head.weight"],
    },
    "Starcoder2ForCausalLM": {
        "tied embedding": ["model.embed_tokens.weight"],
    },
    "Olmo2ForCausalLM": {
        "embedding": ["model.embed_tokens.weight"],
        "output head": ["lm_head.weight"],
    },
    "CohereForCausalLM": {
        "tied embedding": ["model.embed_tokens.weight"],
    },
    "MambaForCausalLM": {
        "tied embedding": ["backbone.embeddings.weight"],
        "other": ["backbone.layers.N.mixer.A_log", "backbone.layers.N.mixer.D"],
        "convolution": ["backbone.layers.N.mixer.conv1d.weight"],
    },
    "BertForMaskedLM": {
        "tied embedding": ["bert.embeddings.word_embeddings.weight"],
        "embedding": ["bert.embeddings.position_embeddings.weight", "bert.embeddings.token_type_embeddings.weight"],
    },
    "RobertaForMaskedLM": {
        "tied embedding": ["roberta.embeddings.word_embeddings.weight"],
        "embedding": [
            "roberta.embeddings.token_type_embeddings.weight",
            "roberta.embeddings.position_embeddings.weight",
        ],
    },
    "DistilBertForMaskedLM": {
        "tied embedding": ["distilbert.embeddings.word_embeddings.weight"],
        "embedding": ["distilbert.embeddings.position_embeddings.weight"],
    },
    "AlbertForMaskedLM": {
        "tied embedding": ["albert.embeddings.word_embeddings.weight"],
        "embedding": ["albert.embeddings.position_embeddings.weight", "albert.embeddings.token_type_embeddings.weight"],
    },
    "ElectraForMaskedLM": {
        "tied embedding": ["electra.embeddings.word_embeddings.weight"],
        "embedding": [
            "electra.embeddings.position_embeddings.weight",
            "electra.embeddings.token_type_embeddings.weight",
        ],
    },
    "DebertaV2ForMaskedLM": {
        "tied embedding": ["deberta.embeddings.word_embeddings.weight"],
        "embedding": ["deberta.embeddings.position_embeddings.weight"],
    },
    "ModernBertForMaskedLM": {
        "tied embedding": ["model.embeddings.tok_embeddings.weight"],
    },
    "T5ForConditionalGeneration": {
        "tied embedding": ["shared.weight"],
        "embedding": [
            "encoder.block.N.layer.N.SelfAttention.relative_attention_bias.weight",
            "decoder.block.N.layer.N.SelfAttention.relative_attention_bias.weight",
        ],
    },
    "BartForConditionalGeneration": {
        "tied embedding": ["model.shared.weight"],
        "embedding": ["model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"],
    },
    "ViTForImageClassification": {
        "other": ["vit.embeddings.cls_token", "vit.embeddings.position_embeddings"],
        "convolution": ["vit.embeddings.patch_embeddings.projection.weight"],
        "output head": ["classifier.weight"],
    },
    "SwinForImageClassification": {
        "convolution": ["swin.embeddings.patch_embeddings.projection.weight"],
        "other": ["swin.encoder.layers.N.blocks.N.attention.relative_position_bias.relative_position_bias_table"],
        "output head": ["classifier.weight"],
    },
    "WhisperForConditionalGeneration": {
        "convolution": ["model.encoder.conv1.weight", "model.encoder.conv2.weight"],
        "embedding": ["model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"],
        "tied embedding": ["model.decoder.embed_tokens.weight"],
    },
    "Wav2Vec2ForCTC": {
        "other": ["wav2vec2.masked_spec_embed"],
        "convolution": [
            "wav2vec2.feature_extractor.conv_layers.N.conv.weight",
            "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0",
            "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1",
        ],
        "output head": ["lm_head.weight"],
    },
    "CLIPModel": {
        "other": ["logit_scale", "vision_model.embeddings.class_embedding"],
        "embedding": [
            "text_model.embeddings.token_embedding.weight",
            "text_model.embeddings.position_embedding.weight",
            "vision_model.embeddings.position_embedding.weight",
        ],
        "convolution": ["vision_model.embeddings.patch_embedding.weight"],
    },
    "MixtralForCausalLM": {
        "embedding": ["model.embed_tokens.weight"],
        "router": ["model.layers.N.mlp.gate.weight"],
        "expert stack": ["model.layers.N.mlp.experts.gate_up_proj", "model.layers.N.mlp.experts.down_proj"],
        "output head": ["lm_head.weight"],
    },
    "Qwen3MoeForCausalLM": {
        "embedding": ["model.embed_tokens.weight"],
        "expert stack": ["model.layers.N.mlp.experts.gate_up_proj", "model.layers.N.mlp.experts.down_proj"],
        "router": ["model.layers.N.mlp.gate.weight"],
        "output head": ["lm_head.weight"],
    },
    "BertForSequenceClassification": {
        "embedding": [
            "bert.embeddings.word_embeddings.weight",
            "bert.embeddings.position_embeddings.weight",
            "bert.embeddings.token_type_embeddings.weight",
        ],
        "output head": ["classifier.weight"],
    },
    "ConvNextForImageClassification": {
        "convolution": [
            "convnext.embeddings.patch_embeddings.weight",
            "convnext.encoder.stages.N.layers.N.dwconv.weight",
            "convnext.encoder.stages.N.downsampling_layer.N.weight",
        ],
        "other": ["convnext.encoder.stages.N.layers.N.layer_scale_parameter"],
        "output head": ["classifier.weight"],
    },
    "DeepseekV3ForCausalLM": {
        "embedding": ["model.embed_tokens.weight"],
        "expert stack": ["model.layers.N.mlp.experts.gate_up_proj", "model.layers.N.mlp.experts.down_proj"],
        "router": ["model.layers.N.mlp.gate.weight"],
        "output head": ["lm_head.weight"],
    },
    "GptOssForCausalLM": {
        "embedding": ["model.embed_tokens.weight"],
        "other": ["model.layers.N.self_attn.sinks"],
        "router": ["model.layers.N.mlp.router.weight"],
        "expert stack": ["model.layers.N.mlp.experts.gate_up_proj", "model.layers.N.mlp.experts.down_proj"],
        "bias": ["model.layers.N.mlp.experts.gate_up_proj_bias", "model.layers.N.mlp.experts.down_proj_bias"],
        "output head": ["lm_head.weight"],
    },
    "JambaForCausalLM": {
        "embedding": ["model.embed_tokens.weight"],
        "other": ["model.layers.N.mamba.A_log", "model.layers.N.mamba.D"],
        "convolution": ["model.layers.N.mamba.conv1d.weight"],
        "router": ["model.layers.N.feed_forward.router.weight"],
        "expert stack": [
            "model.layers.N.feed_forward.experts.gate_up_proj",
            "model.layers.N.feed_forward.experts.down_proj",
        ],
        "output head": ["lm_head.weight"],
    },
    "Llama4ForCausalLM": {
        "embedding": ["model.embed_tokens.weight"],
        "expert stack": [
            "model.layers.N.feed_forward.experts.gate_up_proj",
            "model.layers.N.feed_forward.experts.down_proj",
        ],
        "router": ["model.layers.N.feed_forward.router.weight"],
        "output head": ["lm_head.weight"],
    },
    "LlamaForSequenceClassification": {
        "embedding": ["model.embed_tokens.weight"],
        "output head": ["score.weight"],
    },
    "OlmoeForCausalLM": {
        "embedding": ["model.embed_tokens.weight"],
        "router": ["model.layers.N.mlp.gate.weight"],
        "expert stack": ["model.layers.N.mlp.experts.gate_up_proj", "model.layers.N.mlp.experts.down_proj"],
        "output head": ["lm_head.weight"],
    },
    "PhimoeForCausalLM": {
        "embedding": ["model.embed_tokens.weight"],
        "router": ["model.layers.N.mlp.router.weight"],
        "expert stack": ["model.layers.N.mlp.experts.gate_up_proj", "model.layers.N.mlp.experts.down_proj"],
        "output head": ["lm_head.weight"],
    },
    "Qwen2MoeForCausalLM": {
        "embedding": ["model.embed_tokens.weight"],
        "router": ["model.layers.N.mlp.gate.weight", "model.layers.N.mlp.shared_expert_gate.weight"],
        "expert stack": ["model.layers.N.mlp.experts.gate_up_proj", "model.layers.N.mlp.experts.down_proj"],
        "output head": ["lm_head.weight"],
    },
    "XLNetLMHeadModel": {
        "other": [
            "transformer.mask_emb",
            "transformer.layer.N.rel_attn.q",
            "transformer.layer.N.rel_attn.k",
            "transformer.layer.N.rel_attn.v",
            "transformer.layer.N.rel_attn.o",
            "transformer.layer.N.rel_attn.r",
            "transformer.layer.N.rel_attn.r_r_bias",
            "transformer.layer.N.rel_attn.r_s_bias",
            "transformer.layer.N.rel_attn.r_w_bias",
            "transformer.layer.N.rel_attn.seg_embed",
        ],
        "tied embedding": ["transformer.word_embedding.weight"],
    },
}
