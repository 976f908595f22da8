"""What holding the base in 8 bits saves and what it costs: the memory of a training step, and the losses of a LoRA on the built-in nano.

Memory is the most that all tensors held at once over building the learner and taking steps: weights, adapters, optimiser state, activations,
gradients and whatever is unpacked on the way. On a CPU every tensor is counted (live_tensors.py), on a GPU the allocator tells. The model is of
random weights and so large beside its few tokens that weights dominate, as they do in a FLUX.1; blocks are recomputed in the backward pass.

Losses are those of the same LoRA with the same seed, data and order on the nano in BF16 and with its blocks in 8 bits.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from .bench_sizes import BenchSize, random_batch
from .byte_sizes import shown_size
from .data.canny import CannyRecipe
from .data.encode import encode_dataset
from .data.encoded import Encoded
from .data.folder import ImageFolder
from .data.shapes import shapes_folder
from .errors import InputError
from .files.held import FORMS, HeldWeights, Stored, held_on_request, requested_fingerprint, stored_of
from .files.write import require_writable_folder, write_json
from .history import History
from .learner import Learner
from .live_tensors import LiveTensors
from .loop import train_step
from .models.flux import Flux
from .models.nano import load_nano
from .progress import NO_PROGRESS, Progress
from .settings import ObjectiveSettings, OptimiserSettings, PrecisionSettings, ScheduleSettings, Settings
from .state import State
from .store import RunStore
from .train_to import train_to
from .trainable.base import LoadedBase
from .trainable.lora import LoraRecipe

MEMORY_STEPS = 2
PICTURES, HELD_OUT, SIDE_PX, SEED = 40, 32, 128, 0
PLAIN = "bf16"


@dataclass(frozen=True, kw_only=True)
class MemorySize(BenchSize):
    """A transformer with a small LoRA, and a batch of few tokens."""

    rank: int = 4
    blocks: str = ""
    """See lora_layers.chosen_layers."""

    @property
    def lora(self) -> LoraRecipe:
        return LoraRecipe(rank=self.rank, layers="attention", blocks=self.blocks)

    def random_weights(self, device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """BF16 weights by name, one at a time: never all of them at once."""
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in Flux(self.config).state_dict().items()}
        generator = torch.Generator(device).manual_seed(SEED)
        for name, shape in shapes.items():
            spread = 0.5 * shape[-1] ** -0.5
            weight = torch.empty(shape, dtype=torch.bfloat16, device=device)
            yield name, weight.fill_(1) if name.endswith(".scale") else weight.normal_(0, spread, generator=generator)


_FEW_TOKENS: dict[str, Any] = {
    "context_width": 64, "vector_width": 64, "picture_px": 32, "text_tokens": 4, "batch": 1, "compute": "bf16"
}  # fmt: skip
SMALL = MemorySize(hidden_size=512, double_depth=4, single_depth=6, rank=1, blocks="double_blocks.0", **_FEW_TOKENS)
"""0.12 GB of weights: for tests."""
LARGE = MemorySize(hidden_size=1024, double_depth=6, single_depth=12, **_FEW_TOKENS)
"""0.85 GB of weights."""


def run_base8(
    json_path: str | Path | None = None, steps: int = 60, size: MemorySize = LARGE, progress: Progress = NO_PROGRESS
) -> dict[str, Any]:
    """The figures, written to `json_path` too: `base_memory_ratio` and `held_out_loss_ratio` are those of int8, 8 bits against BF16.

    Raises:
        InputError: steps below 1; the file cannot be written.
    """
    if steps < 1:
        raise InputError("bench steps", expected="1 or more", found=steps, remedy="60 show a difference if there is one.")
    if json_path is not None:
        require_writable_folder(Path(json_path).parent, "--json")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    memory = {form or PLAIN: peak_bytes(size, form, device) for form in (None, *FORMS)}
    curves = loss_curves(steps, device, progress)
    figures = {**_ratios(memory, curves), "steps": steps, "device": str(device), "size": size.facts()}
    figures |= {"peak_memory_bytes": memory, "losses": {name: _curve(history) for name, history in curves.items()}}
    if json_path is not None:
        write_json(Path(json_path), figures)
    return figures


def peak_bytes(size: MemorySize, form: str | None, device: torch.device) -> int:
    """The most bytes that all tensors of a LoRA's training held at once, with the base in BF16 (None) or in an 8-bit form."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _take_steps(size, form, device)
        return torch.cuda.max_memory_allocated(device) - before
    with LiveTensors() as memory:
        _take_steps(size, form, device)
    return memory.peak_bytes


def loss_curves(steps: int, device: torch.device, progress: Progress = NO_PROGRESS, held_out: int = HELD_OUT) -> dict[str, History]:
    """{form: losses of so many steps} of one LoRA on the nano, whose base differs and nothing else; measured on `held_out` other pictures.

    Raises:
        InputError: steps below 1.
    """
    nano = load_nano()
    with TemporaryDirectory() as folder:
        data, store = _nano_data(Path(folder), held_out), RunStore(Path(folder) / "runs")
        bases = {PLAIN: _base(nano.transformer, nano.transformer_fingerprint)}
        for form in FORMS:
            held = held_on_request(nano.transformer, form)
            bases[form] = _base(held, requested_fingerprint(nano.transformer_fingerprint, form))
        return {name: _trained(base, data, steps, store, device, progress).history() for name, base in bases.items()}


def describe(figures: Mapping[str, Any]) -> str:
    """The figures as a Markdown table."""
    memory, losses = figures["peak_memory_bytes"], figures["losses"]
    plain = losses[PLAIN]["held_out"][-1]
    rows = [
        f"| {name} | {shown_size(memory[name])} | {memory[name] / memory[PLAIN]:.3f} | {losses[name]['held_out'][0]:.5f} | "
        f"{losses[name]['held_out'][-1]:.5f} | {losses[name]['held_out'][-1] / plain - 1:+.3%} |"
        for name in memory
    ]
    heads = ("base", "peak memory", "of BF16", "held-out loss at the start", f"after {figures['steps']} steps", "against BF16")
    return "\n".join(["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |", *rows])


def _ratios(memory: Mapping[str, int], curves: Mapping[str, History]) -> dict[str, float]:
    last = {name: history.held_out[-1].held_out for name, history in curves.items()}
    return {"base_memory_ratio": memory["int8"] / memory[PLAIN], "held_out_loss_ratio": last["int8"] / last[PLAIN]}


def _curve(history: History) -> dict[str, list[float]]:
    return {
        "steps": [record.step for record in history.held_out], "held_out": [record.held_out for record in history.held_out],
        "train": [record.loss for record in history.steps],
    }  # fmt: skip


def _take_steps(size: MemorySize, form: str | None, device: torch.device) -> None:
    learner = Learner(_random_base(size, form, device), size.lora, size.settings(checkpointing=True), device)
    batch = replace(random_batch(size), hint=None)
    batches: Any = _Same(batch)
    for _ in range(MEMORY_STEPS):
        train_step(learner, batches)


@dataclass
class _Same:
    content: Any

    def batch(self, number: int) -> Any:
        return self.content


def _random_base(size: MemorySize, form: str | None, device: torch.device) -> Flux:
    """Made a weight at a time, so that a held base is never there in BF16."""
    if form is None:
        return Flux.from_weights(dict(size.random_weights(device)))
    stored: dict[str, Stored] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, weight in size.random_weights(device):
        stored[name], shapes[name] = stored_of(held_on_request({name: weight}, form))[name], tuple(weight.shape)
        del weight
    return Flux.from_weights(HeldWeights(stored, shapes))


def _base(weights: Mapping[str, Tensor], fingerprint: str) -> LoadedBase:
    return LoadedBase(Flux.from_weights(weights), fingerprint)


def _nano_data(folder: Path, held_out: int) -> Encoded:
    nano = load_nano()
    shapes_folder(folder / "pictures", count=PICTURES + held_out, seed=SEED, size_px=SIDE_PX, style="framed")
    dataset = ImageFolder(path=folder / "pictures", resolution_px=SIDE_PX, hint=CannyRecipe(), held_out=held_out)
    return encode_dataset(
        dataset, nano.autoencoder.encode, nano.text_encoder.encode, nano.autoencoder_fingerprint, nano.text_encoder_fingerprint,
        folder / "encoded", hint_form="none",
    )  # fmt: skip


def _trained(base: LoadedBase, data: Encoded, steps: int, store: RunStore, device: torch.device, progress: Progress) -> State:
    return train_to(base, LoraRecipe(rank=8), data, settings(steps), steps=steps, store=store, device=device, progress=progress)


def settings(steps: int) -> Settings:
    """Of the runs that are compared: a rate at which the nano learns a new style in so many steps."""
    return Settings(
        optimiser=OptimiserSettings(learning_rate=1e-3), schedule=ScheduleSettings(shape="constant", warmup_steps=5),
        objective=ObjectiveSettings(guidance=(1.0, 1.0)), precision=PrecisionSettings(), batch_size=4, checkpoint_every=0,
        evaluate_every=max(1, steps // 4), evaluate_samples=HELD_OUT, seed=SEED,
    )  # fmt: skip


