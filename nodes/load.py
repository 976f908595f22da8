"""Stage 1 of the graph: what comes out of files, the transformer that is trained on and ControlNets trained before."""

from __future__ import annotations

from typing import Any

from ..training.files.inspect import describe
from ..training.files.precision import load_transformer_weights, loaded_fingerprint, require_transformer_file
from ..training.models.nano import load_nano
from ..training.trainable.controlnet_import import load_controlnet_file, require_controlnet_file
from .host import current_host
from .types import Inputs, said_of

NANO_NAME = "nano_flux"
KIND, CONTROL_KIND = "diffusion_models", "controlnet"


class LoadTransformer:
    """A transformer file as BF16."""

    DISPLAY_NAME = "Load Transformer (BF16)"
    CATEGORY, FUNCTION = "Graft/load", "execute"
    RETURN_TYPES, RETURN_NAMES = ("MODEL", "STRING"), ("model", "report")
    OUTPUT_TOOLTIPS = ("The transformer, to train on and to sample with.", "What the file is, and what its saved form has cost.")
    DESCRIPTION = (
        "Loads a FLUX transformer in BF16, whatever dtype it was saved in. A base saved in FP16 trains nothing or gives NaN: it is converted, "
        "and the report says what FP16 has already lost. Files with infinite values or NaN are refused."
    )
    SEARCH_ALIASES = ("load flux", "load diffusion model", "unet loader", "bf16", "fp16 fix")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        files = current_host().model_files(KIND)
        return {"required": {"transformer": (files, {"tooltip": "A FLUX transformer file in the folder diffusion_models."})}}

    @classmethod
    def VALIDATE_INPUTS(cls, transformer: str | None) -> bool | str:  # noqa: N802
        """Another kind of file is named by its header, before anything is loaded."""
        return said_of(cls, {"transformer": transformer}, lambda: require_transformer_file(current_host().model_path(KIND, str(transformer))))

    @classmethod
    def IS_CHANGED(cls, transformer: str) -> str:  # noqa: N802
        """Another file under the same name is another base."""
        return file_stamp(KIND, transformer)

    def execute(self, transformer: str) -> tuple[Any, str]:
        host = current_host()
        path = host.model_path(KIND, transformer)
        loaded = load_transformer_weights(path, host.progress())
        fingerprint = loaded_fingerprint(path, host.cache_folder() / "fingerprints", host.progress())
        return host.make_model(loaded.weights, loaded.report, fingerprint, path.name), loaded.report.explanation()


class NanoFlux:
    """The built-in model."""

    DISPLAY_NAME = "Nano FLUX (built in)"
    CATEGORY, FUNCTION = "Graft/load", "execute"
    RETURN_TYPES, RETURN_NAMES = ("MODEL", "CLIP", "VAE"), ("model", "clip", "vae")
    OUTPUT_TOOLTIPS = ("Its transformer.", "Its text encoder: words to tokens.", "Its autoencoder: pictures to latents and back.")
    DESCRIPTION = (
        "A FLUX of a few million parameters that draws coloured shapes at 128x128. It comes with the pack: nothing is downloaded, and a "
        "ControlNet for it trains in minutes on a CPU. Use it to try a graph before you give it hours on the real model."
    )
    SEARCH_ALIASES = ("tiny flux", "test model", "demo")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {"required": {}}

    def execute(self) -> tuple[Any, Any, Any]:
        host, nano = current_host(), load_nano()
        return (
            host.make_model(nano.transformer, fingerprint=nano.transformer_fingerprint, name=NANO_NAME),
            host.make_clip(nano.text_encoder, nano.text_encoder_fingerprint),
            host.make_vae(nano.autoencoder, nano.autoencoder_fingerprint),
        )


class LoadControlNet:
    """A ControlNet file of any size."""

    DISPLAY_NAME = "Load ControlNet (any size)"
    CATEGORY, FUNCTION = "Graft/load", "execute"
    RETURN_TYPES, RETURN_NAMES = ("CONTROL_NET", "STRING"), ("control_net", "report")
    OUTPUT_TOOLTIPS = ("For Apply ControlNet: the very tensors of the file.", "What the file is.")
    DESCRIPTION = (
        "Loads a FLUX ControlNet in the XLabs or InstantX layout, of any width and depth. Older ComfyUI versions (0.3.64 among them) load only "
        "FLUX.1's own width with Load ControlNet Model: there an exported ControlNet of Nano FLUX needs this node. Where both load a file, they "
        "give the same pictures."
    )
    SEARCH_ALIASES = ("controlnet loader", "load trained controlnet", "xlabs", "instantx", "nano")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        files = current_host().model_files(CONTROL_KIND)
        return {"required": {"controlnet": (files, {"tooltip": "A FLUX ControlNet file in the folder controlnet."})}}

    @classmethod
    def VALIDATE_INPUTS(cls, controlnet: str | None) -> bool | str:  # noqa: N802
        """Another kind of file is named by its header, before anything is loaded."""
        return said_of(cls, {"controlnet": controlnet}, lambda: require_controlnet_file(current_host().model_path(CONTROL_KIND, str(controlnet))))

    @classmethod
    def IS_CHANGED(cls, controlnet: str) -> str:  # noqa: N802
        """Another file under the same name is another ControlNet."""
        return file_stamp(CONTROL_KIND, controlnet)

    def execute(self, controlnet: str) -> tuple[Any, str]:
        host = current_host()
        loaded = load_controlnet_file(host.model_path(CONTROL_KIND, controlnet), host.progress())
        return host.make_control_net(loaded.weights, loaded.layout), describe(loaded.report)


def file_stamp(kind: str, name: str) -> str:
    """Size and time of a model file: enough to notice that it was replaced, without reading it."""
    state = current_host().model_path(kind, name).stat()
    return f"{state.st_size} {state.st_mtime_ns}"


NODES = {"GraftLoadTransformer": LoadTransformer, "GraftNanoFlux": NanoFlux, "GraftLoadControlNet": LoadControlNet}
