"""The table of results: every part once, resumed, and written from what was measured."""

from __future__ import annotations

import json
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

import pytest
from test_flickr8k import make_photos, write_csv

from core import reproduce
from core.reproduce import Part, check_recipe, training
from core.runs.settings import resolve_settings
from training import build_parser as train_parser

SMALL = "--hidden_dim 8 --wordvec_dim 8 --batch_size 9 --num_epochs 2"
PARTS = {
    "small-lstm": Part(f"--model lstm {SMALL} --select cider", effect="nothing"),
    "lstm": Part(f"--model lstm {SMALL} --select cider"),
    "attention": Part(f"--model attention {SMALL}", grid=True),
    "tuned": Part(f"--model attention --finetune_encoder 1 {SMALL}", grid=True, start="attention"),
    "sharp": Part(
        f"--model attention --objective scst --engine torch {SMALL}",
        grid=True,
        start="tuned",
        eyes="tuned",
    ),
    "both": Part(votes=("attention", "sharp")),
}


@pytest.fixture
def made(monkeypatch, tmp_path, command):
    """Runs core.reproduce on twelve photos; every command in this process, and noted."""
    monkeypatch.setattr(reproduce, "PARTS", PARTS)
    monkeypatch.setattr(reproduce, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(reproduce, "COMPONENTS", 4)
    monkeypatch.setattr("core.encoders.pictures.FOLDER", tmp_path / "kept")
    (tmp_path / "docs").mkdir()
    root = make_photos(tmp_path / "photos")
    write_csv(root)
    noted = []

    def run(words, capture=False):
        noted.append(words)
        code, text, error = command(*(words[1:] if words[0] == "-m" else words))
        if code:
            raise ValueError(error)
        return text

    monkeypatch.setattr(reproduce, "run", run)

    def reproduced(*options):
        noted.clear()
        eyes = ("--encoder", "squeezenet1_1", "--weights", "random")
        base = ("--data", root, *eyes, "--out", tmp_path / "runs")
        code, _, error = command("core.reproduce", *base, *options)
        assert code == 0, error
        return [words[1] if words[0] == "-m" else words[0] for words in list(noted)]

    return reproduced


SCORED = ["inference.py", "core.metrics"]
EACH = ["training.py", *SCORED, *SCORED, *SCORED]  # by three decoders


@pytest.mark.slow
def test_every_part_once_and_written_down(made, tmp_path):
    assert made("--only", "lstm") == ["core.flickr8k", *EACH]
    effect, others = ["training.py", *SCORED], [*EACH, *EACH, *EACH, *EACH[1:], *SCORED]
    assert made() == [*effect, *others], "the lstm is there already"
    assert made() == []
    page = (tmp_path / "docs" / "results.md").read_text()
    for name, part in PARTS.items():
        rows = [line for line in page.splitlines() if line.startswith(f"| {part.effect or name} |")]
        decoders = ["beam"] if part.effect else ["beam", "once", "mirror"]
        decoders += ["neighbours"] if part.votes else []
        for decoder, row in zip(decoders, rows, strict=True):
            path = tmp_path / "runs" / f"{name}_val_{decoder}.scores.json"
            scores = json.loads(path.read_text())
            if part.effect:
                assert f"| {scores['BLEU-4']:.1f} | {scores['CIDEr-D']:.1f} |" in row
            else:
                assert f"| {decoder} |" in row
                assert f"{scores['BLEU-4']:.1f} | {scores['ROUGE-L']:.1f}" in row
                assert f"{scores['CIDEr-D']:.1f} |" in row
    assert "## test" not in page, "there is no test list"
    assert "    python training.py --seed 0 --model lstm" in page
    assert "    python -m core.flickr8k --root PHOTOS" in page
    assert made("--only", "attention") == [], "nothing to do"
    assert (tmp_path / "docs" / "results.md").read_text() == page, "the other parts are lost"
    assert str(tmp_path / "photos") not in page
    assert "--data PHOTOS" in page
    assert "--references PHOTOS" in page
    assert (tmp_path / "docs" / "results.png").stat().st_size > 10_000


@pytest.mark.slow
def test_what_was_stopped_goes_on(made, tmp_path):
    made("--only", "lstm")
    runs = tmp_path / "runs"
    (runs / "lstm_val_mirror.scores.json").unlink()
    assert made("--only", "lstm") == SCORED, "the training is done"
    (runs / "lstm_val_beam.scores.json").unlink()
    rows = (runs / "lstm" / "metrics.jsonl").read_text().splitlines()
    (runs / "lstm" / "metrics.jsonl").write_text(rows[0] + "\n")
    assert made("--only", "lstm") == ["training.py", *SCORED], "resumed"
    assert (runs / "lstm" / "metrics.jsonl").read_text().splitlines() == rows


@pytest.mark.parametrize(
    ("name", "changed", "says"),
    [
        ("lstm", {}, None),
        ("transformer", {"device": "cuda", "data": "/somewhere/else"}, None),
        ("lstm", {"learning_rate": 0.5}, "--learning_rate 0.5, found 0.001 in the recipe"),
        ("lstm", {"patience": 3}, "--patience 3, found None"),
        ("attention", {"flip": False}, "--flip False, found True"),
        ("transformer", {"num_epochs": 12}, "--num_epochs 12, found 6"),
    ],
)
def test_a_run_by_another_recipe_is_not_taken_for_a_part(tmp_path, name, changed, says):
    options = Namespace(data="d", weights="w", encoder="squeezenet1_1", out=str(tmp_path))
    command = training(name, options)
    check_recipe(command, tmp_path / name)  # there is none
    typed = vars(train_parser().parse_args(command[1:]))
    out = Path(typed.pop("out"))
    settings = resolve_settings(typed, out, resume=False)
    (tmp_path / name).mkdir()
    if not changed:
        del settings["bleu_reward"]  # as runs do that are older than this option
    (tmp_path / name / "config.json").write_text(json.dumps(settings | changed))
    with pytest.raises(ValueError, match=says) if says else nullcontext():
        check_recipe(command, tmp_path / name)


def test_a_command_that_fails_ends_it(made, refuses, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "PARTS", {"bad": Part("--model lstm --num_epochs 0")})
    refuses(
        *("core.reproduce", "--data", tmp_path / "photos", "--weights", "random"),
        *("--out", tmp_path / "runs", "--encoder", "squeezenet1_1"),
        says=("--num_epochs",),
    )
    assert not (tmp_path / "docs" / "results.md").exists()
    refuses(  # as what one network saw is there now
        *("core.reproduce", "--data", tmp_path / "photos", "--weights", "random"),
        *("--out", tmp_path / "runs", "--encoder", "mobilenet_v2"),
        says=("seen by squeezenet1_1, not by --encoder mobilenet_v2",),
    )
