"""How much memory a training step takes, foreseen: a run that cannot fit is refused at once.

The counts of numbers were fitted to what NumPy allocates, and hold within a factor of two.
"""

from __future__ import annotations

import math

from core.captioning_solver import EVALUATION_BATCH
from core.parameter_shapes import parameter_shapes
from core.support import processes
from core.support.memory import available_memory


def check_memory(settings: dict, config: dict, data: dict, extractor, device: str) -> None:
    """Raises ValueError when a step with the longest captions needs more memory than there is.

    It is asked before the model takes any. Inputs as for ``core.runs.building.run_model``.
    """
    left = _left_on(device)
    for split, (need, words) in memory_of_steps(settings, config, data, extractor).items():
        if left is not None and need > left:
            raise ValueError(
                f"{data['source']['folder']}: a batch of {split} captions of up to {words:,} words "
                f"takes about {need / 1e9:,.1f} GB of memory, and {left / 1e9:,.1f} GB are free; "
                "leave out long captions with --max_words N, or take a smaller --batch_size or "
                "smaller widths"
            )


def memory_of_steps(settings: dict, config: dict, data: dict, extractor=None) -> dict:
    """For each split that is computed with, the bytes of its largest step, and its longest caption.

    Of one process of those that share a batch.
    """
    itemsize = 8 if settings["dtype"] == "float64" else 4
    shapes = parameter_shapes(settings["model"], config, len(data["idx_to_word"]))
    parameters = 4 * sum(map(math.prod, shapes.values()))  # with gradients, Adam's moments
    if settings["finetune_encoder"]:
        parameters += 4 * sum(each.numel() for each in extractor.network.parameters())
    batches = {"train": (settings["batch_size"], 1.0), "val": (EVALUATION_BATCH, 0.6)}
    if settings["engine"] == "torch":
        del batches["val"]  # it keeps nothing for gradients there
    found = {}
    for split, (size, share) in batches.items():
        if f"{split}_captions" in data:
            size = -(-size // processes.number_of_processes())
            words, longest = _longest_batch(settings, data, split, size)
            numbers = share * words * _numbers_a_word(settings, config, data, longest)
            found[split] = itemsize * (parameters + numbers), longest - 1  # <START> is read, too
    return found


def _left_on(device: str) -> int | None:
    if not device.startswith("cuda"):
        return available_memory()
    import torch

    return torch.cuda.mem_get_info(device)[0]


def _longest_batch(settings: dict, data: dict, split: str, size: int) -> tuple[int, int]:
    """The words that a model reads of the longest captions of a split, and of the longest one."""
    import numpy as np

    captions = data[f"{split}_captions"]
    lengths = np.count_nonzero(captions != data["word_to_idx"]["<NULL>"], axis=1) - 1
    lengths = np.sort(lengths)[-size:]
    # The fast recurrent models leave out what only pads.
    packed = settings["engine"] == "numpy" and settings["model"] != "transformer"
    return int(lengths.sum() if packed else len(lengths) * lengths[-1]), int(lengths[-1])


def _numbers_a_word(settings: dict, config: dict, data: dict, longest: int) -> float:
    """How many numbers a step holds at once for each word that it reads."""
    plain, torch = (settings["engine"] == engine for engine in ("plain", "torch"))
    W, H, C = config["wordvec_dim"], config["hidden_dim"], config["input_dim"]
    L = data["train_features"].shape[1] if len(data["train_features"].shape) == 3 else 1
    scores = (5 if plain else 2) * len(data["idx_to_word"])
    if settings["model"] == "rnn":
        return scores + 7 * H + 3 * W
    if settings["model"] == "lstm":
        return scores + (10 if plain else 17) * H + 3 * W
    if settings["model"] == "attention":
        compared = 13 if settings["engine"] == "numpy" else config["attention_dim"] + 18
        return scores + 17 * H + 6 * C + 8 * W + compared * L
    heads = config["num_heads"] * (0 if torch else 1.6 * longest)  # PyTorch keeps no (T, T) of them
    each = 35 * W + 2 * H + 2 * config["num_heads"] * L + heads
    return scores + config["num_layers"] * each
