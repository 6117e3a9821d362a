"""PyTorch's version of each layer and model: the referee of ``core/gradient_check/cases.py``.

Written from PyTorch's own parts (``torch.nn.functional``, ``nn.LSTM``,
``nn.TransformerDecoderLayer``), never by translating ours, so that the two share no mistake. Every
function takes the inputs of a case by name, as tensors, and returns the list of its outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

try:
    import torch
    from torch import nn
    from torch.func import functional_call
    from torch.nn import functional as F
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    torch = None

from core.support.pytorch import HOW_TO_INSTALL

# What a report says without PyTorch, where ``checking.py`` does without a referee; else None.
ABSENT = None
if torch is None:
    ABSENT = (
        "PyTorch, the referee, is not installed: gradients were compared with differences alone, "
        f"outputs of your own functions with those of core; {HOW_TO_INSTALL}"
    )


def upstream_of(case, outputs, rng) -> list[np.ndarray]:
    """A random gradient for each output. A loss is the end of the graph: its own gradient is 1."""
    return [rng.standard_normal(out.shape) if case.outputs else np.ones(()) for out in outputs]


def autograd(case, inputs: dict, rng) -> tuple[list, list, dict]:
    """PyTorch's outputs, a random upstream gradient for each, and the gradients they give."""
    tensors = {}
    for name, value in inputs.items():
        tensors[name] = (
            torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value
        )
        if name in case.differentiable:
            tensors[name].requires_grad_(True)
    outputs = case.torch(**tensors)
    upstream = upstream_of(case, outputs, rng)
    leaves = [tensors[name] for name in case.differentiable]
    if not leaves:
        return [out.detach().numpy() for out in outputs], upstream, {}
    gradients = torch.autograd.grad(
        outputs, leaves, [torch.from_numpy(dout) for dout in upstream], materialize_grads=True
    )
    named = zip(case.differentiable, (gradient.numpy() for gradient in gradients), strict=True)
    return [out.detach().numpy() for out in outputs], upstream, dict(named)


def affine(x, w, b):
    return [F.linear(x.flatten(1), w.T, b)]


def word_embedding(x, W):
    return [F.embedding(x, W)]


def rnn_step(x, prev_h, Wx, Wh, b):
    weights = {"weight_ih": Wx.T, "weight_hh": Wh.T, "bias_ih": b, "bias_hh": 0 * b}
    return [functional_call(nn.RNNCell(*Wx.shape, dtype=x.dtype), weights, (x, prev_h))]


def rnn(x, h0, Wx, Wh, b):
    weights = {"weight_ih_l0": Wx.T, "weight_hh_l0": Wh.T, "bias_ih_l0": b, "bias_hh_l0": 0 * b}
    module = nn.RNN(*Wx.shape, batch_first=True, dtype=x.dtype)
    return [functional_call(module, weights, (x, h0[None]))[0]]


def _torch_gates(w):
    """Our gates stand in the order i, f, o, g; torch's in i, f, g, o."""
    i, f, o, g = w.chunk(4, dim=-1)
    return torch.cat([i, f, g, o], dim=-1)


def lstm_step(x, prev_h, prev_c, Wx, Wh, b):
    Wx, Wh, b = _torch_gates(Wx), _torch_gates(Wh), _torch_gates(b)
    weights = {"weight_ih": Wx.T, "weight_hh": Wh.T, "bias_ih": b, "bias_hh": 0 * b}
    module = nn.LSTMCell(Wx.shape[0], Wh.shape[0], dtype=x.dtype)
    return functional_call(module, weights, (x, (prev_h, prev_c)))


def lstm(x, h0, Wx, Wh, b):
    Wx, Wh, b = _torch_gates(Wx), _torch_gates(Wh), _torch_gates(b)
    weights = {"weight_ih_l0": Wx.T, "weight_hh_l0": Wh.T, "bias_ih_l0": b, "bias_hh_l0": 0 * b}
    module = nn.LSTM(Wx.shape[0], Wh.shape[0], batch_first=True, dtype=x.dtype)
    return [functional_call(module, weights, (x, (h0[None], 0 * h0[None])))[0]]


def temporal_affine(x, w, b):
    return [F.linear(x, w.T, b)]


def temporal_softmax_loss(x, y, mask):
    losses = F.cross_entropy(x.flatten(0, 1), y.flatten(), reduction="none")
    return [(losses * mask.flatten()).sum() / len(x)]


def dropout(x, p, rng):
    kept = rng.random(tuple(x.shape), dtype=np.float32) >= p
    return [x.where(x.new_tensor(kept).bool(), 0) / (1 - p)]


def _attend(features, keys, h, Wh, v):
    scores = F.linear((keys + F.linear(h, Wh.T).unsqueeze(1)).tanh(), v[None]).squeeze(2)
    weights = scores.softmax(dim=1)
    return (features * weights.unsqueeze(2)).sum(dim=1), weights


def attend(features, keys, query, v):
    return list(_attend(features, keys, query, torch.eye(query.shape[1], dtype=query.dtype), v))


def additive_attention(features, h, Wf, Wh, b, v):
    return list(_attend(features, F.linear(features, Wf.T, b), h, Wh, v))


def context_gate(context, h, W, b):
    return [F.linear(h, W.T, b).sigmoid() * context]


def attention_lstm_step(
    word, features, keys, prev_h, prev_c, W_query, v_attend, W_gate, b_gate, Wx, Wh, b
):
    asking = torch.cat([prev_h, word], dim=1)
    context, weights = _attend(features, keys, asking, W_query, v_attend)
    (gated,) = context_gate(context, prev_h, W_gate, b_gate)
    x = torch.cat([word, gated], dim=1)
    return [*lstm_step(x, prev_h, prev_c, Wx, Wh, b), gated, weights]


def attention_lstm(
    words, features, h0, c0, W_features, W_query, b_attend, v_attend, W_gate, b_gate, Wx, Wh, b
):
    keys, h, c, steps = F.linear(features, W_features.T, b_attend), h0, c0, []
    for word in words.unbind(1):
        h, c, gated, weights = attention_lstm_step(
            word, features, keys, h, c, W_query, v_attend, W_gate, b_gate, Wx, Wh, b
        )
        steps.append((h, gated, weights))
    return [torch.stack(outputs, dim=1) for outputs in zip(*steps, strict=True)]


def doubly_stochastic_loss(weights, mask, strength):
    looked = weights.masked_fill(~mask.unsqueeze(2), 0).sum(dim=1)
    return [strength * (1 - looked).square().sum(dim=1).mean()]


def layer_norm(x, gamma, beta):
    return [F.layer_norm(x, gamma.shape, gamma, beta)]


def feed_forward(x, W1, b1, W2, b2, activation):
    return [F.linear(getattr(F, activation)(F.linear(x, W1.T, b1)), W2.T, b2)]


def scaled_dot_product_attention(q, k, v, mask=None):
    return [F.scaled_dot_product_attention(q, k, v, attn_mask=mask)]


def multi_head_attention(query, key, value, Wq, bq, Wk, bk, Wv, bv, Wo, bo, num_heads, mask):
    q, k, v = (
        F.linear(x, W.T, b).unflatten(2, (num_heads, -1)).transpose(1, 2)
        for x, W, b in ((query, Wq, bq), (key, Wk, bk), (value, Wv, bv))
    )
    (heads,) = scaled_dot_product_attention(q, k, v, mask)
    return [F.linear(heads.transpose(1, 2).flatten(2), Wo.T, bo)]


def decoder_block(norm_first: bool, activation: str, num_heads: int) -> Callable:
    """PyTorch's own decoder layer."""

    def run(x, memory, mask, rng, **params):
        weights = {}
        for ours, theirs in (("self", "self_attn"), ("cross", "multihead_attn")):
            Wq, Wk, Wv, Wo = (params[f"{ours}.W{letter}"].T for letter in "qkvo")
            bq, bv, bo = (params[f"{ours}.b{letter}"] for letter in "qvo")
            weights[f"{theirs}.in_proj_weight"] = torch.cat([Wq, Wk, Wv])
            weights[f"{theirs}.in_proj_bias"] = torch.cat([bq, 0 * bq, bv])
            weights[f"{theirs}.out_proj.weight"] = Wo
            weights[f"{theirs}.out_proj.bias"] = bo
        for i in (1, 2):
            weights[f"linear{i}.weight"] = params[f"feed_forward.W{i}"].T
            weights[f"linear{i}.bias"] = params[f"feed_forward.b{i}"]
        for i in (1, 2, 3):
            weights[f"norm{i}.weight"] = params[f"norm{i}.gamma"]
            weights[f"norm{i}.bias"] = params[f"norm{i}.beta"]
        module = nn.TransformerDecoderLayer(
            x.shape[-1],
            num_heads,
            len(params["feed_forward.b1"]),
            dropout=0.0,
            activation=activation,
            batch_first=True,
            norm_first=norm_first,
            dtype=x.dtype,
        )
        return [
            functional_call(module, weights, (x, memory, ~mask))
        ]  # PyTorch: True = may not attend

    return run


def decoder_block_dropout(p: float, num_heads: int) -> Callable:
    """Pre-norm, each sublayer's output with the same frozen entries dropped."""

    def run(x, memory, mask, rng, **params):
        def attention(which, query, source, mask=None):
            weights = (
                0 * params[f"{which}.bq"] if name == "bk" else params[f"{which}.{name}"]
                for name in ("Wq", "bq", "Wk", "bk", "Wv", "bv", "Wo", "bo")
            )
            return multi_head_attention(query, source, source, *weights, num_heads, mask)

        def norm(i, x):
            return layer_norm(x, params[f"norm{i}.gamma"], params[f"norm{i}.beta"])[0]

        def add(x, sublayer_output):
            return x + dropout(*sublayer_output, p, rng)[0]

        y = norm(1, x)
        x = add(x, attention("self", y, y, mask))
        x = add(x, attention("cross", norm(2, x), memory))
        weights = (params[f"feed_forward.{name}"] for name in ("W1", "b1", "W2", "b2"))
        return [add(x, feed_forward(norm(3, x), *weights, "gelu"))]

    return run


def positional_encoding(length, width):
    return [torch.tensor(_sinusoids(length, width), dtype=torch.float64)]


def update_rule(build: Callable) -> Callable:
    """Steps of an optimizer of PyTorch's; ``build``: (parameters, numbers of ours) -> optimizer."""

    def run(w, gradients, rates, numbers):
        parameter = nn.Parameter(w.clone())
        optimizer, steps = build([parameter], numbers), []
        for gradient, rate in zip(gradients, rates, strict=True):
            optimizer.param_groups[0]["lr"] = float(rate)
            parameter.grad = gradient
            optimizer.step()
            steps.append(parameter.detach().clone())
        return [torch.stack(steps)]

    return run


def clip_gradient_norm(W, b, max_norm):
    outputs = []
    for limit in (max_norm, 100 * max_norm):
        parameters = [nn.Parameter(torch.zeros_like(g)) for g in (W, b)]
        for parameter, gradient in zip(parameters, (W, b), strict=True):
            parameter.grad = gradient.clone()
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        outputs += [parameter.grad for parameter in parameters] + [norm]
    return outputs


def _cross_entropy(scores, captions):
    return F.cross_entropy(
        scores.flatten(0, 1), captions[:, 1:].flatten(), ignore_index=0, reduction="sum"
    ) / len(captions)


def captioning_rnn(sequence: Callable) -> Callable:
    def run(features, captions, W_proj, b_proj, W_embed, Wx, Wh, b, W_vocab, b_vocab):
        h0 = F.linear(features, W_proj.T, b_proj)
        (h,) = sequence(F.embedding(captions[:, :-1], W_embed), h0, Wx, Wh, b)
        return [_cross_entropy(F.linear(h, W_vocab.T, b_vocab), captions)]

    return run


def _chain(image, words, read, scores):
    """Log-probabilities of the word after ``words``, by the decoder of ``values.py``.

    <NULL>, <START> and <UNK>, words 0, 1 and 3, may not be said; word 2 is <END>.
    """
    state = image
    for word in words:
        state = torch.tanh(state + read[word])
    logits = state @ scores
    logits[2] += 1.0 if state[-1] >= 0.53 else 50.0 if state[-1] > 0 else -50.0
    log_probs = F.log_softmax(logits, dim=0).tolist()
    return [-math.inf if word in (0, 1, 3) else p for word, p in enumerate(log_probs)]


def greedy(features, read, scores, max_length):
    """Word by word, each time from the beginning: naive, and nothing of ours in it."""
    found = []
    for length in (max_length, 1):
        captions = torch.zeros(len(features), length, dtype=read.dtype)
        for n, image in enumerate(features):
            said = [1]
            while said[-1] != 2 and len(said) <= length:
                log_probs = _chain(image, said, read, scores)
                said.append(log_probs.index(max(log_probs)))
                captions[n, len(said) - 2] = said[-1]
        found.append(captions)
    return found


def beam_search(beam_size: int, n_best: int) -> Callable:
    """Every beginning kept is read again from its first word; it never stops before its time."""

    def search(image, length, read, scores):
        beginnings, finished = [(0.0, [1])], []
        for _ in range(length):
            grown = [
                (total + p, [*said, word])
                for total, said in beginnings
                for word, p in enumerate(_chain(image, said, read, scores))
                if p > -math.inf
            ]
            best = sorted(grown, key=lambda each: -each[0])[:beam_size]
            finished += [(total / (len(s) - 1), s) for total, s in best if s[-1] == 2]
            beginnings = [(total, said) for total, said in best if said[-1] != 2]
        if not finished:
            finished = [(total / length, said) for total, said in beginnings[:1]]
        return sorted(finished, key=lambda each: -each[0])[:n_best]

    def run(features, read, scores, max_length):
        outputs = []
        for length in (max_length, 1):
            captions = torch.zeros(len(features), n_best, length, dtype=read.dtype)
            values = torch.full((len(features), n_best), -1e3, dtype=read.dtype)
            for n, image in enumerate(features):
                for k, (score, said) in enumerate(search(image, length, read, scores)):
                    captions[n, k, : len(said) - 1] = torch.tensor(said[1:], dtype=read.dtype)
                    values[n, k] = score
            outputs += [captions, values]
        return outputs

    return run


def captioning_attention(penalty: float) -> Callable:
    def run(features, captions, **p):
        h0, c0 = (
            F.linear(features.mean(1), p[f"W_{x}"].T, p[f"b_{x}"]).tanh() for x in ("h0", "c0")
        )
        words = F.embedding(captions[:, :-1], p["W_embed"])
        names = "W_features W_query b_attend v_attend W_gate b_gate Wx Wh b".split()
        h, z, weights = attention_lstm(words, features, h0, c0, *(p[name] for name in names))
        deep = F.linear(torch.cat([words, h, z], dim=2), p["W_deep"].T, p["b_deep"]).tanh()
        scores = F.linear(deep, p["W_vocab"].T, p["b_vocab"])
        (extra,) = doubly_stochastic_loss(weights, captions[:, 1:] != 0, penalty)
        return [_cross_entropy(scores, captions) + extra]

    return run


def captioning_transformer(tied: bool, num_layers: int, num_heads: int) -> Callable:
    """Tied, with pre-norm; or untied, with post-norm and sinusoidal positions."""

    def run(features, captions, **p):
        memory = F.linear(features, p["W_proj"].T, p["b_proj"])
        words = F.embedding(captions[:, :-1], p["W_embed"])
        E = words.shape[2]
        words = words * E**0.5
        T = words.shape[1]
        positions = p["W_position"] if tied else words.new_tensor(_sinusoids(T, E))
        x = words + positions[:T]
        mask = words.new_ones(T, T).tril().bool()
        block = decoder_block(tied, "gelu", num_heads)
        for layer in range(num_layers):
            prefix = f"block{layer}."
            params = {k.removeprefix(prefix): v for k, v in p.items() if k.startswith(prefix)}
            (x,) = block(x, memory, mask, None, **params)
        if tied:
            (x,) = layer_norm(x, p["norm.gamma"], p["norm.beta"])
        vocabulary = p["W_embed"] if tied else p["W_vocab"].T
        return [_cross_entropy(F.linear(x, vocabulary, p["b_vocab"]), captions)]

    return run


def _sinusoids(length: int, width: int) -> list[list[float]]:
    """The formula of Vaswani et al., section 3.5, entry by entry."""
    return [
        [
            (math.cos if i % 2 else math.sin)(position / 10000 ** (2 * (i // 2) / width))
            for i in range(width)
        ]
        for position in range(length)
    ]
