"""What ``config.json`` and what is inside a checkpoint must be: types, ranges, names.

The options of ``training.py`` are read by the same table, so that a value which the command would
refuse is refused in a file as well. The upper bounds are far above what anybody trains, and below
what no machine could hold.
"""

from __future__ import annotations

from core.support.choices import (
    ACTIVATIONS,
    DEVICES,
    DTYPES,
    ENCODERS,
    ENGINES,
    GIVEN,
    MODEL_NAMES,
    OBJECTIVES,
    OUTPUTS,
    POSITIONS,
    PRECISIONS,
    SCHEDULES,
    SELECT,
    UPDATE_RULES,
)
from core.support.schema import (
    Each,
    Entries,
    Flag,
    ListOf,
    Number,
    OneOf,
    Optional,
    Text,
    Whole,
    shown,
)

COUNT = Whole(1)
NATURAL = Whole(0)
WIDTH = Whole(1, 100_000)
LAYERS = Whole(1, 1_000)
SEED = Whole(0, 2**63)
RATE = Number(0, beyond=True)
STRENGTH = Number(0)
FRACTION = Number(0, 1, beyond=True)
DROPOUT = Number(0, 1, below=True)

# Of --impl: the file, and which functions of a run were the learner's all the time.
_IMPL = Entries(
    {
        "file": Text(name=True),
        "sha256": Text(),
        "functions": ListOf(Text()),
        "ours": ListOf(Text()),
        "changed_after": ListOf(NATURAL),  # epochs
    },
    ("file", "sha256", "functions", "ours", "changed_after"),
)
SETTINGS = {
    "model": OneOf(MODEL_NAMES),
    "data": Text(name=True),
    "num_samples": Optional(COUNT),
    "max_words": NATURAL,
    "num_epochs": COUNT,
    "batch_size": COUNT,
    "update_rule": OneOf(UPDATE_RULES),
    "learning_rate": RATE,
    "schedule": OneOf(SCHEDULES),
    "lr_decay": FRACTION,
    "warmup": NATURAL,
    "weight_decay": Optional(STRENGTH),
    "label_smoothing": DROPOUT,
    "feature_dropout": DROPOUT,
    "bucketed": Flag(),
    "clip_norm": STRENGTH,
    "dropout": DROPOUT,
    "wordvec_dim": WIDTH,
    "hidden_dim": WIDTH,
    "attention_dim": WIDTH,
    "double_stochastic": STRENGTH,
    "num_heads": WIDTH,
    "num_layers": LAYERS,
    "positions": OneOf(POSITIONS),
    "tied": Flag(),
    "post_norm": Flag(),
    "activation": OneOf(ACTIVATIONS),
    "patience": Optional(COUNT),
    "select": OneOf(tuple(SELECT)),
    "objective": OneOf(OBJECTIVES),
    "samples": Whole(1, 10_000),
    "bleu_reward": STRENGTH,
    "no_pca": Flag(),
    "dtype": OneOf(DTYPES),
    "seed": SEED,
    "engine": OneOf(ENGINES),
    "impl": Optional(_IMPL),
    "device": OneOf(DEVICES),
    "precision": OneOf(PRECISIONS),
    "workers": Whole(0, 256),
    "init": Optional(Text(name=True)),
    "encoder": Optional(OneOf(tuple(ENCODERS))),
    "min_count": Optional(COUNT),
    "weights": Optional(Text(name=True)),
    "grid": Optional(Whole(1, 1_000)),
    "finetune_encoder": Whole(0, 1_000),
    "encoder_learning_rate": RATE,
    "flip": Flag(),
    "crop": FRACTION,
}

_WIDTHS = {"input_dim": Whole(1, 10**7), "wordvec_dim": WIDTH, "hidden_dim": WIDTH}
_ANY_MODEL = {**_WIDTHS, "dtype": OneOf(DTYPES), "dropout": DROPOUT}
_ATTENTION = {"attention_dim": WIDTH, "double_stochastic": STRENGTH}
_TRANSFORMER = {"num_heads": WIDTH, "num_layers": LAYERS, "max_length": Whole(1, 10**6)}
_TRANSFORMER |= {"positions": OneOf(POSITIONS), "activation": OneOf(ACTIVATIONS)}
_TRANSFORMER |= {"tied": Flag(), "norm_first": Flag()}
# The arguments that build a model, besides the vocabulary. Required is what its parameters would
# not tell: with other heads or another activation it would compute something else.
CONFIG = {
    "rnn": Entries(_ANY_MODEL, tuple(_WIDTHS)),
    "lstm": Entries(_ANY_MODEL, tuple(_WIDTHS)),
    "attention": Entries(_ANY_MODEL | _ATTENTION, (*_WIDTHS, "attention_dim")),
    "transformer": Entries(
        _ANY_MODEL | _TRANSFORMER, (*_WIDTHS, "num_heads", "num_layers", "activation")
    ),
}

_PREPROCESSING = Entries(
    {
        "size": Whole(1, 10_000),
        "mean": ListOf(Number(-1e6, 1e6), length=3),
        "std": ListOf(Number(1e-6, 1e6), length=3),
    },
    ("size",),
    others=True,
)
_EXTRACTOR = Entries(
    {
        "encoder": OneOf((*OUTPUTS, GIVEN)),
        "output": Text(),
        "preprocessing": _PREPROCESSING,
        "weights": Optional(Text(name=True)),
        "sha256": Optional(Text()),
        "grid": Optional(Whole(1, 1_000)),
        "shape": ListOf(Whole(1, 10**7)),
        "made_by": Entries({}, others=True),
    },
    ("encoder", "output", "preprocessing", "weights", "sha256"),
    others=True,
)


def fault_of_extractor(extractor: dict) -> str | None:
    """What does not go together in a specification whose entries are each as they must be."""
    encoder, output, grid = (extractor.get(name) for name in ("encoder", "output", "grid"))
    if encoder == GIVEN:
        shape, known = extractor.get("shape", []), "made_by" in extractor
        least = {"pooled": 1, "grid": 2}.get(output)
        fits = known and least is not None and least <= len(shape) <= 2
        return None if fits else f"{GIVEN} has no {shown(output)} of {shown(shape)}"
    if output not in OUTPUTS[encoder]:
        return f"{encoder} has no output {shown(output)}"
    if grid is not None and (output != "grid" or grid**2 > OUTPUTS[encoder]["grid"][0]):
        return f"{encoder} has no grid of {grid} cells a side"
    constants = {"mean", "std"} & extractor["preprocessing"].keys()
    expected = set() if encoder == "fixed_cnn" else {"mean", "std"}  # what it reads is bytes
    if constants != expected:
        return f"preprocessing has {sorted(constants)}, expected {sorted(expected)}"
    return None


# Of NumPy's generator PCG64, whose two numbers have 128 bits.
_GENERATOR = Entries(
    {
        "bit_generator": OneOf(("PCG64",)),
        "state": Entries({name: Whole(0, 2**128 - 1) for name in ("state", "inc")}),
        "has_uint32": Whole(0, 1),
        "uinteger": Whole(0, 2**32 - 1),
    },
    ("bit_generator", "state", "has_uint32", "uinteger"),
)
_FIGURES = ("train_perplexity", "val_perplexity", "learning_rate", "tokens_per_second", "seconds")
_ROW = Entries(
    {
        "epoch": COUNT,
        "train_loss": Number(),
        **{name: Optional(Number()) for name in (*_FIGURES, *SELECT.values())},
    },
    ("epoch", "train_loss"),
    others=True,
)
_TRAINING = Entries(
    {
        "epoch": NATURAL,
        "max_length": COUNT,
        "history": ListOf(_ROW),
        "loss_history": ListOf(Number()),
        "shuffling": _GENERATOR,
        "dropout": _GENERATOR,
    },
    others=True,
)
_CONTENTS = Entries(  # of a split, see core/runs/data.py
    {
        "captions": Text(),
        "shape": ListOf(NATURAL),
        "photos": NATURAL,
        "features": ListOf(ListOf(Number(), length=16)),
    },
    others=True,
)
# What is in ``meta`` beside the format.
META = Entries(
    {
        "model": OneOf(MODEL_NAMES),
        "config": Entries({}, others=True),  # by CONFIG, of the model
        "idx_to_word": ListOf(Text()),
        "extractor": Optional(_EXTRACTOR),
        "settings": Entries(SETTINGS, others=True),  # earlier versions had others
        "training": _TRAINING,
        "optimizer": Each(Each(Number())),
        "data": Entries({"train": _CONTENTS, "val": _CONTENTS, "init": Text()}, others=True),
        "card": Text(),
        "sha256": Text(),
    },
    ("model", "config", "idx_to_word", "extractor", "settings", "training", "optimizer"),
)
