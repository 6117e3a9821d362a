"""Words of data in figures: drawn as they are, whatever they hold."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import WORDS, make_tiny_folder
from matplotlib.figure import Figure
from PIL import Image

from core import lessons
from core.coco_utils import load_coco_data
from core.models import build_model
from core.show.plots import plot_attention, plot_captions, plot_losses, plot_runs

PICTURE = np.full((32, 32, 3), 90, np.uint8)
# Prices, LaTeX, what mathtext takes for a fraction or an index, a lone dollar or backslash.
HOSTILE = ["$5^$", "costs $1 and $2", r"\frac{", "$", "$$", "a_b^c", r"$\alpha$", "50% {off}", "\\"]


@pytest.fixture
def drawn(monkeypatch):
    """All texts of the figures that are saved."""
    texts, save = [], Figure.savefig

    def savefig(figure, *arguments, **options):
        save(figure, *arguments, **options)
        texts.extend(text for text in figure.findobj(lambda a: hasattr(a, "get_parse_math")))

    monkeypatch.setattr(Figure, "savefig", savefig)
    return texts


def shown(drawn) -> set[str]:
    return {text.get_text().strip() for text in drawn if text.get_text().strip()}


@pytest.mark.parametrize("words", HOSTILE)
def test_a_caption_is_drawn_as_it_is(drawn, tmp_path, words):
    plot_captions([PICTURE, None], [words, "a cat"], [["a dog"], [words]], tmp_path / "c.png")
    assert {words, f"({words})"} <= shown(drawn)
    assert not any(text.get_parse_math() for text in drawn if words in text.get_text())
    assert Image.open(tmp_path / "c.png").width > 100


@pytest.mark.parametrize("word", HOSTILE)
def test_a_word_over_a_map_is_drawn_as_it_is(drawn, tmp_path, word):
    maps = [np.full((2, 4), 0.25)]
    plot_attention([PICTURE], [[word, "cat"]], maps, [word], tmp_path / "a.png")
    assert word in shown(drawn)
    assert not any(text.get_parse_math() for text in drawn if word in text.get_text())


def test_a_run_is_named_as_it_is(drawn, tmp_path):
    rows = [{"epoch": 1, "val_loss": 2.0, "BLEU-4": 3.0, "CIDEr-D": 4.0}]
    plot_runs({"$5^$": rows, r"\frac{": rows}, tmp_path / "r.png")
    assert {"$5^$", r"\frac{"} <= shown(drawn)


def test_a_lesson_shows_captions_as_they_are(monkeypatch, tmp_path):
    words = [*WORDS[:4], "$5^$", *WORDS[5:]]
    folder = make_tiny_folder(tmp_path / "tiny", words)
    Image.fromarray(PICTURE).save(folder / "val0.png")
    data = load_coco_data(folder)
    config = {"input_dim": 6, "wordvec_dim": 5, "hidden_dim": 7}
    model = build_model("lstm", config, words)
    model.params["b_vocab"][[2, 4]] = -99, 9
    seen = []

    def show():
        figure = plt.gcf()
        figure.canvas.draw()
        seen.extend(axes.get_title() for axes in figure.axes)
        plt.close(figure)

    monkeypatch.setattr(plt, "show", show)
    lessons.show_captions(model, data, "val", [0], columns=1)
    assert "$5^$" in seen[0]


def test_a_figure_that_fails_names_itself(monkeypatch, tmp_path):
    def fails(*_, **__):
        raise ValueError("$5^$\n    ^\nParseException: Expected {accent | symbol}")

    monkeypatch.setattr(Figure, "savefig", fails)
    with pytest.raises(ValueError, match=r"f\.png: the figure could not be drawn \(.*\)"):
        plot_captions([PICTURE], ["a cat"], [[]], tmp_path / "f.png")
    assert list(tmp_path.iterdir()) == []


def test_the_command_draws_a_vocabulary_of_prices(command, tmp_path):
    make_tiny_folder(tmp_path / "tiny", [*WORDS[:4], "$5^$", "$", r"\frac{", "sits^", "x_"])
    small = "--model", "rnn", "--hidden_dim", 8, "--wordvec_dim", 8, "--num_epochs", 1
    code, _, error = command("training.py", *small, "--data", "tiny", "--out", "run")
    assert code == 0, error
    code, out, error = command("inference.py", "--checkpoint", "run", "--figure", "f.png")
    assert (code, error) == (0, "")
    assert "picture: f.png" in out


def test_letters_that_no_font_has_are_counted_in_one_line(tmp_path):
    with pytest.warns(UserWarning, match="font") as warned:
        plot_captions([PICTURE] * 2, ["\ue000\ue001 a", "\ue001 b"], [[], []], tmp_path / "f.png")
    [message] = [str(warning.message) for warning in warned]
    assert "f.png: 2 letters that the font has not (\ue000\ue001) are boxes" in message


def test_curves_of_self_critical_training_are_what_it_learns_by(drawn, tmp_path):
    """Its training loss is weighted by the reward: often below 0, and of no use to look at."""
    rows = [
        {"epoch": e, "train_loss": -0.05, "val_loss": 3.0 + e, "CIDEr-D": c}
        | {"reward": 80.0 + e, "train_CIDEr-D": 60.0 + e}
        for e, c in ((1, 56.5), (2, 55.0))
    ]
    plot_losses(rows, tmp_path / "loss.png")
    texts = shown(drawn)
    assert {"CIDEr-D of its own captions", "training", "validation", "62.000", "56.500"} <= texts
    without = [{key: x for key, x in row.items() if key != "CIDEr-D"} for row in rows]
    drawn.clear()
    plot_losses(without, tmp_path / "loss.png")
    assert "62.000" in shown(drawn)
    assert "validation" not in shown(drawn)
