"""CLIP, as ComfyUI knows it, around a text encoder of the engine: everything that the stock nodes ask of a text model and its tokenizer."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..training.errors import InputError
from ..training.files.fingerprint import fingerprint as hashed
from .comfy_source import lasting_fingerprint
from .comfy_weights import patch_state, read_weights, remember_fingerprint

TEXT_KEY = "t5xxl"
"""FLUX's own name for its text tokens: CLIPTextEncodeFlux puts its second text there."""


class EngineTextModel(nn.Module):
    """An engine's text encoder with the methods of ComfyUI's text models. It computes in fp32 whatever dtype ComfyUI proposes."""

    disable_offload = True
    """Its layers are plain ones: recent versions are not to stream their weights."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.dtypes = {torch.float32}

    def set_clip_options(self, options: Mapping[str, Any]) -> None: ...

    def reset_clip_options(self) -> None: ...

    def encode_token_weights(self, tokens: Mapping[str, Sequence[Any]]) -> tuple[Tensor, Tensor]:
        """The texts that `EngineTokenizer` kept -> tokens [B, L, context], pooled [B, vector], both in fp32."""
        text, pooled = self.encoder.encode([row[0][0] for row in tokens[TEXT_KEY]])
        return text.float(), pooled.float()

    def load_sd(self, weights: Mapping[str, Tensor]) -> Any:
        return self.encoder.load_state_dict(weights, strict=False)


class EngineTokenizer:
    """The engine's encoders split words themselves: a token is a whole text. Weights like (word:1.2) mean nothing to them."""

    def __init__(self, embedding_directory: str | None = None, tokenizer_data: Mapping[str, Any] | None = None) -> None: ...

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options: Any) -> dict[str, list[list[tuple[Any, ...]]]]:
        return {TEXT_KEY: [[(text, 1.0, 0) if return_word_ids else (text, 1.0)]]}

    def untokenize(self, rows: Sequence[tuple[Any, ...]]) -> list[tuple[tuple[Any, ...], Any]]:
        return [(row, row[0]) for row in rows]

    def state_dict(self) -> dict[str, Tensor]:
        return {}


def make_clip(encoder: nn.Module, fingerprint: str | None) -> Any:
    """A CLIP around a copy of the encoder, which ComfyUI may move as it likes."""
    import comfy.sd
    import comfy.supported_models_base

    known = fingerprint or hashed(encoder.state_dict())
    own = copy.deepcopy(encoder)
    target = comfy.supported_models_base.ClipTarget(EngineTokenizer, lambda **_: EngineTextModel(own))
    clip = comfy.sd.CLIP(target)
    remember_fingerprint(clip.patcher, known)
    return clip


def clip_fingerprint(clip: Any, notes: Path | None = None) -> str:
    """Of its weights with patches, and of what else decides how it reads a text."""
    known = lasting_fingerprint(clip.patcher, lambda: read_weights(clip.patcher, "", "CLIP"), notes)
    options = getattr(clip, "tokenizer_options", {})
    return known if clip.layer_idx is None and not options else f"{known} layer {clip.layer_idx} {sorted(options.items())}"


def encode_text(clip: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Captions to tokens [B, L, context] and pooled text [B, vector], fp32 on the CPU; L is the length of an empty caption.

    An encoder of the engine reads all of them at once, as it does outside ComfyUI; others one by one, as their own nodes do.

    Raises:
        InputError: the CLIP gives no pooled text.
    """
    if isinstance(clip.cond_stage_model, EngineTextModel) and patch_state(clip.patcher) is None:
        clip.load_model()
        text, pooled = clip.cond_stage_model.encoder.encode(list(texts))
        return text.float().cpu(), pooled.float().cpu()
    length = _encoded(clip, "")[0].shape[1]
    rows = [_encoded(clip, text) for text in texts]
    return torch.cat([text[:, :length] for text, _ in rows]), torch.cat([pooled for _, pooled in rows])


def _encoded(clip: Any, text: str) -> tuple[Tensor, Tensor]:
    tokens, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    if pooled is None:
        raise InputError(
            "CLIP", expected="FLUX's two text encoders (CLIP-L and T5), which give tokens and pooled text", found="one without pooled text",
            remedy="Load both with DualCLIPLoader, type flux, or use the CLIP of Nano FLUX.",
        )  # fmt: skip
    return tokens.float().cpu(), pooled.float().cpu()
