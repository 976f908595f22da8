"""Pictures go in and out as ComfyUI's nodes do it: same pixels, masks, file names and metadata."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from graft.nodes.headless.check import checked
from graft.nodes.headless.core_pictures import ImageBatch, LoadImage, PreviewImage, SaveImage
from graft.nodes.headless.graph import GraphError
from graft.nodes.headless.host import HeadlessHost
from graft.nodes.host import use_host
from graft.training.errors import InputError
from PIL import Image


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_INPUT", str(tmp_path / "input"))
    (tmp_path / "input").mkdir()
    with use_host(HeadlessHost(tmp_path / "output")):
        yield tmp_path


@pytest.fixture
def pictures():
    return torch.rand(2, 8, 12, 3, generator=torch.Generator().manual_seed(4))


def random_pixels(channels, height=6, width=9):
    return np.random.default_rng(2).integers(0, 256, (height, width, channels), np.uint8)


def test_an_rgb_picture(folders):
    pixels = random_pixels(3)
    Image.fromarray(pixels).save(folders / "input" / "a.png")
    picture, mask = LoadImage().load_image("a.png")
    assert torch.equal(picture, torch.from_numpy(pixels.astype(np.float32) / 255.0)[None])
    assert torch.equal(mask, torch.zeros(1, 64, 64))


def test_transparency_becomes_the_mask_and_leaves_the_colours(folders):
    pixels = random_pixels(4)
    Image.fromarray(pixels, "RGBA").save(folders / "input" / "a.png")
    picture, mask = LoadImage().load_image("a.png")
    assert torch.equal(picture, torch.from_numpy(pixels[..., :3].astype(np.float32) / 255.0)[None])
    assert torch.equal(mask, 1 - torch.from_numpy(pixels[..., 3].astype(np.float32) / 255.0)[None])


def test_a_grey_picture_gets_three_channels(folders):
    pixels = random_pixels(1)[..., 0]
    Image.fromarray(pixels).save(folders / "input" / "ü grey.png")
    picture, _ = LoadImage().load_image("ü grey.png")
    assert torch.equal(picture, torch.from_numpy(np.repeat(pixels[..., None], 3, -1).astype(np.float32) / 255.0)[None])


def test_a_turned_picture_is_set_upright(folders):
    picture = Image.new("RGB", (24, 16), (200, 10, 10))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(folders / "input" / "a.jpg", exif=exif)
    assert LoadImage().load_image("a.jpg")[0].shape == (1, 24, 16, 3)


def test_the_list_shows_pictures_only(folders):
    for name in ("b.png", "a.JPG", "notes.txt"):
        (folders / "input" / name).write_bytes(b"")
    assert LoadImage.INPUT_TYPES()["required"]["image"][0] == ["a.JPG", "b.png"]


def test_a_missing_picture_is_named_before_the_run(folders, api):
    graph = api({"1": ("LoadImage", {"image": "gone.png"}), "2": ("SaveImage", {"images": ["1", 0], "filename_prefix": "x"})})
    with pytest.raises(GraphError) as caught:
        checked(graph, {"LoadImage": LoadImage, "SaveImage": SaveImage})
    [problem] = caught.value.problems
    assert 'node 1 "LoadImage"' in problem and "found no gone.png" in problem


def test_a_damaged_picture_is_named(folders):
    (folders / "input" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nxxxx")
    with pytest.raises(InputError, match=r"a\.png"):
        LoadImage().load_image("a.png")


def test_a_picture_of_the_output_folder(folders, pictures):
    SaveImage().save_images(pictures, "made")
    assert LoadImage.VALIDATE_INPUTS("made_00001_.png [output]") is True
    assert LoadImage().load_image("made_00001_.png [output]")[0].shape == (1, 8, 12, 3)


def test_saved_pictures_are_numbered_on_and_carry_their_workflow(folders, pictures):
    prompt, workflow = {"1": {"class_type": "ü"}}, {"nodes": []}
    shown = SaveImage().save_images(pictures, "sub/grid", prompt, {"workflow": workflow})
    SaveImage().save_images(pictures[:1], "sub/grid")
    assert [path.name for path in sorted((folders / "output" / "sub").iterdir())] == [f"grid_0000{number}_.png" for number in (1, 2, 3)]
    assert shown["ui"]["images"][0] == {"filename": "grid_00001_.png", "subfolder": "sub", "type": "output"}
    with Image.open(folders / "output" / "sub" / "grid_00002_.png") as image:
        assert np.array_equal(np.asarray(image), (pictures[1].numpy() * 255).astype(np.uint8))
        assert json.loads(image.text["prompt"]) == prompt and json.loads(image.text["workflow"]) == workflow


def test_names_may_hold_sizes_and_dates(folders, pictures):
    shown = SaveImage().save_images(pictures, "%width%x%height% %batch_num% 100%")
    assert [each["filename"] for each in shown["ui"]["images"]] == ["12x8 0 100%_00001_.png", "12x8 1 100%_00002_.png"]


@pytest.mark.parametrize("prefix", ["../outside", "/elsewhere/x", "a/../../b", ""])
def test_pictures_stay_inside_the_output_folder(folders, pictures, prefix):
    with pytest.raises(InputError, match="output folder"):
        SaveImage().save_images(pictures, prefix)
    assert not (folders / "output").exists()


def test_previews_lie_in_a_folder_of_their_own_and_replace_each_other(folders, pictures):
    for _ in range(2):
        PreviewImage().save_images(pictures, unique_id="5:3")
    assert [path.name for path in sorted((folders / "output" / "preview").iterdir())] == ["node_5_3_00001_.png", "node_5_3_00002_.png"]


def test_two_batches_become_one(pictures):
    (joined,) = ImageBatch().batch(pictures, pictures[:1] / 2)
    assert torch.equal(joined[:2], pictures) and torch.equal(joined[2:], pictures[:1] / 2)


def test_the_second_batch_gets_the_size_of_the_first(pictures):
    """A 16 x 16 picture to 12 x 8: cropped to 16 x 10 in the middle (by hand), of which bilinear sampling takes no average."""
    columns = torch.arange(16.0).repeat(16, 1)
    image = torch.stack([columns, columns.T, columns], dim=-1)[None]
    scaled = ImageBatch().batch(pictures, image)[0][2]
    assert scaled.shape == (8, 12, 3)
    across = (torch.arange(12) + 0.5) * 16 / 12 - 0.5  # the source place of each column, half a pixel being a pixel's middle
    down = (torch.arange(8) + 0.5) * 10 / 8 - 0.5 + 3
    torch.testing.assert_close(scaled[..., 0], across.clamp(0, 15).repeat(8, 1))
    torch.testing.assert_close(scaled[..., 1], down[:, None].repeat(1, 12))
