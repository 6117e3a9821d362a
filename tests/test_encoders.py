"""Encoders, PCA and pictures: published key names, frozen networks, the same steps every time."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import REAL_DATA, slow_but
from PIL import Image

from core.encoders import OUTPUTS, Extractor, pool_grid, scale_grid
from core.encoders.pca import fit_pca
from core.encoders.squeezenet import SqueezeNet
from core.encoders.weights import NETWORKS, load_network, run_network
from core.image_utils import load_image, normalise, resize_and_crop
from core.support.choices import ENCODERS

WEIGHTS = REAL_DATA / "weights" / "squeezenet1_1_features.pth"


def photos(count=3, size=(240, 300)):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]


# ---------------------------------------------------------------------------------------------
# Networks
# ---------------------------------------------------------------------------------------------


# The names and shapes in torchvision's published files, by their rules.


def layer(name, *shape) -> dict[str, tuple[int, ...]]:
    """A convolution (out, in, k, k) or a linear layer (out, in), with its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def normalised(convolution, norm, *shape) -> dict[str, tuple[int, ...]]:
    """A convolution without bias and the batch normalisation after it."""
    names = ("weight", "bias", "running_mean", "running_var")
    published = {f"{convolution}.weight": shape, f"{norm}.num_batches_tracked": ()}
    return published | {f"{norm}.{name}": shape[:1] for name in names}


def published_squeezenet():
    shapes = layer("features.0", 64, 3, 3, 3)
    fires = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128)}
    fires |= {9: (256, 48, 192), 10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256)}
    for index, (channels, squeezed, expanded) in fires.items():
        shapes |= layer(f"features.{index}.squeeze", squeezed, channels, 1, 1)
        shapes |= layer(f"features.{index}.expand1x1", expanded, squeezed, 1, 1)
        shapes |= layer(f"features.{index}.expand3x3", expanded, squeezed, 3, 3)
    return shapes | layer("classifier.1", 1000, 512, 1, 1)


def published_vgg16():
    shapes, channels = {}, 3
    widths = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    for index, width in zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), widths, strict=True):
        shapes |= layer(f"features.{index}", width, channels, 3, 3)
        channels = width
    shapes |= layer("classifier.0", 4096, 512 * 7 * 7) | layer("classifier.3", 4096, 4096)
    return shapes | layer("classifier.6", 1000, 4096)


def published_resnet(*depths):
    shapes, channels = normalised("conv1", "bn1", 64, 3, 7, 7), 64
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for block in range(depth):
            name = f"layer{stage + 1}.{block}"
            shapes |= normalised(f"{name}.conv1", f"{name}.bn1", width, channels, 1, 1)
            shapes |= normalised(f"{name}.conv2", f"{name}.bn2", width, width, 3, 3)
            shapes |= normalised(f"{name}.conv3", f"{name}.bn3", 4 * width, width, 1, 1)
            if block == 0:
                short = f"{name}.downsample"
                shapes |= normalised(f"{short}.0", f"{short}.1", 4 * width, channels, 1, 1)
            channels = 4 * width
    return shapes | layer("fc", 1000, 2048)


def published_mobilenet_v2():
    """Table 2 of the paper, as torchvision names it."""
    shapes, channels, place = normalised("features.0.0", "features.0.1", 32, 3, 3, 3), 32, 1
    table = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
    for expansion, out, count in table:
        for _ in range(count):
            name, wide = f"features.{place}.conv", expansion * channels
            units = [(wide, channels, 1, 1)] if expansion > 1 else []
            for i, shape in enumerate([*units, (wide, 1, 3, 3)]):
                shapes |= normalised(f"{name}.{i}.0", f"{name}.{i}.1", *shape)
            last = len(units) + 1
            shapes |= normalised(f"{name}.{last}", f"{name}.{last + 1}", out, wide, 1, 1)
            channels, place = out, place + 1
    shapes |= normalised("features.18.0", "features.18.1", 1280, 320, 1, 1)
    return shapes | layer("classifier.1", 1000, 1280)


PUBLISHED = {
    "mobilenet_v2": (published_mobilenet_v2(), 3_504_872),
    "tf_mobilenet_v2": (published_mobilenet_v2(), 3_504_872),
    "squeezenet1_1": (published_squeezenet(), 1_235_496),
    "vgg16": (published_vgg16(), 138_357_544),
    "resnet50": (published_resnet(3, 4, 6, 3), 25_557_032),
    "resnet101": (published_resnet(3, 4, 23, 3), 44_549_160),
    "resnet152": (published_resnet(3, 8, 36, 3), 60_192_808),
}


def test_each_encoder_that_a_command_takes_has_a_network():
    assert NETWORKS.keys() == set(ENCODERS)


@pytest.mark.parametrize("encoder", slow_but(PUBLISHED, "vgg16", "mobilenet_v2", "squeezenet1_1"))
def test_the_network_is_torchvisions(encoder):
    """Names, shapes and number of parameters of the published checkpoint, classifier included."""
    published, count = PUBLISHED[encoder]
    with torch.device("meta"):  # shapes alone: no memory and no time for the parameters
        network = NETWORKS[encoder]()
        network.load_state_dict({k: torch.empty(v) for k, v in published.items()}, strict=True)
        outputs = network(torch.zeros(2, 3, 224, 224))
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    grid = outputs.pop("grid").flatten(2).mT  # (N, L, C), as ``run_network`` gives it
    found = {name: tuple(x.shape[1:]) for name, x in [*outputs.items(), ("grid", grid)]}
    assert found == OUTPUTS[encoder]


def reference_resnet(state, x, depths):
    """ResNet once more, as functions of the state dict: the stride is in the 3 x 3 convolution."""

    def unit(conv, norm, x, stride=1):
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, variance, gain, bias = (
            state[f"{norm}.{name}"][:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * gain + bias

    x = F.max_pool2d(unit("conv1", "bn1", x, 2).relu(), 3, 2, padding=1)
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = unit(f"{name}.conv1", f"{name}.bn1", x).relu()
            y = unit(f"{name}.conv2", f"{name}.bn2", y, stride).relu()
            y = unit(f"{name}.conv3", f"{name}.bn3", y)
            if block == 0:
                x = unit(f"{name}.downsample.0", f"{name}.downsample.1", x, stride)
            x = (x + y).relu()
    return x


def lively_resnet50() -> torch.nn.Module:
    """ResNet-50 with statistics and gains that differ from channel to channel."""
    network = load_network("resnet50", "random")
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if value.ndim == 1 and not name.startswith("fc."):  # of batch normalisation
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return network


def test_resnet_is_its_formula():
    network = lively_resnet50()
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        outputs = network(x)
        expected = reference_resnet(network.state_dict(), x, (3, 4, 6, 3))
    assert outputs["grid"].shape == (2, 2048, 2, 3)
    assert expected.std() > 0
    # 50 layers of float32, relative to the largest.
    atol = 1e-5 * float(expected.max())
    torch.testing.assert_close(outputs["grid"], expected, rtol=0, atol=atol)
    torch.testing.assert_close(outputs["pooled"], expected.mean((2, 3)), rtol=0, atol=atol)


@pytest.mark.parametrize("encoder", ["resnet101", "resnet152"])
def test_the_deep_resnets_run(encoder):
    x = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    outputs = run_network(load_network(encoder, "random"), x)
    assert outputs["grid"].shape == (1, 4, 2048)
    assert np.isfinite(outputs["grid"]).all()
    assert outputs["grid"].std() > 0


@pytest.mark.slow
def test_vgg16_looks_at_the_grid_before_its_last_pooling():
    network = load_network("vgg16", "random")
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        outputs = network(x)
        conv5_3 = network.features[:30](x)  # 28 is the convolution, 29 its ReLU
        fc7 = network.classifier[:6](F.max_pool2d(conv5_3, 2).flatten(1))
    assert conv5_3.std() > 0
    torch.testing.assert_close(outputs["grid"], conv5_3)
    torch.testing.assert_close(outputs["fc7"], fc7)


def test_grids_are_in_reading_order():
    """A light in the picture shows in the cell that lies there."""
    network = load_network("squeezenet1_1", "random")
    dark = np.zeros((1, 224, 224, 3), np.float32)
    for row, column in ((1, 9), (9, 1)):
        light = dark.copy()
        light[:, 17 * row : 17 * row + 17, 17 * column : 17 * column + 17] = 5
        change = run_network(network, light)["grid"] - run_network(network, dark)["grid"]
        cell = int(np.abs(change[0]).sum(axis=1).argmax())
        found = divmod(cell, 13)
        assert max(abs(found[0] - row), abs(found[1] - column)) <= 1, found


@pytest.mark.parametrize(("side", "cells"), [(13, 7), (13, 13), (14, 7), (13, 1), (8, 3), (7, 5)])
def test_pooling_a_grid_is_adaptive_average_pooling(side, cells):
    grid = np.random.default_rng(0).standard_normal((2, side * side, 3)).astype(np.float32)
    maps = torch.tensor(grid).reshape(2, side, side, 3).permute(0, 3, 1, 2)
    expected = F.adaptive_avg_pool2d(maps, cells).permute(0, 2, 3, 1).reshape(2, -1, 3)
    pooled = pool_grid(grid, cells)
    np.testing.assert_allclose(pooled, expected, atol=1e-6)
    assert pooled.dtype == np.float32


def test_a_grid_and_a_vector_of_one_look():
    extractor = Extractor("squeezenet1_1", "pooled", "random")
    whole, seven = extractor.beside("grid"), extractor.beside("grid", 7)
    outputs = extractor.encode(photos())
    assert whole.shape == (169, 512)
    assert seven.shape == (49, 512)
    np.testing.assert_array_equal(whole(photos()), whole.finish(outputs))
    pooled = pool_grid(outputs["grid"], 7)
    np.testing.assert_array_equal(seven.finish(outputs), scale_grid(pooled))
    np.testing.assert_allclose(extractor(photos()), outputs["grid"].mean(axis=1), atol=1e-6)
    assert seven.specification == {**whole.specification, "grid": 7}
    again = Extractor.rebuild(seven.specification, {})
    np.testing.assert_array_equal(again(photos()), seven(photos()))


@pytest.mark.parametrize("factor", [1e-3, 1, 1e3])
def test_a_grid_is_scaled_to_a_mean_square_of_1_picture_by_picture(factor):
    grid = factor * np.random.default_rng(0).random((3, 4, 5), np.float32)
    grid[1] *= 7
    scaled = scale_grid(grid)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose((scaled**2).mean(axis=(1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(scaled[1] / scaled[1, 0, 0], grid[1] / grid[1, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(scale_grid(torch.from_numpy(grid)), scaled, rtol=1e-5)
    assert not scale_grid(np.zeros((1, 4, 5), np.float32)).any(), "nothing becomes no number"


@pytest.mark.parametrize(("output", "grid"), [("grid", 14), ("grid", 0), ("pooled", 7)])
def test_grids_that_there_are_not(output, grid):
    with pytest.raises(ValueError, match=f"grid: found {grid} cells a side .*1 to 13"):
        Extractor("squeezenet1_1", output, "random", grid=grid)


def test_a_published_checkpoint_loads_with_and_without_classifier(tmp_path):
    torch.manual_seed(1)
    network = SqueezeNet()
    whole, part = tmp_path / "whole.pth", tmp_path / "part.pth"
    torch.save(network.state_dict(), whole)
    torch.save(network.features.state_dict(prefix="features."), part)
    features = [Extractor("squeezenet1_1", "pooled", str(path))(photos()) for path in (whole, part)]
    np.testing.assert_array_equal(*features)
    network.eval()
    with torch.inference_mode():
        batch = np.stack([resize_and_crop(photo, 224) for photo in photos()])
        x = normalise(batch, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        expected = network.features(torch.tensor(x).permute(0, 3, 1, 2)).mean((2, 3))
    np.testing.assert_allclose(features[0], expected.numpy(), rtol=1e-4, atol=1e-5)


def fingerprint(network) -> str:
    """Of all parameters and of the statistics of batch normalisation."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("encoder", slow_but(["squeezenet1_1", "resnet50"], "squeezenet1_1"))
def test_the_encoder_is_frozen_and_deterministic(encoder):
    state = torch.get_rng_state()
    extractor = Extractor(encoder, "grid", "random")
    before = fingerprint(extractor.network)
    features = extractor(photos())
    np.testing.assert_array_equal(extractor(photos()), features)
    assert fingerprint(extractor.network) == before
    assert not any(module.training for module in extractor.network.modules())
    assert not any(parameter.requires_grad for parameter in extractor.network.parameters())
    again = Extractor(encoder, "grid", "random")
    np.testing.assert_array_equal(again(photos()), features)
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator was moved"


def test_batch_normalisation_left_on_would_be_noticed():
    """The check above can fail: one look in train mode moves the statistics."""
    network = load_network("resnet50", "random").train()
    before = fingerprint(network)
    run_network(network, np.random.default_rng(0).random((2, 64, 64, 3), np.float32))
    assert fingerprint(network) != before


@pytest.mark.slow
def test_a_resnet_file_without_batch_counts_loads(tmp_path):
    """Published before PyTorch 0.4.1; and without the classifier."""
    network = lively_resnet50()
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    torch.save(state, tmp_path / "new.pth")
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    x = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    expected = run_network(network, x)["pooled"]
    for name in ("new.pth", "old.pth"):
        loaded = load_network("resnet50", str(tmp_path / name))
        np.testing.assert_array_equal(run_network(loaded, x)["pooled"], expected)
    del state["layer3.5.bn2.running_var"]
    torch.save(state, tmp_path / "torn.pth")
    with pytest.raises(ValueError, match=r"1 missing \(layer3\.5\.bn2\.running_var\)"):
        load_network("resnet50", str(tmp_path / "torn.pth"))


def test_different_photos_get_different_features():
    features = Extractor("squeezenet1_1", "pooled", "random")(photos())
    assert features.shape == (3, 512)
    assert features.dtype == np.float32
    assert np.abs(features[0] - features[1]).max() > 0


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, r"50 missing \(features.0.weight, features.0.bias, features.3.squeeze.weight, ...\)"),
        ({"conv1.weight": torch.zeros(1)}, r"50 missing .*; 1 unexpected \(conv1.weight\)"),
        ([1, 2], "expected a state dict"),
        ({"features.0.weight": 3}, "is a int, expected a tensor"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, state, words):
    path = tmp_path / "w.pth"
    torch.save(state, path)
    with pytest.raises(ValueError, match=words):
        Extractor("squeezenet1_1", "pooled", str(path))


def test_a_misfit_and_an_unknown_key_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    state = SqueezeNet().state_dict()
    torch.save(state | {"features.0.weight": torch.zeros(1)}, path)
    with pytest.raises(
        ValueError,
        match=r"1 misshapen \(features\.0\.weight \(1,\), expected \(64, 3, 3, 3\)\); give",
    ):
        Extractor("squeezenet1_1", "pooled", str(path))
    torch.save(state | {"extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"torchvision or timm name them: 1 unexpected \(extra\)"):
        Extractor("squeezenet1_1", "pooled", str(path))


def test_weights_that_cannot_be_read(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match=r"w\.pth: cannot be read"):
        Extractor("squeezenet1_1", "pooled", str(path))
    with pytest.raises(FileNotFoundError, match="no such weight file"):
        Extractor("squeezenet1_1", "pooled", str(tmp_path / "nowhere.pth"))
    with pytest.raises(ValueError, match="needs a weight file"):
        Extractor("squeezenet1_1", "pooled")


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was_here",))

    path = tmp_path / "w.pth"
    torch.save({"features.0.weight": Evil()}, path)
    with pytest.raises(ValueError, match="cannot be read"):
        Extractor("squeezenet1_1", "pooled", str(path))
    assert not (tmp_path / "was_here").exists()


def test_rebuilding_checks_the_weight_file(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(SqueezeNet().state_dict(), path)
    extractor = Extractor("squeezenet1_1", "pooled", str(path))
    features = extractor(photos(600 // 200))
    extractor.pca = fit_pca(np.random.default_rng(0).random((600, 512)), 8)
    moved = path.rename(tmp_path / "moved.pth")
    again = Extractor.rebuild(extractor.specification, extractor.arrays, str(moved))
    np.testing.assert_allclose(again(photos()), extractor.pca(features), atol=1e-5)
    with pytest.raises(FileNotFoundError):
        Extractor.rebuild(extractor.specification, extractor.arrays)
    torch.save(SqueezeNet().state_dict(), path)
    with pytest.raises(ValueError, match="SHA-256"):
        Extractor.rebuild(extractor.specification, extractor.arrays)


@pytest.mark.parametrize(
    ("encoder", "output", "words"),
    [("alexnet", "pooled", "alexnet"), ("fixed_cnn", "fc7", "no output 'fc7'")],
)
def test_unknown_encoders(encoder, output, words):
    with pytest.raises(ValueError, match=words):
        Extractor(encoder, output)


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the real weights are not here")
def test_real_weights_tell_real_photos_apart():
    """Two crops of one photo are closer than two photos."""
    folder = REAL_DATA / "flickr8k" / "Images"
    pictures = [load_image(path) for path in sorted(folder.iterdir())[:4]]
    extractor = Extractor("squeezenet1_1", "pooled", str(WEIGHTS))
    whole, cropped = extractor(pictures), extractor([p[8:, 8:] for p in pictures])
    distance = np.linalg.norm(whole[:, None] - cropped[None], axis=2)
    assert (distance.argmin(axis=1) == np.arange(4)).all()


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the real weights are not here")
def test_the_grids_of_real_photos():
    folder = REAL_DATA / "flickr8k" / "Images"
    pictures = [load_image(path) for path in sorted(folder.iterdir())[:4]]
    outputs = Extractor("squeezenet1_1", "grid", str(WEIGHTS)).encode(pictures)
    grid = outputs["grid"]
    assert grid.shape == (4, 169, 512)
    assert np.isfinite(grid).all()
    np.testing.assert_allclose(outputs["pooled"], grid.mean(axis=1), rtol=1e-4, atol=1e-5)
    # Photos differ, and so do the places of each: cells at opposite corners, here.
    scale = np.abs(grid).mean()
    for i in range(4):
        assert np.abs(grid[i, 0] - grid[i, -1]).mean() > 0.1 * scale
        for j in range(i):
            assert np.abs(grid[i] - grid[j]).mean() > 0.1 * scale


# ---------------------------------------------------------------------------------------------
# PCA
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "D"), [(50, 8), (8, 50), (20, 20)])
def test_pca_equals_the_singular_value_decomposition(n, D):
    x = np.random.default_rng(0).standard_normal((n, D)) @ np.diag(np.linspace(3, 0.1, D))
    pca = fit_pca(x, 4)
    _, s, vt = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    projected = pca(x)
    expected = (x - x.mean(axis=0)) @ vt[:4].T
    ratio = np.linalg.norm(projected) / np.linalg.norm(expected)
    np.testing.assert_allclose(np.abs(projected), ratio * np.abs(expected), rtol=1e-3, atol=1e-4)
    assert pca.explained == pytest.approx(np.sum(s[:4] ** 2) / np.sum(s**2))
    assert np.mean(projected**2) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("width", [0, 6, 9])
def test_pca_needs_enough_samples_and_columns(width):
    with pytest.raises(ValueError, match=f"PCA to {width} components"):
        fit_pca(np.ones((5, 8)), width)


# ---------------------------------------------------------------------------------------------
# Pictures
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA", "I;16"])
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode):
    image = Image.new(mode, (40, 30))
    path = tmp_path / ("p.tif" if mode == "CMYK" else "p.png")
    image.save(path)
    loaded = load_image(path)
    assert loaded.shape == (30, 40, 3)
    assert loaded.dtype == np.uint8


RAMP = np.linspace(0, 255, 30 * 40).reshape(30, 40).round().astype(np.uint8)  # grey, dark to light
GREY = np.repeat(RAMP[:, :, None], 3, axis=2)


def sixteen_bits():
    return Image.fromarray(RAMP.astype(np.uint16) * 257)


KINDS_OF_PICTURES = {
    # name -> the picture, and how far from the ramp (in steps of 255) its format leaves it
    "grey.png": (Image.fromarray(RAMP), 0),
    "grey.gif": (Image.fromarray(RAMP), 0),
    "rgb.bmp": (Image.fromarray(GREY), 0),
    "rgb.tiff": (Image.fromarray(GREY), 0),
    "rgb.jpg": (Image.fromarray(GREY), 4),
    "rgb.webp": (Image.fromarray(GREY), 8),
    "palette.png": (Image.fromarray(RAMP).quantize(256), 1),
    "opaque.png": (Image.fromarray(GREY).convert("RGBA"), 0),
    "grey-alpha.png": (Image.fromarray(RAMP).convert("LA"), 0),
    "cmyk.tif": (Image.fromarray(GREY).convert("CMYK"), 1),
    "cmyk.jpg": (Image.fromarray(GREY).convert("CMYK"), 5),
    "sixteen.png": (sixteen_bits(), 0),
    "sixteen.tif": (sixteen_bits(), 0),
    "integers.tif": (Image.fromarray(RAMP.astype(np.int32) * 257), 0),
    "floats.tif": (Image.fromarray(RAMP.astype(np.float32) / 255), 1),
    "large-floats.tif": (Image.fromarray(RAMP.astype(np.float32)), 1),
}


@pytest.mark.parametrize(("name", "made"), KINDS_OF_PICTURES.items(), ids=KINDS_OF_PICTURES)
def test_every_kind_of_picture_shows_the_same(tmp_path, name, made):
    picture, error = made
    picture.save(tmp_path / name)
    loaded = load_image(tmp_path / name).astype(int)
    assert loaded.shape == GREY.shape
    assert np.abs(loaded - GREY).max() <= error


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lies_on_white(tmp_path, mode):
    """Many files hide black, or anything, where they are transparent."""
    picture = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    picture.putpixel((1, 1), (0, 0, 0, 255))
    if mode == "P":
        picture = picture.quantize(4)
    picture.convert(mode).save(tmp_path / "p.png")
    loaded = load_image(tmp_path / "p.png")
    assert (loaded[0] == 255).all()
    assert (loaded[1, 1] == 0).all()


@pytest.mark.parametrize("name", ["p.jpg", "p.png"])
def test_very_large_pictures_are_brought_down(tmp_path, name):
    picture = Image.fromarray(RAMP).resize((9000, 3000))
    picture.save(tmp_path / name)
    loaded = load_image(tmp_path / name)
    assert loaded.shape == (pytest.approx(1365, abs=1), 4096, 3)
    assert load_image(tmp_path / name, largest=300).shape == (100, 300, 3)
    expected = np.asarray(picture.resize((300, 100), Image.Resampling.BILINEAR), float)
    assert np.abs(load_image(tmp_path / name, largest=300)[..., 0] - expected).mean() < 3


def test_a_picture_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    Image.new("L", (60, 50)).save(tmp_path / "p.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses twice as many
    with pytest.raises(ValueError, match=r"p\.png: .*3000 pixels"):
        load_image(tmp_path / "p.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_of_any_orientation_are_turned_upright(tmp_path, orientation):
    """The ways in which a camera may lie and mirror, undone: light is at the top left."""
    upright = np.zeros((40, 20, 3), np.uint8)
    upright[:20, :10] = 255
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    picture = Image.fromarray(np.ascontiguousarray(turned))
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "p.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "p.png"), upright)


def test_photos_are_turned_upright(tmp_path):
    picture = Image.new("RGB", (40, 20), "red")
    exif = picture.getexif()
    exif[0x0112] = 6  # taken with the camera on its side
    picture.save(tmp_path / "p.jpg", exif=exif)
    assert load_image(tmp_path / "p.jpg").shape == (40, 20, 3)


def test_unreadable_pictures_are_named(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(photos(1)[0]).save(whole, "jpeg")
    for name, content in (
        ("empty.jpg", b""),
        ("text.jpg", b"hello"),
        ("torn.jpg", whole.getvalue()[:2000]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        load_image(tmp_path / "nowhere.jpg")


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (224, 224), (50, 500), (1, 9)])
def test_resize_and_crop_keeps_proportions_and_the_centre(size):
    h, w = size
    picture = np.zeros((h, w, 3), np.uint8)
    picture[h // 2, w // 2] = 255
    out = resize_and_crop(picture, 224)
    assert out.shape == (224, 224, 3)
    if min(size) > 100:
        bright = np.argwhere(out.max(axis=2) > out.max() / 2).mean(axis=0)
        assert np.abs(bright - 112).max() < 4


def test_normalise_is_the_published_formula():
    x = normalise(np.full((1, 2, 2, 3), 255, np.uint8), [0.5, 0.4, 0.3], [0.5, 0.2, 0.1])
    np.testing.assert_allclose(x[0, 0, 0], [1, 3, 7], rtol=1e-5)
    assert x.dtype == np.float32
