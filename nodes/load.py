"""Stage 1 of the graph: the transformer that is trained on."""

from __future__ import annotations

from typing import Any

from ..training.files.precision import load_transformer_weights, loaded_fingerprint
from ..training.models.nano import load_nano
from .host import current_host
from .types import Inputs

KIND = "diffusion_models"


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
    def IS_CHANGED(cls, transformer: str) -> str:  # noqa: N802
        """Another file under the same name is another base."""
        state = current_host().model_path(KIND, transformer).stat()
        return f"{state.st_size} {state.st_mtime_ns}"

    def execute(self, transformer: str) -> tuple[Any, str]:
        host = current_host()
        path = host.model_path(KIND, transformer)
        loaded = load_transformer_weights(path, host.progress())
        fingerprint = loaded_fingerprint(path, host.cache_folder() / "fingerprints", host.progress())
        return host.make_model(loaded.weights, loaded.report, fingerprint), loaded.report.explanation()


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
            host.make_model(nano.transformer, fingerprint=nano.transformer_fingerprint),
            host.make_clip(nano.text_encoder, nano.text_encoder_fingerprint),
            host.make_vae(nano.autoencoder, nano.autoencoder_fingerprint),
        )


NODES = {"GraftLoadTransformer": LoadTransformer, "GraftNanoFlux": NanoFlux}
