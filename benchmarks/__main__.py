"""All measurements of speed, one after another, written to ``docs/speed.md``.

python -m benchmarks          under half an hour; let the machine do nothing else
"""

from __future__ import annotations

from pathlib import Path

from core.support.command_line import ArgumentParser, run_command
from core.support.files import write_text
from core.support.pytorch import require_torch

PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
TEXT = """# Speed

Written by `make bench`. How fast the hand-written NumPy is beside PyTorch, on the same cores.

{machine}

## The method

Both sides do the same work in one process, on as many threads, in float32, and take turns of a
fifth of a second; every figure is a median. Captions have the lengths that Flickr8k's have and
words that repeat as words do, 1,004 different ones; word vectors are 256 wide, hidden states 512,
the grid is 7 x 7 x 512, the Transformer has two blocks. PyTorch is at its best: fused cells,
fused Adam, scores only where the loss looks, and the fastest of plain modules, packed sequences
and `torch.compile`. **A ratio above 1 says that ours is faster.** Ratios move by a tenth from run
to run on a shared machine, and differ between processors: measure yours.

## A whole training step: loss, gradients, clipping, Adam

`python -m benchmarks.train_step`. `ours_ms` is `--engine numpy`, the fast twins of `core/fast`;
`plain_ms` is `--engine plain`, the definitions, on one core. The operations behind `gflops` are
those of the products with weights, padding left out; `peak_gflops` is what a product of two
2,048 x 2,048 matrices reached right after the row was measured. `our_products_ms` is the time of a
recurrent step's products by themselves, in turn with the whole steps.

{train_step}

## What each optimisation gives

`python -m benchmarks.one_at_a_time`: batches of 64; one is taken away, all others stay. What gives
less than 5 % of a whole step is not in `core/fast`. One was deleted for that: to multiply each
different word once gave 1.00, 1.08 and 1.00 for rnn, lstm and attention, and nothing with dropout.

{one_at_a_time}

* **Padding left out** (`core/fast/packing.py`): rows are sorted, longest first, so that a time step
  is a slice of those that go on. Words are scored only where the loss looks.
* **Parts on two threads** (`core/fast/captioner.py`), against the whole batch with its products on
  all cores: elementwise work, which NumPy does on one core, is done on both. Captions of one length
  are put together.
* **Adam in place** (`core/fast/adam.py`): in pieces that fit a core's cache, without new arrays.
* **Each gate in one piece** (`core/fast/recurrent.py`): NumPy copies a block of columns into a
  buffer and back, row by row, before and after each operation, but not an array (4, N, H). It
  gives next to nothing, and costs nothing: the loop writes into a copy in any case.
* **Compared a few images at a time** (`core/fast/attention.py`), and again in backward: what tanh
  says of each location is never written to memory. That saves most of the memory as well.
* **No keys and values of the image** (`core/fast/transformer.py`).
* **W da^T for da W^T** (`back_through`): the library is faster with the wide matrix on the left.
* **All of them**: compared with the definitions on one core.

## Beside another process

`python -m benchmarks.busy`: a step on the idle machine, and while one other process keeps a core
busy, in turn. `defaults` are the widths of `training.py --num_samples`. Small steps take one
thread: two BLAS threads wait awake for each other's products, and on a busy machine a step then
takes many times as long. Large steps are cut into parts, each on a thread that sleeps while it
waits. A step that uses two cores loses one of them when another process wants it.

{busy}

## Decoding

`python -m benchmarks.decode`: captions of 16 words, searched by the same code on both sides.
Without cache, each new word reads all words before it again.

{decode}

## How near to the machine's limits

`python -m benchmarks.roofline`. The roof is what the rate of a large product, or the bandwidth of
memory on one thread, allows a part with so many operations per byte. With both cores, or from a
cache, a part can be faster.

{roofline}

Products of few rows are far from the roof: for each of them, the library copies the whole weight
matrix into the order that its inner loop wants. PyTorch's library keeps such a copy.

## Memory

`python -m benchmarks.memory`: the most that a step needs besides parameters and data. It grows
with the number of words, batch x time; the Transformer's grows more slowly, because only two
parts of a batch are computed at a time.

{memory}

## Data, and starting

`python -m benchmarks.data`, `python -m benchmarks.start`.

{data}

{start}
"""


def main() -> None:
    ArgumentParser(
        prog="python -m benchmarks",
        description="measure speed beside PyTorch and write docs/speed.md, in under half an hour",
    ).parse_args()
    require_torch("python -m benchmarks")
    from benchmarks import busy, data, decode, memory, one_at_a_time, roofline, start, train_step
    from benchmarks.side_by_side import machine, table

    seconds = 2.5
    sections = {
        "train_step": train_step.measure_all(seconds),
        "one_at_a_time": one_at_a_time.measure_all(seconds),
        "busy": busy.measure_all(seconds),
        "decode": decode.measure_all(1.0),
        "roofline": roofline.measure_all(seconds),
        "memory": memory.measure_all(),
        "data": data.measure_all(seconds),
        "start": start.measure_all(),
    }
    here = ", ".join(f"{name} {value}" for name, value in machine().items())
    page = TEXT.format(machine=here, **{name: table(rows) for name, rows in sections.items()})
    write_text(PAGE, page)
    print(f"written: {PAGE}")


if __name__ == "__main__":
    run_command(main)
