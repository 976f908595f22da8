"""The host when the process is ComfyUI: its folders, its memory manager, its bars, its objects. Imported there only (nodes/host.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..training.errors import InputError

if TYPE_CHECKING:
    import torch

    from ..training.progress import Progress

FINGERPRINTS = "fingerprints"
MODEL_SUFFIXES = (".safetensors", ".sft")


class ComfyHost:
    """See nodes/host.py for what each method promises."""

    def progress(self, unique_id: str | None = None) -> Progress:
        from .comfy_progress import ComfyProgress

        return ComfyProgress(unique_id)

    def event_sender(self) -> Callable[[str, Mapping[str, Any]], None] | None:
        from .comfy_live import event_sender

        return event_sender()

    # ------------------------------------------------------------ folders and files

    def input_folder(self) -> Path:
        import folder_paths

        return Path(folder_paths.get_input_directory())

    def output_folder(self) -> Path:
        import folder_paths

        return Path(folder_paths.get_output_directory())

    def runs_folder(self) -> Path:
        return self.output_folder() / "graft" / "runs"

    def cache_folder(self) -> Path:
        """Beside the runs: ComfyUI empties its own temporary folder at every start."""
        return self.output_folder() / "graft" / "cache"

    def workflow_name(self) -> str:
        """The page tells its server no name."""
        return ""

    def model_files(self, kind: str) -> list[str]:
        import folder_paths

        return sorted(name for name in folder_paths.get_filename_list(kind) if name.lower().endswith(MODEL_SUFFIXES))

    def model_path(self, kind: str, name: str) -> Path:
        import folder_paths

        found = folder_paths.get_full_path(kind, name) if name else None
        if found is None:
            folders = ", ".join(folder_paths.get_folder_paths(kind))
            raise InputError(f"{kind} file", expected=f"a safetensors file in {folders}", found=name or "none", remedy="Put it there.")
        return Path(found)

    # ------------------------------------------------------------ devices

    def device(self) -> torch.device:
        import comfy.model_management

        return comfy.model_management.get_torch_device()

    def free_memory(self) -> None:
        import comfy.model_management

        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()

    # ------------------------------------------------------------ what nodes pass on

    def make_model(self, weights: Mapping[str, torch.Tensor], report: Any = None, fingerprint: str | None = None, name: str = "") -> Any:
        from .comfy_model import make_model

        return make_model(weights, report, fingerprint, name)

    def model_weights(self, model: Any) -> tuple[Mapping[str, torch.Tensor], str]:
        from .comfy_model import model_weights

        return model_weights(model, self._fingerprints())

    def model_fingerprint(self, model: Any) -> str:
        from .comfy_model import model_fingerprint

        return model_fingerprint(model, self._fingerprints())

    def model_name(self, model: Any) -> str:
        from .comfy_model import model_name

        return model_name(model)

    def hold_model(self, model: Any, form: str) -> Any:
        from .comfy_model import hold_model

        return hold_model(model, form)

    def make_clip(self, text_encoder: Any, fingerprint: str | None = None) -> Any:
        from .comfy_text import make_clip

        return make_clip(text_encoder, fingerprint)

    def make_vae(self, autoencoder: Any, fingerprint: str | None = None) -> Any:
        from .comfy_vae import make_vae

        return make_vae(autoencoder, fingerprint)

    def encode_images(self, vae: Any, pixels: torch.Tensor) -> torch.Tensor:
        from .comfy_vae import encode_images

        return encode_images(vae, pixels, self.device())

    def decode_latents(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        from .comfy_vae import decode_latents

        return decode_latents(vae, latents, self.device())

    def encode_text(self, clip: Any, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        from .comfy_text import encode_text

        return encode_text(clip, texts)

    def make_control_net(self, weights: Mapping[str, torch.Tensor], layout: str) -> Any:
        from .comfy_control import make_control_net

        return make_control_net(weights)

    def apply_lora(self, model: Any, tensors: Mapping[str, torch.Tensor], strength: float) -> Any:
        from .comfy_lora import apply_lora

        return apply_lora(model, tensors, strength)

    def vae_fingerprint(self, vae: Any) -> str:
        from .comfy_vae import vae_fingerprint

        return vae_fingerprint(vae, self._fingerprints())

    def clip_fingerprint(self, clip: Any) -> str:
        from .comfy_text import clip_fingerprint

        return clip_fingerprint(clip, self._fingerprints())

    def _fingerprints(self) -> Path:
        return self.cache_folder() / FINGERPRINTS
