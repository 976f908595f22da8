"""Stage 6 of the graph, mostly for LoRAs: which step, how strong, and what was learnt and forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ..training.captioned import DrawingSettings, draw_captions
from ..training.data.dataset import RESOLUTION_STEP_PX
from ..training.data.encoded import Encoded
from ..training.data.shape_styles import ROYAL
from ..training.errors import InputError
from ..training.exam import CONCEPTS, Drawn, Exam, exam_shapes
from ..training.export import CHOICES
from ..training.files.held import placed
from ..training.lora_grid import LARGEST_STRENGTH, grid_rows, lora_grid, require_strengths
from ..training.measure import Pictures
from ..training.models.flux import Flux
from ..training.state import State
from ..training.store import RunStore
from ..training.stored_steps import ALL_STEPS, at_step, chosen_steps, kept_steps, numbers, whole_numbers
from ..training.weights import compute_dtype
from .host import Host, current_host
from .lora import applied
from .result import WEIGHTS_TOOLTIP, as_image
from .types import ENCODED, MEASURES, STATE, Inputs, choice, link, number, said_of, seed_input, whole

Draw = Callable[[Sequence[str]], Pictures]
STATE_TOOLTIP, STEPS_TOOLTIP = "What Train Steps gave.", "Sampling steps."
GUIDANCE_TOOLTIP = "Guidance for transformers that embed it: the one that you sample with, not the one that was trained at."
KEPT_TOOLTIP = (
    "Steps of this training to compare, separated by commas (200, 400), or 'all': those whose checkpoints are kept. Empty: the state's own."
)


class StoredStep:
    """An earlier state."""

    DISPLAY_NAME = "Stored Step"
    CATEGORY, FUNCTION = "Graft/result", "execute"
    RETURN_TYPES, RETURN_NAMES = (STATE, "STRING"), ("state", "kept")
    OUTPUT_TOOLTIPS = ("The training as it was after that step.", "The steps that are kept, separated by commas.")
    DESCRIPTION = (
        "Step 200 or step 400? Gives an earlier state of a training, of a ControlNet or a LoRA, to use, to export or to train further from. "
        "Checkpoints that were written on the way can be chosen as long as they are kept; one that was chosen is kept for good."
    )
    SEARCH_ALIASES = ("checkpoint", "earlier step", "previous state", "select step")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        step = whole(200, 1, 10_000_000, "Finished steps in all; not more than the state's.")
        return {"required": {"state": link(STATE, STATE_TOOLTIP), "step": step}}

    def execute(self, state: State, step: int) -> tuple[State, str]:
        chosen = at_step(state, step)
        RunStore(current_host().runs_folder()).use(chosen)
        return chosen, ", ".join(map(str, kept_steps(state)))


class LoraGrid:
    """Steps and strengths side by side."""

    DISPLAY_NAME = "LoRA Grid"
    CATEGORY, FUNCTION = "Graft/result", "execute"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE",), ("grid",)
    OUTPUT_TOOLTIPS = ("One row per step and strength, one column per caption.",)
    DESCRIPTION = (
        "Draws the same captions from the same noise with several steps and strengths of one LoRA, side by side: where it has learnt enough, and "
        "where it begins to break. `model` may be another transformer of the same shape than the one that was trained on."
    )
    SEARCH_ALIASES = ("xy plot", "compare steps", "compare strengths", "validation images")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "model": link("MODEL", "The transformer to apply it to."),
                "clip": link("CLIP", "Encodes the captions."),
                "vae": link("VAE", "Decodes the pictures."),
                "state": link(STATE, STATE_TOOLTIP),
                "weights": choice(CHOICES, WEIGHTS_TOOLTIP),
                "captions": ("STRING", {"default": "", "multiline": True, "tooltip": "One per line, a column each."}),
                "stored_steps": ("STRING", {"default": "", "tooltip": KEPT_TOOLTIP}),
                "strengths": ("STRING", {"default": "0, 1", "tooltip": "Separated by commas; 0 is one row without the LoRA, 1 is as trained."}),
                "resolution_px": whole(512, 64, 4096, "Side of the square pictures, in pixels.", RESOLUTION_STEP_PX),
                "steps": whole(20, 1, 1000, STEPS_TOOLTIP),
                "guidance": number(3.5, 0.0, 100.0, 0.1, GUIDANCE_TOOLTIP),
                "seed": seed_input("Of the noise; the picture in column i starts from seed + i."),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(  # noqa: N802
        cls, captions: str | None, stored_steps: str | None, strengths: str | None, resolution_px: int | None
    ) -> bool | str:
        given = {"captions": captions, "stored_steps": stored_steps, "strengths": strengths, "resolution_px": resolution_px}
        return said_of(cls, given, lambda: _require_texts(**given))  # type: ignore[arg-type]

    def execute(
        self, model: Any, clip: Any, vae: Any, state: State, weights: str, captions: str, stored_steps: str, strengths: str, resolution_px: int,
        steps: int, guidance: float, seed: int,
    ) -> tuple[Tensor]:  # fmt: skip
        _require_texts(captions, stored_steps, strengths, resolution_px)
        host, lines = current_host(), _lines(captions)
        settings = DrawingSettings(resolution_px=resolution_px, steps=steps, guidance=guidance, seed=seed)
        rows = grid_rows(chosen_steps(state, stored_steps), numbers(strengths, "strengths"))

        def draw(chosen: State | None, strength: float) -> Pictures:
            with drawing(host, model if chosen is None else applied(host, model, chosen, weights, strength)[0], clip, vae, settings) as pictures_of:
                return pictures_of(lines)

        return (as_image(lora_grid(rows, lines, draw)),)


def _require_texts(captions: str, stored_steps: str, strengths: str, resolution_px: int) -> None:
    """What can be told without the state."""
    if not _lines(captions):
        raise InputError("captions", expected="one per line", found="none", remedy="Write what the columns shall show.")
    if stored_steps.strip() not in ("", ALL_STEPS):
        whole_numbers(stored_steps, "stored steps")
    require_strengths(numbers(strengths, "strengths"))
    DrawingSettings(resolution_px=resolution_px)


def _lines(captions: str) -> list[str]:
    return [line.strip() for line in captions.splitlines() if line.strip()]


@contextmanager
def drawing(host: Host, model: Any, clip: Any, vae: Any, settings: DrawingSettings) -> Iterator[Draw]:
    """Draws captions with a copy of the model's weights on the host's device, which is gone at the end of the with-block."""
    host.free_memory()
    device = host.device()
    copies = [Flux.from_weights(placed(host.model_weights(model)[0], device, compute_dtype("auto", device)))]
    try:
        yield lambda captions: draw_captions(
            copies[0], captions, lambda texts: host.encode_text(clip, texts), lambda latents: host.decode_latents(vae, latents), settings,
            host.progress(),
        )  # fmt: skip
    finally:
        copies.clear()
        host.free_memory()


class LoraExam:
    """Learnt and forgotten, in figures."""

    DISPLAY_NAME = "LoRA Exam (drawn shapes)"
    CATEGORY, FUNCTION = "Graft/result", "execute"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", MEASURES), ("grid", "measures")
    OUTPUT_TOOLTIPS = ("The new word and old captions, without and with the LoRA, side by side.", "What was learnt and forgotten, for the report.")
    DESCRIPTION = (
        "Does it learn, does it forget? For LoRAs taught with Draw Shapes in a style other than plain. Asks for figures that were not trained on, "
        "with the new word and without it, from the same noise without and with the LoRA: how often the word gives the new thing, how often "
        "pictures without the word are still right, and how far they moved."
    )
    SEARCH_ALIASES = ("evaluate lora", "forgetting", "new word", "lora report")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "model": link("MODEL", "The transformer to apply it to: Nano FLUX, or another that draws these shapes."),
                "clip": link("CLIP", "Encodes the captions."),
                "vae": link("VAE", "Decodes the pictures."),
                "data": link(ENCODED, "What was trained on: its captions are left out, its resolution is drawn at."),
                "state": link(STATE, STATE_TOOLTIP),
                "weights": choice(CHOICES, WEIGHTS_TOOLTIP),
                "strength": number(1.0, -LARGEST_STRENGTH, LARGEST_STRENGTH, 0.05, "How strongly; 1 is as trained."),
                "pictures": whole(64, 1, 4096, "Figures to ask for; each is drawn four times."),
                "columns": whole(8, 1, 64, "How many of them the grid shows."),
                "steps": whole(20, 1, 1000, STEPS_TOOLTIP),
                "guidance": number(3.5, 0.0, 100.0, 0.1, GUIDANCE_TOOLTIP),
                "seed": seed_input("Of the figures and of the noise."),
                "word": choice(tuple(CONCEPTS), "The style that was taught: its word in the captions.", ROYAL),
            }
        }

    def execute(
        self, model: Any, clip: Any, vae: Any, data: Encoded, state: State, weights: str, strength: float, pictures: int, columns: int, steps: int,
        guidance: float, seed: int, word: str,
    ) -> tuple[Tensor, dict[str, Any]]:  # fmt: skip
        host = current_host()
        shapes = exam_shapes(pictures, seed, {sample.caption for sample in (*data.train, *data.held_out)})
        settings = DrawingSettings(resolution_px=data.resolution_px, steps=steps, guidance=guidance, seed=seed)
        trained = applied(host, model, state, weights, strength)[0]
        concept, drawn = CONCEPTS[word], []
        for chosen in (model, trained):
            with drawing(host, chosen, clip, vae, settings) as pictures_of:
                drawn.append(Drawn(pictures_of([concept.caption(shape) for shape in shapes]), pictures_of([shape.caption for shape in shapes])))
        exam = Exam(concept, shapes, *drawn)
        return as_image(exam.grid(columns)), exam.figures()


NODES = {"GraftStoredStep": StoredStep, "GraftLoRAGrid": LoraGrid, "GraftLoRAExam": LoraExam}
