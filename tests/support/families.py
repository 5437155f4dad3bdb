"""Tiny models of real families with random weights: complete folders of about half a million
parameters, each with its family's own config, tokens, processor and chat template (shortened)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from pipeline.model_settings import ModelSettings

HIDDEN, INNER, LAYERS, HEADS = 128, 256, 2, 4
SEEN, SEEN_INNER, SEEN_HEADS = 64, 128, 2
"""The vision tower's hidden size, that of its MLP, and its heads."""
CORPUS = "How many of these are red? Think step by step.\n\n12 = 3 x 4, so there are 7.\n\n# Answer"
NORMAL = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@dataclass(frozen=True)
class Words:
    """A family's tokenizer."""

    tokenizer: Any

    def __getitem__(self, token: str) -> int:
        number = self.tokenizer.convert_tokens_to_ids(token)
        assert isinstance(number, int), token
        return number

    def text(self, kind: str, **more: Any) -> dict[str, Any]:
        """The config of a language model of this kind for these tokens."""
        return {
            "model_type": kind,
            "vocab_size": -(-len(self.tokenizer) // 64) * 64,
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "pad_token_id": self.tokenizer.pad_token_id,
            "bos_token_id": self.tokenizer.bos_token_id,
            "eos_token_id": self.tokenizer.eos_token_id,
            **more,
        }


@cache
def _byte_pairs() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([CORPUS] * 5, trainer)
    return str(tokenizer.to_str())


def words(
    special: Sequence[str],
    *,
    end: str,
    pad: str,
    start: str | None = None,
    plain: Sequence[str] = (),
    **named: str,
) -> Words:
    """Byte pairs and these special tokens. start: written before every text; plain: tokens of their
    own that are not special; named: tokens that the family's processor asks its tokenizer for."""
    raw = Tokenizer.from_str(_byte_pairs())
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    raw.add_tokens([AddedToken(token, normalized=False) for token in plain])
    if start is not None:
        raw.post_processor = processors.TemplateProcessing(
            single=f"{start} $A",
            pair=f"{start} $A {start} $B",
            special_tokens=[(start, raw.token_to_id(start))],
        )
    return Words(
        hf.PreTrainedTokenizerFast(
            tokenizer_object=raw,
            bos_token=start,
            eos_token=end,
            pad_token=pad,
            padding_side="left",
            **named,
        )
    )


def seen(kind: str, size: int = 32, **more: Any) -> dict[str, Any]:
    """The config of a vision tower of this kind: patches of 8 of images of `size`."""
    return {
        "model_type": kind,
        "hidden_size": SEEN,
        "intermediate_size": SEEN_INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": SEEN_HEADS,
        "image_size": size,
        "patch_size": 8,
        **more,
    }


def _weights(model: Any) -> None:
    """Such that every layer, and the image, moves the distribution."""
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            embeds = "embed_tokens" in name or "lm_head" in name
            places = "position_embedding" in name or "pos_embed" in name
            size = 0.1 if embeds else 0.2 if places else weight[0].numel() ** -0.5
            torch.nn.init.normal_(weight, std=size)


def save(folder: Path, config: Any, processor: Any, ends: int | list[int]) -> None:
    model = hf.AutoModelForImageTextToText.from_config(config)
    _weights(model)
    model.generation_config.eos_token_id = ends
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.generation_config.bos_token_id = None
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def as_published(folder: Path) -> None:
    """Names of the tower's weights as checkpoints on the hub have them: transformers 5 saves CLIP's
    and SigLIP's without `vision_model.`, and vLLM does not know these."""
    file = folder / "model.safetensors"
    old, new = "vision_tower.", "vision_tower.vision_model."
    tensors = {name.replace(old, new): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


# --- Idefics3, SmolVLM2 ---------------------------------------------------------------------------

SMOL_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
    "{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
SMOL_SIZE: dict[str, Any] = {"size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 64}}


def _smol_words() -> Words:
    grid = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    rest = ["<global-img>", "<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *grid, *rest]
    return words(special, start="<|im_start|>", end="<end_of_utterance>", pad="<|im_end|>")


def _smol_config(kind: Any, tower: str, known: Words) -> Any:
    return kind(
        image_token_id=known["<image>"],
        scale_factor=4,
        tie_word_embeddings=False,
        pad_token_id=known.tokenizer.pad_token_id,
        text_config=known.text("llama"),
        vision_config=seen(tower, 64),
    )


def idefics3(folder: Path) -> None:
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    known = _smol_words()
    images = Idefics3ImageProcessorPil(**SMOL_SIZE, do_image_splitting=True)
    processor = hf.Idefics3Processor(
        images, known.tokenizer, image_seq_len=4, chat_template=SMOL_TEMPLATE
    )
    config = _smol_config(hf.Idefics3Config, "idefics3_vision", known)
    save(folder, config, processor, known["<end_of_utterance>"])


def smolvlm2(folder: Path) -> None:
    known = _smol_words()
    images = hf.SmolVLMImageProcessor(**SMOL_SIZE, do_image_splitting=True)
    frames = {"fps": 1, "max_frames": 4, "video_size": {"longest_edge": 64}}
    videos = hf.SmolVLMVideoProcessor(**SMOL_SIZE, video_sampling=frames)
    processor = hf.SmolVLMProcessor(
        images, known.tokenizer, videos, image_seq_len=4, chat_template=SMOL_TEMPLATE
    )
    config = _smol_config(hf.SmolVLMConfig, "smolvlm_vision", known)
    save(folder, config, processor, known["<end_of_utterance>"])


# --- Qwen -----------------------------------------------------------------------------------------

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{{ 'IMAGE' if part['type'] == 'image' else part['text'] }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT_WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN_WORDS = [*CHAT_WORDS, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
QWEN_TEMPLATE = CHAT_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")


def _qwen_words() -> Words:
    return words(QWEN_WORDS, end="<|im_end|>", pad="<|endoftext|>")


def _qwen(
    folder: Path,
    config: Any,
    processor: Any,
    video: Any,
    *,
    patch: int,
    text: dict[str, Any],
    vision: dict[str, Any],
) -> None:
    known = _qwen_words()
    pixels = (2 * patch) ** 2
    size = {"size": {"shortest_edge": 4 * pixels, "longest_edge": 16 * pixels}, **NORMAL}
    made = processor(
        hf.Qwen2VLImageProcessor(patch_size=patch, **size),
        known.tokenizer,
        video(patch_size=patch, **size),
        chat_template=QWEN_TEMPLATE,
    )
    settings = config(
        text_config=known.text(**text),
        vision_config={"depth": 2, "num_heads": SEEN_HEADS, **vision},
        tie_word_embeddings=True,
        image_token_id=known["<|image_pad|>"],
        video_token_id=known["<|video_pad|>"],
        vision_start_token_id=known["<|vision_start|>"],
        vision_end_token_id=known["<|vision_end|>"],
    )
    save(folder, settings, made, [known["<|im_end|>"], known["<|endoftext|>"]])


def _rope(sections: list[int], theta: float = 1e6, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, "mrope_section": sections, **more}


def qwen2_vl(folder: Path) -> None:
    text = {"kind": "qwen2_vl_text", "rope_parameters": _rope([4, 6, 6])}
    vision = {"embed_dim": SEEN, "hidden_size": HIDDEN, "mlp_ratio": 2, "patch_size": 14}
    video = hf.Qwen2VLVideoProcessor
    _qwen(folder, hf.Qwen2VLConfig, hf.Qwen2VLProcessor, video, patch=14, text=text, vision=vision)


def qwen2_5_vl(folder: Path) -> None:
    text = {"kind": "qwen2_5_vl_text", "rope_parameters": _rope([4, 6, 6])}
    vision = {
        "hidden_size": SEEN,
        "intermediate_size": SEEN_INNER,
        "out_hidden_size": HIDDEN,
        "fullatt_block_indexes": [1],
        "window_size": 56,
    }
    video = hf.Qwen2VLVideoProcessor
    _qwen(
        folder,
        hf.Qwen2_5_VLConfig,
        hf.Qwen2_5_VLProcessor,
        video,
        patch=14,
        text=text,
        vision=vision,
    )


def qwen3_vl(folder: Path) -> None:
    rope = _rope([6, 5, 5], 5e6, mrope_interleaved=True)
    text = {"kind": "qwen3_vl_text", "head_dim": 32, "rope_parameters": rope}
    vision = {
        "hidden_size": SEEN,
        "intermediate_size": SEEN_INNER,
        "out_hidden_size": HIDDEN,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 64,
    }
    video = hf.Qwen3VLVideoProcessor
    _qwen(folder, hf.Qwen3VLConfig, hf.Qwen3VLProcessor, video, patch=16, text=text, vision=vision)


# --- InternVL, GLM --------------------------------------------------------------------------------


def internvl(folder: Path) -> None:
    from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

    known = words(
        [*CHAT_WORDS, "<img>", "</img>", "<IMG_CONTEXT>", "<box>", "</box>", "<video>"],
        end="<|im_end|>",
        pad="<|endoftext|>",
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    size = {"height": 32, "width": 32}
    processor = hf.InternVLProcessor(
        GotOcr2ImageProcessor(size=size, crop_to_patches=True, min_patches=1, max_patches=4),
        known.tokenizer,
        hf.InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>\\n"),
    )
    config = hf.InternVLConfig(
        text_config=known.text("qwen2"),
        vision_config={
            **seen("internvl_vision", attention_bias=True),
            "image_size": [32, 32],
            "patch_size": [8, 8],
        },
        image_token_id=known["<IMG_CONTEXT>"],
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    save(folder, config, processor, known["<|im_end|>"])


def glm4v(folder: Path) -> None:
    around = ["begin_of_image", "end_of_image", "begin_of_video", "end_of_video", "image", "video"]
    roles = ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"]
    special = [*roles, *(f"<|{name}|>" for name in around)]
    known = words(special, end="<|endoftext|>", pad="<|endoftext|>")
    size = {"size": {"shortest_edge": 8 * 28 * 28, "longest_edge": 32 * 28 * 28}}
    processor = hf.Glm4vProcessor(
        hf.Glm4vImageProcessor(**size),
        known.tokenizer,
        hf.Glm4vVideoProcessor(),
        chat_template=(
            "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n"
            "{% for part in message['content'] %}{{ '<|begin_of_image|><|image|><|end_of_image|>' "
            "if part['type'] == 'image' else part['text'] }}{% endfor %}{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
        ),
    )
    rope = _rope([2, 3, 3], 1e4, partial_rotary_factor=0.5)
    config = hf.Glm4vConfig(
        # Said, because vLLM takes the biases only where it is.
        text_config=known.text("glm4v_text", attention_bias=True, rope_parameters=rope),
        vision_config={
            "depth": 2,
            "hidden_size": SEEN,
            "num_heads": SEEN_HEADS,
            "image_size": 56,
            "out_hidden_size": HIDDEN,
            "intermediate_size": SEEN_INNER,
        },
        image_token_id=known["<|image|>"],
        video_token_id=known["<|video|>"],
        image_start_token_id=known["<|begin_of_image|>"],
        image_end_token_id=known["<|end_of_image|>"],
        video_start_token_id=known["<|begin_of_video|>"],
        video_end_token_id=known["<|end_of_video|>"],
    )
    save(folder, config, processor, [known["<|endoftext|>"], known["<|user|>"]])


# --- LLaVA ----------------------------------------------------------------------------------------

LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] %}"
    "{{ '<image>\n' if part['type'] == 'image' else part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def llava(folder: Path) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    known = words(["<s>", "</s>", "<image>", "<pad>"], start="<s>", end="</s>", pad="<pad>")
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = hf.LlavaProcessor(
        CLIPImageProcessorPil(**size),
        known.tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    config = hf.LlavaConfig(
        text_config=known.text("llama"),
        vision_config=seen("clip_vision_model", projection_dim=SEEN),
        image_token_index=known["<image>"],
        image_seq_length=16,
    )
    save(folder, config, processor, known["</s>"])
    as_published(folder)


def llava_onevision(folder: Path) -> None:
    known = words([*CHAT_WORDS, "<image>", "<video>"], end="<|im_end|>", pad="<|endoftext|>")
    pins = [[height, width] for height in (32, 64, 96) for width in (32, 64, 96)]
    size = {"height": 32, "width": 32}
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pins),
        known.tokenizer,
        hf.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<image>"),
    )
    config = hf.LlavaOnevisionConfig(
        text_config=known.text("qwen2"),
        vision_config=seen("siglip_vision_model", vision_use_head=False),
        image_token_index=known["<image>"],
        video_token_index=known["<video>"],
        image_grid_pinpoints=pins,
        tie_word_embeddings=True,
    )
    save(folder, config, processor, known["<|im_end|>"])
    as_published(folder)


# --- Mistral3, Pixtral ----------------------------------------------------------------------------

PIXTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[INST]{% for part in message['content'] %}"
    "{{ '[IMG]' if part['type'] == 'image' else part['text'] }}{% endfor %}[/INST]{% endfor %}"
)
PIXTRAL_VISION = {
    **seen("pixtral", 64),
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}


def _pixtral(merge: int) -> tuple[Words, Any]:
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    special = ["<s>", "</s>", "[INST]", "[/INST]", "<pad>", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    known = words(special, start="<s>", end="</s>", pad="<pad>")
    side = {"height": 8, "width": 8}
    images = PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size=side)
    processor = hf.PixtralProcessor(
        images,
        known.tokenizer,
        patch_size=8,
        spatial_merge_size=merge,
        chat_template=PIXTRAL_TEMPLATE,
    )
    return known, processor


def mistral3(folder: Path) -> None:
    known, processor = _pixtral(2)
    config = hf.Mistral3Config(
        text_config=known.text("mistral", head_dim=32, sliding_window=None),
        vision_config=PIXTRAL_VISION,
        image_token_index=known["[IMG]"],
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    save(folder, config, processor, known["</s>"])


def pixtral(folder: Path) -> None:
    known, processor = _pixtral(1)
    config = hf.LlavaConfig(
        text_config=known.text("mistral", head_dim=32, sliding_window=None),
        vision_config=PIXTRAL_VISION,
        image_token_index=known["[IMG]"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=1,
    )
    save(folder, config, processor, known["</s>"])


# --- Gemma 3, MiniCPM-V 4.6 -----------------------------------------------------------------------


def gemma3(folder: Path) -> None:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    around = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    known = words(
        [
            "<pad>",
            "<eos>",
            "<bos>",
            "<start_of_turn>",
            "<end_of_turn>",
            *around.values(),
            "<image_soft_token>",
        ],
        start="<bos>",
        end="<eos>",
        pad="<pad>",
        plain=["\n", "\n\n", "\n\n\n", "\n\n\n\n"],
        image_token="<image_soft_token>",
        **around,
    )
    images = Gemma3ImageProcessorPil(size={"height": 32, "width": 32}, image_seq_length=4)
    processor = hf.Gemma3Processor(
        images,
        known.tokenizer,
        image_seq_length=4,
        chat_template=(
            "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
            "{% for part in message['content'] %}"
            "{{ '<start_of_image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
            "<end_of_turn>\n{% endfor %}"
            "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
        ),
    )
    text = known.text(
        "gemma3_text",
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"],
    )
    config = hf.Gemma3Config(
        text_config=text,
        vision_config=seen("siglip_vision_model", vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=known["<start_of_image>"],
        eoi_token_index=known["<end_of_image>"],
        image_token_index=known["<image_soft_token>"],
    )
    save(folder, config, processor, [known["<eos>"], known["<end_of_turn>"]])
    as_published(folder)


def minicpmv(folder: Path) -> None:
    from transformers.models.minicpmv4_6 import (
        MiniCPMV4_6Config,
        MiniCPMV4_6ImageProcessor,
        MiniCPMV4_6Processor,
        MiniCPMV4_6VideoProcessor,
    )

    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    special = list(dict.fromkeys([*QWEN_WORDS, *named.values()]))
    known = words(special, end="<|im_end|>", pad="<|endoftext|>", **named)
    size = {"scale_resolution": 112, "patch_size": 14, "slice_mode": True}
    processor = MiniCPMV4_6Processor(
        image_processor=MiniCPMV4_6ImageProcessor(**size),
        tokenizer=known.tokenizer,
        video_processor=MiniCPMV4_6VideoProcessor(**size),
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<|image_pad|>"),
    )
    text = known.text(
        "qwen3_5_text",
        head_dim=32,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        layer_types=["linear_attention", "full_attention"],
        rope_parameters=_rope([2, 1, 1], mrope_interleaved=True, partial_rotary_factor=0.25),
        tie_word_embeddings=True,
    )
    config = MiniCPMV4_6Config(
        text_config=text,
        vision_config={**seen("minicpmv4_6_vision", 112), "patch_size": 14},
        insert_layer_id=0,
        image_size=112,
        image_token_id=known["<|image_pad|>"],
        video_token_id=known["<|video_pad|>"],
        tie_word_embeddings=True,
    )
    save(folder, config, processor, [known["<|im_end|>"], known["<|endoftext|>"]])
    # vLLM 0.32 does not take what its PIL processor makes.
    for name, data in ModelSettings(image_backend="torchvision").files().items():
        (folder / name).write_bytes(data)


# --- Mllama, which vLLM has no class for ----------------------------------------------------------


def mllama(folder: Path) -> None:
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    special = ["<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>", "<|image|>"]
    known = words(special, start=special[0], end=special[1], pad=special[2])
    processor = hf.MllamaProcessor(
        MllamaImageProcessorPil(size={"height": 32, "width": 32}, max_image_tiles=4),
        known.tokenizer,
        chat_template=(
            "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: "
            "{% for part in message['content'] %}"
            "{{ '<|image|>' if part['type'] == 'image' else part['text'] }}{% endfor %}<|eot_id|>"
            "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
        ),
    )
    rope = {"rope_type": "default", "rope_theta": 5e5}
    text = known.text("mllama_text_model", cross_attention_layers=[1], rope_parameters=rope)
    config = hf.MllamaConfig(
        text_config={**text, "num_hidden_layers": 3},
        vision_config={
            "hidden_size": SEEN,
            "intermediate_size": SEEN_INNER,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": SEEN_HEADS,
            "image_size": 32,
            "patch_size": 8,
            "intermediate_layers_indices": [0, 1],
            "vision_output_dim": SEEN * 3,
            "max_num_tiles": 4,
            "supported_aspect_ratios": [
                [1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1],
            ],
        },
        image_token_index=known["<|image|>"],
    )  # fmt: skip
    save(folder, config, processor, known["<|eot_id|>"])


FAMILIES: dict[str, Callable[[Path], None]] = {
    "SmolVLM2": smolvlm2,
    "Idefics3": idefics3,
    "Qwen2-VL": qwen2_vl,
    "Qwen2.5-VL": qwen2_5_vl,
    "Qwen3-VL": qwen3_vl,
    "InternVL": internvl,
    "GLM-4.1V": glm4v,
    "LLaVA": llava,
    "LLaVA-OneVision": llava_onevision,
    "Mistral3": mistral3,
    "Pixtral": pixtral,
    "Gemma 3": gemma3,
    "MiniCPM-V 4.6": minicpmv,
}
