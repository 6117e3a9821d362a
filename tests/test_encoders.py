"""Encoders, PCA and pictures: published key names, frozen networks, the same steps every time."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REAL_DATA
from PIL import Image

from core.encoders import Extractor
from core.encoders.pca import fit_pca
from core.encoders.squeezenet import SqueezeNet
from core.encoders.vgg import VGG16
from core.image_utils import load_image, normalise, resize_and_crop

WEIGHTS = REAL_DATA / "weights" / "squeezenet1_1_features.pth"


def photos(count=3, size=(240, 300)):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]


# ---------------------------------------------------------------------------------------------
# Networks
# ---------------------------------------------------------------------------------------------


def parameter_count(network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_squeezenet_is_torchvisions():
    """Names, shapes and number of parameters of the published checkpoint."""
    network = SqueezeNet()
    assert parameter_count(network) == 1_235_496
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["features.0.weight"] == (64, 3, 3, 3)
    fires = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128)}
    fires |= {9: (256, 48, 192), 10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256)}
    for index, (channels, squeezed, expanded) in fires.items():
        name = f"features.{index}"
        assert shapes[f"{name}.squeeze.weight"] == (squeezed, channels, 1, 1)
        assert shapes[f"{name}.expand1x1.weight"] == (expanded, squeezed, 1, 1)
        assert shapes[f"{name}.expand3x3.weight"] == (expanded, squeezed, 3, 3)
        assert shapes[f"{name}.expand3x3.bias"] == (expanded,)
    assert shapes["classifier.1.weight"] == (1000, 512, 1, 1)
    assert len(shapes) == 2 * (1 + 3 * 8 + 1)
    with torch.inference_mode():
        assert network.features(torch.zeros(1, 3, 224, 224)).shape == (1, 512, 13, 13)


def test_vgg16_is_torchvisions():
    with torch.device("meta"):  # shapes alone: no memory for 138 million parameters
        network = VGG16()
    assert parameter_count(network) == 138_357_544
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    convolutions = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    for place, index in enumerate(convolutions):
        expected = (channels[place + 1], channels[place], 3, 3)
        assert shapes[f"features.{index}.weight"] == expected
    for index, shape in {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}.items():
        assert shapes[f"classifier.{index}.weight"] == shape
    assert len(shapes) == 2 * (13 + 3)
    assert network(torch.zeros(1, 3, 224, 224, device="meta")).shape == (1, 4096)


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


def test_the_encoder_is_frozen_and_deterministic():
    extractor = Extractor("squeezenet1_1", "pooled", "random")
    state = torch.get_rng_state()
    np.testing.assert_array_equal(extractor(photos()), extractor(photos()))
    again = Extractor("squeezenet1_1", "pooled", "random")
    np.testing.assert_array_equal(extractor(photos()), again(photos()))
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator was moved"


def test_different_photos_get_different_features():
    features = Extractor("squeezenet1_1", "pooled", "random")(photos())
    assert features.shape == (3, 512)
    assert features.dtype == np.float32
    assert np.abs(features[0] - features[1]).max() > 0


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "has no 'features.0.weight'"),
        ({"conv1.weight": torch.zeros(1)}, "has no"),
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
    with pytest.raises(ValueError, match=r"misfit 'features\.0\.weight'"):
        Extractor("squeezenet1_1", "pooled", str(path))
    torch.save(state | {"extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="unknown 'extra'"):
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
