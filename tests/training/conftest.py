"""A tiny training that is real in every part: a random FLUX, pictures on disk, a ControlNet; a step takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from graft.training.data.encode import encode_dataset
from graft.training.data.encoded import Encoded
from graft.training.data.folder import ImageFolder
from graft.training.files.fingerprint import fingerprint
from graft.training.learner import Learner
from graft.training.models.flux import Flux, FluxConfig
from graft.training.settings import ObjectiveSettings, OptimiserSettings, PrecisionSettings, ScheduleSettings, Settings
from graft.training.store import RunStore
from graft.training.train_to import train_to
from graft.training.trainable.base import LoadedBase
from graft.training.trainable.controlnet import ControlNetRecipe

PICTURES, HELD_OUT, SIDE_PX = 11, 3, 32
CPU = torch.device("cpu")


def make_tiny_base() -> LoadedBase:
    """One head of 32, 1 + 1 blocks, stored in bf16 as real bases are."""
    config = FluxConfig(
        hidden_size=32, head_dim=32, double_depth=1, single_depth=1, in_channels=64, context_width=8, vector_width=8, mlp_width=64,
        guidance=True, axes=(8, 12, 12),
    )  # fmt: skip
    model, generator = Flux(config), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            spread = 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(spread * noise + (1.0 if name.endswith("scale") else 0.0))
    model = model.to(torch.bfloat16).requires_grad_(False)
    return LoadedBase(model, fingerprint(model.state_dict()))


def make_tiny_data(folder: Path, hint_form: str = "pixels") -> Encoded:
    """Eleven pictures of 32 x 32 px, three of them held out; latents are powers of blocks' mean colours."""
    random = np.random.RandomState(5)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        picture = np.full((SIDE_PX, SIDE_PX, 3), random.randint(0, 255, 3), np.uint8)
        cv2.rectangle(picture, tuple(random.randint(0, 14, 2).tolist()), tuple(random.randint(17, 31, 2).tolist()), (9, 250, 90), -1)
        cv2.imwrite(str(folder / f"{number:02d}.png"), picture)
        (folder / f"{number:02d}.txt").write_text(f"figure {number}", encoding="utf-8")
    dataset = ImageFolder(path=folder, resolution_px=SIDE_PX, held_out=HELD_OUT)
    return encode_dataset(dataset, _latents, _embeddings, "tiny", "tiny", folder / "encoded", hint_form=hint_form)


@pytest.fixture(scope="session")
def tiny_base() -> Iterator[LoadedBase]:
    """One for all tests, so none may change it."""
    base = make_tiny_base()
    yield base
    assert fingerprint(base.model.state_dict()) == base.fingerprint, "a test changed the base that it shares with all the others"


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    return make_tiny_data(tmp_path_factory.mktemp("pictures"))


def _latents(pixels: torch.Tensor) -> torch.Tensor:
    small = torch.nn.functional.avg_pool2d(pixels, 8)
    return torch.cat([small, small**2, 1 - small, small**3, small.sqrt(), small[:, :1]], dim=1)


def _embeddings(captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    rows = []
    for caption in captions:
        generator = torch.Generator().manual_seed(sum(caption.encode()))
        rows.append(torch.randn(5, 8, generator=generator))
    tokens = torch.stack(rows)
    return tokens, tokens.mean(dim=1)


def make_tiny_settings(**changes) -> Settings:
    """Settings under which the tiny model learns; every field of every part can be changed by name."""
    parts: dict = {
        "optimiser": OptimiserSettings(learning_rate=2e-3),
        "schedule": ScheduleSettings(shape="cosine", warmup_steps=2, horizon_steps=5, final_fraction=0.1),
        "objective": ObjectiveSettings(caption_dropout=0.2),
        "precision": PrecisionSettings(),
    }
    for part, value in parts.items():
        own = {name: changes.pop(name) for name in list(changes) if name in value.__dataclass_fields__}
        parts[part] = replace(value, **own)
    return Settings(**{"batch_size": 2, "checkpoint_every": 0, "evaluate_every": 0, "evaluate_samples": 1, "seed": 7, **parts, **changes})


RECIPE = ControlNetRecipe(layout="xlabs", double_depth=1, seed=1)


@pytest.fixture
def tiny_data_in() -> Callable[..., Encoded]:
    return make_tiny_data


@pytest.fixture
def tiny_settings() -> Callable[..., Settings]:
    return make_tiny_settings


@pytest.fixture
def recipe() -> ControlNetRecipe:
    return RECIPE


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def tiny_train(tiny_base, tiny_data, recipe, store, tiny_settings) -> Callable:
    """`train_to` on the tiny parts; any argument can be changed."""

    def run(steps: int, settings: Settings | None = None, **changes):
        given = {"base": tiny_base, "recipe": recipe, "data": tiny_data, "store": store, "device": CPU, **changes}
        return train_to(settings=settings or tiny_settings(), steps=steps, **given)

    return run


@pytest.fixture
def tiny_learner(tiny_base, recipe, tiny_settings) -> Callable[..., Learner]:
    def make(settings: Settings | None = None, **changes) -> Learner:
        return Learner(tiny_base.model, recipe, settings or tiny_settings(**changes), CPU)

    return make


@pytest.fixture
def stop_at() -> Callable:
    """A progress that raises an interrupt of the host's kind (no Exception) when so many steps are finished."""

    class Stop(BaseException):
        pass

    def make(step: int) -> SimpleNamespace:
        seen = SimpleNamespace(done=0, Stop=Stop, start=lambda total, unit: None, finish=lambda: None)

        def advance(done: int, **values: float) -> None:
            seen.done = done

        def check_interrupt() -> None:
            if seen.done >= step:
                raise Stop

        seen.advance, seen.check_interrupt = advance, check_interrupt
        return seen

    return make


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
