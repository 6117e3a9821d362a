"""The scripts of examples/, with small networks of random weights, where their packages are."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from core.encoders.given import GivenFeatures
from core.support.command_line import run_command


@pytest.fixture
def photos(tmp_path):
    """A folder with a folder in it, and one photo that is torn."""
    rng = np.random.default_rng(0)
    for i in range(120):
        place = tmp_path / "photos" / ("a" if i % 2 else "b")
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20 + i % 3, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{i}.png")
    (tmp_path / "photos" / "a" / "7.png").write_bytes(b"torn")
    return tmp_path / "photos"


@pytest.fixture
def script(monkeypatch, capsys):
    """Runs a script of examples/ in this process; returns exit code, stdout, stderr."""

    def run(name, *arguments) -> tuple[int, str, str]:
        path = ROOT / "examples" / f"{name}.py"
        found = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(found)
        monkeypatch.setattr(sys, "path", list(sys.path))
        found.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run_command(module.main)
        printed = capsys.readouterr()
        return int(stop.value.code or 0), printed.out, printed.err

    return run


def check_a_file(file, width, grid):
    given = GivenFeatures.read(file)
    assert given.table.shape == (119, *((grid, width) if grid else (width,)))
    assert given.table.dtype == (np.float16 if grid else np.float32)
    assert {"a/1.png", "b/0.png"} <= set(given.names)
    assert "a/7.png" not in given.names
    assert np.std(given.table[:], axis=0).max() > 0
    assert len(given.made_by["sha256"]) == 64
    return given


def try_script(script, name, photos, width, cells, *options):
    """A vector and a grid for each photo, one photo alone, and what is said of what is wrong."""
    out = photos.parent / "vector.h5"
    base = (name, "--images", photos, *options, "--out")
    code, text, error = script(*base, out)
    assert code == 0, error
    assert "left out 1 of 120 photos" in text
    whole = check_a_file(out, width, None)
    code, _, error = script(*base, photos.parent / "grid.h5", "--grid")
    assert code == 0, error
    check_a_file(photos.parent / "grid.h5", width, cells)
    one = photos.parent / "one.h5"
    code, _, error = script(name, "--images", photos / "b" / "4.png", *options, "--out", one)
    assert code == 0, error
    alone = GivenFeatures.read(one)
    assert alone.names == ["4.png"]
    assert alone.made_by == whole.made_by
    row = whole.table[whole.names.index("b/4.png")]
    np.testing.assert_allclose(alone.table[0], row, rtol=1e-3, atol=1e-4)
    code, _, error = script(*base, out)
    assert code == 2
    assert "is there already" in error
    code, _, error = script(name, "--images", photos, "--model", "nowhere", "--out", "x.h5")
    assert code == 2, error
    assert error.count("\n") == 1, error
    assert "--model nowhere: cannot be had" in error


def test_timm(script, photos):
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another torch
        pytest.skip(f"timm is not here: {error}")
    options = ("--model", "test_vit", "--weights", "random")
    try_script(script, "features_from_timm", photos, 64, 100, *options)


def test_timm_with_convolutions(script, photos, tmp_path):
    try:
        import timm
        import torch
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm is not here: {error}")
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    options = ("--model", "test_resnet", "--weights", tmp_path / "w.pth", "--grid")
    out = tmp_path / "grid.h5"
    code, _, error = script("features_from_timm", "--images", photos, *options, "--out", out)
    assert code == 0, error
    check_a_file(out, 96, 25)


@pytest.mark.parametrize("name", ["levit_128s", "crossvit_tiny_240"])
def test_timm_without_a_grid(script, photos, tmp_path, name):
    """One whose places have no prefix, and one that gives a list of two maps."""
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm is not here: {error}")
    options = ("--model", name, "--weights", "random", "--grid", "--out", tmp_path / "grid.h5")
    one = photos / "b" / "4.png"
    code, _, error = script("features_from_timm", "--images", one, *options)
    if name == "levit_128s":
        assert code == 0, error
        assert GivenFeatures.read(tmp_path / "grid.h5").table.shape == (1, 16, 384)
    else:
        assert code == 2
        assert f"--model {name}: has no grid; leave --grid out" in error


def test_clip(script, photos, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=16,
    )
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "clip")
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**size).save_pretrained(tmp_path / "clip")
    try_script(script, "features_from_clip", photos, 16, 16, "--model", tmp_path / "clip")


@pytest.mark.parametrize("name", ["features_from_timm", "features_from_clip"])
def test_without_the_package(script, photos, monkeypatch, name):
    package = name.rpartition("_")[2].replace("clip", "transformers")
    monkeypatch.setitem(sys.modules, package, None)
    code, _, error = script(name, "--images", photos, "--out", photos.parent / "x.h5")
    assert code == 2
    assert error.count("\n") == 1
    assert f"pip install {package}" in error
