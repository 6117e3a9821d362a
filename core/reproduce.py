"""From photos to a table of scores: every run of ``docs/results.md``, one after the other.

    python -m core.reproduce --data Flickr8k --weights squeezenet1_1.pth
    python -m core.reproduce --data Flickr8k --weights squeezenet1_1.pth --only lstm attention

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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.command_line import ArgumentParser, run_command
from core.files import read_json, write_json, write_text
from core.flickr8k import read_photo_folder
from core.metrics import METRICS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
COMPONENTS = 512  # of the PCA of pooled features

_TRAIN = "--bucketed --update_rule adamw --schedule cosine --label_smoothing 0.1 --select cider"
_POOLED = f"{_TRAIN} --engine numpy --hidden_dim 512 --wordvec_dim 256 --dropout 0.5"
_GRID = f"{_TRAIN} --engine torch --flip --wordvec_dim 256"
_SCST = "--engine torch --objective scst --schedule cosine --select cider --dropout 0"


_HEAD = """# Results

Written by `python -m core.reproduce --data DATA --weights WEIGHTS`, with {machine};
float32, seed 0. Beam search with 5 beams, length penalty 1. Scores of `core.metrics`, on its scale
from 0 to 100, against all references as people wrote them. The best epoch was chosen on 'val' (the
dev list of Flickr8k), which flatters that split a little; 'test' is untouched, where there is one.

![Loss and CIDEr-D by epoch](results.png)
"""


@dataclass(frozen=True)
class Part:
    """A run, or several that vote.

    - options: of ``training.py``; empty for an ensemble
    - grid: looks at the photos by ``--encoder``; else it reads the prepared folder
    - start: the part whose parameters it starts from
    - votes: the parts of an ensemble, which is not trained
    """

    options: str = ""
    grid: bool = False
    start: str | None = None
    votes: tuple[str, ...] = ()


PARTS = {
    "rnn": Part(f"--model rnn {_POOLED} --learning_rate 1e-3 --num_epochs 8"),
    "lstm": Part(f"--model lstm {_POOLED} --learning_rate 1e-3 --num_epochs 8"),
    "attention": Part(
        f"--model attention {_GRID} --hidden_dim 512 --attention_dim 256 --dropout 0.5 "
        "--learning_rate 1e-3 --warmup 500 --num_epochs 6",
        grid=True,
    ),
    "transformer": Part(
        f"--model transformer {_GRID} --hidden_dim 1024 --dropout 0.3 --learning_rate 5e-4 "
        "--warmup 1000 --num_epochs 7",
        grid=True,
    ),
    "attention-scst": Part(
        f"--model attention {_SCST} --hidden_dim 512 --attention_dim 256 --wordvec_dim 256 "
        "--learning_rate 5e-5 --num_epochs 10",
        grid=True,
        start="attention",
    ),
    "transformer-scst": Part(
        f"--model transformer {_SCST} --hidden_dim 1024 --wordvec_dim 256 --learning_rate 2e-5 "
        "--num_epochs 10",
        grid=True,
        start="transformer",
    ),
    "ensemble": Part(votes=("attention-scst", "transformer-scst")),
}


def commands(name: str, options, split: str) -> list[list[str]]:
    """The commands of a part, each as words after ``python``; what they make is in ``options.out``.

    The last two caption the split, and score the captions.
    """
    part, out = PARTS[name], Path(options.out)
    weights = ["--encoder", options.encoder, "--weights", options.weights]
    data, made = str(out / "data"), []
    if part.options:
        source = (
            ["--data", options.data, *weights, "--grid", "7"] if part.grid else ["--data", data]
        )
        start = ["--init", str(out / part.start)] if part.start else []
        run = ["--seed", "0", "--out", str(out / name)]
        made.append(["training.py", *shlex.split(part.options), *source, *start, *run])
    engine = ["--engine", "torch"] if part.grid or part.votes else []
    first, *others = part.votes or (name,)
    votes = ["--ensemble", *(str(out / other) for other in others)] if others else []
    captions = str(out / f"{name}_{split}.json")
    runs = ["--checkpoint", str(out / first), *votes]
    made.append(["inference.py", *runs, *engine, "--split", split, "--out", captions])
    references = ["--references", options.data, "--split", split]
    made.append(["-m", "core.metrics", "--candidates", captions, *references, "--subset", "--json"])
    return made


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


def do_part(name: str, options, split: str) -> dict:
    """Trains, captions and scores a part, as far as that is not done; returns the scores."""
    out, scores = Path(options.out), Path(options.out) / f"{name}_{split}.scores.json"
    if scores.is_file():
        return read_json(scores)
    *training, captioning, scoring = commands(name, options, split)
    for command in training:
        if (out / name / "last.npz").is_file():
            settings = read_json(out / name / "config.json")
            command = ["training.py", "--resume", "--out", str(out / name)]
            if len(rows_of(out / name)) == settings["num_epochs"]:
                continue
        run(command)
    run(captioning)
    found = json.loads(run(scoring, capture=True))
    write_json(scores, found)
    return found


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
        f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"NumPy {numpy.__version__}, PyTorch {torch.__version__}"
    )


def as_markdown(results: dict[str, dict[str, dict]], options) -> str:
    """The page: results by split and part."""
    lines = [_HEAD.format(machine=machine())]
    for split, parts in results.items():
        lines += [f"## {split}", "", f"| part | epochs | minutes | {' | '.join(METRICS)} |"]
        lines += ["| --- " * (3 + len(METRICS)) + "|"]
        for name, scores in parts.items():
            rows = rows_of(Path(options.out) / name)
            minutes = f"{sum(row['seconds'] for row in rows) / 60:.0f}" if rows else ""
            values = " | ".join(f"{scores[metric]:.1f}" for metric in METRICS)
            lines += [f"| {name} | {len(rows) or ''} | {minutes} | {values} |"]
        lines += [""]
    lines += ["## Commands", ""]
    for name in next(iter(results.values())):
        lines += [f"`{name}`:", ""]
        lines += [f"    python {shlex.join(c)}" for c in commands(name, options, "val")] + [""]
    return "\n".join(lines)


def main() -> None:
    parser = ArgumentParser(prog="python -m core.reproduce", description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, metavar="DIR", help="the photo folder")
    parser.add_argument("--weights", required=True, metavar="FILE", help="of the encoder")
    parser.add_argument("--encoder", default="squeezenet1_1", help="what looks at the photos")
    parser.add_argument("--out", default="runs/flickr8k", metavar="DIR", help="where runs go")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts (default: all)")
    options = parser.parse_args()

    from core.plots import plot_runs

    out = Path(options.out)
    splits = [s for s in ("val", "test") if read_photo_folder(options.data).splits.get(s)]
    if not (out / "data").is_dir():
        prepare = ["--root", options.data, "--out", str(out / "data"), "--pca", str(COMPONENTS)]
        weights = ["--encoder", options.encoder, "--weights", options.weights]
        run(["-m", "core.flickr8k", *prepare, *weights])
    names = [name for name in PARTS if name in (options.only or PARTS)]
    results = {split: {name: do_part(name, options, split) for name in names} for split in splits}
    plot_runs({name: rows_of(out / name) for name in names}, DOCS / "results.png")
    write_text(DOCS / "results.md", as_markdown(results, options))
    print(f"\nresults: {DOCS / 'results.md'}")


if __name__ == "__main__":
    run_command(main)
