"""From pixels: the encoder learns when it is asked to, and else stays as it is, to the last bit."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, slow_but, two_processes
from PIL import Image
from test_flickr8k import SPLIT_LISTS, make_photos, write_csv

from core import decoding
from core.checkpoint import ENCODER, load_checkpoint
from core.encoders import Extractor
from core.encoders.pictures import LookedAt, PictureBatch, Pictures
from core.encoders.weights import (
    NETWORKS,
    as_batch,
    load_network,
    open_stages,
    state_of_stages,
)
from core.image_utils import load_image
from core.runs.data import _say_of_flip, extractor_of, load_data
from core.torch_models import TorchEngine, build_end_to_end

WORDS = ["<NULL>", "<START>", "<END>", "<UNK>", "a", "b", "c"]
CAPTIONS = np.array([[1, 4, 5, 2], [1, 5, 2, 0], [1, 6, 6, 2], [1, 4, 2, 0]])
SMALL = {"wordvec_dim": 5, "hidden_dim": 6}


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, 64, 64, 3)).astype(np.float32)


@pytest.fixture
def batch(images) -> PictureBatch:
    return PictureBatch(images, np.array([1, 0, 0, 2]))


def build(model="attention", encoder="tiny_cnn", stages=5, dtype="float32", grid=None, **options):
    width = 4 if model == "transformer" else 5
    more = {"num_heads": 2} if model == "transformer" else {"attention_dim": 4}
    extractor = Extractor(encoder, "grid", "random", grid=grid)
    config = {**SMALL, **more, "wordvec_dim": width, "input_dim": extractor.shape[-1]}
    config["dtype"] = dtype
    return build_end_to_end(
        model, config, WORDS, rng=np.random.default_rng(1), extractor=extractor, stages=stages,
        **options,
    )  # fmt: skip


def fingerprint(network) -> str:
    """Of all parameters, and of the statistics of batch normalisation."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------
# The model
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [None, 3])
def test_it_is_the_extractor_and_then_the_decoder(images, batch, grid):
    model = build(grid=grid)
    extractor = Extractor("tiny_cnn", "grid", "random", grid=grid)
    features = extractor.finish(extractor._encode(images))
    np.testing.assert_allclose(model.grid_of(batch).detach(), features[batch.of_row], atol=1e-5)
    assert model.evaluate(batch, CAPTIONS) == pytest.approx(
        model.decoder.evaluate(features[batch.of_row], CAPTIONS), rel=1e-5
    )
    first = np.array([1, 0, 3])
    tokens = np.array([4, 5, 6])
    (found, _), (expected, _) = (
        each.step(each.begin(x), tokens)
        for each, x in ((model, batch[first]), (model.decoder, features))
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert decoding.greedy(model, batch[first], 5).shape == (3, 5)


def test_the_gradient_reaches_every_pixel_filter_in_float64(batch):
    """Autograd through encoder, scaling and decoder, against central differences."""
    model = build(dtype="float64")
    model.loss(batch, CAPTIONS).backward()
    rng, h = np.random.default_rng(0), 1e-6  # small: a ReLU that turns on in between bends it
    for name, parameter in model.encoder.named_parameters():
        assert parameter.grad.abs().max() > 0, name
        where = tuple(rng.integers(size) for size in parameter.shape)
        with torch.no_grad():
            losses = []
            for step in (h, -2 * h):
                parameter[where] += step
                losses.append(float(model.loss(batch, CAPTIONS)))
            parameter[where] += h
        expected = (losses[0] - losses[1]) / (2 * h)
        assert parameter.grad[where] == pytest.approx(expected, rel=1e-4, abs=1e-8), name


def test_captions_of_one_picture_share_a_look(batch):
    model, seen = build(), []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    model.loss(batch, CAPTIONS)
    model.loss(batch[np.array([1, 2])], CAPTIONS[1:3])
    assert seen == [3, 1]


def test_flips_mirror_while_training_and_never_else(batch):
    model = build(flip=True)
    plain = build().grid_of(batch)
    mirrored = PictureBatch(batch.images[:, :, ::-1].copy(), batch.of_row)
    other = build().grid_of(mirrored)
    seen = set()
    for _ in range(20):
        grid = model.grid_of(batch)
        for row in range(4):
            same, flipped = (torch.equal(grid[row], x[row]) for x in (plain, other))
            close = torch.allclose(grid[row], other[row], atol=1e-5)
            assert same or flipped or close
            seen.add((row, same))
    assert len(seen) == 8, "every picture both ways"
    assert model.training
    expected = build().evaluate(batch, CAPTIONS)
    assert {model.evaluate(batch, CAPTIONS) for _ in range(9)} == {expected}
    assert model.training, "evaluation leaves the mode as it was"


def test_crops_show_a_window_while_training_and_never_else(images):
    """Pictures that tell where one is: one channel rises to the right, one falls to the ground."""
    x, y = np.meshgrid(np.linspace(0, 1, 64), np.linspace(0, 1, 64))
    picture = np.stack([x, y, x * 0], axis=2, dtype=np.float32)
    batch, model = PictureBatch(np.stack([picture] * 50), np.arange(50)), build(crop=0.25)
    seen = model._varied(as_batch(model.encoder, batch.images)).numpy()
    assert seen.shape == (50, 3, 64, 64)
    widths, heights = np.ptp(seen[:, 0], axis=(1, 2)), np.ptp(seen[:, 1], axis=(1, 2))
    np.testing.assert_allclose(widths, heights, atol=0.03)
    assert 0.45 < widths.min() < 0.65
    assert 0.85 < widths.max() <= 1
    for values in (seen[:, 0], seen[:, 1]):
        middles = values.mean(axis=(1, 2))
        assert middles.min() < 0.4
        assert middles.max() > 0.6
    assert (seen[:, 0, 0, -1] > seen[:, 0, 0, 0]).all(), "crops do not mirror"
    again = build(crop=0.25)
    np.testing.assert_array_equal(again._varied(as_batch(model.encoder, batch.images)), seen)
    few = PictureBatch(images, np.array([1, 0, 0, 2]))
    expected = build().evaluate(few, CAPTIONS)
    assert {model.evaluate(few, CAPTIONS) for _ in range(5)} == {expected}
    assert model.loss(few, CAPTIONS).item() != pytest.approx(build().loss(few, CAPTIONS).item())


@pytest.mark.parametrize("stages", [0, 1, 3, 5])
@pytest.mark.parametrize(
    "encoder", slow_but(["tiny_cnn", "squeezenet1_1", "resnet50"], "tiny_cnn", "squeezenet1_1")
)
def test_so_many_stages_learn_and_the_rest_is_frozen(encoder, stages):
    model = build(encoder=encoder, stages=stages)
    images = np.random.default_rng(0).standard_normal((3, 64, 64, 3)).astype(np.float32)
    batch = PictureBatch(images, np.array([1, 0, 0, 2]))
    engine = TorchEngine(model, "adam", {"learning_rate": 1e-2}, 5.0, encoder_learning_rate=1e-2)
    before = {k: x.clone() for k, x in model.encoder.state_dict().items()}
    model.train()
    for _ in range(2):
        engine.compute(batch, CAPTIONS)
        engine.update()
    opened = {id(p) for stage in model.encoder.stages[5 - stages :] for p in stage.parameters()}
    moved = {k for k, x in model.encoder.state_dict().items() if not torch.equal(x, before[k])}
    expected = {k for k, p in model.encoder.named_parameters() if id(p) in opened}
    # A filter that no picture here excites gets no gradient: nearly all of what may move does.
    assert moved <= expected
    assert len(moved) >= 0.9 * len(expected)


def test_a_frozen_encoder_that_is_not_would_be_noticed(batch):
    """The hash sees what an epoch in train mode does to batch normalisation alone."""
    network = load_network("resnet50", "random")
    before = fingerprint(network)
    network(torch.zeros(2, 3, 64, 64))
    assert fingerprint(network) == before
    network.train()(torch.zeros(2, 3, 64, 64))
    assert fingerprint(network) != before


def test_too_many_stages():
    with pytest.raises(ValueError, match="found 6 stages, but the encoder has 5"):
        build(stages=6)


# The deeper ResNets are of one class with the first.
@pytest.mark.parametrize(
    "encoder",
    slow_but(sorted(NETWORKS.keys() - {"resnet101", "resnet152"}), "tiny_cnn", "squeezenet1_1"),
)
def test_the_grid_depends_on_the_stages_alone_and_on_all_of_them(encoder):
    network = load_network(encoder, "random")
    other = load_network(encoder, "random")
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    if encoder == "vgg16":  # its fc7 takes 224 x 224 pictures only
        x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    state = state_of_stages(network)
    with torch.inference_mode():
        for name, value in other.state_dict().items():
            if name not in state:
                value.zero_()
        assert torch.equal(network(x)["grid"], other(x)["grid"])
    assert sum(len(list(stage.parameters())) for stage in network.stages) == sum(
        1 for name in state if name in dict(network.named_parameters())
    ), "a parameter is in two stages"


def test_states_go_back_and_forth(batch):
    model, other = build(stages=2), build(stages=2)
    engine = TorchEngine(model, "adam", {"learning_rate": 1e-2}, None, encoder_learning_rate=1e-3)
    for _ in range(2):
        engine.compute(batch, CAPTIONS)
        engine.update()
    engine.set_learning_rate(0.5)
    again = TorchEngine(other, "adam", {"learning_rate": 7.0}, None, encoder_learning_rate=7.0)
    other.params, again.configs = dict(model.params), engine.configs
    rates = {k: config["learning_rate"] for k, config in again.configs.items()}
    assert {rate for k, rate in rates.items() if k.startswith(ENCODER)} == {5e-4}
    assert {rate for k, rate in rates.items() if not k.startswith(ENCODER)} == {5e-3}
    assert again.learning_rate == 5e-3
    for each in (engine, again):
        each.compute(batch, CAPTIONS)
        each.update()
    for name, array in model.params.items():
        np.testing.assert_array_equal(other.params[name], array, err_msg=name)
    decoder = {k: x for k, x in model.params.items() if not k.startswith(ENCODER)}
    fresh = build(stages=2)
    before = fingerprint(fresh.encoder)
    fresh.params = decoder
    assert fingerprint(fresh.encoder) == before, "without its parameters the encoder stays"
    with pytest.raises(ValueError, match=r"encoder: conv5\.0\.weight .*has shape None"):
        fresh.params = {k: x for k, x in model.params.items() if "conv5.0.weight" not in k}


# ---------------------------------------------------------------------------------------------
# The commands
# ---------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of twelve photos with captions; what is kept of them goes to a temporary folder."""
    monkeypatch.setattr("core.encoders.pictures.FOLDER", tmp_path / "kept")
    root = make_photos(tmp_path / "photos")
    write_csv(root)
    return root


@pytest.fixture
def train(command, photos, tmp_path):
    def run(out, *options, data=photos):
        code, _, error = command(
            *("training.py", "--data", data, "--out", tmp_path / out, "--hidden_dim", 12),
            *("--wordvec_dim", 8, "--batch_size", 7, *options),
        )
        assert code == 0, error
        rows = (tmp_path / out / "metrics.jsonl").read_text().splitlines()
        return [json.loads(row) for row in rows]

    return run


def losses(rows):
    return [row[name] for row in rows for name in ("train_loss", "val_loss")]


TINY = ("--encoder", "tiny_cnn", "--device", "cpu", "--dropout", 0)
FROZEN = ("--encoder", "squeezenet1_1", "--weights", "random", "--grid", 3)


@pytest.mark.parametrize("model", slow_but(["attention", "transformer"], "attention"))
def test_from_pixels_to_captions(train, command, photos, tmp_path, model):
    rows = train("run", "--model", model, *TINY, "--num_epochs", 6)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["engine"] == "torch"
    checkpoint = load_checkpoint(tmp_path / "run" / "best.npz")
    fresh = load_network("tiny_cnn", "random").state_dict()
    moved = [k for k, x in checkpoint.encoder_state.items() if not np.array_equal(x, fresh[k])]
    assert moved == list(fresh), "all of the encoder learns"
    photo = photos / "Images" / "003.jpg"
    said = set()
    for engine in ("numpy", "torch"):
        out = tmp_path / "captions.json"
        options = ("--checkpoint", tmp_path / "run", "--engine", engine, "--out", out)
        code, _, error = command("inference.py", *options, "--split", "train")
        assert code == 0, error
        of_split = {row["file_name"]: row["caption"] for row in json.loads(out.read_text())}
        code, _, error = command("inference.py", *options, "--image", photo)
        assert code == 0, error
        (row,) = json.loads(out.read_text())
        assert row["caption"] == of_split["003.jpg"]
        code, _, error = command("inference.py", *options, "--images", photos / "Images")
        assert code == 0, error
        said.add(tuple(row["caption"] for row in json.loads(out.read_text())))
    assert len(said) == 1, "the engines differ"
    code, _, error = command(
        *("inference.py", "--checkpoint", tmp_path / "run", "--num_samples", 2),
        *("--attention", tmp_path / "attention.png"),
    )
    assert code == 0, error
    assert (tmp_path / "attention.png").exists()


def test_a_run_from_pixels_is_resumed_bit_for_bit(train, tmp_path):
    options = ("--model", "attention", "--encoder", "tiny_cnn", "--device", "cpu", "--flip")
    whole = train("whole", *options, "--num_epochs", 4)
    train("run", *options, "--num_epochs", 2)
    rows = train("run", "--resume", "--num_epochs", 4)
    assert losses(rows) == losses(whole)
    last, expected = (load_checkpoint(tmp_path / run / "last.npz") for run in ("run", "whole"))
    assert last.params.keys() == expected.params.keys()
    for name, array in expected.params.items():
        np.testing.assert_array_equal(last.params[name], array, err_msg=name)


def train_in_two(tmp_path, photos, *options):
    """The metrics of a run in two processes; of twelve photos one cannot be read."""
    done = two_processes(
        tmp_path, "training.py", *options, "--data", photos, "--out", "two",
        "--hidden_dim", 12, "--wordvec_dim", 8, "--batch_size", 7,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("left out 1 of 12 photos") == 1, "one process talks"
    return [json.loads(r) for r in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_learn_to_look_as_one(train, photos, tmp_path):
    tear(photos / "Images" / "005.jpg")  # in the share of the second
    options = ("--model", "attention", *TINY, "--num_epochs", 3, "--dtype", "float64")
    expected = train("one", *options)
    rows = train_in_two(tmp_path, photos, *options)
    np.testing.assert_allclose(losses(rows), losses(expected), rtol=1e-6)


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_a_frozen_encoder_looks_once_and_stays(
    train, command, photos, tmp_path, engine, monkeypatch
):
    networks = []
    monkeypatch.setattr(
        "core.encoders.weights.NETWORKS",
        {"squeezenet1_1": lambda: networks.append(NETWORKS["squeezenet1_1"]()) or networks[-1]},
    )
    options = ("--model", "attention", *FROZEN, "--num_epochs", 3, "--engine", engine)
    train("run", *options)
    (network,) = networks
    assert fingerprint(network) == fingerprint(load_network("squeezenet1_1", "random"))
    assert not network.training
    kept = sorted((tmp_path / "kept").glob("*.h5"))
    assert [path.name.split("_sq")[0] for path in kept] == ["photos_train", "photos_val"]
    written = [path.stat().st_mtime_ns for path in kept]
    train("again", *options)
    assert [path.stat().st_mtime_ns for path in kept] == written, "looked at twice"
    assert not load_checkpoint(tmp_path / "run" / "best.npz").encoder_state
    for path in kept:
        path.unlink()
    code, text, error = command("inference.py", "--checkpoint", tmp_path / "run", "--split", "val")
    assert code == 0, error
    assert not list((tmp_path / "kept").glob("*.h5")), "captioning a few pictures looks at those"
    assert "009.jpg" in text


def test_mirrored_pictures_of_a_frozen_encoder_are_more_pictures(photos, train):
    settings = {
        "data": str(photos), "model": "attention", "num_samples": None, "seed": 0,
        "finetune_encoder": 0, "flip": True,
    }  # fmt: skip
    extractor = Extractor("tiny_cnn", "grid", "random")
    data, plain = load_data(settings, extractor), load_data(settings | {"flip": False}, extractor)
    assert len(data["train_captions"]) == 2 * len(plain["train_captions"]) == 36
    assert data["train_features"].shape == (18, 64, 140)
    assert data["val_features"].shape == (3, 64, 140)
    rows = data["train_image_idxs"][[0, 20, 35]]
    assert rows.tolist() == [0, 9 + 1, 9 + 8]
    found = data["train_features"][rows]
    for row, features in zip(rows, found, strict=True):
        with Image.open(photos / "Images" / data["train_urls"][row]) as picture:
            seen = np.asarray(picture)[:, :: -1 if row >= 9 else 1]
        np.testing.assert_allclose(features, extractor([seen])[0], atol=2e-3)
        assert data["train_urls"][row] == plain["train_urls"][row % 9]
    options = ("--model", "attention", *FROZEN, "--num_epochs", 1, "--flip")
    assert train("run", *options)[0]["train_loss"] > 0


def test_to_learn_by_heart_only_a_few_photos_are_looked_at(train, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "core.encoders.pictures.load_image", lambda path: seen.append(path) or load_image(path)
    )
    options = ("--model", "attention", *FROZEN, "--num_samples", 2, "--num_epochs", 5, "--flip")
    rows = train("run", *options)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert len(seen) == len(set(seen)) == 2 + 2, "two for training, at most two of validation"
    assert not (tmp_path / "kept").exists()


@pytest.mark.slow
def test_frozen_first_then_fine_tuned(train, tmp_path):
    """The second run starts where the first ended: its first loss is lower than a fresh start's."""
    options = ("--model", "attention", *FROZEN, "--dropout", 0)
    frozen = train("frozen", *options, "--num_epochs", 8)
    options += ("--num_epochs", 1, "--finetune_encoder", 2, "--encoder_learning_rate", 1e-5)
    tuned = train("tuned", *options, "--init", tmp_path / "frozen" / "last.npz")
    fresh = train("fresh", *options)
    assert tuned[0]["train_loss"] < fresh[0]["train_loss"]
    assert tuned[0]["train_loss"] < 1.1 * frozen[-1]["train_loss"]
    state = load_checkpoint(tmp_path / "tuned" / "best.npz").encoder_state
    before = load_network("squeezenet1_1", "random").state_dict()
    moved = [k for k, x in state.items() if not np.array_equal(x, before[k])]
    assert {name.split(".")[1] for name in moved} == {"9", "10", "11", "12"}


def test_what_an_encoder_has_learned_is_kept_and_looked_with(train, command, photos, tmp_path):
    """A run whose encoder learned is a weight file: for a run that starts from it, and others."""
    options = ("--model", "attention", *FROZEN, "--num_epochs", 1, "--dropout", 0)
    train("tuned", *options, "--finetune_encoder", 2, "--encoder_learning_rate", 1e-2)
    run = tmp_path / "tuned"
    looks = ("--weights", run)
    rows = train("next", *options, *looks, "--init", run, "--learning_rate", 1e-9)
    scratch = train("scratch", *options, *looks)
    assert rows[0]["train_loss"] < scratch[0]["train_loss"]
    kept = sorted((tmp_path / "kept").glob("*.h5"))
    assert len(kept) == 2, "both runs read the same"
    said = []
    for folder in (run, tmp_path / "next", tmp_path / "scratch"):
        out = tmp_path / "captions.json"
        options = ("--checkpoint", folder, "--split", "val", "--n_best", 5, "--out", out)
        code, _, error = command("inference.py", *options)
        assert code == 0, error
        rows = json.loads(out.read_text())
        said.append([found["score"] for row in rows for found in row["n_best"]])
    np.testing.assert_allclose(said[1], said[0], rtol=1e-3, err_msg="nothing was learned since")
    assert not np.allclose(said[2], said[0], rtol=1e-3), "any model has these scores"
    code, _, error = command(
        *("core.flickr8k", "--root", photos, "--out", tmp_path / "data"),
        *("--encoder", "squeezenet1_1", "--weights", run, "--pca", 4),
    )
    assert code == 0, error


@pytest.mark.slow
def test_an_encoder_that_learned_from_a_file_captions_its_data(train, command, photos, tmp_path):
    """Its data name that file, whatever became of the weights in it."""
    file, out = tmp_path / "weights.pth", tmp_path / "captions.json"
    torch.save(load_network("squeezenet1_1", "random").state_dict(), file)
    frozen = ("--encoder", "squeezenet1_1", "--weights", file, "--grid", 3, "--num_epochs", 1)
    options = ("--model", "attention", *frozen, "--dropout", 0)
    train("tuned", *options, "--finetune_encoder", 2)
    run = tmp_path / "tuned"
    for more in (("--split", "val"), ("--image", photos / "Images" / "003.jpg")):
        more = (*more, "--neighbours", 3, "--out", out)
        code, _, error = command("inference.py", "--checkpoint", run, *more)
        assert code == 0, error
    train("on", *options, "--finetune_encoder", 2, "--weights", run, "--init", run)
    assert load_checkpoint(tmp_path / "on" / "best.npz").extractor["weights"].endswith("best.npz")


@pytest.mark.slow
def test_a_run_with_vgg16_has_the_grid_and_no_fc7(train, refuses, photos, tmp_path):
    vgg16 = ("--encoder", "vgg16", "--weights", "random", "--grid", 2, "--num_epochs", 1)
    vgg16 += ("--num_samples", 2)
    train("tuned", "--model", "attention", *vgg16, "--finetune_encoder", 1, data=photos)
    run = tmp_path / "tuned"
    assert load_network("vgg16", str(run / "best.npz"))
    refuses(
        *("core.flickr8k", "--root", photos, "--out", tmp_path / "data", "--encoder", "vgg16"),
        *("--weights", run, "--pca", 4),
        says=("best.npz", "fc7"),
    )


@pytest.mark.slow
def test_models_with_other_eyes_vote_together(train, command, refuses, photos, tmp_path):
    """A frozen encoder, one that learned, and pooled features of a prepared folder."""
    data, out = tmp_path / "data", tmp_path / "captions.json"
    prepare = ("--weights", "random", "--pca", 4)
    code, _, error = command("core.flickr8k", "--root", photos, "--out", data, *prepare)
    assert code == 0, error
    train("frozen", "--model", "attention", *FROZEN, "--num_epochs", 1)
    train("tuned", "--model", "transformer", *TINY, "--num_epochs", 1)
    train("pooled", "--model", "rnn", "--num_epochs", 1, data=data)
    runs = [tmp_path / name for name in ("frozen", "tuned", "pooled")]
    said = []
    for first, *others in (runs, runs[::-1]):
        options = ("--split", "val", "--out", out, "--ensemble", *others)
        code, _, error = command("inference.py", "--checkpoint", first, *options)
        assert code == 0, error
        said.append([row["caption"] for row in json.loads(out.read_text())])
    assert len(said[0]) == 3
    assert said[0] == said[1], "the order counts"
    options = ("--checkpoint", runs[0], "--ensemble", runs[1], "--engine", "torch")
    code, _, error = command("inference.py", *options, "--image", photos / "Images" / "003.jpg")
    assert code == 0, error
    fewer = shutil.copytree(photos, tmp_path / "fewer_photos")
    names = fewer / SPLIT_LISTS["val"]
    names.write_text("\n".join(names.read_text().split()[1:]))
    train("fewer", "--model", "attention", *TINY, "--num_epochs", 1, data=fewer)
    refuses(
        *("inference.py", "--checkpoint", runs[0], "--ensemble", tmp_path / "fewer"),
        *("--split", "val"),
        says=("--ensemble", "other images"),
    )


def test_an_encoder_that_learned_is_not_left_behind(train, refuses, photos, tmp_path):
    options = ("--model", "attention", *FROZEN, "--num_epochs", 1)
    train("tuned", *options, "--finetune_encoder", 2)
    train("frozen", *options)
    start = ("training.py", "--data", photos, "--out", tmp_path / "run", *options)
    tuned, frozen = tmp_path / "tuned", tmp_path / "frozen"
    refuses(*start, "--init", tuned, says=(f"--init {tuned}", "--weights"))
    refuses(*start, "--init", tuned, "--weights", tuned, "--grid", 4, says=("--grid",))
    refuses(*start, "--weights", frozen, says=(f"{frozen / 'best.npz'}", "did not learn"))
    refuses(*start, "--weights", tmp_path, says=("best.npz", "--weights"))
    other = tmp_path / "other.pth"
    torch.save(load_network("squeezenet1_1", "random").state_dict(), other)
    learns = ("--init", tuned, "--finetune_encoder", 2, "--weights", other)
    refuses(*start, *learns, says=(f"--init {tuned}", "--weights with the same run"))


@pytest.mark.slow
def test_an_encoder_that_began_with_random_weights_is_the_same_when_it_is_read(train, tmp_path):
    """Its statistics of batches are those of nothing yet: nobody folded them."""
    options = ("--model", "attention", "--encoder", "mobilenet_v2", "--num_epochs", 1)
    train("first", *options, "--weights", "random", "--finetune_encoder", 1)
    train("next", *options, "--weights", tmp_path / "first", "--init", tmp_path / "first")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"finetune_encoder": 2, "num_samples": None}, "1 of 2 training captions say left or"),
        ({"finetune_encoder": 0, "num_samples": 5}, "does nothing with --num_samples"),
        ({"finetune_encoder": 0, "num_samples": None}, None),
    ],
)
def test_what_mirrored_photos_are_not_is_said(settings, says):
    captions = np.array([[1, 4, 5, 2], [1, 5, 5, 2]])
    data = {"train_captions": captions, "word_to_idx": {"left": 4, "a": 5}}
    with pytest.warns(UserWarning, match=says) if says else nullcontext():
        _say_of_flip(settings, data)


def test_how_much_scores_differ(train, command, photos, tmp_path):
    train("run", "--model", "attention", *FROZEN, "--num_epochs", 1)
    options = ("--checkpoint", tmp_path / "run", "--references", photos, "--device", "cpu")
    code, text, error = command("benchmarks.bleu_differs", *options)
    assert code == 0, error
    lines = text.splitlines()
    assert lines[2].startswith("| beam 5, length penalty 1")
    assert "3 photos" in lines[2]
    for line in lines[2:]:
        _, name, bleu, cider, _ = line.split("|")
        assert float(bleu) >= 0
        assert "own BLEU-4" in name or float(cider) >= 0


def test_pictures_of_a_prepared_folder(train, command, photos, tmp_path):
    code, _, error = command(
        *("core.flickr8k", "--root", photos, "--out", tmp_path / "data"),
        *("--weights", "random", "--pca", 4),
    )
    assert code == 0, error
    options = ("--model", "attention", *TINY, "--num_epochs", 2)
    prepared = train("prepared", *options, data=tmp_path / "data")
    assert losses(prepared) == losses(train("as it is", *options))


def test_the_embedded_pictures_fit_the_tiny_cnn(shapes_folder):
    settings = {
        "data": "shapes", "model": "attention", "num_samples": 3, "seed": 0, "no_pca": False,
        "finetune_encoder": 5, "flip": False,
    }  # fmt: skip
    extractor = Extractor("tiny_cnn", "grid", "random")
    data = load_data(settings, extractor)
    assert isinstance(data["train_features"], Pictures)
    assert data["captions_together"]
    batch = data["train_features"][data["train_image_idxs"]]
    assert batch.images.shape == (3, 64, 64, 3)
    with Image.open(shapes_folder / data["train_urls"][data["train_image_idxs"][0]]) as picture:
        expected = (np.asarray(picture.convert("RGB")) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(batch.images[batch.of_row[0]], expected, atol=1e-5)
    data = load_data(settings, extractor, training=False)
    assert isinstance(data["val_features"], LookedAt)


def test_the_trained_encoder_travels_in_the_checkpoint(train, tmp_path, photos):
    train("run", "--model", "attention", *TINY, "--num_epochs", 1)
    checkpoint = load_checkpoint(tmp_path / "run" / "best.npz")
    extractor = extractor_of(checkpoint)
    for name, x in state_of_stages(extractor.network).items():
        np.testing.assert_array_equal(x.numpy(), checkpoint.encoder_state[name])


REFUSALS = {
    "photos for a model that does not look": (
        ("--model", "lstm"),
        ("--data", "--encoder", "flickr8k"),
    ),
    "buckets of pictures": ((*TINY[:2], "--bucketed"), ("--bucketed",)),
    "a decay of another rule": (("--weight_decay", 1), ("--weight_decay", "adamw")),
    "two schedules": (("--schedule", "cosine", "--lr_decay", 1), ("--lr_decay", "--schedule")),
    "another model": (("--model", "lstm", "--encoder", "tiny_cnn"), ("--encoder", "lstm")),
    "no weights": (("--encoder", "vgg16"), ("vgg16", "weight")),
    "options without it": (("--grid", 3), ("--grid", "--encoder")),
    "a crop of what is kept": ((*FROZEN, "--crop", 0.5), ("--crop", "--finetune_encoder")),
    "a rate of nothing": ((*FROZEN, "--encoder_learning_rate", 1), ("--finetune_encoder",)),
    "numpy": ((*TINY[:2], "--engine", "numpy"), ("--engine numpy", "encoder")),
    "plain": ((*TINY[:2], "--engine", "plain"), ("--engine plain", "encoder")),
    "too many stages": ((*TINY[:2], "--finetune_encoder", 6), ("6 stages", "5")),
    "too fine a grid": ((*TINY[:2], "--grid", 9), ("9 cells", "1 to 8")),
    "no weight file": (("--encoder", "vgg16", "--weights", "no.pth"), ("no.pth",)),
    "no start": ((*TINY[:2], "--init", "nowhere"), ("nowhere",)),
}


@pytest.mark.parametrize(("options", "says"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(refuses, photos, tmp_path, options, says):
    model = () if "--model" in options else ("--model", "attention")
    refuses("training.py", *model, "--data", photos, *options, says=says)
    assert not (tmp_path / "runs").exists(), "something was written"


def tear(path):
    path.write_bytes(path.read_bytes()[:300])


FAULTS = {
    "torn": tear,
    "empty": lambda path: path.write_bytes(b""),
    "a page that says so": lambda path: path.write_text("<html>404: no such photo</html>"),
    "gone": Path.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}
EYES = {
    "frozen": FROZEN,
    "learns": (*TINY, "--finetune_encoder", 1),
    "mirrored": (*FROZEN, "--flip"),
}


@pytest.mark.parametrize("fault", slow_but(FAULTS.values(), tear), ids=FAULTS)
@pytest.mark.parametrize("eyes", EYES.values(), ids=EYES)
def test_one_photo_that_cannot_be_read_is_left_out_and_named(
    command, photos, tmp_path, fault, eyes
):
    """Before the first epoch; the others' captions stay theirs, in training and after it."""
    fault(photos / "Images" / "004.jpg")  # of train
    fault(photos / "Images" / "010.jpg")  # of val
    run, out = tmp_path / "run", tmp_path / "captions.json"
    base = ("training.py", "--model", "attention", "--data", photos, "--out", run, *eyes)
    code, _, error = command(*base, "--num_epochs", 1)
    assert code == 2, "two of twelve are too many"
    assert error.count("\n") == 1
    for words in ("more than 1%", "2 of 12", "004.jpg"):
        assert words in error
    assert not run.exists()
    shutil.rmtree(photos / "Images" / "010.jpg", ignore_errors=True)
    Image.new("RGB", (40, 32), "green").save(photos / "Images" / "010.jpg")
    code, text, error = command(*base, "--num_epochs", 1)
    assert code == 0, error
    assert "left out 1 of 12 photos" in error
    assert "004.jpg" in error
    assert f"{32 if '--flip' in eyes else 16} captions of photos" in text
    assert load_checkpoint(run / "best.npz").data["train"]["photos"] == 8, "what its card says"
    code, _, error = command("training.py", "--resume", "--out", run, "--num_epochs", 2)
    assert code == 0, error
    code, _, error = command("inference.py", "--checkpoint", run, "--split", "train", "--out", out)
    assert code == 0, error
    assert "004.jpg" in error
    rows = json.loads(out.read_text())
    assert [row["file_name"] for row in rows] == [f"{i:03}.jpg" for i in range(9) if i != 4]
    assert [row["image_id"] for row in rows] == [i for i in range(9) if i != 4]


def test_captions_stay_with_their_pictures(photos):
    """Where one picture cannot be read, those of all others are as they were."""
    settings = {
        "data": str(photos), "model": "attention", "num_samples": None, "seed": 0, "flip": True,
    }  # fmt: skip
    extractor = Extractor("tiny_cnn", "grid", "random")
    for learns in (0, 2):
        settings["finetune_encoder"] = learns
        whole = load_data(settings, extractor)
        bytes_of_it = (photos / "Images" / "004.jpg").read_bytes()
        tear(photos / "Images" / "004.jpg")
        with pytest.warns(UserWarning, match=r"left out 1 of 12 photos: .*004\.jpg"):
            data = load_data(settings, extractor)
        (photos / "Images" / "004.jpg").write_bytes(bytes_of_it)
        kept = np.isin(whole["train_image_idxs"], (4, 9 + 4), invert=True)
        for name in ("train_captions", "train_image_idxs"):
            np.testing.assert_array_equal(data[name], whole[name][kept])
        np.testing.assert_array_equal(data["train_urls"], whole["train_urls"])
        rows = data["train_image_idxs"][::3]
        seen, expected = (each["train_features"][rows] for each in (data, whole))
        if learns:
            seen, expected = (batch.images[batch.of_row] for batch in (seen, expected))
        np.testing.assert_array_equal(seen, expected)
        assert np.isfinite(seen).all()


@pytest.mark.parametrize("eyes", [FROZEN, TINY], ids=["frozen", "learns"])
def test_a_split_of_which_nothing_can_be_read_is_refused(refuses, photos, eyes):
    names = photos / SPLIT_LISTS["val"]
    names.write_text("010.jpg\n")
    tear(photos / "Images" / "010.jpg")
    base = ("training.py", "--model", "attention", "--data", photos, "--num_epochs", 1)
    refuses(*base, *eyes, says=("no photo of val", "010.jpg"))


@pytest.mark.parametrize("eyes", [FROZEN, TINY], ids=["frozen", "learns"])
def test_samples_are_of_pictures_that_can_be_read(command, photos, tmp_path, eyes):
    """Others take the places of those that cannot, and the captioning takes the same ones."""
    base = ("--model", "attention", "--data", photos, "--num_epochs", 1, "--num_samples", 3)
    run = ("inference.py", "--checkpoint", tmp_path / "run", "--out", tmp_path / "out.json")

    def images() -> list[str]:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        code, _, error = command("training.py", *base, *eyes, "--out", tmp_path / "run")
        assert code == 0, error
        code, _, more = command(*run)
        assert code == 0, more
        return [r["file_name"] for r in json.loads((tmp_path / "out.json").read_text())], error

    before, error = images()
    assert not error
    tear(photos / "Images" / before[1])
    for name in ("009", "010"):
        tear(photos / "Images" / f"{name}.jpg")
    after, error = images()
    assert len(before) == len(after) == 3
    assert before[1] not in after
    assert before[1] in error


@pytest.mark.slow
def test_two_processes_keep_features_as_one_does(train, photos, tmp_path):
    tear(photos / "Images" / "004.jpg")
    options = ("--model", "attention", *FROZEN, "--engine", "torch", "--device", "cpu")
    options += ("--num_epochs", 1, "--dropout", 0)
    expected = train("one", *options)
    there = ROOT / "datasets" / "kept_features"  # other processes know of no other folder
    before = set(there.glob("*"))
    try:
        rows = train_in_two(tmp_path, photos, *options)
        made = set(there.glob("*")) - before
        assert sorted(path.name.split("_sq")[0] for path in made) == ["photos_train", "photos_val"]
    finally:
        for path in set(there.glob("photos_*")) - before:
            path.unlink()
    np.testing.assert_allclose(losses(rows), losses(expected), rtol=1e-4)


@pytest.mark.parametrize(("torn", "samples"), [(range(4, 5), 8), (range(6), 3)])
def test_photos_that_are_opened_for_samples_count_once(command, photos, torn, samples):
    paths = sorted((photos / "Images").iterdir())
    for n in torn:
        tear(paths[n])
    options = ("--data", photos, "--model", "attention", *FROZEN, "--num_epochs", 1)
    code, _, error = command("training.py", *options, "--num_samples", samples)
    assert code == 0, error
    lost, opened = map(int, re.search(r"left out (\d+) of (\d+) photos", error).groups())
    assert 1 <= lost <= len(torn)
    assert samples + lost <= opened <= 12


def test_photos_of_ones_own_of_which_some_cannot_be_read(train, command, refuses, photos, tmp_path):
    train("run", "--model", "attention", *TINY, "--num_epochs", 1)
    base = ("inference.py", "--checkpoint", tmp_path / "run", "--out", tmp_path / "out.json")
    own = tmp_path / "own"
    shutil.copytree(photos / "Images", own / "deep" / "er")
    names = [path.name for path in sorted((own / "deep" / "er").iterdir())]
    for name in names[:5]:
        tear(own / "deep" / "er" / name)
    for hidden in (".cache/a.jpg", "__MACOSX/a.jpg", "._a.jpg", ".a.jpg"):
        (own / hidden).parent.mkdir(exist_ok=True)
        shutil.copy(own / "deep" / "er" / names[-1], own / hidden)
    (own / "notes.txt").write_text("mine")
    (own / "a.jpg").mkdir()
    figure = ("--figure", tmp_path / "figure.png")
    code, _, error = command(*base, "--images", own, *figure)
    assert code == 0, error
    assert "left out 5 of 12 photos" in error
    assert "and 2 more" in error
    assert "1 .txt" in error
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [Path(row["file_name"]).name for row in rows] == names[5:]
    code, _, error = command(*base, "--images", own, "--num_samples", 2)
    assert code == 0, error
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [Path(row["file_name"]).name for row in rows] == names[5:7]
    (tmp_path / "out.json").unlink()
    torn, whole = own / "deep" / "er" / names[0], own / "deep" / "er" / names[-1]
    refuses(*base, "--image", whole, torn, says=("--image", names[0]))
    refuses(*base, "--image", own, says=("--image", "is a folder"))
    for name in names[5:]:
        tear(own / "deep" / "er" / name)
    refuses(*base, "--images", own, says=("--images", "none of its 12 pictures", names[0]))
    assert not (tmp_path / "out.json").exists()


@pytest.mark.slow
def test_kept_features_are_looked_at_again_where_photos_changed(train, photos):
    options = ("--model", "attention", *FROZEN, "--num_epochs", 1, "--flip")
    before = train("before", *options)
    for i in range(12):
        Image.new("RGB", (40, 32), (0, 20 * i, 0)).save(photos / "Images" / f"{i:03}.jpg")
    after, again = train("after", *options), train("again", *options)
    assert losses(before) != losses(after) == losses(again)
    settings = {
        "data": str(photos), "model": "attention", "num_samples": None, "seed": 0,
        "finetune_encoder": 0, "flip": True,
    }  # fmt: skip
    extractor = Extractor("squeezenet1_1", "grid", "random", grid=3)
    data = load_data(settings, extractor)
    for row in (0, 8, 9, 17):
        seen = load_image(photos / "Images" / data["train_urls"][row])
        np.testing.assert_allclose(
            data["train_features"][[row]], extractor([seen[:, :: -1 if row >= 9 else 1]]), atol=2e-3
        )


def test_a_run_starts_from_one_of_its_kind(refuses, train, photos, tmp_path):
    train("run", "--model", "attention", *FROZEN, "--num_epochs", 1)
    base = ("training.py", "--data", photos, "--init", tmp_path / "run")
    refuses(*base, "--model", "transformer", *FROZEN, says=("--init", "attention", "transformer"))
    refuses(*base, "--model", "attention", *TINY, says=("extractor",))


def test_an_encoder_that_learned_goes_on_with_torch_alone(refuses, train, tmp_path):
    train("run", "--model", "attention", *TINY, "--num_epochs", 1)
    resume = ("training.py", "--resume", "--out", tmp_path / "run", "--num_epochs", 2)
    for engine in ("plain", "numpy"):
        refuses(*resume, "--engine", engine, says=(f"--engine {engine}", "encoder"))


def test_stages_are_opened_on_their_own():
    network = load_network("vgg16", "random")
    names = open_stages(network, 1)
    assert names == [f"features.{i}.{what}" for i in (24, 26, 28) for what in ("weight", "bias")]
