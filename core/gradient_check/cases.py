"""What is checked: each hand-written layer and model beside the same function in PyTorch.

PyTorch's versions stand in ``core/gradient_check/referee.py``. Inputs are drawn with sizes that all
differ, so a transposed axis cannot hide; masks have gaps and a fully masked row; words repeat and
one is unused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from core import transformer_layers
from core.gradient_check import referee
from core.gradient_check.case import Case, our_function
from core.gradient_check.values import VALUES


def _layer(
    function: str,
    sizes: str,
    make: Callable,
    differentiable: tuple[str, ...],
    outputs: tuple[str, ...],
    torch: Callable,
    name: str | None = None,
    **more,
) -> Case:
    """A ``FUNCTION_forward`` / ``FUNCTION_backward`` pair."""
    forward, backward = f"{function}_forward", f"{function}_backward"

    def run(functions, inputs, upstream):
        *values, cache = functions.call(forward, *inputs.values(), returns=len(outputs) + 1)
        if upstream is None:
            return values, None
        single = len(differentiable) == 1
        returns = None if single else len(differentiable)
        gradients = functions.call(backward, *upstream, cache, returns=returns)
        return values, [gradients] if single else gradients

    functions = forward, backward
    return Case(
        name or function, functions, sizes, make, differentiable, outputs, run, torch, **more
    )


def _loss(name: str, sizes: str, make: Callable, differentiable: tuple[str, ...], torch) -> Case:
    """A function that returns a loss together with its gradients."""

    def run(functions, inputs, upstream):
        if "smoothing" in inputs and not functions.may_omit(name, "smoothing"):
            loss, *gradients = our_function(name)(*inputs.values())  # that of a course has none
            return [loss], gradients
        loss, *gradients = functions.call(name, *inputs.values(), returns=1 + len(differentiable))
        return [loss], gradients

    return Case(name, (name,), sizes, make, differentiable, (), run, torch)


# ---------------------------------------------------------------------------------------------
# Inputs
# ---------------------------------------------------------------------------------------------


def _normal(rng, **shapes) -> dict:
    """Small enough that no tanh saturates: where it is flat, differences see only rounding.

    The gains of a layer norm lie around 1: small ones leave nothing of the gradients below.
    """
    return {
        name: name.endswith("gamma") + 0.5 * rng.standard_normal(shape)
        for name, shape in shapes.items()
    }


def _make_affine(rng, N, T, D, V):
    return _normal(rng, x=(N, T, D), w=(T * D, V), b=(V,))


def _make_word_embedding(rng, N, T, V, W):
    words = rng.integers(0, V - 1, size=(N, T))  # the last word is never used
    words[:, -1] = words[:, 0]  # and one is used twice
    return {"x": words, "W": rng.standard_normal((V, W))}


def _make_rnn_step(rng, N, D, H):
    return _normal(rng, x=(N, D), prev_h=(N, H), Wx=(D, H), Wh=(H, H), b=(H,))


def _make_rnn(rng, N, T, D, H):
    return _normal(rng, x=(N, T, D), h0=(N, H), Wx=(D, H), Wh=(H, H), b=(H,))


def _make_lstm_step(rng, N, D, H):
    return _normal(
        rng, x=(N, D), prev_h=(N, H), prev_c=(N, H), Wx=(D, 4 * H), Wh=(H, 4 * H), b=(4 * H,)
    )


def _make_lstm(rng, N, T, D, H):
    return _normal(rng, x=(N, T, D), h0=(N, H), Wx=(D, 4 * H), Wh=(H, 4 * H), b=(4 * H,))


def _make_temporal_affine(rng, N, T, D, V):
    return _normal(rng, x=(N, T, D), w=(D, V), b=(V,))


def _mask_with_gaps(rng, N: int, T: int) -> np.ndarray:
    """A boolean (N, T) mask with holes and, where N > 1, a row with no True at all."""
    mask = rng.random((N, T)) < 0.7
    mask[:, 0] = True
    if T > 2:
        mask[:, T // 2] = False
    if N > 1:
        mask[-1] = False
    return mask


def _make_temporal_softmax_loss(rng, N, T, V):
    return {
        "x": rng.standard_normal((N, T, V)),
        "y": rng.integers(0, V, size=(N, T)),
        "mask": _mask_with_gaps(rng, N, T),
    }


def _make_dropout(rng, N, T, D):
    return {"x": rng.standard_normal((N, T, D)), "p": 0.3, "rng": _FrozenGenerator(7)}


class _FrozenGenerator:
    """Draws the same mask at every call: a function that drops at random has no derivative."""

    def __init__(self, seed: int):
        self.seed = seed

    def random(self, size=None, dtype=np.float64):
        """The same numbers in every precision, so that a draw in another drops the same."""
        return np.random.default_rng(self.seed).random(size).astype(dtype)

    def __getattr__(self, name: str):
        return getattr(np.random.default_rng(self.seed), name)


def _make_attend(rng, N, L, C, K):
    return _normal(rng, features=(N, L, C), keys=(N, L, K), query=(N, K), v=(K,))


def _make_additive_attention(rng, N, L, C, H, K):
    return _normal(rng, features=(N, L, C), h=(N, H), Wf=(C, K), Wh=(H, K), b=(K,), v=(K,))


def _make_context_gate(rng, N, C, H):
    return _normal(rng, context=(N, C), h=(N, H), W=(H, C), b=(C,))


def _gate_and_lstm(C: int, W: int, H: int) -> dict[str, tuple[int, ...]]:
    lstm = {"Wx": (W + C, 4 * H), "Wh": (H, 4 * H), "b": (4 * H,)}
    return {"W_gate": (H, C), "b_gate": (C,), **lstm}


def _make_attention_lstm_step(rng, N, W, L, C, K, H):
    return _normal(
        rng,
        word=(N, W),
        features=(N, L, C),
        keys=(N, L, K),
        prev_h=(N, H),
        prev_c=(N, H),
        W_query=(H + W, K),
        v_attend=(K,),
        **_gate_and_lstm(C, W, H),
    )


def _make_attention_lstm(rng, N, T, W, L, C, K, H):
    return _normal(
        rng,
        words=(N, T, W),
        features=(N, L, C),
        h0=(N, H),
        c0=(N, H),
        W_features=(C, K),
        W_query=(H + W, K),
        b_attend=(K,),
        v_attend=(K,),
        **_gate_and_lstm(C, W, H),
    )


def _make_doubly_stochastic_loss(rng, N, T, L):
    weights = rng.random((N, T, L))
    weights /= weights.sum(axis=2, keepdims=True)
    return {"weights": weights, "mask": _mask_with_gaps(rng, N, T), "strength": 0.7}


def _make_layer_norm(rng, N, T, D):
    return _normal(rng, x=(N, T, D), gamma=(D,), beta=(D,))


def _make_feed_forward(activation: str) -> Callable:
    def make(rng, N, T, D, F):
        while True:
            inputs = _normal(rng, x=(N, T, D), W1=(D, F), b1=(F,), W2=(F, D), b2=(D,))
            # Next to the kink of a ReLU there is no difference quotient.
            if abs(inputs["x"] @ inputs["W1"] + inputs["b1"]).min() > 1e-3:
                return {**inputs, "activation": activation}

    return make


_WIDTH, _HEADS = 6, 2  # of the Transformer layers; SIZES leave 6 out


def _attention_mask(rng, N: int, T: int, S: int) -> np.ndarray:
    """A boolean (N, 1, T, S) mask with holes and, where T > 1, a query that may see nothing."""
    mask = rng.random((N, 1, T, S)) < 0.6
    mask[..., 0] = True
    if T > 1:
        mask[-1, :, -1] = False
    return mask


def _make_scaled_dot_product_attention(rng, N, T, S, D):
    inputs = _normal(rng, q=(N, _HEADS, T, D), k=(N, _HEADS, S, D), v=(N, _HEADS, S, D))
    return {**inputs, "mask": _attention_mask(rng, N, T, S)}


def _make_multi_head_attention(rng, N, T, S):
    E = _WIDTH
    projections = {f"{kind}{x}": (E, E)[: 1 + (kind == "W")] for x in "qkvo" for kind in "Wb"}
    inputs = _normal(rng, query=(N, T, E), key=(N, S, E), value=(N, S, E), **projections)
    return {**inputs, "num_heads": _HEADS, "mask": _attention_mask(rng, N, T, S)}


def _block_shapes(F: int, prefix: str = "") -> dict[str, tuple[int, ...]]:
    sizes = {"E": _WIDTH, "F": F}
    return {
        prefix + name: tuple(sizes[letter] for letter in letters)
        for name, letters in transformer_layers.BLOCK_SHAPES.items()
    }


def _make_decoder_block(rng, N, T, S, F):
    return {
        **_normal(rng, x=(N, T, _WIDTH), memory=(N, S, _WIDTH), **_block_shapes(F)),
        "mask": np.tri(T, dtype=bool),
        "rng": _FrozenGenerator(7),
    }


_SPECIAL_WORDS = {"<NULL>": 0, "<START>": 1, "<END>": 2, "<UNK>": 3}


def _make_captions(rng, N: int, T: int, V: int) -> np.ndarray:
    """(N, T + 1) word ids: a repeated word, <NULL> in the middle, and one caption of <NULL>."""
    captions = rng.integers(1, V, size=(N, T + 1))
    captions[:, -1] = captions[:, 1]
    if T > 2:
        captions[0, T // 2 + 1] = 0
    if N > 1:
        captions[-1] = 0
    return captions


# ---------------------------------------------------------------------------------------------
# The registry, in the order in which a learner meets the layers
# ---------------------------------------------------------------------------------------------


_DROPOUT, _PENALTY, _LAYERS = 0.3, 0.7, 2


def _decoder_block(name: str, options: Mapping, torch: Callable) -> Case:
    functions = ("decoder_block_forward", "decoder_block_backward")
    names = tuple(_block_shapes(1))

    def run(functions, inputs, upstream):
        params = {name: inputs[name] for name in names}
        x, memory, mask, rng = (inputs[name] for name in ("x", "memory", "mask", "rng"))
        *values, cache = functions.call(
            "decoder_block_forward", x, memory, params, _HEADS, mask, rng=rng, returns=2, **options
        )
        if upstream is None:
            return values, None
        dx, dmemory, grads = functions.call("decoder_block_backward", *upstream, cache, returns=3)
        return values, [dx, dmemory, *(grads.get(name) for name in names)]

    inputs = ("x", "memory", *names)
    return Case(
        name, functions, "NTSF", _make_decoder_block, inputs, ("out",), run, torch, composed=True
    )


def _captioning(
    name: str,
    model: str,
    sizes: str,
    grid: bool,
    shapes: Callable[..., dict],
    options: Mapping,
    torch: Callable,
    gates: bool = False,
) -> Case:
    """A model: the gradient of its loss for every parameter.

    - model: name of the class
    - grid: whether the features have locations
    - shapes: sizes by letter -> shape of each parameter
    - options: of the constructor, besides vocabulary and input_dim; a capital letter is a size
    """
    names = tuple(shapes(**dict.fromkeys(sizes, 1)))

    def make(rng, **sizes):
        N, T, V = sizes["N"], sizes["T"], sizes["V"]
        shape = (N, sizes["L"], sizes["C"]) if grid else (N, sizes["D"])
        return {
            "features": rng.standard_normal(shape),
            "captions": _make_captions(rng, N, T, V),
            **_normal(rng, **shapes(**sizes)),
        }

    def run(functions, inputs, upstream):
        params = {name: inputs[name] for name in names}
        V = len(inputs["b_vocab"])
        vocabulary = {f"word{i}": i for i in range(len(_SPECIAL_WORDS), V)} | _SPECIAL_WORDS
        widths = {
            name: params[of].shape[axis] for name, (of, axis) in options.get("widths", {}).items()
        }

        def loss_and_gradients(build):
            built = build(
                vocabulary,
                input_dim=inputs["features"].shape[-1],
                dtype=np.float64,
                **widths,
                **options.get("fixed", {}),
            )
            built.params = dict(params)
            loss, gradients = built.loss(inputs["features"], inputs["captions"])
            return [loss], [gradients.get(name) for name in names]

        before = {name: np.array(value) for name, value in inputs.items()}
        found = functions.guard(model, loss_and_gradients, functions[model])
        if written := [name for name in inputs if not np.array_equal(inputs[name], before[name])]:
            functions.faults.append(
                f"{model} writes into {', '.join(written)}: the caller's arrays must stay as they "
                "are; work on a copy"
            )
            for name in written:
                inputs[name][...] = before[name]
        return found

    return Case(name, (model,), sizes, make, names, (), run, torch, gates, composed=True)


def _rnn_shapes(blocks: int) -> Callable:
    def shapes(N, T, D, W, H, V):
        return {
            "W_proj": (D, H),
            "b_proj": (H,),
            "W_embed": (V, W),
            "Wx": (W, blocks * H),
            "Wh": (H, blocks * H),
            "b": (blocks * H,),
            "W_vocab": (H, V),
            "b_vocab": (V,),
        }

    return shapes


def _attention_shapes(N, T, L, C, W, H, K, V):
    return {
        "W_h0": (C, H),
        "b_h0": (H,),
        "W_c0": (C, H),
        "b_c0": (H,),
        "W_embed": (V, W),
        "W_features": (C, K),
        "W_query": (H + W, K),
        "b_attend": (K,),
        "v_attend": (K,),
        "W_gate": (H, C),
        "b_gate": (C,),
        "Wx": (W + C, 4 * H),
        "Wh": (H, 4 * H),
        "b": (4 * H,),
        "W_deep": (W + H + C, W),
        "b_deep": (W,),
        "W_vocab": (W, V),
        "b_vocab": (V,),
    }


def _transformer_shapes(tied: bool) -> Callable:
    def shapes(N, T, L, C, F, V):
        E = _WIDTH
        out = {"W_proj": (C, E), "b_proj": (E,), "W_embed": (V, E)}
        if tied:
            out["W_position"] = (T + 1, E)
        for layer in range(_LAYERS):
            out |= _block_shapes(F, f"block{layer}.")
        if tied:
            out |= {"norm.gamma": (E,), "norm.beta": (E,)}
        else:
            out["W_vocab"] = (E, V)
        return {**out, "b_vocab": (V,)}

    return shapes


CASES: tuple[Case, ...] = (
    _layer("affine", "NTDV", _make_affine, ("x", "w", "b"), ("out",), referee.affine),
    _layer(
        "word_embedding", "NTVW", _make_word_embedding, ("W",), ("out",), referee.word_embedding
    ),
    _layer(
        "rnn_step",
        "NDH",
        _make_rnn_step,
        ("x", "prev_h", "Wx", "Wh", "b"),
        ("next_h",),
        referee.rnn_step,
    ),
    _layer("rnn", "NTDH", _make_rnn, ("x", "h0", "Wx", "Wh", "b"), ("h",), referee.rnn),
    _layer(
        "lstm_step",
        "NDH",
        _make_lstm_step,
        ("x", "prev_h", "prev_c", "Wx", "Wh", "b"),
        ("next_h", "next_c"),
        referee.lstm_step,
        gates=True,
    ),
    _layer(
        "lstm", "NTDH", _make_lstm, ("x", "h0", "Wx", "Wh", "b"), ("h",), referee.lstm, gates=True
    ),
    _layer(
        "temporal_affine",
        "NTDV",
        _make_temporal_affine,
        ("x", "w", "b"),
        ("out",),
        referee.temporal_affine,
    ),
    _loss(
        "temporal_softmax_loss",
        "NTV",
        _make_temporal_softmax_loss,
        ("x",),
        referee.temporal_softmax_loss,
    ),
    _layer("dropout", "NTD", _make_dropout, ("x",), ("out",), referee.dropout),
    _layer(
        "attend",
        "NLCK",
        _make_attend,
        ("features", "keys", "query", "v"),
        ("context", "weights"),
        referee.attend,
    ),
    _layer(
        "additive_attention",
        "NLCHK",
        _make_additive_attention,
        ("features", "h", "Wf", "Wh", "b", "v"),
        ("context", "weights"),
        referee.additive_attention,
    ),
    _layer(
        "context_gate",
        "NCH",
        _make_context_gate,
        ("context", "h", "W", "b"),
        ("out",),
        referee.context_gate,
    ),
    _layer(
        "attention_lstm_step",
        "NWLCKH",
        _make_attention_lstm_step,
        "word features keys prev_h prev_c W_query v_attend W_gate b_gate Wx Wh b".split(),
        ("next_h", "next_c", "gated", "weights"),
        referee.attention_lstm_step,
        gates=True,
    ),
    _layer(
        "attention_lstm",
        "NTWLCKH",
        _make_attention_lstm,
        "words features h0 c0 W_features W_query b_attend v_attend W_gate b_gate Wx Wh b".split(),
        ("h", "gated", "weights"),
        referee.attention_lstm,
        gates=True,
        composed=True,
    ),
    _loss(
        "doubly_stochastic_loss",
        "NTL",
        _make_doubly_stochastic_loss,
        ("weights",),
        referee.doubly_stochastic_loss,
    ),
    _layer(
        "layer_norm", "NTD", _make_layer_norm, ("x", "gamma", "beta"), ("out",), referee.layer_norm
    ),
    *(
        _layer(
            "feed_forward",
            "NTDF",
            _make_feed_forward(activation),
            ("x", "W1", "b1", "W2", "b2"),
            ("out",),
            referee.feed_forward,
            name=name,
        )
        for name, activation in (("feed_forward", "relu"), ("feed_forward_gelu", "gelu"))
    ),
    _layer(
        "scaled_dot_product_attention",
        "NTSD",
        _make_scaled_dot_product_attention,
        ("q", "k", "v"),
        ("out",),
        referee.scaled_dot_product_attention,
    ),
    _layer(
        "multi_head_attention",
        "NTS",
        _make_multi_head_attention,
        "query key value Wq bq Wk bk Wv bv Wo bo".split(),
        ("out",),
        referee.multi_head_attention,
        zero=("bk",),
    ),
    _decoder_block(
        "decoder_block",
        {"activation": "gelu"},
        referee.decoder_block(norm_first=True, activation="gelu", num_heads=_HEADS),
    ),
    _decoder_block(
        "decoder_block_post_norm",
        {"norm_first": False, "activation": "gelu"},
        referee.decoder_block(norm_first=False, activation="gelu", num_heads=_HEADS),
    ),
    _decoder_block(
        "decoder_block_dropout",
        {"dropout": _DROPOUT, "activation": "gelu"},
        referee.decoder_block_dropout(_DROPOUT, _HEADS),
    ),
    *VALUES,
    *(
        _captioning(
            f"captioning_{cell_type}",
            "CaptioningRNN",
            "NTDWHV",
            False,
            _rnn_shapes(blocks),
            {
                "widths": {"wordvec_dim": ("W_embed", 1), "hidden_dim": ("Wh", 0)},
                "fixed": {"cell_type": cell_type},
            },
            referee.captioning_rnn(sequence),
            gates=cell_type == "lstm",
        )
        for cell_type, blocks, sequence in (("rnn", 1, referee.rnn), ("lstm", 4, referee.lstm))
    ),
    _captioning(
        "captioning_attention",
        "CaptioningAttention",
        "NTLCWHKV",
        True,
        _attention_shapes,
        {
            "widths": {
                "wordvec_dim": ("W_embed", 1),
                "hidden_dim": ("Wh", 0),
                "attention_dim": ("W_query", 1),
            },
            "fixed": {"double_stochastic": _PENALTY},
        },
        referee.captioning_attention(_PENALTY),
        gates=True,
    ),
    *(
        _captioning(
            name,
            "CaptioningTransformer",
            "NTLCFV",
            True,
            _transformer_shapes(tied),
            {
                "widths": {"hidden_dim": ("block0.feed_forward.W1", 1)},
                "fixed": {
                    "wordvec_dim": _WIDTH,
                    "num_heads": _HEADS,
                    "num_layers": _LAYERS,
                    "tied": tied,
                    "norm_first": tied,
                    "positions": "learned" if tied else "sinusoidal",
                    "activation": "gelu",  # a ReLU has kinks, where differences are wrong
                },
            },
            referee.captioning_transformer(tied, _LAYERS, _HEADS),
        )
        for name, tied in (
            ("captioning_transformer", True),
            ("captioning_transformer_post_norm", False),
        )
    ),
)
