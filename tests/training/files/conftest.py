"""Files to test on: small FLUX transformers, hostile headers, and files as large as real ones that take no room on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from graft.training.files.write import header_bytes, lay_out, write_safetensors
from graft.training.models.flux import Flux, FluxConfig


def small_config(guidance: bool = True) -> FluxConfig:
    return FluxConfig(
        hidden_size=256, head_dim=128, double_depth=2, single_depth=3, in_channels=64, context_width=96, vector_width=48, mlp_width=1024,
        guidance=guidance,
    )  # fmt: skip


@pytest.fixture
def flux_weights():
    """A function: random weights of a small FLUX in BFL names; a narrow one without guidance unless asked."""

    def make(seed: int = 0, guidance: bool = True, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in Flux(small_config(guidance)).state_dict().items()}
        generator = torch.Generator().manual_seed(seed)
        return {name: (torch.randn(shape, generator=generator) * 0.05).to(dtype) for name, shape in shapes.items()}

    return make


@pytest.fixture
def narrow_flux():
    """A function: weights with the names of a FLUX, but only 1 + 1 blocks and few numbers, where only names and values matter."""

    def make(dtype: torch.dtype = torch.float32, guidance: bool = False) -> dict[str, torch.Tensor]:
        config = FluxConfig(
            hidden_size=8, head_dim=8, double_depth=1, single_depth=1, in_channels=4, context_width=6, vector_width=5, mlp_width=32,
            guidance=guidance, axes=(2, 2, 4),
        )  # fmt: skip
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in Flux(config).state_dict().items()}
        generator = torch.Generator().manual_seed(1)
        return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}

    return make


@pytest.fixture
def save(tmp_path):
    """A function: tensors -> the path of a file that holds them."""

    def write(tensors, metadata=None, name: str = "file.safetensors") -> Path:
        write_safetensors(tmp_path / name, tensors, metadata)
        return tmp_path / name

    return write


@pytest.fixture
def raw_file(tmp_path):
    """A function: a header (an object or raw bytes), data, and perhaps a false header length -> the path of such a file."""

    def write(header, data: bytes = b"", length: int | None = None, name: str = "raw.safetensors") -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / name
        path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
        return path

    return write


@pytest.fixture
def hollow_file(tmp_path):
    """A function: {name: (dtype, shape)} -> a file with that header whose data are a hole: any size, no room on the disk."""

    def write(entries, metadata=None, name: str = "hollow.safetensors") -> Path:
        infos = lay_out(entries)
        beginning = header_bytes(infos, metadata or {})
        path = tmp_path / name
        with path.open("wb") as file:
            file.write(beginning)
            file.truncate(len(beginning) + sum(info.size_bytes for info in infos.values()))
        return path

    return write


@pytest.fixture
def hollow_model(hollow_file):
    """A function: a module on the meta device (or its shapes) -> a hollow file with its names, in one dtype."""

    def write(model, dtype: str = "BF16", prefix: str = "", extra=None, name: str = "hollow.safetensors", metadata=None) -> Path:
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()} if hasattr(model, "state_dict") else model
        entries = {prefix + key: (dtype, shape) for key, shape in shapes.items()} | (extra or {})
        return hollow_file(entries, metadata, name)

    return write


class Listener:
    """Progress that notes what it is told, and can interrupt at the n-th question."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.interrupt_at: int | None = None
        self.questions = 0

    def start(self, total: int, unit: str) -> None:
        self.calls.append(("start", total, unit))

    def advance(self, done: int, **values: float) -> None:
        self.calls.append(("advance", done))

    def finish(self) -> None:
        self.calls.append(("finish",))

    def check_interrupt(self) -> None:
        self.questions += 1
        if self.interrupt_at is not None and self.questions >= self.interrupt_at:
            raise KeyboardInterrupt


@pytest.fixture
def listener() -> Listener:
    return Listener()


QUANTISED = ("img_attn.qkv.weight", "linear1.weight", "img_mlp.0.weight")


@pytest.fixture
def packed():
    """A function: BF16 weights -> the same packed in one of the 8-bit forms, and what they are worth when unpacked (in FP32 arithmetic)."""

    def pack(weights, form: str, prefix: str = ""):
        stored, worth, metadata = {}, {name: tensor.float() for name, tensor in weights.items()}, {}
        for name, tensor in weights.items():
            layer = name.removesuffix(".weight")
            if not name.endswith(QUANTISED):
                stored[prefix + name] = tensor
                continue
            rows = form == "comfy by rows"
            scale = tensor.float().abs().amax(dim=1, keepdim=True) / 448 if rows else tensor.float().abs().max() / 448
            eight = (tensor.float() / scale).to(torch.float8_e4m3fn)
            stored[prefix + name], worth[name] = eight, eight.float() * scale
            stored |= scale_tensors(prefix + layer, form, scale)
        if form == "scaled":
            stored[f"{prefix}scaled_fp8"] = torch.empty(2, dtype=torch.float8_e4m3fn).zero_()
        if form == "comfy by metadata":
            layers = {name.removesuffix(".weight"): {"format": "float8_e4m3fn"} for name in stored if name.endswith(QUANTISED)}
            metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
        return stored, {name: tensor.bfloat16() for name, tensor in worth.items()}, metadata

    return pack


def scale_tensors(layer: str, form: str, scale: torch.Tensor) -> dict[str, torch.Tensor]:
    if form == "scaled":
        return {f"{layer}.scale_weight": scale.reshape(1), f"{layer}.scale_input": torch.tensor([0.5])}
    tensors = {f"{layer}.weight_scale": scale, f"{layer}.input_scale": torch.tensor(0.5)}
    if form != "comfy by metadata":
        tensors[f"{layer}.comfy_quant"] = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    return tensors
