"""Corners in which code that is right elsewhere fails: one sample, one step, float32, large scores.

They are tried once all else holds, against ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from core.gradient_check.case import Case, ImplementationError
from core.gradient_check.diagnosis import diagnose, is_specific, recognise
from core.gradient_check.differences import relative_error
from core.gradient_check.learner import Functions

Array = np.ndarray

_SCORED = ("temporal_softmax_loss", "attend", "additive_attention")
_RULES = ("sgd", "sgd_momentum", "rmsprop", "adam", "adamw")
_DECODERS = ("greedy", "beam_search")
_MASKED = {"scaled_dot_product_attention": (None, 2, 4), "multi_head_attention": (None, 2, 3, 4)}


def corner_faults(
    case: Case, rng, functions: Functions, inputs: dict, run: Callable, sizes: dict
) -> list[str]:
    """A sentence for each corner in which a function fails.

    Inputs as ``core.gradient_check.checking.check_case`` has them; ``run`` as ``case.run``.
    """
    faults = []
    named = " or ".join(name for name in case.functions if name in functions)
    for words, corner in _corners(case, rng, inputs, sizes):
        try:
            fault = _fault(case, functions, corner, run, rng, named)
        except ImplementationError as error:
            fault = str(error)
        if fault:
            faults.append(f"{words}: {fault}")
    return faults


def _corners(case: Case, rng, inputs: dict, sizes: dict) -> Iterator[tuple[str, dict]]:
    """Words and inputs."""
    model = case.functions[0].startswith("Captioning")
    if case.differentiable and not model:
        for letter, words in (("N", "one sample"), ("T", "one time step")):
            if letter in case.sizes:
                corner = case.make(rng, **{**sizes, letter: 1})
                yield f"fails for {words} alone ({letter} = 1)", corner
        for length in _MASKED.get(case.name, ()):
            mask = inputs["mask"]
            instead = None if length is None else {2: mask[0, 0], 3: mask[:, 0]}.get(length)
            if length == 4:
                instead = np.repeat(mask, 2, axis=1)
            shape = "without a mask (None)" if length is None else {
                2: "for a mask of shape (T, S), the same for all",
                3: "for a mask of shape (N, T, S), without an axis for the heads",
                4: "for a mask of shape (N, h, T, S)",
            }[length]  # fmt: skip
            yield f"fails {shape}", {**inputs, "mask": instead}
        if case.name in _SCORED:
            yield "fails for scores of 800: subtract the largest first", _large(case.name, inputs)
        if case.name in _MASKED:
            asks = "q" if "q" in inputs else "query"
            large = {**inputs, asks: 1e4 * inputs[asks]}
            yield "fails for scores of 800: subtract the largest first", large
    if case.name == "temporal_softmax_loss":
        y, mask = inputs["y"], np.asarray(inputs["mask"])
        wrong = 800 * np.eye(inputs["x"].shape[2])[y - 1]  # the word before is sure of itself
        options = {"verbose": False, "smoothing": 0.0}
        yield "fails where a wrong word leads by 800: log of 0", {**inputs, "x": wrong, **options}
        spoilt = {
            "x": np.where(mask[..., None], inputs["x"], np.nan),
            "y": np.where(mask, y, -99),
        }
        yield (
            "fails where the mask is False, x is NaN and y is -99: they must not count",
            {**inputs, **spoilt, **options},
        )
        yield "fails for smoothing=0.1", {**inputs, **options, "smoothing": 0.1}
    if case.name in _RULES:
        for numbers, words in ((None, "config=None"), ({}, "a config without all of its numbers")):
            yield (
                f"fails for {words}: fill in the defaults",
                {**inputs, "numbers": numbers, "defaults": True},
            )
    if case.name in _DECODERS:
        yield "fails for more images", case.make(rng, **{**sizes, "N": 40})
        yield (
            "fails where model.max_length is 2: no more words than that",
            {**inputs, "positions": 2},
        )
        yield "fails for allow_unknown=True", {**inputs, "more": {"allow_unknown": True}}
    if case.name == "beam_search":
        for penalty in (0.5, 2.0, 0.0):
            yield f"fails for length_penalty={penalty}", {**inputs, "penalty": penalty}
    if case.name == "dropout":
        yield "fails for train=False, where all pass", {**inputs, "train": False}
        yield "fails for p = 0, where all pass", {**inputs, "p": 0.0}
    if not model and case.name not in ("positional_encoding", *_DECODERS):
        yield (
            "float64 for float32",
            {
                name: value.astype(np.float32)
                if isinstance(value, np.ndarray) and value.dtype == np.float64
                else value
                for name, value in inputs.items()
            },
        )


def _large(name: str, inputs: dict) -> dict:
    if name == "temporal_softmax_loss":
        return {**inputs, "x": inputs["x"] + 800}
    return {**inputs, "v": 4000 * inputs["v"]}


def _fault(case: Case, functions: Functions, corner: dict, run, rng, named: str) -> str | None:
    singles = any(
        isinstance(value, np.ndarray) and value.dtype == np.float32 for value in corner.values()
    )
    outputs, _ = case.run(Functions(), corner, None)
    upstream = [
        rng.standard_normal(np.shape(out)).astype(np.asarray(out).dtype)
        if case.outputs
        else np.ones((), np.asarray(out).dtype)
        for out in outputs
    ]
    gradients = []
    if case.differentiable:
        _, gradients = case.run(Functions(), corner, upstream)
    with np.errstate(all="ignore"):
        got, _ = run(functions, corner, None)
        if case.differentiable and not functions.forward_only(case):
            _, got_gradients = run(functions, corner, upstream)
        else:
            gradients, got_gradients = [], []
    names = [*(case.outputs or ("loss",)), *(f"d{name}" for name in case.differentiable)]
    tolerance = 1e-3 if singles else 1e-8
    largest = max((float(np.linalg.norm(g)) for g in gradients), default=0.0)
    for name, value, right in zip(
        names, [*got, *got_gradients], [*outputs, *gradients], strict=False
    ):
        value, right = np.asarray(value), np.asarray(right)
        if value.shape != right.shape:
            return f"{named} returned shape {value.shape} for {name}, expected {right.shape}"
        if singles:
            if value.ndim and value.dtype != np.float32:
                return (
                    f"{named} returned {value.dtype} for {name} where all inputs are float32: make "
                    "new arrays with dtype=x.dtype"
                )
            continue
        if not np.all(np.isfinite(value)):
            return f"{named} returned NaN or infinity for {name}"
        floor = 1e-4 * largest if name.startswith("d") else 1e-12
        if name[1:] in case.zero:
            floor = largest
        if not relative_error(value, right, floor) <= tolerance:
            words = f"{name} of {named} is not ours"
            if not case.differentiable and "positions" not in corner:
                ours = dict(zip(names, outputs, strict=False))
                theirs = dict(zip(names, map(np.asarray, got), strict=False))
                wrong = {n: v for n, v in theirs.items() if not np.array_equal(v, ours[n])}
                known = recognise(case, corner, None, wrong, ours)
                words += f": it {known[name]}" if name in known else ""
            elif right.size > 1 and is_specific(hint := diagnose(value, right)):
                words += f": it {hint}"
            return words
    return None
