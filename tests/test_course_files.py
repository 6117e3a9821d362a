"""What students of CS231n bring: its page, their models, data, checkpoints, masks and tensors."""

from __future__ import annotations

import os
import random
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from conftest import make_tiny_folder

from core import optim
from core.captioning_solver import CaptioningSolver
from core.checkpoint import load_checkpoint
from core.classifiers.rnn import CaptioningRNN
from core.coco_utils import load_coco_data, open_features, sample_coco_minibatch, write_features
from core.gradient_check import (
    eval_numerical_gradient,
    eval_numerical_gradient_array,
    eval_numerical_gradient_blobs,
    eval_numerical_gradient_net,
    grad_check_sparse,
)
from core.gradient_check.case import SIZES, our_function
from core.gradient_check.cases import CASES
from core.layers import word_embedding_backward, word_embedding_forward
from core.models import CaptioningTransformer
from core.transformer_layers import BLOCK_SHAPES, decoder_block_backward, decoder_block_forward

PAGE = Path(__file__).resolve().parent.parent / "docs" / "for-cs231n-students.md"


@pytest.fixture
def published(tmp_path):
    """A folder in the layout of the published archive, with two kinds of features."""
    folder = make_tiny_folder(tmp_path / "coco_captioning")
    (folder / "dataset.json").unlink()
    for split in ("train", "val"):
        [old] = [p for p in folder.glob(f"{split}2014*.h5")]
        features = np.array(open_features(old))
        old.unlink()
        write_features(folder / f"{split}2014_vgg16_fc7_pca.h5", features)
        write_features(folder / f"{split}2014_vgg16_fc7.h5", np.tile(features, 2))
    return folder


# -- the page ----------------------------------------------------------------------------------


def blocks_of_the_page():
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def test_the_page_runs(published, tmp_path, monkeypatch, capsys, command):
    defaults = (published, *load_coco_data.__defaults__[1:])
    monkeypatch.setattr(load_coco_data, "__defaults__", defaults)
    monkeypatch.chdir(tmp_path)
    words = load_coco_data()["word_to_idx"]
    trained = CaptioningRNN(words, 6, 5, 4, rng=np.random.default_rng(1)).params
    np.savez("rnn_checkpoint.npz", **trained)
    Path("page.py").write_text("\n".join(blocks_of_the_page()), encoding="utf-8")
    found = runpy.run_path("page.py")

    said = capsys.readouterr().out
    assert said.startswith("['")
    assert "<START>" not in said
    losses = found["solver"].loss_history
    assert losses[-1] < 0.8 * losses[0]
    assert found["solver"].history[-1]["val_loss"] > 0
    mine = load_checkpoint("mine.npz")
    for name, value in trained.items():
        np.testing.assert_array_equal(mine.params[name], value)
    options = ("--data", published, "--split", "val", "--num_samples", 2, "--out", "captions.json")
    code, _, complaint = command("inference", "--checkpoint", "mine.npz", *options)
    assert (code, complaint) == (0, "")


def test_the_page_s_attention_is_a_module_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    [block] = [block for block in blocks_of_the_page() if "def ours" in block]
    space: dict = {}
    exec(block, space)
    rng = torch.Generator().manual_seed(0)
    layers = {name: torch.nn.Linear(8, 8) for name in ("query", "key", "value", "proj")}
    query, key = (torch.randn(2, t, 8, generator=rng) for t in (3, 5))
    out = space["ours"](SimpleNamespace(**layers), 2, query.numpy(), key.numpy(), key.numpy())
    reference = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        weights = [layers[name].weight for name in ("query", "key", "value")]
        biases = [layers[name].bias for name in ("query", "key", "value")]
        reference.in_proj_weight.copy_(torch.cat(weights))
        reference.in_proj_bias.copy_(torch.cat(biases))
        reference.out_proj.weight.copy_(layers["proj"].weight)
        reference.out_proj.bias.copy_(layers["proj"].bias)
        expected, _ = reference(query, key, key)
    np.testing.assert_allclose(out, expected.numpy(), atol=1e-6)


# -- numerical gradients -----------------------------------------------------------------------


def test_the_word_embedding_s_error_is_as_small_as_the_course_says():
    np.random.seed(231)  # noqa: NPY002  the course's own draw
    x, W = np.random.randint(5, size=(50, 3)), np.random.randn(5, 6)  # noqa: NPY002
    out, cache = word_embedding_forward(x, W)
    dout = np.random.randn(*out.shape)  # noqa: NPY002
    dW = word_embedding_backward(dout, cache)
    numerical = eval_numerical_gradient_array(lambda W: word_embedding_forward(x, W)[0], W, dout)
    error = np.abs(dW - numerical) / np.maximum(1e-8, np.abs(dW) + np.abs(numerical))
    assert error.max() < 1e-11


@pytest.mark.parametrize("hands_out", ["x itself", "one buffer"])
def test_a_function_may_hand_out_the_same_array_each_time(hands_out):
    x, df = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])
    buffer = np.empty(3)

    def f(x):
        if hands_out == "x itself":
            return x
        buffer[:] = x
        return buffer

    np.testing.assert_allclose(eval_numerical_gradient_array(f, x, df), df, rtol=1e-9)
    np.testing.assert_array_equal(x, [1, 2, 3])


def test_the_point_is_restored_when_the_function_fails():
    x = np.array([1.0, 2.0])

    def f(moved):
        assert moved[1] == 2
        return moved

    with pytest.raises(AssertionError):
        eval_numerical_gradient_array(f, x, np.ones(2))
    np.testing.assert_array_equal(x, [1, 2])


def test_functions_of_pytorch_can_be_measured():
    """As the course of 2025 does: NumPy in, tensors inside, and here and there a tensor out."""
    torch = pytest.importorskip("torch")
    x = np.array([0.3, -0.4])
    numerical = eval_numerical_gradient(lambda x: (torch.from_numpy(x) ** 2).sum(), x)
    np.testing.assert_allclose(numerical, 2 * x, rtol=1e-8)
    numerical = eval_numerical_gradient_array(torch.from_numpy, x, np.ones(2))
    np.testing.assert_allclose(numerical, [1, 1], rtol=1e-8)
    with pytest.raises(ValueError, match="tensor of PyTorch"):
        eval_numerical_gradient_array(np.tanh, x, torch.ones(2))


def test_gradients_of_blobs():
    rng = np.random.default_rng(0)
    blob = lambda *s: SimpleNamespace(vals=rng.standard_normal(s), diffs=rng.standard_normal(s))  # noqa: E731
    x, w, out = blob(3, 4), blob(4, 5), blob(3, 5)

    def multiply(x, w, out):
        out.vals[...] = x.vals @ w.vals

    expected = out.diffs @ w.vals.T, x.vals.T @ out.diffs
    for found in (
        eval_numerical_gradient_blobs(multiply, (x, w), out),
        eval_numerical_gradient_net(
            SimpleNamespace(forward=lambda: multiply(x, w, out)), (x, w), out
        ),
    ):
        for gradient, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(gradient, right, rtol=1e-7)


def test_a_few_entries_of_a_gradient(capsys):
    x = np.arange(1.0, 13).reshape(3, 4)
    f = lambda x: float((x**2).sum())  # noqa: E731
    random.seed(0)
    grad_check_sparse(f, x, 2 * x, num_checks=5)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    errors = [float(re.fullmatch(r"numerical: .* error: (.*)", line)[1]) for line in lines]
    assert max(errors) < 1e-8
    grad_check_sparse(f, x, 3 * x, num_checks=1)
    assert "relative error: 2.000000e-01" in capsys.readouterr().out
    grad_check_sparse(lambda x: 0.0, x, 0 * x, num_checks=1)  # 0 of 0
    assert "relative error: 0.000000e+00" in capsys.readouterr().out
    np.testing.assert_array_equal(x, np.arange(1.0, 13).reshape(3, 4))


# -- a student's model in the solver -----------------------------------------------------------


class Students:
    """A model of ours behind the course's interface: params, loss, sample, and no more."""

    def __init__(self, model, null=None):
        self._model, self.params = model, model.params
        if null is not None:
            self._null = null

    def loss(self, features, captions):
        return self._model.loss(features, captions)

    def sample(self, features, max_length=30):
        return self._model.sample(features, max_length)


@pytest.mark.parametrize("null", [None, 0])
def test_a_student_s_model_trains_as_ours_does(published, null):
    data = load_coco_data(published)
    histories = []
    for wrapped in (lambda model: model, lambda model: Students(model, null)):
        model = wrapped(CaptioningRNN(data["word_to_idx"], 6, 5, 4))
        solver = CaptioningSolver(model, data, num_epochs=3, batch_size=10, verbose=False)
        solver.train()
        rows = [(row["train_loss"], row["val_loss"]) for row in solver.history]
        histories.append((solver.loss_history, rows))
    assert histories[0] == histories[1]
    assert solver.model.sample(data["val_features"][:2], 7).shape == (2, 7)


def test_a_model_that_pads_with_another_word_says_so():
    data = {
        "train_captions": np.array([[1, 3, 2, 9, 9], [1, 4, 3, 2, 9]]),
        "train_image_idxs": np.arange(2),
        "train_features": np.ones((2, 6), np.float32),
    }
    model = Students(SimpleNamespace(params={"w": np.zeros(1)}), null=9)
    model.loss = lambda features, captions: (float(captions.shape[1]), {"w": np.zeros(1)})
    solver = CaptioningSolver(model, data, num_epochs=1, verbose=False)
    solver.train()
    assert solver.loss_history == [4.0]  # the last column holds nothing but padding
    assert solver.history[0]["train_loss"] == pytest.approx(4 * 2 / 5)  # five words


# -- data --------------------------------------------------------------------------------------


def test_minibatches_follow_numpy_s_seed(published):
    data = load_coco_data(published)
    draws = []
    for seed in (231, 231, 7):
        np.random.seed(seed)  # noqa: NPY002
        draws.append([sample_coco_minibatch(data, 5)[2].tolist() for _ in range(3)])
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    np.random.seed(231)  # noqa: NPY002
    sample_coco_minibatch(data, 5, rng=np.random.default_rng(0))  # draws nothing from it
    assert sample_coco_minibatch(data, 5)[2].tolist() == draws[0][0]


@pytest.mark.parametrize("system", ["as it is", "without preadv"])
@pytest.mark.parametrize("chunks", [None, (2, 3)])
def test_features_may_be_changed_in_memory_and_no_change_reaches_the_file(
    tmp_path, monkeypatch, chunks, system
):
    if system == "without preadv":  # as on Windows
        monkeypatch.delattr(os, "preadv", raising=False)
    array = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    path = tmp_path / "features.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=array, chunks=chunks)
    before, table = path.read_bytes(), open_features(path)
    mean = array.mean(axis=0)
    for found, expected in (
        (table - mean, array - mean),
        (2 * table, 2 * array),
        (table > 0, array > 0),
        (np.exp(table), np.exp(array)),
        (table.std(axis=0), array.std(axis=0)),
    ):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(table, array)  # none of these changed it

    same = table
    for changed in (table, array):
        changed -= mean
        changed /= 2
        changed[1] = 0
        changed[2:4] += 1
        changed[[0, 1, 5]] *= 3
        np.multiply(changed, 2, out=changed)
        changed[:, 1] = 4
        np.clip(changed, -1, 1, out=changed)
    assert same is table
    assert table.dtype == np.float32
    for rows in (np.s_[:], 3, np.s_[2:5], [4, 0], np.s_[1:3, 2]):
        np.testing.assert_array_equal(table[rows], array[rows])
    table.fill(5)
    assert (table[2] == 5).all()
    assert path.read_bytes() == before


def test_training_reads_what_was_changed(published):
    data = load_coco_data(published)
    data["train_features"] *= 0
    _, features, _ = sample_coco_minibatch(data, 4)
    assert not features.any()
    assert load_coco_data(published)["train_features"][:].any()


# -- checkpoints -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (lambda p: p, "model.params['W_proj'] = np.load(path)['W_proj']"),
        (
            lambda p: {f"params_{name}": value for name, value in p.items()},
            "model.params['W_proj'] = np.load(path)['params_W_proj']",
        ),
        (
            lambda p: {f"model.params.{name}": value for name, value in p.items()},
            "np.load(path)['model.params.W_proj']",
        ),
        (lambda p: p | {"word_to_idx": np.array({"a": 1}, object)}, "np.load(path)['W_proj']"),
        (lambda p: {"params": np.array(p, object)}, "np.savez(path, **model.params)"),
    ],
    ids=["arrays", "prefixed", "dotted", "with pickled extras", "pickled"],
)
def test_a_checkpoint_of_a_student_is_refused_with_how_to_take_it_over(
    tmp_path, command, form, says
):
    path = tmp_path / "rnn_checkpoint.npz"
    np.savez(path, **form(CaptioningRNN({"<NULL>": 0, "<START>": 1, "<END>": 2}, 6, 5, 4).params))
    code, out, complaint = command("inference", "--checkpoint", path, "--split", "val")
    assert (code, out) == (2, "")
    assert str(path) in complaint
    assert says in complaint
    assert "docs/for-cs231n-students.md" in complaint
    assert complaint.count("\n") == 1
    assert "allow_pickle" not in complaint


# -- tensors -----------------------------------------------------------------------------------

TENSOR = "found a tensor of PyTorch, expected a NumPy array; give tensor.detach"
LOSSES = ("temporal_softmax_loss", "doubly_stochastic_loss")
LAYERS = [
    case
    for case in CASES
    if (case.functions[0].endswith("_forward") or case.functions[0] in LOSSES)
    and not case.name.startswith("decoder_block")  # takes its parameters as a dict
]


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_a_tensor_gets_a_sentence(case):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    inputs = case.make(rng, **dict(zip(case.sizes, SIZES, strict=False)))
    forward = our_function(case.functions[0])
    arrays = [name for name, value in inputs.items() if isinstance(value, np.ndarray)]
    for name in arrays:
        with pytest.raises(ValueError, match=TENSOR):
            forward(*(inputs | {name: torch.tensor(inputs[name])}).values())
    if case.functions[0] in LOSSES:
        return
    *outputs, cache = forward(*inputs.values())
    backward = our_function(case.functions[1])
    for place in range(len(outputs)):
        upstream = [np.ones_like(out) for out in outputs]
        upstream[place] = torch.tensor(upstream[place])
        with pytest.raises(ValueError, match=TENSOR):
            backward(*upstream, cache)


def test_a_tensor_gets_a_sentence_from_models_and_update_rules():
    torch = pytest.importorskip("torch")
    words = {"<NULL>": 0, "<START>": 1, "<END>": 2, "a": 3}
    features, captions = np.ones((2, 6), np.float32), np.array([[1, 3, 2], [1, 2, 0]])
    grid = np.ones((2, 3, 6), np.float32)
    for model, seen in (
        (CaptioningRNN(words, 6, 5, 4), features),
        (CaptioningTransformer(words, 6, 8, num_heads=2), grid),
    ):
        for given in (
            (torch.tensor(seen), captions),
            (torch.tensor(seen, requires_grad=True), captions),
            (seen, torch.tensor(captions)),
            (seen, captions, torch.ones(2)),
        ):
            with pytest.raises(ValueError, match=TENSOR):
                model.loss(*given)
        with pytest.raises(ValueError, match=TENSOR):
            model.sample(torch.tensor(seen))
    params = {name: model.params[f"block0.{name}"] for name in BLOCK_SHAPES}
    x = np.ones((2, 3, 8))
    for given in ((torch.tensor(x), x, params), (x, torch.tensor(x), params)):
        for norm_first in (True, False):
            with pytest.raises(ValueError, match=TENSOR):
                decoder_block_forward(*given, num_heads=2, norm_first=norm_first)
    _, cache = decoder_block_forward(x, x, params, num_heads=2)
    with pytest.raises(ValueError, match=TENSOR):
        decoder_block_backward(torch.tensor(x), cache)
    w, tensor = np.ones(3), torch.ones(3)
    for rule in optim.RULES.values():
        for given in ((tensor, w), (w, tensor), (torch.nn.Parameter(tensor), tensor)):
            with pytest.raises(ValueError, match=TENSOR):
                rule(*given)
    with pytest.raises(ValueError, match=TENSOR):
        optim.clip_gradient_norm({"w": tensor}, 1.0)
