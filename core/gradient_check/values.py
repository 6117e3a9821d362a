"""What is checked by its values alone: update rules, clipping, positions, decoders.

None of them has a backward. Beside each stands what PyTorch has, where it has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from core.gradient_check import referee
from core.gradient_check.case import Case, ImplementationError, our_function

Array = np.ndarray


# ---------------------------------------------------------------------------------------------
# Update rules: several steps, in the middle of which the learning rate falls
# ---------------------------------------------------------------------------------------------


def _make_update(numbers: dict) -> Callable:
    def make(rng, N, T, D):
        # From large gradients to tiny ones, which bring epsilons to light.
        sizes = 10.0 ** rng.integers(-9, 2, size=(N, D))
        return {
            "w": rng.standard_normal((N, D)),
            "gradients": sizes * rng.standard_normal((T, N, D)),
            "rates": np.where(np.arange(T) < T // 2, 0.1, 0.02),
            "numbers": numbers,
        }

    return make


def _update_rule(name: str, numbers: dict, torch: Callable) -> Case:
    def run(functions, inputs, upstream):
        rule = partial(functions.call, name, returns=2)
        if inputs.get("defaults") and not functions.may_omit(name, 2):
            rule = our_function(name)  # theirs always wants a whole config, which is no mistake
        given = inputs["numbers"] is not None
        w, config, steps = inputs["w"], dict(inputs["numbers"]) if given else None, []
        for gradient, rate in zip(inputs["gradients"], inputs["rates"], strict=True):
            if given:
                config["learning_rate"] = float(rate)
            w, config = rule(w, gradient, config)
            if not isinstance(config, dict):
                raise ImplementationError(
                    f"{name} returned a {type(config).__name__} for config, expected the dict that "
                    "the next step gets"
                )
            steps.append(w)
        if len({np.shape(step) for step in steps} | {inputs["w"].shape}) > 1:
            raise ImplementationError(
                f"{name} returned shape {np.shape(steps[0])} for next_w, expected that of w, "
                f"{inputs['w'].shape}"
            )
        return [np.stack(steps)], None

    build = referee.update_rule(torch)
    return Case(name, (name,), "NTD", _make_update(numbers), (), ("next_w",), run, build)


def _adam(kind: str) -> Callable:
    def build(parameters, numbers):
        from torch import optim

        decay = {"weight_decay": numbers["weight_decay"]} if kind == "AdamW" else {}
        betas = numbers["beta1"], numbers["beta2"]
        return getattr(optim, kind)(parameters, betas=betas, eps=numbers["epsilon"], **decay)

    return build


def _sgd(parameters, numbers):
    from torch import optim

    return optim.SGD(parameters, lr=0.1, momentum=numbers.get("momentum", 0))


def _rmsprop(parameters, numbers):
    from torch import optim

    return optim.RMSprop(parameters, alpha=numbers["decay_rate"], eps=numbers["epsilon"])


_ADAM = {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6}


# ---------------------------------------------------------------------------------------------
# Clipping and positions
# ---------------------------------------------------------------------------------------------


def _make_clipping(rng, D, H):
    W, b = rng.standard_normal((D, H)), rng.standard_normal(H)
    return {"W": W, "b": b, "max_norm": 0.3 * float(np.sqrt(np.sum(W**2) + np.sum(b**2)))}


def _clip(functions, inputs, upstream):
    """Once where the norm is too large, and once where it is not."""
    outputs = []
    for limit in (inputs["max_norm"], 100 * inputs["max_norm"]):
        grads = {"W": inputs["W"], "b": inputs["b"]}
        clipped, norm = functions.call("clip_gradient_norm", grads, limit, returns=2)
        if not isinstance(clipped, dict) or clipped.keys() != grads.keys():
            raise ImplementationError(
                "clip_gradient_norm returned something else than a dict with the keys of grads"
            )
        outputs += [clipped["W"], clipped["b"], norm]
    return outputs, None


def _make_positions(rng, T):
    return {"length": T, "width": 6}


def _positions(functions, inputs, upstream):
    return [functions.call("positional_encoding", inputs["length"], inputs["width"])], None


# ---------------------------------------------------------------------------------------------
# Decoders, on a small model that is one matrix
# ---------------------------------------------------------------------------------------------


@dataclass
class _Chain:
    """A decoder: its state is a mixture of the image and the words so far.

    Two words always have the same score, and one image never ends.
    """

    features: Array
    read: Array  # (V, D) what reading a word adds to the state
    scores: Array  # (D, V)
    null: int = 0
    start: int = 1
    end: int = 2
    unknown: int = 3
    max_length: int | None = None
    word_to_idx: dict = field(default_factory=dict)

    def begin(self, features):
        return np.array(features)

    def step(self, state, tokens):
        tokens = np.asarray(tokens)
        if tokens.shape != (len(state),):
            raise ValueError(f"step: found tokens of shape {tokens.shape}, expected {len(state)}")
        state = np.tanh(state + self.read[tokens])
        scores = state @ self.scores
        # 0.76, 0.64, 0.56, 0.51, ...: <END> comes at the fourth word at the latest, or never
        shrinking = state[:, -1]
        scores[:, self.end] += np.where(shrinking > 0, np.where(shrinking < 0.53, 50, 1), -50)
        scores = scores - scores.max(axis=1, keepdims=True)
        return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)), state

    def select(self, state, rows):
        return state[np.asarray(rows)]


def _make_decoder(rng, N, T, V, D):
    N += 5
    V += 6  # the special words, and some more
    read, scores = rng.standard_normal((V, D)), 2 * rng.standard_normal((D, V))
    scores[:, -1] = scores[:, -2]  # a tie: the lower id comes first
    scores[:, 3] += scores[:, 4] + 0.1  # <UNK> is often the best, and may not be said
    features = rng.standard_normal((N, D))
    read[:, -1] = 0  # the last entry of the state keeps its sign: it says whether <END> may come
    features[:, -1] = np.where(np.arange(N) == 0, -1.0, 1.0)
    return {"features": features, "read": read, "scores": scores, "max_length": T + 2}


def _decoder(name: str, outputs: tuple[str, ...], options: dict, torch: Callable) -> Case:
    def run(functions, inputs, upstream):
        found = []
        for length in (inputs["max_length"], 1):
            words = {f"word{i}": i for i in range(len(inputs["read"]))}
            model = _Chain(
                inputs["features"],
                inputs["read"],
                inputs["scores"],
                max_length=inputs.get("positions"),
                word_to_idx=words,
            )
            decode = partial(
                functions.call, name, returns=len(outputs) if len(outputs) > 1 else None
            )
            if ("more" in inputs or "positions" in inputs) and not functions.may_omit(
                name, "allow_unknown"
            ):
                decode = our_function(name)  # a plain decoder knows neither, which is no mistake
            given = {**options, **inputs.get("more", {})}
            if "penalty" in inputs:
                given["length_penalty"] = inputs["penalty"]
            values = decode(model, inputs["features"], max_length=length, **given)
            ids, *scores = values if len(outputs) > 1 else [values]
            if ids is None or np.asarray(ids).dtype.kind not in "iu":
                kind = "None" if ids is None else f"{np.asarray(ids).dtype} values"
                raise ImplementationError(f"{name} returned {kind}, expected whole numbers, ids")
            # -inf, the score of a caption that is not there, has no difference from itself
            found += [np.asarray(ids, dtype=np.float64), *(np.maximum(s, -1e3) for s in scores)]
        return found, None

    names = (*outputs, *(f"{output} of max_length 1" for output in outputs))
    return Case(name, (name,), "NTVD", _make_decoder, (), names, run, torch)


_BEAM = {"beam_size": 3, "n_best": 2}
VALUES: tuple[Case, ...] = (
    _update_rule("sgd", {}, _sgd),
    _update_rule("sgd_momentum", {"momentum": 0.8}, _sgd),
    _update_rule("rmsprop", {"decay_rate": 0.9, "epsilon": 1e-6}, _rmsprop),
    _update_rule("adam", _ADAM, _adam("Adam")),
    _update_rule("adamw", {**_ADAM, "weight_decay": 0.3}, _adam("AdamW")),
    Case(
        "clip_gradient_norm",
        ("clip_gradient_norm",),
        "DH",
        _make_clipping,
        (),
        ("W clipped", "b clipped", "norm", "W below the limit", "b below the limit", "norm again"),
        _clip,
        referee.clip_gradient_norm,
    ),
    Case(
        "positional_encoding",
        ("positional_encoding",),
        "T",
        _make_positions,
        (),
        ("out",),
        _positions,
        referee.positional_encoding,
    ),
    _decoder("greedy", ("captions",), {}, referee.greedy),
    _decoder("beam_search", ("captions", "scores"), _BEAM, referee.beam_search(**_BEAM)),
)
