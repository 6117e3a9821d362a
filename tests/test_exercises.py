"""The exercises of the lessons: what is right holds, and what is wrong fails with a sentence.

The cells of the solutions run here, in this process, with wrong answers in the place of the
functions that a learner writes.
"""

import ast
import re
import sys

import matplotlib.pyplot as plt
import pytest
from test_lessons import ROOT

sys.path.insert(0, str(ROOT / "notebooks"))
import build

# By exercise: wrong answers, each a function (or more) by its source, and a part of the sentence.
# "def f: -> x" is short for a function with the arguments of the solution's.
WRONG = {
    "01.1": [
        ("words_to_say: (captions != null).sum(axis=1)", "<START> is given"),
        ("words_to_say: (captions[:, 1:-1] != null).sum(axis=1) - 1", "<END> must be said"),
        ("words_to_say: (captions[:, 1:] != 0).sum(axis=1)", "when <NULL> is not 0"),
        ("words_to_say: (captions[:, 1:] != null).sum()", "one number for each caption"),
        ("words_to_say: (captions[:, 1:] != null).mean(axis=1)", "expected integers"),
        ("words_to_say: [5 for _ in captions]", "returned a list, expected an array"),
    ],
    "01.2": [
        ("share_kept: np.linalg.svd(x - x.mean(0))[1][:k].sum() / np.linalg.svd(x - x.mean(0))[1]"
         ".sum()", "squares of the singular values"),
        ("share_kept: (np.linalg.svd(x)[1][:k] ** 2).sum() / (np.linalg.svd(x)[1] ** 2).sum()",
         "not centred"),
        ("share_kept: 100 * fit_pca(x, k).explained", "too large"),
    ],
    "01.3": [
        ("consensus: min(captions, key=len)", "the shortest caption"),
        ("consensus: max(captions, key=captions.count)", "the most frequent caption"),
        ("consensus: captions[0]", "the first caption"),
        ("consensus: 3", "returned 3, which is not right"),
    ],
    "02.1": [
        ("extrapolated: (4 * D(h) + D(2 * h)) / 5", "they must cancel"),
        ("extrapolated: 2 * D(h) - D(2 * h)", "4 times as large"),
        ("extrapolated: (4 * D(2 * h) - D(h)) / 3", "exchanged"),
        ("extrapolated: ((4 * D(h) - D(2 * h)) / 3).astype(np.float32)", "returned float32"),
    ],
    "02.2": [
        ("mended_backward: (dnext_h, *cache[:4])", "does not hold"),
        ("mended_backward: faulty_backward(dnext_h, cache)", "does not hold"),
    ],
    "02.3": [
        ("holds: True", "a backward that writes is called right"),
        ("holds: relative_error(backward(np.ones_like(x), x), eval_numerical_gradient_array("
         "forward, x, np.ones_like(x))) < 1e-6", "a backward that writes is called right"),
        ("holds: np.allclose(backward(np.sin(x), x.copy()), eval_numerical_gradient_array("
         "forward, x, np.sin(x)))", "writes is called right"),
        ("holds: False", "a layer that is right is called wrong"),
    ],
    "03.1": [
        ("one_hot_backward: dout.reshape(cache[0].size, -1)", "does not hold"),
        ("one_hot_backward: 2 * np.eye(len(cache[1]))[cache[0].ravel()].T @ dout.reshape("
         "cache[0].size, -1)", "does not hold"),
    ],
    "03.2": [
        ("my_loss: tuple(part * len(x) / max(1, mask.sum()) for part in "
         "temporal_softmax_loss(x, y, mask))", "does not hold"),
        ("my_loss: temporal_softmax_loss(x, y, mask)[0]", ""),
        ("my_loss: tuple(x * part for part in temporal_softmax_loss(x, y, mask))", ""),
    ],
    "03.3": [
        ("window_loss: (0.0, {name: np.zeros_like(value) for name, value in params.items()})",
         "loss_of_equal_scores returned 0"),
        ("window_loss: (0.0, {'w1': 1})", "lacks the key 'W_embed'"),
    ],
    "04.1": [
        ("weights_of_mean: (1 - beta) * beta ** np.arange(t - 1, -1, -1.0)", "bias correction"),
        ("weights_of_mean: (1 - beta) * beta ** np.arange(t) / (1 - beta**t)", "first gradient"),
        ("weights_of_mean: np.ones(t) / t", "wrong at"),
    ],
    "04.2": [
        ("def my_adam(w, dw, config):\n"
         "    w -= 0.1 * dw\n"
         "    return w, config", "it writes into w"),
        ("def my_adam(w, dw, config):\n"
         "    t = config.get('t', 0) + 1\n"
         "    b, c = config['beta1'], config['beta2']\n"
         "    m = b * config.get('m', 0) + (1 - b) * dw\n"
         "    v = c * config.get('v', 0) + (1 - c) * dw**2\n"
         "    root = np.sqrt(v / (1 - c**t) + config['epsilon'])\n"
         "    step = config['learning_rate'] * m / (1 - b**t) / root\n"
         "    return w - step, {**config, 't': t, 'm': m, 'v': v}", "epsilon is inside the root"),
        ("def my_adam(w, dw, config):\n"
         "    t = config.get('t', 0) + 1\n"
         "    b, c = config['beta1'], config['beta2']\n"
         "    m = b * config.get('m', 0) + (1 - b) * dw\n"
         "    v = c * config.get('v', 0) + (1 - c) * dw**2\n"
         "    root = np.sqrt(v) + config['epsilon']\n"
         "    return w - config['learning_rate'] * m / root, {**config, 't': t, 'm': m, 'v': v}",
         "both bias corrections are missing"),
        ("def my_adam(w, dw, config):\n"
         "    t = config.get('t', 0) + 1\n"
         "    m = 0.9 * config.get('m', 0) + 0.1 * dw\n"
         "    v = 0.99 * config.get('v', 0) + 0.01 * dw**2\n"
         "    root = np.sqrt(v / (1 - 0.99**t)) + 1e-8\n"
         "    return w - 0.1 * m / (1 - 0.9**t) / root, {'t': t, 'm': m, 'v': v}",
         "with other numbers in config"),
        ("def my_adam(w, dw, config):\n"
         "    step = config['learning_rate'] * dw / (np.abs(dw) + config['epsilon'])\n"
         "    return w - step, config", "is right up to step 1 of 20"),
        ("my_adam: (w, config)", "is zero everywhere"),
    ],
    "04.3": [
        ("nesterov: sgd_momentum(w, dw, {**config})", ""),
        ("def nesterov(w, dw, config):\n"
         "    old = config.get('velocity', 0)\n"
         "    m = config['momentum'] * old + dw\n"
         "    w -= config['learning_rate'] * (dw + config['momentum'] * m)\n"
         "    return w, {**config, 'velocity': m}", "it writes into w"),
        ("def nesterov(w, dw, config):\n"
         "    m = config['momentum'] * config.get('velocity', 0) + dw\n"
         "    return w - config['learning_rate'] * m, {**config, 'velocity': m}",
         "does not look ahead"),
        ("steps_to_the_bottom: (131, 66)", "rises again later"),
        ("steps_to_the_bottom: (167, 100)", "one too few or too many"),
        ("steps_to_the_bottom: (101, 168)", "Nesterov's count is the second"),
        ("steps_to_the_bottom: (150, 90)", "found (150, 90), expected two counts"),
    ],
    "05.1": [
        ("gradient_before_tanh: dnext_h * (1 - next_h)", "the square of tanh"),
        ("gradient_before_tanh: dnext_h * (1 - np.tanh(next_h) ** 2)", "one too many"),
        ("gradient_before_tanh: (dnext_h * (1 - next_h**2)).T", "two axes are exchanged"),
        ("gradient_before_tanh: -dnext_h * (1 - next_h**2)", "the wrong sign"),
        ("gradient_before_tanh: (dnext_h * (1 - next_h**2)).astype('f4')", "returned float32"),
    ],
    "05.2": [
        ("steps_backward: (dh, dh[:, 0], *cache[2:5])", "does not hold"),
        ("steps_backward: [dh]", ""),
    ],
    "05.3": [
        ("def relu_step_forward(x, prev_h, Wx, Wh, b):\n"
         "    h = np.tanh(x @ Wx + prev_h @ Wh + b)\n"
         "    return h, (x, prev_h, Wx, Wh, np.maximum(h, 0))", "['next_h']"),
        ("def relu_step_backward(dnext_h, cache):\n"
         "    x, prev_h, Wx, Wh, next_h = cache\n"
         "    da = dnext_h * (next_h >= 0)\n"
         "    return da @ Wx.T, da @ Wh.T, x.T @ da, prev_h.T @ da, da.sum(axis=0)", "['dx']"),
        ("share_left: scale ** (T - 1)", "one step too few"),
        ("share_left: scale ** (2 * T)", "the squares of the lengths"),
        ("share_left: 1 / 0", "raised ZeroDivisionError"),
    ],
    "06.1": [
        ("forget_gate_gradient: dc * prev_c", "that is df"),
        ("forget_gate_gradient: dc * prev_c * (1 - f**2)", "a gate is a sigmoid"),
        ("forget_gate_gradient: dc * f * (1 - f)", "what the gate multiplies"),
        ("def forget_gate_gradient(dc, prev_c, f):\n"
         "    dc *= prev_c * f * (1 - f)\n"
         "    return dc", "writes into what it was given"),
    ],
    "06.2": [
        ("step_backward: (dnext_h, dnext_h, dnext_c, *cache[3:5], dnext_h)", "does not hold"),
        ("step_backward: (1, 2)", ""),
    ],
    "06.3": [
        ("gru_step_forward: ((1 + x.sum()) * prev_h, None)", "wrong at"),
        ("def gru_step_forward(x, prev_h, Wx, Wh, b):\n"
         "    r, z, n = (x @ Wx[:, i:i + 5] + b[i:i + 5] for i in (0, 5, 10))\n"
         "    r, z = sigmoid(r + prev_h @ Wh[:, :5]), sigmoid(z + prev_h @ Wh[:, 5:10])\n"
         "    n = np.tanh(n + (r * prev_h) @ Wh[:, 10:])\n"
         "    return z * prev_h + (1 - z) * n, None", "the order r, z, n"),
        ("gru_step_backward: [1, 2, 3, 4, 5]", "returned a list, expected a tuple of 5"),
        ("gru_step_backward: tuple(np.zeros_like(a) for a in gru_arguments)", "zero everywhere"),
    ],
    "07.1": [
        ("operations_of_a_word: 3 * (W * H + H * H + H * V)", "two operations"),
        ("operations_of_a_word: 2 * (W * H + H * H + H * V)", "the forward alone"),
        ("operations_of_a_word: 6 * (W * H + H * H)", "the scores need a product"),
    ],
    "07.2": [
        ("one_product_backward: (dh, dh[:, 0], *cache[2:4], cache[3])", "does not hold"),
        ("one_product_backward: (dh,)", ""),
    ],
    "07.3": [
        ("rnn_without_padding: rnn_forward(x, h0, Wx, Wh, b)[0]", "rnn_without_padding is wrong"),
        ("rnn_without_padding: with_padding(x, lengths, h0, Wx, Wh, b)[np.argsort(-lengths,"
         " kind='stable')]", "the order of their lengths"),
        ("rnn_without_padding: with_padding(x, lengths, h0, Wx, Wh, b)", "product is not used"),
        ("rnn_without_padding: with_padding(x, lengths, h0, Wx, Wh, b) + 0 * "
         "product(x.reshape(-1, 4)[:, :1], Wh[:1]).sum()", "padding is multiplied"),
    ],
    "08.1": [
        ("scores_gradient: weights * dweights", "the second term of the Jacobian"),
        ("scores_gradient: dweights * weights * (1 - weights)", "the diagonal"),
        ("scores_gradient: weights * (dweights - (weights * dweights).sum(axis=2, keepdims=True))",
         "for (N, L)"),
        ("scores_gradient: weights * (dweights - (weights * dweights).sum())", "last axis alone"),
    ],
    "08.2": [
        ("attention_backward: tuple(cache[:6])", "does not hold"),
        ("attention_backward: None", ""),
    ],
    "08.3": [
        ("product_forward: (features.mean(axis=1), None)", ""),
        ("product_backward: tuple(np.zeros_like(a) for a in cache[:4])", "['dfeatures'] is zero"),
        ("mean_entropies: (0.2, 3.7)", "the division comes first"),
        ("mean_entropies: (-3.7, -0.2)", "mind the sign"),
        ("mean_entropies: (5.34, 0.6)", "those are bits"),
    ],
    "09.1": [
        ("mask_of: np.tri(T, dtype=bool) & np.ones((len(lengths), 1, 1), bool)", "padding can"),
        ("mask_of: (np.tri(T) * (np.arange(T) < lengths[:, None, None])).astype(int)",
         "returned integers, expected booleans"),
        ("mask_of: np.tri(T, k=-1, dtype=bool) & (np.arange(T) < lengths[:, None, None])",
         "must see itself"),
        ("mask_of: np.tri(T, dtype=bool).T & (np.arange(T) < lengths[:, None, None])",
         "those before it"),
        ("mask_of: np.tri(T, dtype=bool)", "returned shape (5, 5), expected (4, 5, 5)"),
    ],
    "09.2": [
        ("attention_backward: (dout, cache[1], cache[2])", "does not hold"),
        ("attention_backward: dout", ""),
    ],
    "09.3": [
        ("kept_numbers_ratio: 1 / num_heads", "come first"),
        ("kept_numbers_ratio: 2 * num_heads", "both keep keys and values"),
        ("multi_query_backward: tuple(np.zeros_like(w) for w in cache[:5])", "zero everywhere"),
    ],
    "10.1": [
        ("parameters_of_a_block: 6 * E + 2 * (4 * E**2 + 4 * E) + 2 * E * F + F + E", "no bias"),
        ("parameters_of_a_block: 3 * E + 2 * (4 * E**2 + 3 * E) + 2 * E * F + F + E", "a gain"),
        ("parameters_of_a_block: 6 * E + 2 * (4 * E**2 + 3 * E) + 2 * E * F", "has biases"),
        ("parameters_of_a_block: E / 7", "expected a whole number"),
    ],
    "10.2": [
        ("norm_backward: (dout, cache[2], cache[2])", "does not hold"),
        ("rms_norm_backward: dout / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps)",
         "no term stays"),
        ("def rms_norm_backward(dout, x, eps=1e-5):\n"
         "    y = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5)\n"
         "    return y / x * (dout - y * (dout * y).mean(axis=1, keepdims=True))",
         "eps of the arguments is not used"),
        ("def rms_norm_backward(dout, x, eps=1e-5):\n"
         "    y = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps)\n"
         "    return y / x * (dout - dout.mean(axis=1, keepdims=True)\n"
         "                    - y * (dout * y).mean(axis=1, keepdims=True))", "both terms stay"),
    ],
    "10.3": [
        ("def rotate_forward(x, positions):\n"
         "    angles = positions[:, None] * 10000.0 ** (-np.arange(0, 1, 2 / x.shape[-1]))\n"
         "    out, (c, s) = np.empty_like(x), (np.cos(angles), -np.sin(angles))\n"
         "    out[..., 0::2] = x[..., 0::2] * c - x[..., 1::2] * s\n"
         "    out[..., 1::2] = x[..., 0::2] * s + x[..., 1::2] * c\n"
         "    return out, (c, s)", "it turns the other way"),
        ("rotate_forward: (x, (1, 0))", "['out']"),
        ("rotate_backward: dout", "['dx']"),
        ("score: float(q @ k)", "found [-7.47"),
        ("score: expected(r - p)", "found"),
    ],
    "11.1": [
        ("def at_temperature(log_probs, T):\n"
         "    p = np.exp(log_probs) ** (1 / T)\n"
         "    return p / p.sum(axis=1, keepdims=True)", "is NaN at"),
        ("at_temperature: log_softmax(log_probs / T)", "those are log-probabilities"),
        ("at_temperature: np.exp(log_softmax(log_probs * T))", "multiplies by T"),
        ("at_temperature: np.exp(log_probs / T)", "do not sum to 1"),
    ],
    "11.2": [
        ("def best_continuations(log_p, log_probs):\n"
         "    N, K, V = log_probs.shape\n"
         "    total = (log_p[:, :, None] + log_probs).reshape(N, K * V)\n"
         "    best = np.argpartition(-total, K - 1, axis=1)[:, :K]\n"
         "    return best // V, best % V, np.take_along_axis(total, best, axis=1)",
         "with 400 beams, [0] has the right entries in another order"),
        ("def best_continuations(log_p, log_probs):\n"
         "    beam, word, total = by_sorting(log_p, log_probs)\n"
         "    return beam[:, ::-1], word[:, ::-1], total[:, ::-1]", "not sorted from the best"),
        ("def best_continuations(log_p, log_probs):\n"
         "    beam, word, total = by_sorting(log_p, log_probs)\n"
         "    return word, beam, total", "the beam and the word are exchanged"),
        ("best_continuations: list(by_sorting(log_p, log_probs))", "expected a tuple of 3"),
    ],
    "11.3": [
        ("consensus: [min(said, key=len) for said in zip(*draws)]", "the shortest draws"),
        ("consensus: [max(said, key=said.count) for said in zip(*draws)]", "not right"),
        ("consensus: draws[0]", "not right"),
        ("consensus: 'a cat'", "returned a text, expected a list"),
    ],
    "12.1": [
        ("size_after: (size + 2 * pad - k) // stride", "the first window counts"),
        ("size_after: (size + pad - k) // stride + 1", "padding is on both sides"),
        ("size_after: (size + 2 * pad - k) / stride + 1", "expected a whole number"),
    ],
    "12.2": [
        ("fold: (K * (gamma / (np.sqrt(var) + eps))[:, None, None, None], "
         "(b - mu) * gamma / (np.sqrt(var) + eps) + beta)", "epsilon is outside the root"),
        ("fold: (K * (gamma / np.sqrt(var + eps))[:, None, None, None], beta)", "[1]"),
        ("fold: (K, (b - mu) * gamma / np.sqrt(var + eps) + beta)", "the kernel is not scaled"),
        ("fold: [K, b]", "returned a list, expected a tuple of 2"),
    ],
    "12.3": [
        ("which_habit: 'none'", "[0] returned 'none', which is not right (4 of 5 are wrong)"),
        ("def which_habit(pictures, features):\n"
         "    habits = {'none': lambda p: p, 'blue first': lambda p: p[..., ::-1],\n"
         "              '0 to 1': lambda p: p / 255, 'mirrored': lambda p: p[:, :, ::-1],\n"
         "              'quarter turn': lambda p: np.rot90(p, axes=(1, 2))}\n"
         "    def gap(habit):  # in the order of the pictures, which she did not keep\n"
         "        ours = fixed_cnn.grid_features(np.ascontiguousarray(habit(pictures)))\n"
         "        return np.abs(ours - features.astype(float)).mean()\n"
         "    return min(habits, key=lambda name: gap(habits[name]))", "which is not right"),
        ("which_habit: 3", "which is not right"),
    ],
    "13.1": [
        ("error_of_difference: np.sqrt((np.var(one) + np.var(other)) / len(one))",
         "not independent"),
        ("error_of_difference: (np.std(one) + np.std(other)) / np.sqrt(len(one))",
         "errors do not add up"),
        ("def error_of_difference(one, other):\n"
         "    p = abs(np.mean(other) - np.mean(one))\n"
         "    return np.sqrt(p * (1 - p) / len(one))", "not its variance"),
        ("error_of_difference: np.std(other - one)", "spread of single pictures"),
        ("error_of_difference: np.std(other - one) / len(one)", "root of m"),
        ("error_of_difference: np.var(other - one) / len(one)", "take its root"),
        ("error_of_difference: np.std(other - one, ddof=1) / np.sqrt(len(one))", "not by m - 1"),
    ],
    "13.2": [
        ("paired_interval: np.percentile((one - other)[draws].mean(axis=1), (2.5, 97.5))",
         "other less one"),
        ("paired_interval: np.percentile((other - one)[draws].mean(axis=0), (2.5, 97.5))",
         "over the pictures"),
        ("paired_interval: tuple(np.percentile((other - one)[draws].mean(axis=1), (2.5, 97.5)))",
         "returned a tuple, expected an array"),
    ],
    "13.3": [
        ("share_of_facts: len(set(words) & set(references[0])) / len(words)", "no facts"),
        ("share_of_facts: len(words)", "it must be a share"),
        ("share_of_facts: 1 / 0", "raised ZeroDivisionError"),
    ],
    "14.1": [
        ("how_sure: np.exp(log_probabilities.mean(axis=1))", "behind the end"),
        ("how_sure: np.exp(log_probabilities.sum(axis=1))", "take its root"),
        ("how_sure: np.log(by_multiplying(log_probabilities))", "those are logarithms"),
        ("how_sure: by_multiplying(log_probabilities).tolist()", "returned a list"),
    ],
    "14.2": [
        ("captions_text: '\\n'.join(['image,caption', *map(','.join, pairs)])", ""),
        ("captions_text: '\\n'.join(['image,caption', *(f'{a},\"{b}\"' for a, b in pairs)])", ""),
    ],
    "14.3": [
        ("diagnosis: 'healthy'", "[1] returned 'healthy', which is not right (3 of 4"),
        ("diagnosis: 'encoder' if features.std() < 0.1 else 'healthy'", "not right"),
    ],
}  # fmt: skip
# Other right answers than the solution's, which must not be refused.
RIGHT = {
    "01.1": ["words_to_say: np.array([np.sum(row != null) for row in captions]) - 1"],
    "02.1": ["extrapolated: D(h) + (D(h) - D(2 * h)) / 3"],
    "04.2": [
        "def my_adam(w, dw, config):\n"
        "    config.setdefault('m', np.zeros_like(w)), config.setdefault('v', np.zeros_like(w))\n"
        "    config['t'] = config.get('t', 0) + 1\n"
        "    config['m'] += (1 - config['beta1']) * (dw - config['m'])\n"
        "    config['v'] += (1 - config['beta2']) * (dw**2 - config['v'])\n"
        "    m = config['m'] / (1 - config['beta1'] ** config['t'])\n"
        "    v = config['v'] / (1 - config['beta2'] ** config['t'])\n"
        "    return w - config['learning_rate'] * m / (v**0.5 + config['epsilon']), config"
    ],
    "04.3": ["steps_to_the_bottom: [168, 101]"],
    "11.1": [
        "def at_temperature(log_probs, T):\n"
        "    p = np.exp((log_probs - log_probs.max(axis=1, keepdims=True)) / T)\n"
        "    return p / p.sum(axis=1, keepdims=True)"
    ],
    "11.2": [
        "def best_continuations(log_p, log_probs):\n"
        "    N, K, V = log_probs.shape\n"
        "    total = (log_p[:, :, None] + log_probs).reshape(N, K * V)\n"
        "    some = np.argpartition(-total, K - 1, axis=1)[:, :K]\n"
        "    order = np.argsort(-np.take_along_axis(total, some, axis=1), axis=1)\n"
        "    best = np.take_along_axis(some, order, axis=1)\n"
        "    return best // V, best % V, np.take_along_axis(total, best, axis=1)"
    ],
    "12.1": ["size_after: int((size + 2 * pad - k) / stride) + 1"],
    "13.1": [
        "error_of_difference: by_counting(one, other)",
        "error_of_difference: np.sqrt(np.cov(one, other, ddof=0) @ [1, -1] @ [1, -1] / len(one))",
    ],
    "14.1": ["how_sure: np.exp(log_probabilities.sum(1) / (log_probabilities < 0).sum(1))"],
}
# A lesson, or what goes deeper than it.
NOTEBOOKS = [
    master
    for master in sorted(build.MASTERS.glob("[0-9][0-9]*.py"))
    if "### Exercise" in master.read_text(encoding="utf-8")
]
# Cells that train or draw for seconds; ``notebooks/build.py check`` runs these.
LONG = ("trained_loss,", "truth_and_words,", "share_true(consensus(draws))", "correlation_with")


def cells_of(master):
    """The code cells of a notebook's solutions: those before the exercises, then by exercise."""
    found, exercise = {"": []}, ""
    for cell in build.notebooks_of(master)["solutions"].cells[2:]:
        if heading := re.search(r"### Exercise (\d)", cell.source):
            exercise = f"{master.name[:2]}.{heading[1]}"
        if cell.cell_type == "code":
            found.setdefault(exercise, []).append(cell.source)
    return found


def run(source, names, instead=()):
    """Runs a cell with other functions in the place of those it defines; its last value."""
    tree = ast.parse(source)
    theirs = {function.name: function for function in instead}
    tree.body = [theirs.get(getattr(node, "name", None), node) for node in tree.body]
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None


def written(wrong, sources):
    """The functions of a wrong answer, with the arguments of the solution when it is one line."""
    if not wrong.startswith("def "):
        name, value = wrong.split(": ", 1)
        head = re.search(rf"^def {name}\(.*?\):$", "\n".join(sources), re.M)[0]
        wrong = f"{head}\n    return {value}"
    return ast.parse(wrong).body


def answers(sources, names, instead=()):
    for source in sources:
        if not any(long in source for long in LONG):
            answer = run(source, names, instead)
            if answer is not None:
                yield answer


def test_each_exercise_has_wrong_answers():
    assert list(WRONG) == [
        f"{lesson:02}.{number}" for lesson in range(1, 15) for number in (1, 2, 3)
    ]
    assert min(map(len, WRONG.values())) >= 2
    asked = [exercise for master in NOTEBOOKS for exercise in cells_of(master) if exercise]
    assert sorted(asked) == list(WRONG)


@pytest.mark.parametrize("master", NOTEBOOKS, ids=lambda path: path.stem)
def test_wrong_answers_fail_with_a_sentence(master, monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    cells, names = cells_of(master), {"__name__": "notebook"}
    with plt.rc_context():
        for source in cells.pop(""):
            run(source, names)
        faults = [
            f"{exercise} with {wrong!r}: {fault}"
            for exercise, sources in cells.items()
            for wrong, sentence in [
                ("", None),
                *((other, None) for other in RIGHT.get(exercise, ())),
                *WRONG[exercise],
            ]
            if (fault := fault_of(wrong, sentence, sources, names))
        ]
    assert not faults, "\n".join(faults)


def fault_of(wrong, sentence, sources, names):
    """What is not as it should be when a wrong answer, or the solution, is answered."""
    instead = written(wrong, sources) if wrong else ()
    names = names.copy() if wrong else names  # later exercises use the solutions of earlier ones
    said = next((a for a in answers(sources, names, instead) if not a), None)
    if sentence is None:
        return said and f"what is right is refused: {said}"
    if said is None:
        return "it holds"
    text = repr(said)
    print(f"    {wrong!r}\n        {text}")
    table = hasattr(said, "rows")  # the gradient check shows more than a sentence
    if sentence in text and (table or (len(text) < 400 and "\n" not in text)):
        return None
    return f"expected {sentence!r} in one sentence, found {text}"
