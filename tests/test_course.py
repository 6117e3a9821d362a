"""Code written for the CS231n captioning assignment runs with its imports changed, and its known
answers hold. (Stanford CS231n, assignment 3, "Image captioning with RNNs" and "... LSTMs".)
"""

from __future__ import annotations

import numpy as np
import pytest

from core.captioning_solver import CaptioningSolver
from core.classifiers.rnn import CaptioningRNN
from core.coco_utils import decode_captions, load_coco_data, sample_coco_minibatch
from core.gradient_check import eval_numerical_gradient, eval_numerical_gradient_array
from core.image_utils import image_from_url
from core.rnn_layers import lstm_step_forward, rnn_forward, rnn_step_backward, rnn_step_forward


def rel_error(x, y):
    """The course's element-wise error."""
    return np.max(np.abs(x - y) / (np.maximum(1e-8, np.abs(x) + np.abs(y))))


@pytest.mark.parametrize(
    ("cell_type", "first", "last", "expected"),
    [("rnn", -1.5, 0.3, 9.83235591003), ("lstm", -0.5, 1.7, 9.82445935443)],
)
def test_known_losses(cell_type, first, last, expected):
    N, D, W, H = 10, 20, 30, 40
    word_to_idx = {"<NULL>": 0, "cat": 2, "dog": 3}
    V = len(word_to_idx)
    T = 13
    model = CaptioningRNN(
        word_to_idx,
        input_dim=D,
        wordvec_dim=W,
        hidden_dim=H,
        cell_type=cell_type,
        dtype=np.float64,
    )
    # Set all model parameters to fixed values
    for k, v in model.params.items():
        model.params[k] = np.linspace(-1.4, 1.3, num=v.size).reshape(*v.shape)
    features = np.linspace(first, last, num=(N * D)).reshape(N, D)
    captions = (np.arange(N * T) % V).reshape(N, T)  # <NULL> in the middle

    loss, _ = model.loss(features, captions)
    assert abs(loss - expected) < 1e-11


def test_known_steps():
    """The course's own inputs and answers, eight digits each."""
    N, D, H = 3, 10, 4
    next_h, _ = rnn_step_forward(
        np.linspace(-0.4, 0.7, num=N * D).reshape(N, D),
        np.linspace(-0.2, 0.5, num=N * H).reshape(N, H),
        np.linspace(-0.1, 0.9, num=D * H).reshape(D, H),
        np.linspace(-0.3, 0.7, num=H * H).reshape(H, H),
        np.linspace(-0.2, 0.4, num=H),
    )
    expected = [
        [-0.58172089, -0.50182032, -0.41232771, -0.31410098],
        [0.66854692, 0.79562378, 0.87755553, 0.92795967],
        [0.97934501, 0.99144213, 0.99646691, 0.99854353],
    ]
    np.testing.assert_allclose(next_h, expected, atol=1e-8)

    N, D, H = 3, 4, 5
    next_h, next_c, _ = lstm_step_forward(
        np.linspace(-0.4, 1.2, num=N * D).reshape(N, D),
        np.linspace(-0.3, 0.7, num=N * H).reshape(N, H),
        np.linspace(-0.4, 0.9, num=N * H).reshape(N, H),
        np.linspace(-2.1, 1.3, num=4 * D * H).reshape(D, 4 * H),
        np.linspace(-0.7, 2.2, num=4 * H * H).reshape(H, 4 * H),
        np.linspace(0.3, 0.7, num=4 * H),
    )
    expected_h = [
        [0.24635157, 0.28610883, 0.32240467, 0.35525807, 0.38474904],
        [0.49223563, 0.55611431, 0.61507696, 0.66844003, 0.7159181],
        [0.56735664, 0.66310127, 0.74419266, 0.80889665, 0.858299],
    ]
    expected_c = [
        [0.32986176, 0.39145139, 0.451556, 0.51014116, 0.56717407],
        [0.66382255, 0.76674007, 0.87195994, 0.97902709, 1.08751345],
        [0.74192008, 0.90592151, 1.07717006, 1.25120233, 1.42395676],
    ]
    np.testing.assert_allclose(next_h, expected_h, atol=1e-8)
    np.testing.assert_allclose(next_c, expected_c, atol=1e-8)


def test_the_first_cell_prints_every_entry_of_the_data(shapes_folder):
    for name, value in load_coco_data(base_dir=shapes_folder).items():
        if type(value) is np.ndarray:
            assert value.shape, name
        else:
            assert len(value) > 0, name


def test_a_picture_that_is_gone_does_not_stop_a_notebook():
    with pytest.warns(UserWarning, match="no picture"):
        assert image_from_url("http://127.0.0.1:9/gone.jpg").shape[2] == 3


def test_gradient_checks_as_the_notebooks_write_them():
    rng = np.random.default_rng(231)
    N, D, H = 4, 5, 6
    x, h = rng.standard_normal((N, D)), rng.standard_normal((N, H))
    Wx, Wh, b = rng.standard_normal((D, H)), rng.standard_normal((H, H)), rng.standard_normal(H)
    out, cache = rnn_step_forward(x, h, Wx, Wh, b)
    dnext_h = rng.standard_normal(out.shape)

    fWh = lambda Wh: rnn_step_forward(x, h, Wx, Wh, b)[0]  # noqa: E731
    dWh_num = eval_numerical_gradient_array(fWh, Wh, dnext_h)
    _, _, _, dWh, _ = rnn_step_backward(dnext_h, cache)
    assert rel_error(dWh_num, dWh) < 1e-7

    T = 10
    xs = rng.standard_normal((N, T, D))
    hs, _ = rnn_forward(xs, h, Wx, Wh, b)
    assert hs.shape == (N, T, H)


@pytest.mark.parametrize("cell_type", ["rnn", "lstm"])
def test_model_gradients_as_the_notebooks_write_them(cell_type):
    """Reassigned parameters, a vocabulary without <START>, checks in place through a closure."""
    rng = np.random.default_rng(231)
    batch_size, timesteps, input_dim, wordvec_dim, hidden_dim = 2, 3, 4, 5, 6
    word_to_idx = {"<NULL>": 0, "cat": 2, "dog": 3}
    vocab_size = len(word_to_idx)
    captions = rng.integers(vocab_size, size=(batch_size, timesteps))
    features = rng.standard_normal((batch_size, input_dim))
    model = CaptioningRNN(
        word_to_idx,
        input_dim=input_dim,
        wordvec_dim=wordvec_dim,
        hidden_dim=hidden_dim,
        cell_type=cell_type,
        dtype=np.float64,
    )
    for name, value in model.params.items():
        model.params[name] = rng.standard_normal(value.shape)
    _, grads = model.loss(features, captions)
    assert grads.keys() == model.params.keys()
    for name in sorted(grads):
        f = lambda _: model.loss(features, captions)[0]  # noqa: E731
        numerical = eval_numerical_gradient(f, model.params[name], verbose=False, h=1e-6)
        assert np.linalg.norm(numerical - grads[name]) <= 1e-6 * np.linalg.norm(grads[name])


@pytest.mark.slow
def test_overfitting_as_the_notebooks_write_it(shapes_folder):
    small_data = load_coco_data(base_dir=shapes_folder, max_train=50)
    model = CaptioningRNN(
        cell_type="rnn",
        word_to_idx=small_data["word_to_idx"],
        input_dim=small_data["train_features"].shape[1],
        hidden_dim=512,
        wordvec_dim=256,
    )
    solver = CaptioningSolver(
        model,
        small_data,
        update_rule="adam",
        num_epochs=50,
        batch_size=25,
        optim_config={"learning_rate": 5e-3},
        lr_decay=0.95,
        verbose=False,
        print_every=10,
    )
    solver.train()
    assert len(solver.loss_history) == 100
    assert solver.loss_history[-1] < 0.1 * solver.loss_history[0]

    gt_captions, features, urls = sample_coco_minibatch(small_data, split="train", batch_size=2)
    gt_captions = decode_captions(gt_captions, small_data["idx_to_word"])
    sample_captions = model.sample(features)
    assert sample_captions.shape == (2, 30)
    sample_captions = decode_captions(sample_captions, small_data["idx_to_word"])
    assert len(gt_captions) == len(sample_captions) == len(urls) == 2
