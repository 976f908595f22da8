"""The bench of the data path runs from end to end at tiny sizes and writes the figures that it promises."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from graft.training.data import bench_data
from graft.training.data.bench_plain import PlainPictures
from graft.training.data.bench_sets import draw_set, encode_images, encode_text, encode_text_small, set_picture
from graft.training.data.folder import ImageFolder
from graft.training.errors import InputError
from graft.training.progress import NO_PROGRESS


def test_every_phase_runs_and_gives_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in this process, and the plain way without workers: what a process of its own adds is in the slow test."""
    monkeypatch.setattr(bench_data, "_alone", lambda job, *arguments: job(*arguments))
    monkeypatch.setattr("graft.training.data.bench_plain.WORKERS", 0)
    monkeypatch.setattr(bench_data, "encode_text", encode_text_small)
    monkeypatch.setattr("graft.training.data.bench_plain.encode_text", encode_text_small)
    sets = bench_data.BenchSets(pictures=40, size_px=32, small=8, small_px=32)
    figures = bench_data.run_data_bench(tmp_path / "figures.json", sets, tmp_path / "sets")
    assert json.loads((tmp_path / "figures.json").read_text("utf-8")) == figures and not list((tmp_path / "sets").iterdir())
    assert figures["ram_ratio_6000_to_600"] == max(figures["ram_ratios"].values()) and set(figures["ram_ratios"]) == {"check", "encode", "load"}
    assert figures["speedup_over_plain"] == min(figures["speedups"].values()) > 0 and figures["second_start_seconds"] > 0
    times = figures["processor_ms_per_picture"]
    by_processor = {phase: times["plain"][phase] / times["ours"][phase] for phase in ("encode", "load")}
    assert figures["speedups_in_processor_time"] == pytest.approx(by_processor)
    text = bench_data.describe(figures)
    assert "40 pictures of 32 px" in text and f"{figures['ram_ratio_6000_to_600']:.3f}" in text


@pytest.mark.slow
def test_figures_are_measured_and_written(tmp_path: Path) -> None:
    sets = bench_data.BenchSets(pictures=80, size_px=64, small=40, small_px=32)
    figures = bench_data.run_data_bench(tmp_path / "figures.json", sets, tmp_path / "sets")
    assert json.loads((tmp_path / "figures.json").read_text("utf-8")) == figures
    assert not list((tmp_path / "sets").iterdir())
    assert 0.8 < figures["ram_ratio_6000_to_600"] < 1.5 and set(figures["ram_ratios"]) == {"check", "encode", "load"}
    assert figures["speedup_over_plain"] > 0 and figures["second_start_seconds"] > 0


def test_sets_are_the_same_each_time_and_a_data_set_like_any_other(tmp_path: Path) -> None:
    draw_set(tmp_path / "a", 6, 32, NO_PROGRESS)
    draw_set(tmp_path / "b", 6, 32, NO_PROGRESS)
    assert [sample.digest for sample in ImageFolder(tmp_path / "a").scan()] == [sample.digest for sample in ImageFolder(tmp_path / "b").scan()]
    assert sorted(path.suffix for path in (tmp_path / "a").iterdir()) == [".jpg"] * 4 + [".png"] * 2 + [".txt"] * 6
    assert len({set_picture(number, 32).tobytes() for number in range(6)}) == 6


def test_the_plain_way_sees_the_same_pictures(tmp_path: Path) -> None:
    draw_set(tmp_path / "a", 4, 64, NO_PROGRESS)
    plain = PlainPictures(tmp_path / "a", 64)[0]
    dataset = ImageFolder(tmp_path / "a", resolution_px=64)
    ours = dataset.read(dataset.scan()[0])
    assert np.array_equal((plain["pixels"] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy(), ours)
    assert plain["caption"] == "a drawing of kind 0" and plain["hint"].shape == (3, 64, 64) and set(plain["hint"].unique().tolist()) <= {-1.0, 1.0}


def test_stand_ins_give_as_much_as_the_real_encoders() -> None:
    assert encode_images(torch.rand(2, 3, 64, 128)).shape == (2, 16, 8, 16)
    tokens, pooled = encode_text(["a", "b"])
    assert tokens.shape == (2, 512, 4096) and pooled.shape == (2, 768) and tokens.dtype == torch.bfloat16


def test_the_rest_of_a_set_joins_its_beginning(tmp_path: Path) -> None:
    draw_set(tmp_path / "whole", 6, 32, NO_PROGRESS)
    draw_set(tmp_path / "parts", 4, 32, NO_PROGRESS)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    draw_set(tmp_path / "parts", 6, 32, NO_PROGRESS, first=4)
    assert all((tmp_path / "parts" / name).stat().st_mtime_ns == written for name, written in before.items())
    whole, parts = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "parts"))
    assert whole == parts and len(whole) == 12


def test_processor_time_is_of_the_work_and_of_the_processes_it_starts() -> None:
    def busy() -> None:
        subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.15: pass"], check=True)

    assert 0.12 < bench_data._cost_of(busy).processor_seconds < 1.0
    assert bench_data._cost_of(lambda: time.sleep(0.2)).processor_seconds < 0.1 < bench_data._cost_of(lambda: time.sleep(0.2)).seconds


def test_the_default_sets_fit_beside_what_they_are_encoded_to() -> None:
    """By hand, bytes for each pixel: 0.7 in its file, 1 of latents (16 channels of 4 bytes for 64 pixels), 3/64 of colours, 1/8 of edges."""
    needed = bench_data.BenchSets().needed_bytes()
    assert 1.872 * 1024**2 * 6000 < needed < 15e9


@pytest.mark.parametrize("options", [{"pictures": 39}, {"small": 3}, {"size_px": 100}, {"small_px": 16}])
def test_impossible_sizes_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="bench"):
        bench_data.BenchSets(**options)


def test_a_disk_without_room_is_said_before_anything_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**30}))
    with pytest.raises(InputError, match="--folder"):
        bench_data.run_data_bench(None, bench_data.BenchSets(), tmp_path / "sets")
    assert not (tmp_path / "sets").exists()
