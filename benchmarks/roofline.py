"""How near the parts of a step come to what the machine can do: its product rate, its memory.

python -m benchmarks.roofline [--json]

A part with many operations for each byte that it moves is bound by the rate of a large product, one
with few by the bandwidth of memory (Williams, Waterman and Patterson, "Roofline", CACM 2009). Bytes
are those of inputs and outputs, each read or written once; what fits in a cache can beat its roof.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.side_by_side import bandwidth, in_turn, parser, peak_gflops, show
from core.fast.adam import update_in_place
from core.fast.attention import additive_scores_forward
from core.fast.captioner import softmax_loss, sums_by_word
from core.fast.recurrent import lstm_cell
from core.support.command_line import run_command

H, V, L, K = 512, 1004, 49, 256


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    show(measure_all(options.seconds), options.json)


def measure_all(seconds: float) -> list[dict]:
    rng = np.random.default_rng(0)

    def normal(*shape):
        return 0.1 * rng.standard_normal(shape, dtype=np.float32)

    rows = []

    def measure(part: str, function, operations: float, *arrays) -> None:
        """``operations``: of the formula; a tanh, an exponential, a root counts as one."""
        number_of_bytes = sum(array.nbytes for array in arrays)
        peak, memory = peak_gflops(), bandwidth()
        milliseconds = in_turn({part: function}, seconds / 4, part)[part]
        rate = 1e-6 * operations / milliseconds
        roof = min(peak, operations / number_of_bytes * memory)
        rows.append(
            {
                "part": part,
                "ms": milliseconds,
                "gflops": rate,
                "operations_a_byte": operations / number_of_bytes,
                "roof_gflops": roof,
                "share_of_roof": rate / roof,
            }
        )

    Wh = normal(H, 4 * H)
    for n in (25, 64, 256):
        h, da, out = normal(n, H), normal(n, 4 * H), normal(n, 4 * H)
        forward, backward = partial(np.matmul, h, Wh, out=out), partial(np.matmul, da, Wh.T)
        measure(f"h Wh, {n} rows", forward, 2 * n * Wh.size, h, Wh, out)
        measure(f"da Wh^T, {n} rows", backward, 2 * n * Wh.size, h, Wh, da)
    a, cells = normal(4, 256, H), [normal(256, H) for _ in range(4)]
    measure("LSTM cell, 256 rows", lambda: lstm_cell(a, *cells), 256 * H * 17, a, a, *cells)
    scores, words, weights = normal(3000, V), rng.integers(0, V, 3000), np.ones(3000, np.float32)
    loss = partial(softmax_loss, scores, words, weights)
    measure("softmax and loss, 3,000 words", loss, 5 * scores.size, scores, scores)
    keys, query, v = normal(64, L, K), normal(64, 1, K), normal(K)
    compare = partial(additive_scores_forward, keys, query, v)
    measure("additive scores, 64 images", compare, 4 * keys.size, keys, query)
    read = normal(3000, 4 * H)
    repeated = partial(sums_by_word, read, words, V)
    measure("gradient of repeated words", repeated, read.size, read, read[:V])
    params, grads, configs = {"w": normal(2_600_000)}, {"w": normal(2_600_000)}, {"w": {}}
    update = partial(update_in_place, "adam", params, grads, configs)
    measure("Adam, 2.6 million parameters", update, 13 * 2_600_000, *[grads["w"]] * 7)
    return rows


if __name__ == "__main__":
    run_command(main)
