"""The host when there is no ComfyUI: folders of its own, the engine's modules, a terminal for progress."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...training.errors import InputError
from ...training.progress import NO_PROGRESS
from ..host import name_of

if TYPE_CHECKING:
    import torch

    from ...training.progress import Progress
    from .terminal import Reporter
    from .values import Clip, ControlNet, Model, Vae

MODEL_SUFFIXES = frozenset({".safetensors", ".sft"})
INPUT_VARIABLE, RUNS_VARIABLE, MODELS_VARIABLE, DEVICE_VARIABLE = "GRAFT_INPUT", "GRAFT_RUNS", "GRAFT_MODELS", "GRAFT_DEVICE"


class HeadlessHost:
    """Stands in for ComfyUI; see nodes/host.py for what each method promises.

    Args:
        output: where results go; `out` under the current folder if None.
        reporter: shows progress; None is silent.
        workflow: the name of what is run.
    """

    def __init__(self, output: Path | None = None, reporter: Reporter | None = None, workflow: str = "") -> None:
        self._output, self._reporter, self._workflow = output or Path("out"), reporter, workflow

    def progress(self, unique_id: str | None = None) -> Progress:
        return self._reporter.progress() if self._reporter else NO_PROGRESS

    def event_sender(self) -> None:
        """No page shows a headless run; its terminal does."""

    # ------------------------------------------------------------ folders and files

    def input_folder(self) -> Path:
        return Path(os.environ.get(INPUT_VARIABLE) or "input")

    def output_folder(self) -> Path:
        return self._output

    def runs_folder(self) -> Path:
        return Path(os.environ.get(RUNS_VARIABLE) or Path("out", ".graft_runs"))

    def cache_folder(self) -> Path:
        return self.runs_folder() / "cache"

    def workflow_name(self) -> str:
        return self._workflow

    def model_files(self, kind: str) -> list[str]:
        folder = self._model_folder(kind)
        found = (path for path in folder.rglob("*") if path.suffix.lower() in MODEL_SUFFIXES and path.is_file()) if folder.is_dir() else ()
        return sorted(path.relative_to(folder).as_posix() for path in found)

    def model_path(self, kind: str, name: str) -> Path:
        if name not in self.model_files(kind):
            raise InputError(
                f"{kind} file", expected=f"a safetensors file in {self._model_folder(kind)}", found=name or "none",
                remedy=f"Put it there, or set {MODELS_VARIABLE} to the folder that holds {kind}/.",
            )  # fmt: skip
        return self._model_folder(kind) / name

    def _model_folder(self, kind: str) -> Path:
        return Path(os.environ.get(MODELS_VARIABLE) or "models") / kind

    # ------------------------------------------------------------ devices

    def device(self) -> torch.device:
        import torch

        chosen = os.environ.get(DEVICE_VARIABLE) or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return torch.empty(0, device=chosen).device
        except (RuntimeError, AssertionError) as error:  # no such name, no such device here, or a torch that was built without it
            raise InputError(DEVICE_VARIABLE, expected=_devices(), found=chosen, remedy="Unset it.") from error

    def free_memory(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # ------------------------------------------------------------ what nodes pass on

    def make_model(self, weights: Mapping[str, torch.Tensor], report: Any = None, fingerprint: str | None = None, name: str = "") -> Model:
        from .values import Model

        return Model(weights, fingerprint or _fingerprint(weights), report, name=name)

    def model_weights(self, model: Model) -> tuple[Mapping[str, torch.Tensor], str]:
        from ...training.files.held import held_on_request

        return held_on_request(model.weights, model.form) if model.form else model.weights, self.model_fingerprint(model)

    def model_fingerprint(self, model: Model) -> str:
        from ...training.files.held import requested_fingerprint

        return requested_fingerprint(model.fingerprint, model.form) if model.form else model.fingerprint

    def model_name(self, model: Model) -> str:
        return name_of(model.name, model.patched, model.form)

    def hold_model(self, model: Model, form: str) -> Model:
        from ...training.files.held import require_form

        return replace(model, form=require_form(form))

    def make_clip(self, text_encoder: Any, fingerprint: str | None = None) -> Clip:
        from .values import Clip

        return Clip(text_encoder, fingerprint or _fingerprint(text_encoder.state_dict()))

    def make_vae(self, autoencoder: Any, fingerprint: str | None = None) -> Vae:
        from .values import Vae

        return Vae(autoencoder, fingerprint or _fingerprint(autoencoder.state_dict()))

    def encode_images(self, vae: Vae, pixels: torch.Tensor) -> torch.Tensor:
        from .modules import encode_pixels

        return encode_pixels(vae, pixels, self.device())

    def decode_latents(self, vae: Vae, latents: torch.Tensor) -> torch.Tensor:
        from .modules import decode_pixels

        return decode_pixels(vae, latents, self.device())

    def encode_text(self, clip: Clip, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        from .modules import encode_captions

        return encode_captions(clip, texts, self.device())

    def make_control_net(self, weights: Mapping[str, torch.Tensor], layout: str) -> ControlNet:
        from .values import ControlNet

        return ControlNet(weights, layout)

    def apply_lora(self, model: Model, tensors: Mapping[str, torch.Tensor], strength: float) -> Model:
        from ...training.files.lora_apply import with_lora

        if strength == 0:
            return model
        patched = self.make_model(with_lora(model.weights, tensors, strength), model.report, name=model.name)
        return replace(patched, form=model.form, patched=True)

    def vae_fingerprint(self, vae: Vae) -> str:
        return vae.fingerprint

    def clip_fingerprint(self, clip: Clip) -> str:
        return clip.fingerprint


def _fingerprint(weights: Mapping[str, torch.Tensor]) -> str:
    from ...training.files.fingerprint import fingerprint

    return fingerprint(weights)


def _devices() -> str:
    """The devices that this torch finds here."""
    import torch

    return " or ".join(["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))])
