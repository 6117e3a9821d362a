"""Typical wrong answers to the exercises of the lessons, each with the sentence that names it.

``compare`` and ``confirm`` say a sentence when a learner's values are those of its slip. The table
is here and not in the notebooks, because most slips are nearly the answer.

``COMPARED`` has functions ``slip(right, *arguments)``: what is right, and what the learner was
given, to the wrong values. ``CONFIRMED`` has functions of what a learner found: whether it comes
of the slip. Keys are the numbers of lesson and exercise; a letter tells a second cell apart.
"""

from __future__ import annotations

import numpy as np

from core.layers import log_softmax, sigmoid


def _share(x, k, power):
    values = np.linalg.svd(x, compute_uv=False) ** power
    return values[:k].sum() / values.sum()


def _loss(loss_factor, gradient_factor):
    """Factors, functions of the mask, on a loss and its gradient."""

    def slip(right, scores, y, mask):
        return loss_factor(mask) * right[0], gradient_factor(mask) * right[1]

    return slip


def _per_token(mask):
    return len(mask) / mask.sum()


def _adam(without):
    def slip(right, gradients, numbers):
        rate, beta1, beta2, epsilon = numbers.values()
        m, v, w, way = 0, 0, 0, []
        for t, dw in enumerate(gradients, 1):
            m = beta1 * m + (1 - beta1) * dw
            v = beta2 * v + (1 - beta2) * (np.abs(dw) if without == "square" else dw**2)
            m_hat = m if without in ("m", "m and v") else m / (1 - beta1**t)
            v_hat = v if without in ("v", "m and v") else v / (1 - beta2**t)
            inside = epsilon if without == "place" else 0
            w = w - rate * m_hat / (np.sqrt(v_hat + inside) + epsilon - inside)
            way.append(w)
        return np.array(way)

    return slip


def _momentum(ahead):
    """Momentum that looks ahead with the velocity of before, or not at all."""

    def slip(right, gradients, rate, momentum):
        velocity, w, way = 0, 0, []
        for dw in gradients:
            before, velocity = velocity, momentum * velocity + dw
            w = w - rate * (dw + momentum * before if ahead else velocity)
            way.append(w)
        return np.array(way)

    return slip


def _gru(order=(0, 1, 2), exchanged=False, late=False):
    def slip(right, x, prev_h, Wx, Wh, b):
        H = prev_h.shape[1]

        def sums(h, block):
            columns = slice(order[block] * H, (order[block] + 1) * H)
            return x @ Wx[:, columns] + b[columns], h @ Wh[:, columns]

        z, r = (sigmoid(sum(sums(prev_h, block))) for block in (0, 1))
        a, read = sums(prev_h if late else r * prev_h, 2)
        n = np.tanh(a + (r * read if late else read))
        return (1 - z) * prev_h + z * n if exchanged else z * prev_h + (1 - z) * n

    return slip


def _jacobian(total):
    """The gradient behind a softmax, with another number in the place of the sum of w dw."""

    def slip(right, dw, w):
        return w * (dw - total(dw, w))

    return slip


def _mask(see):
    """A mask from the word that looks (t), the word that is looked at (s) and the length (n)."""

    def slip(right, lengths, T):
        return see(np.arange(T)[:, None], np.arange(T), lengths[:, None, None]) & np.ones(
            (len(lengths), T, T), dtype=bool
        )

    return slip


def _rms(formula, inside=1.0, outside=0.0):
    """The backward of RMS norm with another formula, or with epsilon elsewhere."""

    def slip(right, dout, x, eps=1e-5):
        root = np.sqrt((x**2).mean(axis=1, keepdims=True) + inside * eps)
        return formula(dout, x, x / root, 1 / (root + outside * eps))

    return slip


def _mean(a):
    return a.mean(axis=-1, keepdims=True)


def _sum(a):
    return a.sum(axis=-1, keepdims=True)


def _outside(dout, x, y, scale):
    """d of x / (root + eps): y is x / root, scale is 1 / (root + eps)."""
    return scale * dout - scale**2 * y * _mean(dout * x)


def _rotated(forward, backward, of_arguments=True, halves=False):
    """Rotations by the angles with other signs, by places counted anew, or of other pairs."""

    def slip(right, x, dout, positions):
        d = x.shape[-1]
        pairs = (slice(0, d // 2), slice(d // 2, d)) if halves else (slice(0, d, 2), slice(1, d, 2))
        places = positions if of_arguments else np.arange(len(positions))
        angles = places[:, None] * 10000.0 ** (-np.arange(0, d, 2) / d)

        def turned(x, sign):
            z = (x[..., pairs[0]] + 1j * x[..., pairs[1]]) * np.exp(1j * sign * angles)
            out = np.empty_like(x)
            out[..., pairs[0]], out[..., pairs[1]] = z.real, z.imag
            return out

        return {"out": turned(x, forward), "dx": turned(dout, -backward)}

    return slip


def _beams(key):
    """The right continuations in another order."""

    def slip(right, log_p, log_probs):
        order = np.argsort(key(*right), axis=1, kind="stable")
        return tuple(np.take_along_axis(a, order, axis=1) for a in right)

    return slip


def _fold(scale=None, bias=None):
    def slip(right, K, b, mu, var, gamma, beta, eps):
        by = (scale or (lambda var, gamma, eps: gamma / np.sqrt(var + eps)))(var, gamma, eps)
        shift = (bias or (lambda b, mu, beta, by: (b - mu) * by + beta))(b, mu, beta, by)
        return K * by[:, None, None, None], shift

    return slip


def _interval(axis=1, low=2.5, high=97.5):
    def slip(right, one, other, draws):
        gaps = (other - one)[draws]
        return np.percentile(gaps if axis is None else gaps.mean(axis=axis), (low, high))

    return slip


def _error(power=0.5, joined=lambda one, other: np.var(other - one)):
    """Of the difference of two means: a joined variance, over a power of the number of pictures."""
    return lambda right, one, other: np.sqrt(joined(one, other)) / len(one) ** power


def _as_share(one, other):
    share = abs(np.mean(other - one))
    return share * (1 - share)


COMPARED = {
    "01.1": {
        "<START> is given, nobody says it": lambda right, c, null: right + 1,
        "<END> must be said as well": lambda right, c, null: right - 1,
        "padding counts, and must not": lambda right, c, null: 0 * right + c.shape[1] - 1,
        "there must be one number for each caption": lambda right, c, null: right.sum(),
    },
    "01.2": {
        "the variance goes with the squares of the singular values": lambda right, x, k: _share(
            x - x.mean(axis=0), k, power=1
        ),
        "the rows are not centred": lambda right, x, k: _share(x, k, power=2),
        "each feature has a mean of its own: centre along axis 0": lambda right, x, k: _share(
            x - x.mean(), k, power=2
        ),
    },
    "01.3": {
        "that is the shortest caption": lambda right, captions: min(captions, key=len),
        "that is the longest caption": lambda right, captions: max(captions, key=len),
        "that is the first caption": lambda right, captions: captions[0],
        "that is the most frequent caption": lambda right, captions: max(
            captions, key=captions.count
        ),
    },
    "02.1": {
        "the two errors are added, they must cancel": lambda right, D, h: (4 * D(h) + D(2 * h)) / 5,
        "the weights do not sum to 1, so f' does not stay": lambda right, D, h: 4 * D(h) - D(2 * h),
        "with 2h the error is 4 times as large, not twice": lambda right, D, h: 2 * D(h) - D(2 * h),
        "the two steps are exchanged": lambda right, D, h: (4 * D(2 * h) - D(h)) / 3,
        "that is a central difference, nothing cancels": lambda right, D, h: D(h),
    },
    "03.2": {
        "that is a mean over the tokens": _loss(_per_token, _per_token),
        "the gradient is not divided by N": _loss(lambda mask: 1, len),
        "neither loss nor gradient is divided by N": _loss(len, len),
    },
    "04.1": {
        "without the bias correction the weights do not sum to 1": lambda right, beta, t: (
            right * (1 - beta**t)
        ),
        "the first gradient comes first, and it has the smallest weight": lambda right, beta, t: (
            right[::-1]
        ),
        "the powers of beta begin one too high": lambda right, beta, t: right * beta,
    },
    "04.2": {
        "epsilon is inside the root; add it to the root": _adam("place"),
        "the bias correction of m is missing": _adam("m"),
        "the bias correction of v is missing": _adam("v"),
        "both bias corrections are missing": _adam("m and v"),
        "v takes the squares of the gradients": _adam("square"),
    },
    "04.3": {
        "that is momentum, it does not look ahead": _momentum(ahead=False),
        "the step takes the velocity of before, it needs the new one": _momentum(ahead=True),
    },
    "05.1": {
        "the derivative of tanh has the square of tanh": lambda right, dh, h: dh * (1 - h),
        "next_h is a tanh already; another tanh is one too many": lambda right, dh, h: (
            dh * (1 - np.tanh(h) ** 2)
        ),
        "the upstream gradient is missing": lambda right, dh, h: 1 - h**2,
    },
    "06.1": {
        "that is df; the derivative of the sigmoid is missing": lambda right, dc, c, f: dc * c,
        "that is the derivative of a tanh; a gate is a sigmoid": lambda right, dc, c, f: (
            dc * c * (1 - f**2)
        ),
        "a factor of the sigmoid's derivative is missing": lambda right, dc, c, f: dc * c * (1 - f),
        "one factor of the sigmoid's derivative is missing": lambda right, dc, c, f: dc * c * f,
        "what the gate multiplies is missing": lambda right, dc, c, f: dc * f * (1 - f),
        "f is a sigmoid already; another sigmoid is one too many": lambda right, dc, c, f: (
            dc * c * sigmoid(f) * (1 - sigmoid(f))
        ),
    },
    "06.3": {
        "the blocks are read in the order r, z, n; it is z, r, n": _gru(order=(1, 0, 2)),
        "z and 1 - z are exchanged": _gru(exchanged=True),
        "r multiplies the product; it belongs on prev_h": _gru(late=True),
    },
    "07.1": {
        "a multiplication and an addition are two operations": lambda right, *sizes: right // 2,
        "that is the forward alone": lambda right, *sizes: right // 3,
        "that is the backward alone, or one product for each of the forward": (
            lambda right, *sizes: right // 3 * 2
        ),
        "an LSTM has four gates, a vanilla RNN has none": lambda right, W, H, V: (
            6 * H * (4 * W + 4 * H + V)
        ),
        "the scores need a product, too": lambda right, W, H, V: 6 * H * (W + H),
    },
    "07.3": {
        "the rows come back in the order of their lengths": lambda right, x, lengths, *_: right[
            np.argsort(-lengths, kind="stable")
        ],
    },
    "08.1": {
        "the second term of the Jacobian is missing": _jacobian(lambda dw, w: 0),
        "that is the diagonal of the Jacobian alone": _jacobian(lambda dw, w: w * dw),
        "the sum is over the last axis alone": _jacobian(lambda dw, w: (w * dw).sum()),
        "that has a mean where a sum belongs": _jacobian(lambda dw, w: _mean(w * dw)),
        "the sum lacks the weights": _jacobian(lambda dw, w: _sum(dw)),
    },
    "09.1": {
        "padding can be seen": _mask(lambda t, s, n: s <= t),
        "words see those that come after them": _mask(lambda t, s, n: s < n),
        "a word must see itself": _mask(lambda t, s, n: (s < t) & (s < n)),
        "the first place behind a caption is padding": _mask(lambda t, s, n: (s <= t) & (s <= n)),
        "a word sees those before it, not those after it": _mask(
            lambda t, s, n: (s >= t) & (s < n)
        ),
        "True lets see, False hides": lambda right, *_: ~right,
        "padding is among what is looked at, not what looks": _mask(
            lambda t, s, n: (s <= t) & (t < n)
        ),
    },
    "10.1": {
        "keys have no bias here": lambda right, E, F: right + 2 * E,
        "a decoder block has two attentions": lambda right, E, F: right - 4 * E**2 - 3 * E,
        "a block has three layer norms": lambda right, E, F: right - 2 * E,
        "a layer norm has a gain and a shift": lambda right, E, F: right - 3 * E,
        "the feed-forward layer has biases": lambda right, E, F: right - F - E,
        "the attentions have biases": lambda right, E, F: right - 6 * E,
    },
    "10.2": {
        "no term stays; one must": _rms(lambda dout, x, y, scale: scale * dout),
        "the term of the mean stays; the other one must": _rms(
            lambda dout, x, y, scale: scale * (dout - _mean(dout))
        ),
        "both terms stay; one must go": _rms(
            lambda dout, x, y, scale: scale * (dout - _mean(dout) - y * _mean(dout * y))
        ),
        "there is a sum where a mean belongs": _rms(
            lambda dout, x, y, scale: scale * (dout - y * _sum(dout * y))
        ),
        "epsilon is outside the root; it belongs inside": _rms(_outside, inside=0, outside=1),
        "eps of the arguments is not used": lambda right, dout, x, eps=1e-5: _rms(
            lambda dout, x, y, scale: scale * (dout - y * _mean(dout * y))
        )(right, dout, x),
    },
    "10.3": {
        "it turns the other way; mind the signs of the sines": _rotated(-1, -1),
        "the backward turns on; it must turn back": _rotated(1, -1),
        "the positions of the arguments are not used": _rotated(1, 1, of_arguments=False),
        "the two halves are the pairs; it is neighbours that turn": _rotated(1, 1, halves=True),
    },
    "11.1": {
        "those are log-probabilities": lambda right, log_probs, T: log_softmax(log_probs / T),
        "they do not sum to 1": lambda right, log_probs, T: np.exp(log_probs / T),
        "that multiplies by T; divide": lambda right, log_probs, T: np.exp(
            log_softmax(log_probs * T)
        ),
        "T is not used": lambda right, log_probs, T: np.exp(log_softmax(log_probs)),
        "each row is a softmax of its own": lambda right, log_probs, T: np.exp(
            log_softmax(log_probs.reshape(1, -1) / T)
        ).reshape(log_probs.shape),
    },
    "11.2": {
        "they are not sorted from the best": _beams(lambda beam, word, total: total),
        "they are in the order of beams and words, the best must come first": _beams(
            lambda beam, word, total: beam * (word.max() + 1) + word
        ),
        "the beam and the word are exchanged": lambda right, *_: (right[1], right[0], right[2]),
    },
    "11.3": {
        "those are the shortest draws": lambda right, captions: (
            [min(captions, key=len), min(captions, key=len).replace("cat", "dog")]
        ),
    },
    "12.1": {
        "the first window counts, too": lambda right, cases: [size - 1 for size in right],
        "padding is on both sides": lambda right, cases: (
            [(size + p - k) // s + 1 for size, k, s, p in cases]
        ),
        "a window that fits in part does not count: round down": lambda right, cases: (
            [-((k - size - 2 * p) // s) + 1 for size, k, s, p in cases]
        ),
        "the stride is not used": lambda right, cases: (
            [size + 2 * p - k + 1 for size, k, s, p in cases]
        ),
    },
    "12.2": {
        "epsilon is outside the root": _fold(lambda var, gamma, eps: gamma / (np.sqrt(var) + eps)),
        "epsilon is missing": _fold(lambda var, gamma, eps: gamma / np.sqrt(var)),
        "the variance needs a root": _fold(lambda var, gamma, eps: gamma / (var + eps)),
        "gamma is missing": _fold(lambda var, gamma, eps: 1 / np.sqrt(var + eps)),
        "b of the convolution is not scaled": _fold(
            bias=lambda b, mu, beta, by: b - mu * by + beta
        ),
        "mu is missing": _fold(bias=lambda b, mu, beta, by: b * by + beta),
        "b of the convolution is missing": _fold(bias=lambda b, mu, beta, by: beta - mu * by),
        "the kernel is not scaled": lambda right, K, *vectors: (K, right[1]),
    },
    "13.1": {
        "on the same pictures the two are not independent": _error(
            joined=lambda one, other: np.var(one) + np.var(other)
        ),
        "errors do not add up": _error(
            joined=lambda one, other: (np.std(one) + np.std(other)) ** 2
        ),
        "a difference of shares is not itself a share, p (1 - p) is not its variance": _error(
            joined=_as_share
        ),
        "that is the spread of single pictures, not of a mean": _error(power=0),
        "the error falls with the root of m, not with m": _error(power=1),
        "that is the variance; take its root": lambda right, one, other: right**2,
        "the variance is divided by m here, not by m - 1": _error(
            joined=lambda one, other: np.var(other - one, ddof=1)
        ),
        "one number is wanted, not one for each picture": lambda right, one, other: (
            np.abs(other - one) / np.sqrt(len(one))
        ),
    },
    "13.2": {
        "the difference is other less one": lambda right, *_: -right[::-1],
        "the difference is other less one, and the lower end comes first": lambda right, *_: -right,
        "the mean is over the pictures of a sample": _interval(axis=0),
        "those are percentiles of single pictures, not of means": _interval(axis=None),
        "percentiles go from 0 to 100": _interval(low=0.025, high=0.975),
        "that leaves 5 % out on each side, it is 2.5 %": _interval(low=5, high=95),
    },
    "14.1": {
        "what is behind the end counts as words": lambda right, rows: np.exp(rows.mean(axis=1)),
        "that is the arithmetic mean": lambda right, rows: np.array(
            [np.exp(row[row != 0]).mean() for row in rows]
        ),
        "that is the product; take its root": lambda right, rows: np.exp(rows.sum(axis=1)),
        "those are logarithms": lambda right, rows: np.log(right),
        "there must be one number for each caption": lambda right, rows: right.mean(),
    },
}


def _shares(power):
    return lambda found: np.allclose(found, [0.9**power, 1, 1.1**power])


def _ratios(*wanted):
    return lambda found: np.allclose(found, wanted)


CONFIRMED = {
    "02.3": {
        "a layer that is right is called wrong": lambda found: (
            not (found["right"] and found["right, and tiny"])
        ),
        "a backward that writes is called right": lambda found: (
            True in (found["writes into dout"], found["writes into x"])
        ),
        "a gradient of NaN is called right": lambda found: found["NaN"] is True,
        "an absolute tolerance finds tiny zeros good enough": lambda found: (
            found["tiny zeros"] is True
        ),
        "the layer that forgets its upstream is called right": lambda found: (
            found["no upstream"] is True
        ),
    },
    "04.3b": {
        "the loss rises again later; count until it is below for good": lambda counts: (
            130 <= counts[0] <= 132 or 65 <= counts[1] <= 67
        ),
        "one too few or too many; after the first step the count is 1": lambda counts: (
            counts[0] - counts[1] == 67 and sum(counts) in (267, 271)
        ),
        "Nesterov's count is the second": lambda counts: counts[1] - counts[0] == 67,
    },
    "05.3": {
        "that is one step too few": _shares(59),
        "that is one step too many": _shares(61),
        "that is the length at h_T over that at h_0": _shares(-60),
        "that is the share of the squares of the lengths": _shares(120),
    },
    "07.3b": {
        "padding is multiplied, too": lambda rows: rows == 42,
        "the given product is not used": lambda rows: rows == 0,
    },
    "08.3": {
        "the one with the division comes first": lambda found: found[0] < 0.6 < found[1],
        "those are bits; ln is np.log": lambda found: 5.0 < found[0] < 5.7,
        "an entropy is never negative, mind the sign": lambda found: found[0] < 0,
        "an entropy is a sum over the locations, not a mean": lambda found: found[0] < 0.1,
        "those are sums over the draws, not means": lambda found: found[0] > 100,
    },
    "09.3": {
        "the numbers of multi-head attention come first": _ratios(1 / 4, 1 / 8, 1 / 3),
        "both keep keys and values": lambda found: (
            _ratios(8, 16, 6)(found) or _ratios(2, 4, 1.5)(found)
        ),
        "that is a difference, not a ratio": _ratios(1920, 2240, 8),
    },
    "13.3": {
        "that counts facts, it must be a share": lambda scores: max(scores.values()) > 1,
        "a colour belongs to its kind, single words are no facts": lambda scores: (
            scores["the colours are exchanged"] > 0
        ),
        "when no fact is said, none is right": lambda scores: scores["there is no fact"] > 0,
    },
}
