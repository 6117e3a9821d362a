"""What is said of wrong numbers: the forward first, then named slips, then what is seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.gradient_check.case import Case
from core.gradient_check.diagnosis import (
    SWAPPED,
    diagnose,
    exchanged,
    few_digits,
    gates_swapped,
    is_specific,
    of_shape,
    recognise,
    with_worst,
)
from core.gradient_check.differences import relative_error
from core.gradient_check.equations import line_of
from core.gradient_check.learner import malformed

Array = np.ndarray


@dataclass(frozen=True)
class Found:
    """What a check has measured of a case.

    - case, inputs, upstream, sizes: what was checked
    - right: the right gradients by name (dx, ...)
    - numerical: central differences of the forward that was checked
    - forward_wrong: whether that forward is wrong itself
    """

    case: Case
    inputs: dict
    upstream: Sequence[Array]
    sizes: Mapping[str, int]
    right: Mapping[str, Array]
    numerical: Mapping[str, Array]
    forward_wrong: bool


def wrong_outputs(
    case: Case,
    inputs: dict,
    wrong: Mapping[str, Array],
    right: Mapping[str, Array],
    sizes: Mapping[str, int],
) -> dict[str, str]:
    """The problem of each output that is wrong, by name."""
    slips = recognise(case, inputs, None, wrong, right)
    found = {}
    for name, got in wrong.items():
        if not np.all(np.isfinite(got)):
            hint = "is NaN or infinite"
            if "mask" in inputs and case.name.endswith("attention"):
                hint += ": is that a query that may see nothing? A sum of 0 divides nothing"
            if case.name in ("adam", "adamw", "rmsprop"):
                from_the_start = not np.any(np.isfinite(got[0]))
                hint += (
                    ": is t 1 at the first step? 1 - beta^0 is 0"
                    if from_the_start
                    else ": is the gradient squared? A root of what is below 0 is NaN"
                )
            hint = f"the forward pass itself differs: it {hint}"
        elif name in slips:
            hint = f"the forward pass itself differs: it {slips[name]}"
        elif not (hint := few_digits(got, right[name])):
            line = line_of(case.functions[0], name)
            other = exchanged(name, got, wrong, right) or _seen_in_output(
                case, inputs, got, right[name], sizes
            )
            if case.name == "dropout" and _drops_others(inputs, got):
                other = "drops other entries: draw rng.random(x.shape, dtype=np.float32) once"
            hint = f"the forward pass itself differs{': it ' + other if other else ''}"
            if not other and line:
                hint += f"; expected {line}"
        found[name] = with_worst(hint, got, right[name])
    vague = {name: got for name, got in wrong.items() if "; expected " in found[name]}
    for name, hint in recognise(case, inputs, None, vague, right, exchanges=True).items():
        found[name] = with_worst(
            f"the forward pass itself differs: it {hint}", vague[name], right[name]
        )
    return found


def wrong_gradients(
    found: Found, wrong: Mapping[str, Array], agree: Collection[str]
) -> dict[str, str]:
    """The problem of each gradient that is wrong, by name; ``agree``: those that PyTorch finds."""
    case, right = found.case, found.right
    if not wrong:
        return {}
    slips = {}
    if not found.forward_wrong:
        slips = recognise(case, found.inputs, found.upstream, wrong, right)
    swapped = case.gates and "db" in wrong and gates_swapped(wrong["db"], right["db"])
    problems = {}
    for name, got in wrong.items():
        expected = right[name]
        if fault := malformed(got, expected.shape):
            problem = f"{case.functions[-1]} returned {fault} for {name}"
            if other := exchanged(name, got, wrong, right):
                problem += f"; it {other}"
            else:
                problem += of_shape(np.shape(got), expected.shape, found.sizes)
            problems[name] = problem
            continue
        got = np.asarray(got)
        if name in agree:
            hint = "is PyTorch's gradient, but not that of the forward: is that one wrong?"
            problems[name] = with_worst(hint, got, found.numerical[name])
            continue
        if found.forward_wrong:
            expected = found.numerical[name]
            if not np.all(np.isfinite(expected)):
                problems[name] = "cannot be judged while the forward is NaN or infinite"
                continue
        hint = slips.get(name) or exchanged(name, got, wrong, right)
        hint = hint or _seen(found, name, got, expected)
        if swapped and name not in slips and name not in ("dWx", "dWh", "db"):
            hint = f"follows from {SWAPPED}"
        if found.forward_wrong:
            hint = f"is not the gradient of your forward, which is wrong itself; it {hint}"
        problems[name] = with_worst(hint, got, expected)
    if not found.forward_wrong:
        vague = {name: got for name, got in wrong.items() if not is_specific(problems[name])}
        others = recognise(case, found.inputs, found.upstream, vague, right, exchanges=True)
        for name, hint in others.items():
            problems[name] = with_worst(hint, vague[name], right[name])
    return problems


def _seen_in_output(
    case: Case, inputs: dict, got: Array, expected: Array, sizes: Mapping[str, int]
) -> str | None:
    """What can be seen in an output, where it names a mistake; of a single number nothing can."""
    if expected.size < 2 or "captions" in case.outputs:
        return None
    if case.outputs == ("next_w",):
        return _seen_in_steps(inputs["w"], got, expected)
    numbers = {name: value for name, value in inputs.items() if type(value) is int}
    hint = diagnose(got, expected, sizes={**sizes, **numbers})
    return hint if is_specific(hint) else None


def _seen_in_steps(w: Array, got: Array, expected: Array) -> str | None:
    """What can be seen in the weights after each step of an update rule that starts at w."""
    right = [relative_error(a, b) < 1e-10 for a, b in zip(got, expected, strict=True)]
    if right[0] and not all(right):
        return (
            f"is right up to step {right.index(False)} and wrong from then on: "
            "look at what config keeps from one step to the next"
        )
    taken, steps = (np.diff(each, axis=0, prepend=w[None]) for each in (got, expected))
    ratio = float(np.vdot(steps, taken) / np.vdot(steps, steps))
    if relative_error(taken, ratio * steps) < 1e-8:
        return f"takes steps that are {ratio:.4g} times the right ones: check their factors"
    return None


def _drops_others(inputs: dict, got: Array) -> bool:
    """Whether each entry is dropped, or scaled as it should be."""
    return bool(np.all(np.isclose(got, inputs["x"] / (1 - inputs["p"])) | (got == 0)))


def _seen(found: Found, name: str, got: Array, expected: Array) -> str:
    """The hint by what can be seen in the numbers."""
    mask = found.inputs.get("mask")
    if isinstance(mask, np.ndarray) and mask.shape == expected.shape[: mask.ndim]:
        off = np.abs(got - expected) > 1e-9 * np.abs(expected).max()
        outside = ~mask.reshape(mask.shape + (1,) * (expected.ndim - mask.ndim))
        if off.any() and not np.any(off & ~outside):
            return "is wrong exactly where the mask is 0: nothing there counts"
    weights = [value for key, value in found.inputs.items() if is_weight(key)]
    in_gates = found.case.gates and name in ("dWx", "dWh", "db")
    sizes = dict(found.sizes)
    if found.case.name == "multi_head_attention":
        sizes["d"] = found.right["dbq"].size // found.inputs["num_heads"]
    if found.case.name == "scaled_dot_product_attention":
        sizes["d"] = sizes.pop("D")
    return diagnose(got, expected, in_gates, is_weight(name[1:]), weights, sizes)


def is_weight(name: str) -> bool:
    """Whether an input is a weight matrix: w, Wx, block0.self.Wq, ..."""
    name = name.rpartition(".")[2]
    return name == "w" or name.startswith("W")
