"""The road: what a learner writes, chapter by chapter, in the order in which it builds up.

Names alone, nothing heavy: any module can have the list.
"""

from __future__ import annotations

from typing import NamedTuple

from core.support.choices import MODEL_NAMES


class Chapter(NamedTuple):
    """A part of the road, taught by one lesson.

    - name: one word, for options
    - title: that of the lesson
    - lesson: the file in ``notebooks/``
    - models: those of ``MODEL_NAMES`` that need it
    - functions: their names, in the order in which they build up
    """

    name: str
    title: str
    lesson: str
    models: tuple[str, ...]
    functions: tuple[str, ...]

    @property
    def number(self) -> int:
        """Of the lesson."""
        return int(self.lesson.partition("_")[0])


def _pairs(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}_{way}" for name in names for way in ("forward", "backward"))


ROAD = (
    Chapter(
        "words",
        "Affine, embedding, softmax",
        "03_affine_embedding_softmax.ipynb",
        MODEL_NAMES,
        (*_pairs("affine", "temporal_affine", "word_embedding"), "temporal_softmax_loss"),
    ),
    Chapter(
        "updates",
        "Update rules",
        "04_update_rules.ipynb",
        MODEL_NAMES,
        ("sgd", "sgd_momentum", "rmsprop", "adam", "adamw", "clip_gradient_norm"),
    ),
    Chapter(
        "rnn",
        "The vanilla RNN",
        "05_the_vanilla_rnn.ipynb",
        ("rnn",),
        _pairs("rnn_step", "rnn"),
    ),
    Chapter(
        "lstm",
        "The LSTM",
        "06_the_lstm.ipynb",
        ("lstm", "attention"),
        _pairs("lstm_step", "lstm"),
    ),
    Chapter(
        "attention",
        "Soft attention",
        "08_soft_attention.ipynb",
        ("attention",),
        (
            *_pairs("attend", "additive_attention", "context_gate"),
            *_pairs("attention_lstm_step", "attention_lstm"),
            "doubly_stochastic_loss",
        ),
    ),
    Chapter(
        "heads",
        "Multi-head attention",
        "09_multi_head_attention.ipynb",
        ("transformer",),
        _pairs("scaled_dot_product_attention", "multi_head_attention"),
    ),
    Chapter(
        "transformer",
        "The Transformer block",
        "10_the_transformer_block.ipynb",
        ("transformer",),
        (
            *_pairs("layer_norm", "feed_forward", "dropout"),
            "positional_encoding",
            *_pairs("decoder_block"),
        ),
    ),
    Chapter(
        "decoding",
        "Decoding",
        "11_decoding.ipynb",
        MODEL_NAMES,
        ("greedy", "beam_search"),
    ),
)

FUNCTIONS = tuple(name for chapter in ROAD for name in chapter.functions)


def chapter_of(function: str) -> Chapter:
    """The chapter of a function of the road."""
    return next(chapter for chapter in ROAD if function in chapter.functions)
