"""The page of inference.py --report: what is in it, and how it behaves in a browser."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from chromium import PROGRAM, Chromium
from conftest import make_tiny_folder, slow_but
from PIL import Image
from test_models import MODELS, VOCABULARY, build, images_for, step_by_step

from core import metrics
from core.show.report import (
    PICTURE_SIZE,
    WHOLE,
    Entry,
    Word,
    read_words,
    score_captions,
    write_report,
)
from core.support.choices import MODEL_NAMES

HOSTILE = """<i>"a"&'b'</i>"""
VOID = {"meta", "img"}


class Page(HTMLParser):
    """A page taken apart: its elements with attributes and text. Whatever is not closed, fails."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements, self._open = [], []
        self.feed(self.source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, tag, **attributes):
        return [
            e
            for e in self.elements
            if e["tag"] == tag and all(e.get(k) == v for k, v in attributes.items())
        ]

    def words(self):
        """Of each image the elements of its words."""
        found = []
        for element in self.elements:
            if element["tag"] == "article":
                found.append([])
            elif element["tag"] == "button":
                found[-1].append(element)
        return found


def word_text(element) -> str:
    return re.fullmatch(r"(.*?)(< 1|\d+) %", element["text"], re.DOTALL)[1]


def some_entries(texts=("a", "cat", HOSTILE, "<END>"), side=7, count=2) -> list[Entry]:
    """Entries whose word t was looked for in cell t + 1 with half of the weight."""
    weights = np.full((len(texts), side**2), 0.5 / (side**2 - 1))
    weights[np.arange(len(texts)), np.arange(len(texts)) + 1] = 0.5
    picture = np.full((PICTURE_SIZE, PICTURE_SIZE, 3), 200, np.uint8)
    picture[:, :160, 0] = 20
    words = [
        Word(text, math.log(0.9 / (1 + 2 * t)), weights[t] if side else None)
        for t, text in enumerate(texts)
    ]
    others = {"greedy": HOSTILE, "sampling": ""}
    beam = [("a cat", -0.25), (HOSTILE, -1.5)]
    scores = {"BLEU-4": 12.34, "CIDEr-D": 56.78}
    return [
        Entry(f"{n}{HOSTILE}.jpg", picture, words, others, beam, [HOSTILE, "two cats"], scores)
        for n in range(count)
    ]


@pytest.fixture
def written(tmp_path):
    """Writes a page of such entries; returns it, taken apart."""

    def write(entries=None, **options) -> Page:
        facts = {"Model": HOSTILE}
        write_report(
            tmp_path / "r.html", facts, "beam search", entries or some_entries(), **options
        )
        return Page(tmp_path / "r.html")

    return write


# ---------------------------------------------------------------------------------------------
# What is on the page
# ---------------------------------------------------------------------------------------------


def test_texts_arrive_as_they_are(written):
    page = written()
    assert not page.all("i"), "a text was taken for HTML"
    assert page.all("dd", text=HOSTILE)
    for article, words in zip(page.all("article"), page.words(), strict=True):
        assert [word_text(word) for word in words] == ["a", "cat", HOSTILE, "<END>"]
        assert article["aria-label"].endswith(f"{HOSTILE}.jpg")
        for text in (HOSTILE, "two cats", "-0.25 a cat", f"-1.50 {HOSTILE}", "(no words)"):
            assert text in article["text"]
        assert "BLEU-4 12.3, CIDEr-D 56.8" in article["text"]
    assert page.all("img")[0]["alt"] == f"the photo 0{HOSTILE}.jpg"


def test_each_word_has_its_probability(written):
    for words in written().words():
        for t, (word, p) in enumerate(zip(words, (90, 30, 18, 13), strict=True)):
            assert word["text"].endswith(f"{p} %")
            assert f"probability {0.9 / (1 + 2 * t):.3g}" in word["aria-label"] == word["data-says"]
            assert word["style"] == f"--p:{90 / (1 + 2 * t):.1f}%"
    [words] = written([Entry("", None, [Word("never", -100.0), Word("sure", 0.0)])]).words()
    assert [word["text"] for word in words] == ["never< 1 %", "sure100 %"]


@pytest.mark.parametrize("side", [2, 7, 14])
def test_each_word_has_its_map(written, side):
    entries = some_entries(texts=("a", "cat"), side=side)
    for entry, elements in zip(entries, written(entries).words(), strict=True):
        for word, element in zip(entry.words, elements, strict=True):
            parts = json.loads(element["data-map"])
            assert all(isinstance(part, int) for part in parts)
            np.testing.assert_allclose(np.array(parts) / WHOLE, word.weights, atol=0.5 / WHOLE)
            assert abs(sum(parts) - WHOLE) <= side**2 / 2
            assert "largest weight 0.500" in element["data-says"]


def test_without_attention_there_is_no_map(written):
    page = written([Entry("a.jpg", None, [Word("a", -1.0)])])
    assert "data-map" not in page.words()[0][0]
    assert "no map" in page.all("p", **{"class": "lead"})[0]["text"]
    assert not page.all("img")
    assert "picture not on this machine" in page.all("article")[0]["text"]


def test_the_page_fetches_nothing(written):
    page = written()
    for element in page.elements:
        assert not element.keys() & {"href", "srcset", "action", "data", "background"}, element
        assert element.get("src", "data:").startswith("data:")
        assert element["tag"] != "link"
        assert not any(key.startswith("on") for key in element)
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp", page.source)
    [policy] = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'; img-src data:;")


def test_pictures_are_small_and_right(written):
    for image in written().all("img"):
        jpeg = base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))
        assert len(jpeg) < 40_000
        picture = Image.open(io.BytesIO(jpeg))
        assert (picture.format, picture.size) == ("JPEG", (PICTURE_SIZE, PICTURE_SIZE))
        np.testing.assert_allclose(picture.getpixel((20, 100)), (20, 200, 200), atol=6)
        np.testing.assert_allclose(picture.getpixel((300, 100)), (200, 200, 200), atol=6)


def test_what_the_notes_say(written):
    def notes(entries, **options) -> str:
        return written(entries, **options).all("p", **{"class": "note"})[0]["text"]

    entries = some_entries()
    scores = dict.fromkeys(metrics.METRICS, 12.0)
    assert "CIDEr-D to 1,000" in notes(entries, scores=scores)
    assert "left out" not in notes(entries, scores=scores)
    assert "CIDEr-D is left out" in notes(entries[:1])
    assert "Scores go" not in notes([Entry("a.jpg", None, [Word("a", -1.0)])])
    assert "too rare" not in notes(entries)
    entries[0].references = ["a <UNK>"]
    assert "<UNK> in a reference is a word too rare" in notes(entries)


# ---------------------------------------------------------------------------------------------
# Where it comes from
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", MODELS)
def test_words_are_read_off_the_model(case):
    model = build(case)
    L = 9
    features = images_for(model, 2, L)
    ids = [np.array([4, 5, 2]), np.array([6, 6, 7, 4, 2])]
    found = read_words(model, VOCABULARY, features, ids)
    assert [[word.text for word in words] for words in found] == [
        ["a", "cat", "<END>"],
        ["dog", "dog", "runs", "a", "<END>"],
    ]
    for n, caption in enumerate(ids):
        read = np.array([[model.start, *caption]])
        log_probs = step_by_step(model, features[n : n + 1], read[:, :-1])[0]
        for t, word in enumerate(found[n]):
            assert word.log_probability == pytest.approx(log_probs[t, caption[t]], rel=1e-9)
            assert (word.weights is not None) == model.grid
            if model.grid:
                maps = model.attention_weights(features[n : n + 1], read)[0]
                np.testing.assert_allclose(word.weights, maps[t].mean(axis=0), rtol=1e-9)
                assert word.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("locations", [1, 8])
@pytest.mark.filterwarnings("ignore:the features are one location")
def test_what_is_no_square_grid_has_no_map(locations):
    model = build("attention")
    [words] = read_words(model, VOCABULARY, images_for(model, 1, locations), [np.array([4, 2])])
    assert [word.weights for word in words] == [None, None]


def test_scores_are_those_of_the_metrics():
    captions = ["a cat sits on a mat", "two dogs run", "a <UNK> dog"]
    references = [["a cat sits on the mat", "the cat"], ["two dogs run"], ["a <UNK> dog", "<UNK>"]]
    together, alone = score_captions(captions, references)
    # Nobody says a rare word, not even a caption with <UNK>.
    wanted = dict(enumerate([*references[:2], ["a <rare-1> dog", "<rare-2>"]]))
    assert together == metrics.score(dict(enumerate(captions)), wanted)
    assert np.mean([scores["CIDEr-D"] for scores in alone]) == pytest.approx(together["CIDEr-D"])
    assert alone[0]["BLEU-4"] == pytest.approx(
        metrics.score({0: captions[0], 1: ""}, {0: references[0], 1: [""]})["BLEU-4"]
    )
    assert score_captions(captions[:1], references[:1]) == ({}, [{"BLEU-4": alone[0]["BLEU-4"]}])


# ---------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------


@pytest.fixture
def trained(command, tmp_path):
    """Trains a model a little; returns its run folder."""

    def train(model, *options):
        code, _, error = command(
            "training.py",
            *("--model", model, "--num_epochs", 1, "--wordvec_dim", 8, "--hidden_dim", 8),
            *(*options, "--out", tmp_path / "run"),
        )
        assert code == 0, error
        return tmp_path / "run"

    return train


@pytest.mark.parametrize("model", slow_but(MODEL_NAMES, "lstm", "transformer"))
@pytest.mark.parametrize(
    ("engine", "decode"), [("numpy", "beam"), ("numpy", "sample"), ("torch", "greedy")]
)
def test_every_model_has_its_page(command, shapes_folder, trained, tmp_path, model, engine, decode):
    run = trained(model, "--num_samples", 6)
    code, out, error = command(
        "inference.py",
        *("--checkpoint", run, "--engine", engine, "--decode", decode, "--max_length", 7),
        *("--report", "r.html", "--out", "c.json"),
    )
    assert code == 0, error
    assert "report: r.html, the 6 images of train that were trained on" in out
    page, rows = Page(tmp_path / "r.html"), json.loads((tmp_path / "c.json").read_text())
    head = 1 + [e["text"] for e in page.all("dt")].index("Scores")
    facts = dict(
        zip(*([e["text"] for e in page.all(tag)][:head] for tag in ("dt", "dd")), strict=True)
    )
    assert facts["Model"].startswith(f"{model}, ")
    assert facts["Model"].endswith("(run/best.npz)")
    assert facts["Vocabulary"] == "41 words"
    asked = {"beam": "beam search", "sample": "sampling"}.get(decode, decode)
    assert facts["Decoder"].startswith(f"{asked} (")
    assert ("seed 0" in facts["Decoder"]) == (decode == "sample")
    assert "max_length 7" in facts["Decoder"]
    assert facts["Images"] == "the 6 images of train that were trained on"
    assert facts["Scores"].endswith(", of the 6 images of train that were trained on")
    expected = metrics.score(
        {row["image_id"]: row["caption"] for row in rows},
        {row["image_id"]: row["references"] for row in rows},
    )
    assert f"CIDEr-D {expected['CIDEr-D']:.1f}" in facts["Scores"]
    for row, words, article in zip(rows, page.words(), page.all("article"), strict=True):
        said = [word_text(word) for word in words]
        assert " ".join(said).removesuffix("<END>").strip() == row["caption"]
        assert ("data-map" in words[0]) == (model in ("attention", "transformer"))
        assert row["references"][0] in article["text"]
    assert len(page.all("img")) == 6
    others = [name for name in ("greedy", "beam search", "sampling") if name != asked]
    assert [e["text"] for e in page.all("dt")][head:] == [*others, "scores"] * 6


def test_photos_of_your_own_and_no_more_than_fifty(command, shapes_folder, trained, tmp_path):
    run = trained("attention", "--num_samples", 3)
    (tmp_path / "photos").mkdir()
    for n in range(52):
        Image.new("RGB", (40, 30), (4 * n, 90, 90)).save(tmp_path / "photos" / f"{n:02} & <b>.png")
    options = ["--checkpoint", run, "--images", "photos", "--report", "r.htm"]
    code, out, error = command("inference.py", *options)
    assert code == 0, error
    assert "report: r.htm, 52 photos; the first 50 are shown" in out
    page = Page(tmp_path / "r.htm")
    assert "52 photos; the first 50 are shown" in [e["text"] for e in page.all("dd")]
    assert page.all("article")[49]["aria-label"] == "49 & <b>.png"
    assert len(page.all("article")) == 50
    assert "References" not in page.source
    assert "Scores" not in page.source
    assert len(page.source) < 1_500_000


@pytest.mark.slow
def test_of_a_whole_split_fifty_images_are_shown_and_all_scored(
    command, shapes_folder, trained, tmp_path
):
    run = trained("rnn", "--num_samples", 3)
    options = ["--checkpoint", run, "--split", "val", "--decode", "greedy", "--report", "r.html"]
    code, out, error = command("inference.py", *options)
    assert code == 0, error
    assert "report: r.html, the 300 images of val; the first 50 are shown" in out
    page = Page(tmp_path / "r.html")
    assert len(page.all("article")) == 50
    assert command("inference.py", *options, "--out", "c.json")[0] == 0
    rows = json.loads((tmp_path / "c.json").read_text())
    assert len(rows) == 300
    expected = metrics.score(
        {row["image_id"]: row["caption"] for row in rows},
        {row["image_id"]: row["references"] for row in rows},
    )
    scores = ", ".join(f"{name} {expected[name]:.1f}" for name in ("ROUGE-L", "CIDEr-D"))
    assert any(f"{scores}, of the 300 images of val" in e["text"] for e in page.all("dd"))
    code, out, error = command("inference.py", *options, "--num_samples", 1)
    assert code == 0, error
    assert "report: r.html, the first of the 300 images of val" in out
    page = Page(tmp_path / "r.html")
    assert "CIDEr-D is left out" in page.source
    assert "BLEU-4" in page.all("article")[0]["text"]


def test_pictures_that_are_elsewhere(command, trained, tmp_path):
    run = trained("lstm", "--data", make_tiny_folder(tmp_path / "tiny"))
    code, _, error = command("inference.py", "--checkpoint", run, "--report", "r.html")
    assert code == 0, error
    page = Page(tmp_path / "r.html")
    assert len(page.all("article")) == 5
    assert not page.all("img")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("r.txt", ("--report r.txt", ".html or .htm")),
        ("no/such/r.html", ("--report no/such/r.html", "no folder no/such")),
        ("folder.html", ("--report folder.html", "is a folder")),
    ],
)
def test_refuses(refuses, tmp_path, name, says):
    (tmp_path / "folder.html").mkdir()
    refuses("inference.py", "--model", "rnn", "--report", name, says=says)


# ---------------------------------------------------------------------------------------------
# In a browser
# ---------------------------------------------------------------------------------------------

SHOWN = "[...document.querySelectorAll('.word.shown')].map(w => w.firstChild.data)"
SAYS = "document.querySelector('.says').textContent"
FOCUSED = "document.activeElement.firstChild?.data"
# The map over the first photo: how dark each cell is, 0 to 255; null when none is shown.
MAP = """(canvas => canvas.classList.contains('shown') ?
    [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]
        .filter((_, i) => i % 4 == 3) : null)(document.querySelector('canvas'))"""
# The lowest contrast (WCAG 2.2, 1.4.3) of any text with what is behind it.
CONTRAST = """(() => {
    const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = colour => numbers(colour).slice(0, 3).map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = e => {
        const colour = getComputedStyle(e).backgroundColor;
        return numbers(colour)[3] === 0 ? behind(e.parentElement) : colour;
    };
    return Math.min(...[...document.querySelectorAll('main *')].filter(e => e.textContent.trim())
        .map(e => [light(getComputedStyle(e).color), light(behind(e))].sort((a, b) => b - a))
        .map(([high, low]) => (high + 0.05) / (low + 0.05)));
})()"""

in_a_browser = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser
        assert browser.problems == []


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page of two images in the browser."""

    def open_page(**options):
        entries = some_entries(texts=("a", "cat", HOSTILE, "<END>"))
        write_report(tmp_path / "r.html", {"Model": "m" * 300}, "beam search", entries)
        browser.open(tmp_path / "r.html", **options)
        return browser

    return open_page


def looks_at(cell: int) -> list[int]:
    dark = [217 * (1 - 0.5 / 48 / 0.5)] * 49
    dark[cell] = 0
    return pytest.approx(dark, abs=2)


@in_a_browser
def test_keys_go_from_word_to_word(opened):
    page = opened()
    whole = page.run(SAYS)
    assert "log-probability" in whole
    assert page.run(SHOWN) == []
    page.press("Tab")
    assert page.run(SHOWN) == ["a"]
    assert page.run(MAP) == looks_at(1)
    assert "probability 0.9; largest weight 0.500" in page.run(SAYS)
    page.press("ArrowRight")
    page.press("Tab")
    assert page.run(SHOWN) == [HOSTILE]
    assert page.run(MAP) == looks_at(3)
    page.press("ArrowLeft")
    assert page.run(SHOWN) == [page.run(FOCUSED)] == ["cat"]
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Escape")
    assert page.run(SHOWN) == []
    assert page.run(MAP) is None
    assert page.run(SAYS) == whole
    for _ in range(3):  # <END> is the last: there is nothing to the right of it
        page.press("ArrowRight")
    assert page.run(FOCUSED) == "<END>"
    page.press("Tab")  # on to the next image
    assert page.run(SHOWN) == ["a"]
    assert page.run(MAP) is None


@in_a_browser
def test_the_mouse_shows_a_word_while_it_is_there(opened):
    page = opened()
    page.point(".word:nth-child(2)")
    assert page.run(SHOWN) == ["cat"]
    assert page.run(MAP) == looks_at(2)
    page.point("h1")
    assert page.run(SHOWN) == []
    page.press("Tab")
    page.point(".word:nth-child(2)")
    page.point("h1")
    assert page.run(SHOWN) == ["a"], "the word with the focus is shown again"
    page.press("Escape")
    assert page.run(SHOWN) == []


@in_a_browser
def test_a_phone(opened):
    page = opened(width=360, height=700)
    assert page.run("document.documentElement.scrollWidth") == 360
    assert page.run("innerWidth") == 360
    page.run("document.querySelector('.caption').scrollIntoView({block: 'center'})")
    page.tap(".word:nth-child(2)")
    assert page.run(SHOWN) == ["cat"]
    assert page.run(MAP) == looks_at(2)
    sizes = "[...document.querySelectorAll('.word')].map(w => w.getBoundingClientRect().height)"
    assert min(page.run(sizes)) >= 44, "too small for a finger"
    page.tap(".says")
    assert page.run(SHOWN) == []
    page.run("document.querySelector('.word').click()")  # as in browsers that move no focus
    assert page.run(SHOWN) == ["a"]


@in_a_browser
def test_light_and_dark(opened):
    colours = []
    for dark in (False, True):
        page = opened(dark=dark)
        page.press("Tab")
        style = "(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))"
        colours.append([sum(map(int, re.findall(r"\d+", c))) for c in page.run(style)])
        assert page.run(CONTRAST) >= 4.5
    (paper, ink), (dark_paper, light_ink) = colours  # sums of red, green and blue
    assert min(paper, light_ink) > 650
    assert max(ink, dark_paper) < 120
