"""MobileNetV2 and its twin for TensorFlow's weights; weight files as they are found in the wild."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import REAL_DATA

from core.checkpoint import Checkpoint, save_checkpoint
from core.encoders import Extractor
from core.encoders.extractor import prepare_pictures
from core.encoders.mobilenet import MobileNetV2
from core.encoders.weights import NETWORKS, load_network, run_network, state_of_stages
from core.image_utils import load_image

BOTH = ("mobilenet_v2", "tf_mobilenet_v2")
WEIGHTS = REAL_DATA / "weights" / "tf_mobilenet_v2_imagenet.pth"
PICTURE = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype(np.float32)


def lively(tensorflow=False) -> MobileNetV2:
    """With statistics, gains and biases that differ from channel to channel."""
    generator = torch.Generator().manual_seed(0)
    network = MobileNetV2(tensorflow)
    for name, value in network.state_dict().items():
        if value.ndim == 4:
            value.copy_(torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
        elif value.ndim == 1 and not name.startswith("classifier."):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return network.eval().requires_grad_(False)


def reference(state, x, tensorflow):
    """MobileNetV2 once more, as functions of the state dict."""
    epsilon = 1e-3 if tensorflow else 1e-5

    def unit(conv, norm, x, stride=1, ends=True):
        weight = state[f"{conv}.weight"]
        size = weight.shape[-1]
        if tensorflow and stride == 2:  # "SAME": as little as is needed, more of it at the end
            need = [max(-(-n // 2) * 2 - 2 + size - n, 0) for n in (x.shape[3], x.shape[2])]
            x = F.pad(x, [side for n in need for side in (n // 2, n - n // 2)])
        else:
            x = F.pad(x, [size // 2] * 4)
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, stride=stride, groups=groups)
        mean, variance, gain, bias = (
            state[f"{norm}.{name}"][:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / torch.sqrt(variance + epsilon) * gain + bias
        return x.clamp(0, 6) if ends else x

    x = unit("features.0.0", "features.0.1", x, 2)
    for place in range(1, 18):
        name, stride, y = f"features.{place}.conv", 2 if place in (2, 4, 7, 14) else 1, x
        i = 0
        if place > 1:
            y = unit(f"{name}.0.0", f"{name}.0.1", y)
            i = 1
        y = unit(f"{name}.{i}.0", f"{name}.{i}.1", y, stride)
        y = unit(f"{name}.{i + 1}", f"{name}.{i + 2}", y, ends=False)
        x = x + y if x.shape == y.shape else y
    return unit("features.18.0", "features.18.1", x)


@pytest.mark.parametrize("tensorflow", [False, True])
def test_the_network_is_its_formula(tensorflow):
    """For sides that halve evenly all the way down, and for those that do not."""
    network = lively(tensorflow)
    x = torch.randn(2, 3, 64, 90, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        outputs, expected = network(x), reference(network.state_dict(), x, tensorflow)
    assert outputs["grid"].shape == (2, 1280, 2, 3)
    assert expected.std() > 0.1
    torch.testing.assert_close(outputs["grid"], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs["pooled"], expected.mean((2, 3)), rtol=1e-4, atol=1e-4)


def test_the_paddings_differ():
    network = lively()
    other = MobileNetV2(tensorflow=True).eval()
    other.load_state_dict(network.state_dict())
    one, two = (run_network(n, PICTURE)["pooled"] for n in (network, other))
    assert np.abs(one - two).mean() > 0.05 * np.abs(one).mean()


def test_normalisation_that_is_folded_in_is_none_at_all(tmp_path):
    """A variance of 1 means that nothing is divided; the epsilon would shrink every layer."""
    state = lively().state_dict()
    for name, x in state.items():
        if name.endswith(("running_var", "bn.weight")):
            x.fill_(1)
        elif name.endswith("running_mean"):
            x.fill_(0)
    torch.save(state, tmp_path / "w.pth")
    network = load_network("tf_mobilenet_v2", str(tmp_path / "w.pth"))
    x = torch.randn(1, 32, 4, 4, generator=torch.Generator().manual_seed(0))
    norm = network.features[0][1]
    expected = x * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected, rtol=1e-6, atol=1e-6)


def leaning(state, side) -> dict:
    """Weights whose filters of stride 2 are lighter on one side: 0 first, 2 last."""
    state = {name: x.clone() for name, x in state.items()}
    names = ["features.0.0", *(f"features.{i}.conv.1.0" for i in (2, 4, 7, 14))]
    for name in names:
        state[f"{name}.weight"][:, :, side] *= 0.5
        state[f"{name}.weight"][:, :, :, side] *= 0.5
    return state


@pytest.mark.parametrize(
    ("encoder", "side", "says"),
    [
        ("mobilenet_v2", 2, "tf_mobilenet_v2"),
        ("tf_mobilenet_v2", 0, "mobilenet_v2"),
        ("mobilenet_v2", 0, None),
        ("tf_mobilenet_v2", 2, None),
        ("mobilenet_v2", None, None),
        ("tf_mobilenet_v2", None, None),
    ],
)
def test_weights_of_the_other_padding_are_warned_of(tmp_path, encoder, side, says):
    state = MobileNetV2().state_dict()
    torch.save(state if side is None else leaning(state, side), tmp_path / "w.pth")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_network(encoder, str(tmp_path / "w.pth"))
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == (says is not None), texts
    if says:
        assert texts[0].endswith(f"take --encoder {says}")


def test_the_published_file_of_another_encoder_is_refused(tmp_path, monkeypatch):
    """A file is known by its hash; here, one that is said to be torchvision's."""
    import hashlib

    from core.encoders import weights

    path = tmp_path / "w.pth"
    torch.save(MobileNetV2().state_dict(), path)
    start = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(weights._URLS, "mobilenet_v2", f"https://x/mobilenet_v2-{start}.pth")
    Extractor("mobilenet_v2", "pooled", str(path))
    with pytest.raises(ValueError, match="is the published file of mobilenet_v2, not of tf_"):
        Extractor("tf_mobilenet_v2", "pooled", str(path))


def test_a_run_of_the_other_encoder_is_refused(tmp_path):
    """Their names and shapes are the same, so only the run itself can tell."""
    network = load_network("tf_mobilenet_v2", "random")
    params = {f"encoder.{k}": x.detach().numpy() for k, x in state_of_stages(network).items()}
    config = {"input_dim": 1280, "wordvec_dim": 2, "hidden_dim": 2}
    from core.parameter_shapes import parameter_shapes

    shapes = parameter_shapes("lstm", config, 4)
    params |= {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    known = Extractor("tf_mobilenet_v2", "grid", "random").specification
    words = ["<NULL>", "<START>", "<END>", "<UNK>"]
    save_checkpoint(tmp_path / "best.npz", Checkpoint("lstm", config, words, params, known))
    load_network("tf_mobilenet_v2", str(tmp_path / "best.npz"))
    with pytest.raises(ValueError, match="its encoder is tf_mobilenet_v2, expected mobilenet_v2"):
        load_network("mobilenet_v2", str(tmp_path / "best.npz"))


# ---------------------------------------------------------------------------------------------
# Files in the wild
# ---------------------------------------------------------------------------------------------


def timms_mobilenet(state) -> dict:
    """The names that timm's mobilenetv2_100 has, by the parts of its own blocks."""
    renamed, numbers = {}, [1, 2, 3, 4, 3, 3, 1]
    places = [(s, b) for s, count in enumerate(numbers) for b in range(count)]
    for name, x in state.items():
        words, what = name.split("."), name.rpartition(".")[2]
        if words[0] == "classifier":
            layer = "classifier"
        elif words[1] in ("0", "18"):
            layers = {"00": "conv_stem", "01": "bn1", "180": "conv_head", "181": "bn2"}
            layer = layers[words[1] + words[2]]
        else:
            stage, block = places[int(words[1]) - 1]
            parts = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
            if stage == 0:
                parts = ["conv_dw", "bn1", "conv_pw", "bn2"]
            keys = list(
                dict.fromkeys(
                    k.rpartition(".")[0] for k in state if k.startswith(f"features.{words[1]}.")
                )
            )
            layer = f"blocks.{stage}.{block}.{parts[keys.index(name.rpartition('.')[0])]}"
        renamed[f"{layer}.{what}"] = x
    return renamed


def test_timms_names_of_mobilenet(tmp_path):
    state = lively().state_dict()
    timms = timms_mobilenet(state)
    assert timms["blocks.1.0.conv_pwl.weight"].shape == (24, 96, 1, 1)
    assert timms["blocks.0.0.conv_pw.weight"].shape == (16, 32, 1, 1)
    torch.save(timms, tmp_path / "timm.pth")
    found = load_network("mobilenet_v2", str(tmp_path / "timm.pth")).state_dict()
    assert all(torch.equal(found[name], x) for name, x in state.items())


def test_timms_names_of_vgg16():
    from core.encoders.names import as_torchvision

    theirs = {"pre_logits.fc1": (4096, 512, 7, 7), "pre_logits.fc2": (4096, 4096, 1, 1)}
    theirs |= {"features.0": (64, 3, 3, 3), "head.fc": (1000, 4096)}
    state = {}
    with torch.device("meta"):
        for name, shape in theirs.items():
            state |= {f"{name}.weight": torch.empty(shape), f"{name}.bias": torch.empty(shape[0])}
        own = NETWORKS["vgg16"]().state_dict()
    found = as_torchvision(state)
    assert len(found) == 8
    for name, x in found.items():
        assert x.shape == own[name].shape
    x = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    [(_, one), _] = as_torchvision(
        {"pre_logits.fc1.weight": x, "pre_logits.fc1.bias": x[0, 0, 0]}
    ).items()
    photo = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(F.linear(photo.flatten(1), one), F.conv2d(photo, x).flatten(1))


def test_what_training_scripts_save_is_unwrapped_and_said(tmp_path):
    state = lively().state_dict()
    content = {"epoch": 3, "model": {f"module.{k}": x for k, x in state.items()}, "optimizer": {}}
    torch.save(content, tmp_path / "w.pth")
    with pytest.warns(
        UserWarning, match=r"its 'model' is read, the rest is left out: 'epoch', 'op"
    ):
        found = load_network("mobilenet_v2", str(tmp_path / "w.pth")).state_dict()
    assert all(torch.equal(found[name], x) for name, x in state.items())


def test_a_classifier_of_other_classes_is_left_out_and_said(tmp_path):
    state = lively().state_dict()
    state |= {"classifier.1.weight": torch.zeros(7, 1280), "classifier.1.bias": torch.zeros(7)}
    torch.save(state, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match=r"classifier is another one .* \(classifier\.1\.weight"):
        found = load_network("mobilenet_v2", str(tmp_path / "w.pth"))
    assert torch.equal(found.features[0][0].weight, state["features.0.0.weight"])


def test_the_message_names_a_few_keys_of_each_kind(tmp_path):
    """Of a whole other network: how many are missing, unexpected and misshapen."""
    state = MobileNetV2().state_dict()
    state = {name.replace("features.1", "layers.1"): x for name, x in state.items()}
    state["features.0.0.weight"] = torch.zeros(16, 3, 3, 3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="not those of mobilenet_v2") as refused:
        load_network("mobilenet_v2", str(tmp_path / "w.pth"))
    text = str(refused.value)
    assert "missing (features.1.conv.0.0.weight, features.1.conv.0.1.weight, " in text
    assert "unexpected (layers.1.conv.0.0.weight, " in text
    assert "1 misshapen (features.0.0.weight (16, 3, 3, 3), expected (32, 3, 3, 3))" in text
    assert "\n" not in text


def test_safetensors(tmp_path):
    """The format in which timm's weights are published today."""
    path = tmp_path / "model.safetensors"
    try:
        from safetensors.torch import save_file
    except ImportError:
        path.write_bytes(b"")
        with pytest.raises(ValueError, match="pip install safetensors"):
            load_network("mobilenet_v2", str(path))
        return
    state = lively().state_dict()
    save_file(timms_mobilenet(state), path)
    found = load_network("mobilenet_v2", str(path)).state_dict()
    assert all(torch.equal(found[name], x) for name, x in state.items())
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot be read"):
        load_network("mobilenet_v2", str(path))


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the real weights are not here")
def test_real_weights_are_surer_with_tensorflows_padding():
    """And with PyTorch's a warning says so; they agree on about half of the photos."""
    paths = sorted((REAL_DATA / "flickr8k" / "Images").iterdir())[:24]
    extractor = Extractor("tf_mobilenet_v2", "pooled", str(WEIGHTS))
    x = prepare_pictures([load_image(path) for path in paths], extractor.preprocessing)
    with pytest.warns(UserWarning, match="take --encoder tf_mobilenet_v2"):
        networks = [load_network("mobilenet_v2", str(WEIGHTS)), extractor.network]
    pooled = [torch.tensor(run_network(network, x)["pooled"]) for network in networks]
    wrong, right = (networks[1].classifier(p).softmax(dim=1) for p in pooled)
    assert right.max(dim=1).values.mean() > wrong.max(dim=1).values.mean()
    assert (right.argmax(dim=1) == wrong.argmax(dim=1)).float().mean() < 0.8
