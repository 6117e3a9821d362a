"""Slips in the affine layers, word vectors, dropout and the loss."""

# ruff: noqa: E501 (a slip a line)

from __future__ import annotations

from core.gradient_check.slips.formulas import Formulas, slips_from

RIGHT = {
    "affine_forward": Formulas(
        "x, w, b", "", {"out": "x.reshape(len(x), -1) @ w + b"}, "out, None"
    ),
    "affine_backward": Formulas(
        "dout, cache", "x, w",
        {
            "dx": "(dout @ w.T).reshape(x.shape)",
            "dw": "x.reshape(len(x), -1).T @ dout",
            "db": "dout.sum(axis=0)",
        },
        "dx, dw, db",
    ),
    "temporal_affine_forward": Formulas("x, w, b", "", {"out": "x @ w + b"}, "out, None"),
    "temporal_affine_backward": Formulas(
        "dout, cache", "x, w",
        {"dx": "dout @ w.T", "dw": "flat(x).T @ flat(dout)", "db": "dout.sum(axis=(0, 1))"},
        "dx, dw, db",
    ),
    "word_embedding_forward": Formulas("x, W", "", {"out": "W[x]"}, "out, None"),
    "word_embedding_backward": Formulas(
        "dout, cache", "x, W", {"dW": "count(x, dout, W)"}, "dW"
    ),
    "dropout_forward": Formulas(
        "x, p, rng", "",
        {
            "kept": "(rng.random(x.shape, dtype=np.float32) >= p)",
            "out": "x * kept * (1 / (1 - p))",
        },
        "out, None",
    ),
    "dropout_backward": Formulas("dout, cache", "mask", {"dx": "dout * mask"}, "dx"),
    "temporal_softmax_loss": Formulas(
        "x, y, mask", "",
        {
            "p": "softmax(x)",
            "log_p": "np.log(np.take_along_axis(p, y[..., None], 2)[..., 0])",
            "loss": "-np.sum(log_p * mask) * (1 / len(x))",
            "dscores": "p + -onehot(y, x)",
            "dx": "dscores * mask[:, :, None] * (1 / len(x))",
        },
        "loss, dx",
    ),
    "doubly_stochastic_loss": Formulas(
        "weights, mask, strength", "",
        {
            "looked": "(weights * mask[:, :, None]).sum(axis=1, keepdims=True)",
            "missing": "1 + -looked",
            "loss": "strength * np.sum(missing**2) * (1 / len(weights))",
            "dweights": "-2 * strength * missing * mask[:, :, None] * (1 / len(weights))",
        },
        "loss, dweights",
    ),
}  # fmt: skip

_SCORED = "(1 / mask.sum())"
_EVERY = "(1 / mask.size)"
_LOSS = "-np.sum(log_p * mask)"
_DX = "dscores * mask[:, :, None]"
_NAMED = {
    "affine_forward": [("misses the bias b", {"out": "x.reshape(len(x), -1) @ w"})],
    "affine_backward": [
        ("is a mean over the batch where the sum belongs", {"dw": "x.reshape(len(x), -1).T @ dout / len(x)", "db": "dout.mean(axis=0)"}),
        ("is a mean over the batch where the sum belongs", {"db": "dout.mean(axis=0)"}),
    ],
    "temporal_affine_forward": [("misses the bias b", {"out": "x @ w"})],
    "temporal_affine_backward": [
        ("holds one time step alone: the sum over time is missing", {"dw": f"x[:, {t}].T @ dout[:, {t}]", "db": f"dout[:, {t}].sum(axis=0)"})
        for t in (0, -1)
    ] + [
        ("holds one sample alone: the sum over the batch is missing", {"dw": f"x[{n}].T @ dout[{n}]", "db": f"dout[{n}].sum(axis=0)"})
        for n in (0, -1)
    ] + [
        ("reads its time steps in the wrong order", {"dw": "flat(x[:, ::-1]).T @ flat(dout)"}),
        ("is a mean over time where the sum belongs", {"dw": "flat(x).T @ flat(dout) / x.shape[1]", "db": "dout.mean(axis=1).sum(axis=0)"}),
        *(
            ("is a mean over batch and time where the sum belongs: it is 1 / (N T) of it", lines)
            for lines in ({"dw": "flat(x).T @ flat(dout) / len(flat(x))"}, {"db": "dout.mean(axis=(0, 1))"})
        ),
        ("is a mean over the batch where the sum belongs", {"dw": "flat(x).T @ flat(dout) / len(x)", "db": "dout.mean(axis=0).sum(axis=0)"}),
    ],
    "word_embedding_forward": [
        ("is off by one: it reads the word after", {"out": "W[(x + 1) % len(W)]"}),
        ("is off by one: it reads the word before", {"out": "W[x - 1]"}),
        ("is scaled by sqrt(D): that is the Transformer's, not the layer's", {"out": "W[x] * W.shape[1]**0.5"}),
    ],
    "word_embedding_backward": [
        (
            "keeps the last use of each word alone: repeats add up (dW[x] += dout is no sum)",
            {"dW": "np.zeros_like(W)", "_": "dW.__setitem__(x, dout)"},
        ),
        (
            "divides by how often a word is used: its uses add up",
            {"dW": "count(x, dout, W) / np.maximum(np.bincount(x.ravel(), minlength=len(W)), 1)[:, None]"},
        ),
        ("takes each word once in a row: repeats add up", {
            "dW": "sum(count(np.unique(row), d[np.unique(row, return_index=True)[1]], W) for row, d in zip(x, dout))"
        }),
        ("holds the first word alone: does the loop return after one?", {"dW": "count(x[0, :1], dout[0, :1], W)"}),
        *((f"holds the {which} sample alone: all uses of a word add up", {"dW": f"count(x[{n}], dout[{n}], W)"}) for which, n in (("first", 0), ("last", -1))),
        ("keeps the first use of each word alone: repeats add up", {"dW": "np.zeros_like(W)", "_": "dW.__setitem__(x[::-1, ::-1], dout[::-1, ::-1])"}),
        ("is off by one: it adds to the row of the word before", {"dW": "count(x - 1, dout, W)"}),
        ("holds the first time step alone: all uses of a word add up", {"dW": "count(x[:, 0], dout[:, 0], W)"}),
        ("holds the last time step alone: all uses of a word add up", {"dW": "count(x[:, -1], dout[:, -1], W)"}),
    ],
    "dropout_forward": [
        ("is not scaled: divide what is kept by 1 - p", {"out": "x * kept"}),
        ("is scaled by 1 / p: p is the probability to DROP, divide by 1 - p", {"out": "x * kept / p"}),
        ("is multiplied by p: divide what is kept by 1 - p", {"out": "x * kept * p"}),
        ("is multiplied by 1 - p: divide by it", {"out": "x * kept * (1 - p)"}),
        ("keeps what should be dropped: p is the probability to DROP", {"kept": "(rng.random(x.shape, dtype=np.float32) < p)"}),
        ("keeps what should be dropped: p is the probability to DROP", {"kept": "(rng.random(x.shape, dtype=np.float32) < p)", "out": "x * kept / p"}),
        ("drops nothing", {"out": "x"}),
        ("draws other numbers: rng.random(x.shape, dtype=np.float32)", {"kept": "(rng.random(x.shape) >= p)"}),
        ("draws other numbers: rng.random(x.shape, dtype=np.float32) < p is dropped", {"kept": "(rng.random(x.shape) < 1 - p)"}),
    ],
    "dropout_backward": [
        ("is not scaled: what was kept was divided by 1 - p, and so is its gradient", {"dx": "dout * (mask > 0)"}),
        ("passes where x was dropped too: multiply by the mask", {"dx": "dout"}),
        ("passes where x was dropped too: it scales all by 1 / (1 - p)", {"dx": "dout * mask.max()"}),
        ("passes exactly where x was dropped: the mask is the wrong way round", {"dx": "dout * (mask == 0)"}),
        ("is scaled twice", {"dx": "dout * mask * mask"}),
    ],
    "temporal_softmax_loss": [
        ("does not use the mask: it counts exactly where the mask is 0 too", {"loss": "-np.sum(log_p) / len(x)"}),
        ("is wrong exactly where the mask is 0: nothing there counts", {"dx": "dscores / len(x)"}),
        ("is divided by the number of words that count, not by N", {"loss": f"{_LOSS} * {_SCORED}", "dx": f"{_DX} * {_SCORED}"}),
        ("is divided by N T, not by N: it is summed over time", {"loss": f"{_LOSS} * {_EVERY}", "dx": f"{_DX} * {_EVERY}"}),
        ("is summed over the batch: divide by N", {"loss": _LOSS, "dx": _DX}),
        ("is divided by T, not by N", {"loss": f"{_LOSS} / x.shape[1]", "dx": f"{_DX} / x.shape[1]"}),
        ("misses the 1 of the right word: softmax - onehot", {"dx": "p * mask[:, :, None] / len(x)"}),
        ("adds the 1 of the right word: softmax - onehot", {"dscores": "p + onehot(y, x)"}),
        ("has the 1 of the right word where the mask is 0 too", {"dx": "(p * mask[:, :, None] + -onehot(y, x)) / len(x)"}),
        ("has the opposite sign: softmax - onehot", {"dscores": "onehot(y, x) - p"}),
        ("has the wrong sign: minus the logarithm", {"loss": f"-({_LOSS}) / len(x)"}),
        ("is the probability without its logarithm", {"loss": "-np.sum(np.exp(log_p) * mask) / len(x)"}),
        ("sums the softmax over the time steps, not over the vocabulary", {"p": "softmax(swap(x)).swapaxes(1, 2)"}),
        ("is taken over the exponentials without their sum", {"p": "np.exp(x)"}),
        ("takes the logarithm to base 2", {"loss": f"{_LOSS} / np.log(2) / len(x)"}),
        ("takes the logarithm of the sum to base 2", {"loss": "-np.sum((np.take_along_axis(x - x.max(axis=2, keepdims=True), y[..., None], 2)[..., 0] - np.log2(np.exp(x - x.max(axis=2, keepdims=True)).sum(axis=2))) * mask) / len(x)"}),
        ("takes the logarithm to base 10", {"loss": f"{_LOSS} / np.log(10) / len(x)"}),
        ("is wrong exactly where the mask is 0: the mask is the wrong way round", {"loss": "-np.sum(log_p * ~mask) / len(x)", "dx": "dscores * ~mask[:, :, None] / len(x)"}),
        ("subtracts the 1 of the right word after the division by N: divide both", {"dx": "(p * (1 / len(x)) + -onehot(y, x)) * mask[:, :, None]"}),
        *(
            (f"subtracts the 1 at the word of the step {which}", {"dscores": f"p + -onehot(np.roll(y, {shift}, axis=1), x)"})
            for which, shift in (("before", 1), ("after", -1))
        ),
        ("takes its softmax over all words that are scored, not over the vocabulary", {"p": "softmax(flat(x).T).T.reshape(x.shape)"}),
        ("takes its softmax over all words that are scored, not over the vocabulary", {"p": "softmax(np.where(mask[:, :, None], x, -np.inf).reshape(-1, x.shape[2]).T).T.reshape(x.shape)"}),
        ("subtracts the 1 at the most probable word: it belongs at the right one", {"dscores": "p + -onehot(p.argmax(axis=2), x)"}),
        ("keeps the entry of the right word alone: all others get their probability", {"dscores": "(p + -onehot(y, x)) * onehot(y, x)"}),
        *((f"adds {eps} inside of the logarithm: take the logarithm of the softmax at once", {"log_p": f"np.log(np.take_along_axis(p, y[..., None], 2)[..., 0] + {eps})"}) for eps in ("1e-8", "1e-7", "1e-10", "1e-9", "1e-6", "1e-5", "1e-12")),
        ("is multiplied by the loss", {"dx": f"{_DX} * (1 / len(x)) * loss"}),
        ("multiplies the scores by the mask before the softmax", {"p": "softmax(x * mask[:, :, None])"}),
        ("misses the softmax: it is that of the scores themselves", {"dscores": "x + -onehot(y, x)"}),
    ],
    "doubly_stochastic_loss": [
        ("does not use the mask", {"dweights": "np.broadcast_to(-2 * strength * missing / len(weights), weights.shape)"}),
        ("does not use the mask", {"looked": "weights.sum(axis=1, keepdims=True)"}),
        ("does not use the mask", {"looked": "weights.sum(axis=1, keepdims=True)", "dweights": "np.broadcast_to(-2 * strength * missing / len(weights), weights.shape)"}),
        ("has the wrong sign: more weight makes less missing", {"dweights": "2 * strength * missing * mask[:, :, None] / len(weights)"}),
        ("misses the factor 2 of the square", {"dweights": "-strength * missing * mask[:, :, None] / len(weights)"}),
        ("is summed over the batch: divide by N", {"loss": "strength * np.sum(missing**2)", "dweights": "-2 * strength * missing * mask[:, :, None]"}),
        ("sums over the locations, where the steps belong", {"looked": "(weights * mask[:, :, None]).sum(axis=2, keepdims=True)"}),
        ("is a mean over time, where the sum belongs", {"looked": "(weights * mask[:, :, None]).mean(axis=1, keepdims=True)"}),
        ("is a mean over the locations, where the sum belongs", {"loss": "strength * np.mean(missing**2)", "dweights": "-2 * strength * missing * mask[:, :, None] / len(weights) / weights.shape[2]"}),
        ("misses the strength", {"loss": "np.sum(missing**2) / len(weights)", "dweights": "-2 * missing * mask[:, :, None] / len(weights)"}),
        ("squares the weights before they are summed", {"looked": "(weights**2 * mask[:, :, None]).sum(axis=1, keepdims=True)"}),
        ("misses the square", {"loss": "strength * np.sum(missing) / len(weights)"}),
        ("is the absolute value where the square belongs", {"loss": "strength * np.sum(np.abs(missing)) / len(weights)"}),
    ],
}  # fmt: skip

TABLE = {
    name: lambda name=name, right=right: slips_from(right, _NAMED.get(name, ()))
    for name, right in RIGHT.items()
}
