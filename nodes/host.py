"""The one interface through which every node touches its host: ComfyUI, or the headless runner.

Nodes ask `current_host()` inside INPUT_TYPES and their function, and nowhere else: ComfyUI makes node objects itself, so a host cannot be
handed to them. Values that a host makes (MODEL, CLIP, VAE, CONTROL_NET) are opaque to nodes: only the host that made one looks inside.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from ..training.progress import Progress


class Host(Protocol):
    """What a node may ask of the program it runs in. Tensors given and returned lie on the CPU unless said otherwise."""

    def progress(self, unique_id: str | None = None) -> Progress:
        """The bar of the node `unique_id` (of the node now running if None); its `check_interrupt` raises the host's own exception."""

    def event_sender(self) -> Callable[[str, Mapping[str, Any]], None] | None:
        """Sends (event, data) to the pages that show this host; None where there are none."""

    def input_folder(self) -> Path:
        """Where the user's pictures and data sets lie; relative paths in a workflow start here."""

    def output_folder(self) -> Path:
        """Where results for the user go (pictures, exported files, reports)."""

    def runs_folder(self) -> Path:
        """Where the training store keeps its runs; the same for every workflow, so that a second run finds them."""

    def cache_folder(self) -> Path:
        """Where things that can be made again are kept (encoded data sets, remembered file hashes)."""

    def workflow_name(self) -> str:
        """The name of the workflow that runs, for people; empty where the host is not told it."""

    def model_files(self, kind: str) -> list[str]:
        """Names of the model files of a kind, in ComfyUI's folder names ("diffusion_models", "controlnet", "loras", "vae"), sorted."""

    def model_path(self, kind: str, name: str) -> Path:
        """The file behind one of `model_files(kind)`. Raises InputError if there is none."""

    def device(self) -> torch.device:
        """Where models are to run."""

    def free_memory(self) -> None:
        """Asks the host to give up device memory that it holds for models not in use; to be called before training."""

    def make_model(self, weights: Mapping[str, torch.Tensor], report: Any = None, fingerprint: str | None = None, name: str = "") -> Any:
        """A MODEL from a transformer's weights under their original (BFL) names.

        Args:
            report: what loading them told (`LoadedTransformer.report`), kept beside the model.
            fingerprint: of the weights if it is known already (`file_fingerprint`); hashed here otherwise.
            name: what people call it, such as its file's.
        """

    def model_weights(self, model: Any) -> tuple[Mapping[str, torch.Tensor], str]:
        """The weights of a MODEL by their original names, patches applied, and their fingerprint. Not to be changed in place."""

    def model_fingerprint(self, model: Any) -> str:
        """That fingerprint alone: nothing is read where it is remembered, by this process or an earlier one."""

    def model_name(self, model: Any) -> str:
        """What people call it: its file's name, without the folders; that it was patched or is held in 8 bits is added. Empty if nobody knows."""

    def hold_model(self, model: Any, form: str) -> Any:
        """Another MODEL whose weights, as `model_weights` gives them, are in 8 bits (training.files.held.FORMS), with a fingerprint of its own.

        What the host itself samples with stays as it is.
        """

    def make_clip(self, text_encoder: Any, fingerprint: str | None = None) -> Any:
        """A CLIP from a text encoder of the engine (`encode(list[str]) -> (tokens, pooled)`)."""

    def make_vae(self, autoencoder: Any, fingerprint: str | None = None) -> Any:
        """A VAE from an autoencoder of the engine (`encode`, `decode`)."""

    def encode_images(self, vae: Any, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures [B,H,W,3] in 0..1 to raw latents [B,C,H/8,W/8] in fp32 (before the transformer's shift and scale)."""

    def decode_latents(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        """Raw latents [B,C,h,w] to pictures [B,8h,8w,3] in 0..1, fp32."""

    def encode_text(self, clip: Any, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Captions to text tokens [B,L,context] and pooled text [B,vector], fp32."""

    def make_control_net(self, weights: Mapping[str, torch.Tensor], layout: str) -> Any:
        """A CONTROL_NET from exactly the tensors that an exported file holds; `layout` is "xlabs" or "instantx"."""

    def apply_lora(self, model: Any, tensors: Mapping[str, torch.Tensor], strength: float) -> Any:
        """Another MODEL with a LoRA on it, from exactly the tensors that an exported file holds (kohya names, or whole differences)."""

    def vae_fingerprint(self, vae: Any) -> str:
        """Identifies a VAE's weights: part of the key of everything encoded with it."""

    def clip_fingerprint(self, clip: Any) -> str:
        """Identifies a CLIP's weights: part of the key of everything encoded with it."""


def name_of(made_as: str, patched: bool, form: str) -> str:
    """The name of a MODEL that was `made_as` under one, with what was done to it since."""
    changes = [*(["patched"] if patched else []), *([f"held in 8 bits: {form}"] if form else [])]
    return f"{made_as} ({', '.join(changes)})" if made_as and changes else made_as


_CHOSEN: ContextVar[Host | None] = ContextVar("graft_host", default=None)


def current_host() -> Host:
    """The host chosen by `use_host`; without one ComfyUI's if this process is ComfyUI, else a headless host with default folders."""
    chosen = _CHOSEN.get()
    if chosen is not None:
        return chosen
    if inside_comfyui():
        from .host_comfy import ComfyHost

        return ComfyHost()
    from .headless.host import HeadlessHost

    return HeadlessHost()


@contextmanager
def use_host(host: Host) -> Iterator[Host]:
    """Makes `host` the current one within a with-block (the headless runner, tests)."""
    token = _CHOSEN.set(host)
    try:
        yield host
    finally:
        _CHOSEN.reset(token)


def inside_comfyui() -> bool:
    """Whether this process is a running ComfyUI: one that imported its memory manager or its executor before us."""
    return "comfy.model_management" in sys.modules or "execution" in sys.modules
