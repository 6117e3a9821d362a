"""Slips in the RNN and the LSTM: in a step, and in the loop through time."""

# ruff: noqa: E501 (a slip a line)

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from core.gradient_check.slips.formulas import Array, Formulas, slips_from

GATES = {
    "dc": "dnext_c + dnext_h * o * (1 - tanh_c**2)",
    "do": "dnext_h * tanh_c",
    "df": "dc * prev_c",
    "di": "dc * g",
    "dg": "dc * i",
    "da_i": "di * i * (1 - i)",
    "da_f": "df * f * (1 - f)",
    "da_o": "do * o * (1 - o)",
    "da_g": "dg * (1 - g**2)",
    "da": "np.concatenate([da_i, da_f, da_o, da_g], axis=1)",
}
RIGHT = {
    "rnn_step_forward": Formulas(
        "x, prev_h, Wx, Wh, b", "",
        {"a": "x @ Wx + prev_h @ Wh + b", "next_h": "np.tanh(a)"},
        "next_h, (x, prev_h, Wx, Wh, next_h)",
    ),
    "rnn_step_backward": Formulas(
        "dnext_h, cache", "x, prev_h, Wx, Wh, next_h",
        {
            "da": "dnext_h * (1 - next_h**2)",
            "dx": "da @ Wx.T", "dprev_h": "da @ Wh.T",
            "dWx": "x.T @ da", "dWh": "prev_h.T @ da", "db": "da.sum(axis=0)",
        },
        "dx, dprev_h, dWx, dWh, db",
    ),
    "lstm_step_forward": Formulas(
        "x, prev_h, prev_c, Wx, Wh, b", "",
        {
            "a": "x @ Wx + prev_h @ Wh + b",
            "(a_i, a_f, a_o, a_g)": "np.split(a, 4, axis=1)",
            "i": "sigmoid(a_i)", "f": "sigmoid(a_f)", "o": "sigmoid(a_o)", "g": "np.tanh(a_g)",
            "next_c": "f * prev_c + i * g",
            "next_h": "o * np.tanh(next_c)",
        },
        "next_h, next_c, (x, prev_h, prev_c, Wx, Wh, i, f, o, g, np.tanh(next_c))",
    ),
    "lstm_step_backward": Formulas(
        "dnext_h, dnext_c, cache", "x, prev_h, prev_c, Wx, Wh, i, f, o, g, tanh_c",
        {
            **GATES,
            "dprev_c": "dc * f",
            "dx": "da @ Wx.T", "dprev_h": "da @ Wh.T",
            "dWx": "x.T @ da", "dWh": "prev_h.T @ da", "db": "da.sum(axis=0)",
        },
        "dx, dprev_h, dprev_c, dWx, dWh, db",
    ),
}  # fmt: skip

_TANH = (
    ("is what tanh gives where its derivative belongs: 1 - tanh^2", "next_h"),
    ("is what 1 - tanh gives, where 1 - tanh^2 belongs", "(1 - next_h)"),
    ("is what tanh^2 gives, where 1 - tanh^2 belongs", "next_h**2"),
    ("has tanh taken twice in its derivative: 1 - tanh(a)^2, and next_h is tanh(a) already",
     "(1 - np.tanh(next_h)**2)"),
    ("has a sigmoid's derivative where tanh's belongs: 1 - tanh^2", "(next_h * (1 - next_h))"),
    ("has a wrong sign in tanh's derivative: 1 - tanh^2, not 1 + tanh^2", "(1 + next_h**2)"),
    ("has a wrong sign in tanh's derivative: 1 - tanh^2, not tanh^2 - 1", "(next_h**2 - 1)"),
)  # fmt: skip
_SUMS = (
    ("is a mean over the batch where the sum belongs", {"db": "da.mean(axis=0)"}),
    ("is a mean over the batch where the sum belongs", {"dWx": "x.T @ da / len(x)"}),
    ("is a mean over the batch where the sum belongs", {"dWh": "prev_h.T @ da / len(x)"}),
    ("comes from a transposed product: W where W.T belongs", {"dprev_h": "da @ Wh"}),
    ("is that of h after the update instead of before: dWh = prev_h.T @ da", {"dWh": "next_h.T @ da"}),
    ("misses da's nonlinearity: it is made of dnext_h, not of da", {"db": "dnext_h.sum(axis=0)"}),
    ("is transposed: prev_h.T @ da", {"dWh": "da.T @ prev_h"}),
)  # fmt: skip


def _derivatives(name: str, gate: str, upstream: str) -> Iterator[tuple[str, dict]]:
    """Slips in the derivative of a sigmoid."""
    for hint, formula in (
        ("is what a gate gives, where i (1 - i) belongs", "{g}"),
        ("misses the derivative of a sigmoid: i (1 - i)", "1"),
        ("has tanh's derivative where a sigmoid's belongs", "(1 - {g}**2)"),
        ("is what 1 - i gives, where i (1 - i) belongs", "(1 - {g})"),
        ("has sigmoid taken twice in its derivative: i (1 - i), and i is a sigmoid already",
         "(sigmoid({g}) * (1 - sigmoid({g})))"),
        ("takes the sigmoid of its own gradient: {g} (1 - {g})", "({g} * (1 - sigmoid({u})))"),
        ("is what i (1 + i) gives, where i (1 - i) belongs", "({g} * (1 + {g}))"),
        ("is what i^2 gives, where i (1 - i) belongs", "{g}**2"),
    ):  # fmt: skip
        yield (
            f"is wrong in gate {gate} alone: {hint.format(g=gate, u=upstream)}".replace(
                "i (1 - i)", f"{gate} (1 - {gate})"
            ),
            {name: f"{upstream} * {formula.format(g=gate, u=upstream)}"},
        )


_ALL_GATES = [
    (
        hint,
        {f"da_{x}": f"d{x} * {formula}".replace("?", x) for x in "ifo"},
    )
    for hint, formula in (
        ("is what a gate gives, where i (1 - i) belongs", "?"),
        ("misses the derivative of a sigmoid: i (1 - i)", "1"),
        ("has tanh's derivative where a sigmoid's belongs", "(1 - ?**2)"),
    )
]
_LSTM_NAMED = [
    *(item for gate in "ifo" for item in _derivatives(f"da_{gate}", gate, f"d{gate}")),
    *_ALL_GATES,
    *(
        (f"is wrong in gate g alone: it {hint}".replace("next_h", "g"), {"da_g": f"dg * {formula.replace('next_h', 'g')}"})
        for hint, formula in (*_TANH, ("misses the derivative of the tanh: 1 - tanh^2", "1"))
    ),
    ("is wrong in gate g alone: has a sigmoid's derivative where tanh's belongs", {"da_g": "dg * g * (1 - g)"}),
    *(
        (f"{hint.replace('next_h', 'tanh_c')} (in dc, on the way from next_h to next_c)", {"dc": f"dnext_c + dnext_h * o * {formula.replace('next_h', 'tanh_c')}"})
        for hint, formula in (*_TANH, ("misses the derivative of the tanh: 1 - tanh^2", "1"))
    ),
    ("has 1 - next_c^2 where 1 - tanh(next_c)^2 belongs", {"dc": "dnext_c + dnext_h * o * (1 - (f * prev_c + i * g)**2)"}),
    ("does not use dnext_c: is the upstream factor dnext_c forgotten?", {"dc": "dnext_h * o * (1 - tanh_c**2)"}),
    ("misses what reaches next_c through next_h: dnext_h o (1 - tanh^2)", {"dc": "dnext_c"}),
    ("counts dnext_c twice", {"dc": "2 * dnext_c + dnext_h * o * (1 - tanh_c**2)"}),
    ("takes dnext_c alone where both gradients of next_c belong: df = dc prev_c", {"df": "dnext_c * prev_c"}),
    ("takes dnext_c alone where both gradients of next_c belong: dprev_c = dc f", {"dprev_c": "dnext_c * f"}),
    ("is c after the update instead of before: df = dc prev_c", {"df": "dc * (f * prev_c + i * g)"}),
    ("has i and g exchanged: di = dc g, dg = dc i", {"di": "dc * i", "dg": "dc * g"}),
    ("has f and prev_c exchanged: df = dc prev_c, dprev_c = dc f", {"df": "dc * f", "dprev_c": "dc * prev_c"}),
    ("has prev_c where f belongs: dprev_c = dc f", {"dprev_c": "dc * prev_c"}),
    ("is dc times i where f belongs: dprev_c = dc f", {"dprev_c": "dc * i"}),
    ("misses the tanh: do = dnext_h tanh(next_c)", {"do": "dnext_h * (f * prev_c + i * g)"}),
    ("has do from dc: do = dnext_h tanh(next_c)", {"do": "dc * tanh_c"}),
    *(
        (hint, {key: line.replace("next_h.T", "(o * tanh_c).T") for key, line in lines.items()})
        for hint, lines in _SUMS
        if "dnext_h.sum" not in str(lines)
    ),
]  # fmt: skip
_NAMED = {
    "rnn_step_forward": [
        ("misses the bias b", {"a": "x @ Wx + prev_h @ Wh"}),
        ("misses the tanh", {"next_h": "a"}),
        ("has a sigmoid where tanh belongs", {"next_h": "sigmoid(a)"}),
        ("has a ReLU where tanh belongs", {"next_h": "np.maximum(a, 0)"}),
        ("multiplies by Wh transposed", {"a": "x @ Wx + prev_h @ Wh.T + b"}),
        ("adds the bias after the tanh", {"next_h": "np.tanh(x @ Wx + prev_h @ Wh) + b"}),
        ("misses prev_h: the step before is not read", {"a": "x @ Wx + b"}),
    ],
    "rnn_step_backward": [
        *((hint, {"da": f"dnext_h * {line}"}) for hint, line in _TANH),
        ("misses the derivative of the tanh: 1 - tanh^2", {"da": "dnext_h"}),
        *_SUMS,
    ],
    "lstm_step_forward": [
        ("misses the bias b", {"a": "x @ Wx + prev_h @ Wh"}),
        ("adds 1 to the forget gate: this LSTM does not", {"f": "sigmoid(a_f + 1)"}),
        ("misses the tanh of next_c", {"next_h": "o * next_c"}),
        ("is o times tanh of prev_c, where next_c belongs", {"next_h": "o * np.tanh(prev_c)"}),
        ("has a sigmoid where tanh belongs: g = tanh(a_g)", {"g": "sigmoid(a_g)"}),
        ("has f and i exchanged: next_c = f prev_c + i g", {"next_c": "i * prev_c + f * g"}),
        ("has 1 - f for i: next_c = f prev_c + i g", {"next_c": "f * prev_c + (1 - f) * g"}),
        ("has a sigmoid where tanh belongs: next_h = o tanh(next_c)", {"next_h": "o * sigmoid(next_c)"}),
        ("adds i and g: next_c = f prev_c + i g", {"next_c": "f * prev_c + (i + g)"}),
        ("has tanh where a sigmoid belongs: i, f, o = sigmoid(a)", {x: f"np.tanh(a_{x})" for x in "ifo"}),
        ("takes each fourth column for a gate: a gate is a block of H columns", {"(a_i, a_f, a_o, a_g)": "[a[:, j::4] for j in range(4)]"}),
        ("has o before the tanh: next_h = o tanh(next_c)", {"next_h": "np.tanh(o * next_c)"}),
    ],
    "lstm_step_backward": _LSTM_NAMED,
}  # fmt: skip


def _orders(name: str) -> Iterator[tuple[str, Callable]]:
    """The blocks of the gates in each wrong order."""
    right = RIGHT[name]
    for order in map("".join, itertools.permutations("ifog")):
        if order == "ifog":
            continue
        blocks = ", ".join(f"a_{gate}" for gate in order)
        if name == "lstm_step_forward":
            lines = {
                f"({blocks})" if key.startswith("(") else key: line
                for key, line in right.lines.items()
            }
            theirs = "PyTorch's order" if order == "ifgo" else "the order"
            hint = f"has its gates in {theirs} {', '.join(order)}; here they are i, f, o, g"
            yield hint, replace(right, lines=lines)
        else:
            da = f"np.concatenate([{blocks.replace('a_', 'da_')}], axis=1)"
            yield "has its gates swapped: the blocks are in the order i, f, o, g", right.but(da=da)


def _step_slips(name: str) -> list[tuple[str, Callable]]:
    orders = _orders(name) if name.startswith("lstm") else ()
    return [*orders, *slips_from(RIGHT[name], _NAMED[name])]


# ---------------------------------------------------------------------------------------------
# The loop
# ---------------------------------------------------------------------------------------------


def loop_forward(step: Callable, cells: int, reads: str = "before") -> Callable:
    def forward(x: Array, h0: Array, Wx: Array, Wh: Array, b: Array):
        states = [h0, np.zeros_like(h0)][: 1 + cells]
        found = []
        times = range(x.shape[1])
        for t in reversed(times) if reads == "reversed" else times:
            if reads == "h0":
                states[0] = h0
            if reads == "no cell":
                states[1] = np.zeros_like(h0)
            if reads == "cell is h0" and t == 0:
                states[1] = h0
            if reads == "zeros" and t == 0:
                states[0] = np.zeros_like(h0)
            if reads == "cell is h":
                states[1] = states[0]
            if reads == "cell and h exchanged":
                states.reverse()
            *states, _ = step(x[:, t], *states, Wx, Wh, b)
            found.append(states[1] if reads == "returns cell" else states[0])
        if reads == "late":
            found = [h0, *found[:-1]]
        if reads == "backwards":
            found.reverse()
        return np.stack(found, axis=1), None

    return forward


def loop_backward(step: Callable, cells: int, slip: str = "") -> Callable:
    def backward(dh: Array, cache: tuple):
        x, h0, Wx, Wh, b, caches = cache
        T = x.shape[1]
        dx, total = np.zeros_like(x), [np.zeros_like(each) for each in (Wx, Wh, b)]
        carried = [np.zeros_like(h0)] * (1 + cells)
        for place, name in enumerate(("h", "c")[: 1 + cells]):
            if slip == f"{name} from dh":
                carried[place] = dh[:, -1]
        firsts = None
        for t in range(T) if slip == "forwards" else reversed(range(T)):
            way, _, edge = slip.partition(" at the edge: ")
            at = t + {"late": 1, "early": -1}.get(way, 0)
            own = dh[:, at % T if edge == "round" else min(max(at, 0), T - 1)]
            if (edge == "zero" and not 0 <= at < T) or (slip == "last only" and t < T - 1):
                own = 0 * own
            if slip == "no flow":
                carried = [0 * each for each in carried]
            if slip == "no flow of h":
                carried[0] = 0 * carried[0]
            if slip == "no flow of c":
                carried[-1] = 0 * carried[-1]
            if slip == "flow alone" and t < T - 1:
                own = 0 * own
            arrived = own + (2 if slip == "flow twice" else 1) * carried[0]
            index = t + {"cache late": 1, "cache early": -1}.get(way, 0)
            index = index % T if edge == "round" else min(max(index, 0), T - 1)
            cell = carried[1:]
            if slip == "h into c":
                cell = [carried[1] + own]
            if slip == "carries exchanged":
                arrived, cell = own + carried[1], [carried[0]]
            before = carried
            parts = step(arrived, *cell, caches[index])
            dx[:, t], carried, parameters = parts[0], list(parts[1 : 2 + cells]), parts[2 + cells :]
            if slip == "sum of flow":
                carried = [new + old for new, old in zip(carried, before, strict=True)]
            firsts = firsts or parameters
            if slip == "first step kept":
                total = list(parameters)
            elif slip == "last step kept":
                total = list(firsts)
            elif slip == "skips first" and t == 0:
                pass
            else:
                total = [each + part for each, part in zip(total, parameters, strict=True)]
        if slip == "mean over time":
            total = [each / T for each in total]
        dh0 = np.zeros_like(h0) if slip == "dh0" else carried[0]
        if slip == "dh0 adds dh":
            dh0 = carried[0] + dh[:, 0]
        if slip == "dh0 of the loss":
            dh0 = dh[:, 0]
        return dx, dh0, *total

    return backward


_LOOP_FORWARD = (
    ("has every step read h0: the state is not carried on", "h0"),
    ("is one time step late: h[:, 0] is the state after the first step", "late"),
    ("has the steps in the wrong order: the last comes first", "backwards"),
    ("goes through time backwards", "reversed"),
    ("starts from zeros, where h0 belongs", "zeros"),
    ("forgets the cell state: every step reads c = 0", "no cell"),
    ("is the cell state c: return the hidden state h", "returns cell"),
    ("reads h where the cell state c belongs", "cell is h"),
    ("has h and c exchanged from one step to the next", "cell and h exchanged"),
    ("starts its cell state from h0, where 0 belongs", "cell is h0"),
)
_LOOP_BACKWARD = (
    ("is right at the last step only: the gradient of the next step must flow back into this one",
     "no flow"),
    ("misses what flows back through c: dprev_c of the next step", "no flow of c"),
    ("misses what flows back through h: dprev_h of the next step adds to dh[:, t]", "no flow of h"),
    ("adds the gradient of the next step twice", "flow twice"),
    ("adds up what flows back (+=): each step's takes the place of the next one's",
     "sum of flow"),
    *(
        (words, f"{way} at the edge: {edge}")
        for edge in ("zero", "stop", "round")
        for words, way in (
            ("is one time step late: it adds dh[:, t + 1] at step t", "late"),
            ("is one time step early: it adds dh[:, t - 1] at step t", "early"),
            ("is one time step late: it uses the cache of the step after", "cache late"),
            ("is one time step early: it uses the cache of the step before", "cache early"),
        )
    ),
    ("adds dh[:, t] to the gradient of the cell state too: it reaches h alone", "h into c"),
    ("has the gradients of h and c exchanged on their way to the step before",
     "carries exchanged"),
    ("starts with dh[:, -1] as what flows back: after the last step comes nothing", "h from dh"),
    ("starts with dh[:, -1] as what flows back through c: after the last step comes nothing",
     "c from dh"),
    ("goes through the steps from the first to the last: backwards is the way", "forwards"),
    ("uses dh of the last step alone: each h[:, t] has its own", "last only"),
    ("holds the first time step alone: a missing sum over time (+=)", "first step kept"),
    ("holds the last time step alone: a missing sum over time (+=)", "last step kept"),
    ("is a mean over time where the sum belongs", "mean over time"),
    ("leaves the first time step out of the sum", "skips first"),
    ("is all zeros: dh0 is what flows back out of the first step", "dh0"),
    ("adds dh[:, 0] once more: dh0 is what flows back out of the first step", "dh0 adds dh"),
    ("is dh[:, 0]: dh0 is what flows back out of the first step", "dh0 of the loss"),
)  # fmt: skip


def _loops(name: str, way: str) -> list[tuple[str, Callable]]:
    cells = int(name == "lstm")
    build, named = (
        (loop_forward, _LOOP_FORWARD) if way == "forward" else (loop_backward, _LOOP_BACKWARD)
    )
    step = RIGHT[f"{name}_step_{way}"]
    found = [
        (hint, build(step, cells, slip)) for hint, slip in named if cells or not {"cell", "c", "carries"} & set(slip.split())
    ]  # fmt: skip
    return found + [(hint, build(slip, cells)) for hint, slip in _step_slips(f"{name}_step_{way}")]


LOOPS = {
    f"{name}_{way}": (RIGHT[f"{name}_step_{way}"], partial(build, cells=int(name == "lstm")))
    for name in ("rnn", "lstm")
    for way, build in (("forward", loop_forward), ("backward", loop_backward))
}
TABLE = {
    **{name: lambda name=name: _step_slips(name) for name in RIGHT},
    **{
        f"{name}_{way}": lambda name=name, way=way: _loops(name, way)
        for name in ("rnn", "lstm")
        for way in ("forward", "backward")
    },
}
