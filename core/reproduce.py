"""From photos to a table of scores: every run of ``docs/results.md``, one after the other.

    python -m core.reproduce --data Flickr8k
    python -m core.reproduce --data Flickr8k --only lstm attention

Each part is a few commands that anyone can run alone: they are printed before they run. What is
done is not done again, and a training that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.flickr8k import read_photo_folder
from core.metrics import METRICS
from core.recipes.validation import BEAM_SIZE, MOST
from core.runs.settings import BEFORE, DEFAULTS, MODEL_DEFAULTS
from core.support.command_line import ArgumentParser, run_command
from core.support.files import hash_of_file, read_json, try_out, write_json, write_text
from core.support.pytorch import require_torch

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
COMPONENTS = 512  # of the PCA of pooled features
# What is free in a recipe: places, and what computes the same.
_FREE = ("data", "weights", "init", "out", "engine", "device", "workers")

# decoder -> options of inference.py. The penalty was chosen on 'val'
# (docs/why-your-bleu-differs.md), and the number of neighbours. "once": no two words in a row
# twice. "mirror": also one model, which looks twice.
_BEAM = "--beam_size 5 --length_penalty 0.8"
DECODERS = {
    "beam": _BEAM,
    "once": f"{_BEAM} --no_repeat 2",
    "mirror": f"{_BEAM} --no_repeat 2 --flip",
    "neighbours": "--beam_size 20 --length_penalty 0.8 --no_repeat 2 --flip --neighbours 16",
}

_ALL = "--select cider --wordvec_dim 256"
_TRAIN = f"--update_rule adamw --label_smoothing 0.1 {_ALL}"
_POOLED = f"{_TRAIN} --schedule cosine --bucketed --engine numpy --flip --dropout 0.5"
_GRID = f"{_TRAIN} --bucketed --engine torch --flip"
_ATTENTION = "--model attention --hidden_dim 512 --attention_dim 256"
_TRANSFORMER = "--model transformer --hidden_dim 1024"
_SCST = (
    f"--objective scst --schedule cosine {_ALL} "
    "--flip --dropout 0 --batch_size 160 --learning_rate 1e-4 --num_epochs 2"
)


@dataclass(frozen=True)
class Part:
    """A run, or several that vote.

    - options: of ``training.py``; empty for an ensemble
    - grid: looks at the photos by ``--encoder``; else it reads the prepared folder
    - start: the part whose parameters it starts from
    - eyes: the part whose encoder looks, after it has learned; else the one that was given
    - votes: the parts of an ensemble, which is not trained
    - effect: what is changed of the part ``EFFECTS_OF``, to see what that gives
    """

    options: str = ""
    grid: bool = False
    start: str | None = None
    eyes: str | None = None
    votes: tuple[str, ...] = ()
    effect: str | None = None


PARTS = {
    "rnn": Part(f"--model rnn {_POOLED} --hidden_dim 512 --learning_rate 1e-3 --num_epochs 4"),
    "lstm": Part(f"--model lstm {_POOLED} --hidden_dim 512 --learning_rate 1e-3 --num_epochs 4"),
    "lstm-scst": Part(
        f"--model lstm --engine numpy --hidden_dim 512 {_SCST} --bleu_reward 1", start="lstm"
    ),
    # Stopped before it knows its photos by heart: what follows gains more from here.
    "attention": Part(
        f"{_ATTENTION} {_GRID} --schedule decay --lr_decay 0.85 --warmup 500 --feature_dropout 0.4 "
        "--dropout 0.5 --learning_rate 1e-3 --num_epochs 3",
        grid=True,
    ),
    "attention-tuned": Part(
        f"{_ATTENTION} {_TRAIN} --schedule cosine --engine torch --flip --crop 0.6 "
        "--finetune_encoder 2 --encoder_learning_rate 1e-4 --feature_dropout 0.4 --dropout 0.3 "
        "--learning_rate 5e-4 --batch_size 128 --num_epochs 4",
        grid=True,
        start="attention",
    ),
    "attention-scst": Part(
        f"{_ATTENTION} --engine torch {_SCST} --bleu_reward 1",
        grid=True,
        start="attention-tuned",
        eyes="attention-tuned",
    ),
    # The encoder that learned with attention gives it little now, and much self-critically.
    "transformer": Part(
        f"{_TRANSFORMER} {_GRID} --schedule cosine --warmup 1000 --feature_dropout 0.4 "
        "--dropout 0.2 --learning_rate 5e-4 --num_epochs 6",
        grid=True,
        eyes="attention-tuned",
    ),
    # With BLEU-4 in its reward, too, it gains that and loses CIDEr-D; the ensemble loses both.
    "transformer-scst": Part(
        f"{_TRANSFORMER} --engine torch {_SCST}",
        grid=True,
        start="transformer",
        eyes="attention-tuned",
    ),
    "ensemble": Part(votes=("attention-scst", "attention-tuned", "transformer-scst", "lstm-scst")),
}

# What one option gives: the LSTM, smaller and shorter, with one thing changed at a time.
EFFECTS_OF = "small-lstm"
_SMALL = f"--model lstm {_POOLED} --hidden_dim 256 --learning_rate 2e-3 --num_epochs 2"
# name -> what it is, what goes from the options, what comes to them
_CHANGES = {
    "small-reseeded": ("another `--seed`: what chance does", (), "--seed 1"),
    "small-unmirrored": (
        "no `--flip`, and twice the epochs",
        ("--flip", "--num_epochs 2"),
        "--num_epochs 4",
    ),
    "small-constant": (
        "a constant learning rate: `--schedule decay --lr_decay 1`",
        ("--schedule cosine",),
        "--schedule decay --lr_decay 1",
    ),
    "small-unsmoothed": ("no `--label_smoothing`", ("--label_smoothing 0.1",), ""),
    "small-undropped": ("no `--dropout`", ("--dropout 0.5",), "--dropout 0"),
    "small-batches-as-they-come": ("no `--bucketed`", ("--bucketed",), ""),
}
PARTS[EFFECTS_OF] = Part(_SMALL, effect="nothing")
for _name, (_what, _less, _more) in _CHANGES.items():
    _options = _SMALL
    for _one in _less:
        _options = _options.replace(_one, "")
    PARTS[_name] = Part(f"{_options} {_more}", effect=_what)


def preparing(options) -> list[str]:
    """The command that makes the pooled features of all photos, in ``options.out``."""
    what = ["--root", options.data, "--out", str(Path(options.out) / "data")]
    eyes = ["--encoder", options.encoder, "--weights", options.weights]
    return ["-m", "core.flickr8k", *what, "--pca", str(COMPONENTS), "--flip", *eyes]


def training(name: str, options) -> list[str]:
    """The command that trains a part, as words after ``python``; the run is in ``options.out``."""
    part, out = PARTS[name], Path(options.out)
    source = ["--data", str(out / "data")]
    if part.grid:
        weights = str(out / part.eyes) if part.eyes else options.weights
        source = ["--data", options.data, "--encoder", options.encoder, "--weights", weights]
        source += ["--grid", "7"]
    start = ["--init", str(out / part.start)] if part.start else []
    seed = [] if "--seed" in part.options else ["--seed", "0"]
    words = [*seed, *shlex.split(part.options), *source, *start]
    return ["training.py", *words, "--out", str(out / name)]


def captioning(name: str, decoder: str, options, split: str) -> list[list[str]]:
    """The commands that caption a split with a part, and score the captions."""
    part, out = PARTS[name], Path(options.out)
    engine = ["--engine", "torch"] if part.grid or part.votes else []
    first, *others = part.votes or (name,)
    votes = ["--ensemble", *(str(out / other) for other in others)] if others else []
    captions = str(out / f"{name}_{split}_{decoder}.json")
    decode = [*shlex.split(DECODERS[decoder]), "--split", split, "--out", captions]
    runs = ["--checkpoint", str(out / first), *votes]
    references = ["--references", options.data, "--split", split]
    return [
        ["inference.py", *runs, *engine, *decode],
        ["-m", "core.metrics", "--candidates", captions, *references, "--subset", "--json"],
    ]


def run(command: Sequence[str], capture: bool = False) -> str:
    """Runs one of the project's commands; returns what it printed, if that is to be captured.

    Raises ValueError when it fails; it has said why.
    """
    print(f"\n$ python {shlex.join(command)}", flush=True)
    first = [str(ROOT / command[0])] if command[0].endswith(".py") else [command[0]]
    done = subprocess.run(
        [sys.executable, *first, *command[1:]],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE if capture else None,
        text=True,
    )
    if done.returncode:
        raise ValueError(f"{command[0]}: ended with exit code {done.returncode}, see above")
    return done.stdout or ""


def rows_of(run_folder: Path) -> list[dict]:
    """metrics.jsonl of a run; empty when it has none."""
    path = run_folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def train_part(name: str, options) -> None:
    """Trains a part, as far as that is not done."""
    if not PARTS[name].options:
        return
    command, run_folder = training(name, options), Path(options.out) / name
    check_recipe(command, run_folder)
    if (run_folder / "last.npz").is_file():
        command = ["training.py", "--resume", "--out", str(run_folder)]
        if len(rows_of(run_folder)) == read_json(run_folder / "config.json")["num_epochs"]:
            return
    run(command)


def check_recipe(command: Sequence[str], run_folder: Path) -> None:
    """Raises ValueError when the run that is there was trained with other options than a command's.

    Where files are may differ: ``check_source`` compares what they hold.
    """
    if not (run_folder / "config.json").is_file():
        return
    given, name = {}, ""
    for word in command[1:]:
        if word.startswith("--"):
            name = word.removeprefix("--")
        given[name] = True if word.startswith("--") else _value(word)
    found = BEFORE | read_json(run_folder / "config.json")
    for name, value in (DEFAULTS | MODEL_DEFAULTS.get(given["model"], {}) | given).items():
        if name not in _FREE and found.get(name) != value:
            raise ValueError(
                f"{run_folder}: was trained with --{name} {found.get(name)}, found {value} in the "
                "recipe; remove that folder, or give another --out"
            )


def _value(word: str):
    """What is typed after an option: a number, or a word."""
    try:
        return json.loads(word)
    except ValueError:
        return word


def check_source(options, splits: dict[str, list[str]]) -> None:
    """Raises ValueError when the pooled features that are there are of other photos, or other eyes.

    Inputs:
    - splits: the photos of ``options.data``
    """
    data = Path(options.out) / "data"
    eyes = read_json(data / "dataset.json")["extractors"]["pooled"]
    if eyes["encoder"] != options.encoder:
        raise ValueError(
            f"--out {options.out}: what is there was seen by {eyes['encoder']}, not by --encoder "
            f"{options.encoder}; give another folder"
        )
    if Path(options.weights).is_file() and hash_of_file(options.weights) != eyes["sha256"]:
        raise ValueError(
            f"--out {options.out}: what is there was seen with other --weights than "
            f"{options.weights}; give another folder"
        )
    names = set((data / "train2014_urls.txt").read_text(encoding="utf-8").splitlines())
    if others := names.difference(splits["train"]):
        raise ValueError(
            f"--out {options.out}: what is there is of other photos than --data {options.data}, "
            f"{min(others)} for example; give another folder"
        )


def score_part(name: str, options, split: str) -> dict[str, dict]:
    """Captions and scores with a part, as far as that is not done: decoder -> scores."""
    found = {}
    for decoder in decoders_of(name):
        path = scores_of(name, decoder, options, split)
        if not path.is_file():
            caption, score = captioning(name, decoder, options, split)
            run(caption)
            write_json(path, json.loads(run(score, capture=True)))
        found[decoder] = read_json(path)
    return found


def scores_of(name: str, decoder: str, options, split: str) -> Path:
    """The file of a part's scores."""
    return Path(options.out) / f"{name}_{split}_{decoder}.scores.json"


def decoders_of(name: str) -> list[str]:
    """What a part is captioned with: an ensemble with all, to see an effect one is enough."""
    if PARTS[name].effect:
        return ["beam"]
    return list(DECODERS) if PARTS[name].votes else ["beam", "once", "mirror"]


def machine() -> str:
    """What the runs were made with, in a line."""
    import numpy
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return (
        f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, NumPy {numpy.__version__}, "
        f"PyTorch {torch.__version__}"
    )


_HEAD = """# Results

Written by `make reproduce DATA=PHOTOS WEIGHTS=FILE ENCODER={encoder}`,
with {machine}; float32. Scores of
`core.metrics` on free-running captions, with COCO's tokens, on the scale from 0 to 100 (CIDEr-D to
1,000), against all references as people wrote them. The best epoch, the length penalty and the
number of neighbours were chosen on 'val' (the dev list of Flickr8k), which flatters that split a
little; 'test' is untouched, where there is one.

Decoders: {decoders}.

![Loss, BLEU-4 and CIDEr-D by epoch](results.png)

While it trains, a model captions {most} of the photos by {beams} beams, so the curves are not to be
compared with the tables, which are of all.
"""
_EFFECTS = f"""## What each option gives

`{EFFECTS_OF}` with one thing changed, on 'val'. One run each: a difference no larger than that
between two seeds shows no effect.
"""


def as_markdown(results: dict[str, dict[str, dict]], options) -> str:
    """The page, of results by split, part and decoder."""
    out = Path(options.out)
    decoders = "; ".join(f"{name}: `{options}`" for name, options in DECODERS.items())
    words = {"machine": machine(), "decoders": decoders, "encoder": options.encoder}
    lines = [_HEAD.format(**words, most=MOST, beams=BEAM_SIZE)]
    for split, parts in results.items():
        mine = {name: found for name, found in parts.items() if not PARTS[name].effect}
        if mine:
            columns = ("part", "engine", "decoder", "seed", "epochs", "minutes", *METRICS)
            rows = [
                _row_of_part(name, decoder, scores, out)
                for name, found in mine.items()
                for decoder, scores in found.items()
            ]
            lines += [f"## {split}", "", *_table(columns, rows), ""]
    effects = {name: found for name, found in results["val"].items() if PARTS[name].effect}
    if effects:
        columns = ("changed", "loss, nats per token", "seconds an epoch", "BLEU-4", "CIDEr-D")
        rows = [_row_of_effect(name, *found.values(), out) for name, found in effects.items()]
        lines += [_EFFECTS, *_table(columns, rows), ""]
    anyones = Namespace(**vars(options) | {"data": "PHOTOS", "weights": "FILE"})
    lines += ["## Commands", "", "First of all:", "", _as_typed(preparing(anyones)), ""]
    for name in results["val"]:
        made = [training(name, anyones)] if PARTS[name].options else []
        made += [c for d in decoders_of(name) for c in captioning(name, d, anyones, "val")]
        lines += [f"`{name}`:", "", *map(_as_typed, made), ""]
    return "\n".join(lines)


def _as_typed(command: Sequence[str]) -> str:
    return f"    python {shlex.join(command)}"


def _row_of_part(name: str, decoder: str, scores: dict, out: Path) -> list[str]:
    of_scores = [f"{scores[metric]:.1f}" for metric in METRICS]
    if PARTS[name].votes:
        return [name, "", decoder, "", "", "", *of_scores]
    settings, rows = read_json(out / name / "config.json"), rows_of(out / name)
    minutes = f"{sum(row['seconds'] for row in rows) / 60:.0f}"
    of_run = [str(settings["seed"]), str(len(rows)), minutes]
    return [name, settings["engine"], decoder, *of_run, *of_scores]


def _row_of_effect(name: str, scores: dict, out: Path) -> list[str]:
    rows = rows_of(out / name)
    numbers = (
        f"{min(row['val_loss'] for row in rows):.3f}",
        f"{sum(row['seconds'] for row in rows) / len(rows):.0f}",
        f"{scores['BLEU-4']:.1f}",
        f"{scores['CIDEr-D']:.1f}",
    )
    return [PARTS[name].effect, *numbers]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    return [lines[0], "| --- " * len(columns) + "|", *lines[1:]]


def main() -> None:
    parser = ArgumentParser(prog="python -m core.reproduce", description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, metavar="DIR", help="the photo folder")
    parser.add_argument("--weights", default="download", metavar="FILE", help="of the encoder")
    parser.add_argument("--encoder", default="mobilenet_v2", help="what looks at the photos")
    parser.add_argument(
        "--out", metavar="DIR", help="where runs go (default: runs/flickr8k-ENCODER)"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts (default: all)")
    options = parser.parse_args()
    options.out = options.out or f"runs/flickr8k-{options.encoder}"

    from core.show.plots import plot_runs

    require_torch(f"--encoder {options.encoder}")
    out = Path(options.out)
    try_out("--out", out / "data")
    try_out("docs:", DOCS / "results.md")
    photos = read_photo_folder(options.data).splits
    splits = [s for s in ("val", "test") if photos.get(s)]
    if not (out / "data").is_dir():
        run(preparing(options))
    check_source(options, photos)
    results: dict[str, dict] = {split: {} for split in splits}
    for name in PARTS:
        # What was done before is on the page, too, whatever is asked for now.
        if name in (options.only or PARTS):
            train_part(name, options)
        elif not all(scores_of(name, d, options, "val").is_file() for d in decoders_of(name)):
            continue
        for split in splits[:1] if PARTS[name].effect else splits:
            results[split][name] = score_part(name, options, split)
    curves = {name: rows_of(out / name) for name in results["val"] if not PARTS[name].effect}
    plot_runs(curves, DOCS / "results.png")
    write_text(DOCS / "results.md", as_markdown(results, options))
    print(f"\nresults: {DOCS / 'results.md'}")


if __name__ == "__main__":
    run_command(main)
