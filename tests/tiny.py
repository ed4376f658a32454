"""Tiny checkpoints of every supported architecture: real classes, processors and templates, seeded random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from lco_embedding.miniature import architecture

CORPUS = [
    "a red circle to the left of a blue square",
    "the sound of a low flute, rising and falling",
    "a small green star moves up over a striped ground",
    "Summarize the above text in one word: image audio video",
    "The spoken word is seven. You are a helpful assistant.",
] * 4


def vary(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Draw the norm weights and biases of a model, which a fresh one has at 1 and 0.

    With weights of 1, the hidden states before and after the final norm have one direction, so that no cosine shows a
    norm that is left out.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
            elif parameter.ndim == 1 and name.endswith(".weight"):
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
    return model


SMALL_VIDEO = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}


def build_thinker(folder: Path) -> Path:
    """Write a generative checkpoint of the Qwen2.5-Omni thinker."""
    processor = architecture.build_processor(CORPUS, vocab_size=400)
    torch.manual_seed(1)
    model = Qwen2_5OmniThinkerForConditionalGeneration(architecture.build_config(processor))
    vary(model, 1).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def build_full_omni(folder: Path) -> Path:
    """Write a whole Qwen2.5-Omni: thinker, talker and token2wav, with its own language head."""
    processor = architecture.build_processor(CORPUS, vocab_size=400)
    thinker = architecture.build_config(processor).to_dict()
    thinker["tie_word_embeddings"] = thinker["text_config"]["tie_word_embeddings"] = False
    config = Qwen2_5OmniConfig(
        thinker_config=thinker,
        talker_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "embedding_size": 128,
            "vocab_size": 64,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        },
        token2wav_config={
            "dit_config": {
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "head_dim": 16,
                "emb_dim": 16,
                "enc_dim": 16,
                "enc_emb_dim": 16,
                "enc_channels": [16, 16, 16, 16, 48],
                "enc_attention_channels": 8,
                "enc_se_channels": 8,
                "mel_dim": 16,
                "num_embeds": 65,
            },
            "bigvgan_config": {
                "mel_dim": 16,
                "upsample_initial_channel": 32,
                "upsample_rates": [5, 3],
                "upsample_kernel_sizes": [11, 7],
                "resblock_kernel_sizes": [3],
                "resblock_dilation_sizes": [[1, 3, 5]],
            },
        },
        enable_audio_output=True,
    )
    torch.manual_seed(2)
    vary(Qwen2_5OmniForConditionalGeneration(config), 2).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def build_qwen2_5_vl(folder: Path) -> Path:
    """Write a generative checkpoint of Qwen2.5-VL."""
    tokenizer = architecture.build_tokenizer(CORPUS, vocab_size=400)
    template = architecture.CHAT_TEMPLATE
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=architecture.IMAGE_SIZE),
        video_processor=Qwen2VLVideoProcessor(size=SMALL_VIDEO, cap_pixels_per_frame=False),
        tokenizer=tokenizer,
        chat_template=template,
    )
    token_id = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
        },
        image_token_id=token_id("<|IMAGE|>"),
        video_token_id=token_id("<|VIDEO|>"),
        vision_start_token_id=token_id("<|vision_bos|>"),
        vision_end_token_id=token_id("<|vision_eos|>"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(3)
    vary(Qwen2_5_VLForConditionalGeneration(config), 3).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


LLAVA_TEMPLATE = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- for block in message['content'] -%}"
    "{%- if block['type'] == 'image' -%}{{- '<|IMAGE|>\\n' -}}{%- else -%}{{- block['text'] -}}{%- endif -%}"
    "{%- endfor -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def build_llava_next(folder: Path) -> Path:
    """Write a generative checkpoint of LLaVA-NeXT with a Llama decoder."""
    tokenizer = architecture.build_tokenizer(CORPUS, vocab_size=400)
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": 28},
            crop_size={"height": 28, "width": 28},
            image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    config = LlavaNextConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMAGE|>"),
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
        tie_word_embeddings=False,
    )
    torch.manual_seed(4)
    vary(LlavaNextForConditionalGeneration(config), 4).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
