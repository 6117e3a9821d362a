"""BLEU, ROUGE-L, CIDEr-D and the words they count, held against what the COCO tools say.

``golden_metrics.json`` holds what pycocoevalcap 1.2 says: its scorers of 300 random corpora, its
PTBTokenizer (Stanford's, in Java) of captions with all sorts of punctuation. It was written by
``make_golden_metrics.py``. Where pycocoevalcap and Java are installed they are asked again.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import shutil

import numpy as np
import pytest
from conftest import REAL_DATA, WORDS
from hypothesis import given, settings
from hypothesis import strategies as st
from make_golden_metrics import GOLDEN, coco_scores, coco_tokens, random_corpus

from core import metrics
from core.coco_utils import save_coco_data
from core.metrics import (
    METRICS,
    CIDErD,
    bleu,
    cider_d,
    controls,
    ptb_tokenize,
    rouge_l,
    score,
    score_words,
)
from core.support.files import read_json, write_json

golden = read_json(GOLDEN)
with_coco_tools = pytest.mark.skipif(
    not (importlib.util.find_spec("pycocoevalcap") and shutil.which("java")),
    reason="needs pycocoevalcap and Java",
)

# ---------------------------------------------------------------------------------------------
# Words
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("caption", "words"), golden["tokens"])
def test_words_are_those_of_the_coco_tools(caption, words):
    assert ptb_tokenize(caption) == words


def test_the_short_name_goes_on_working():
    assert metrics.tokenize is ptb_tokenize


@with_coco_tools
def test_words_of_real_captions_are_those_of_the_coco_tools():
    path = REAL_DATA / "flickr8k" / "captions.txt"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    captions = [",".join(row[1:]) for row in rows][1:]
    pairs = zip(map(ptb_tokenize, captions), coco_tokens(captions), strict=True)
    assert np.mean([ours == theirs for ours, theirs in pairs]) >= 0.999


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_words_are_lower_case_and_have_no_blanks(text):
    words = ptb_tokenize(text)
    assert all(words)
    assert " ".join(words).split() == words
    assert [word.lower() for word in words] == words


# ---------------------------------------------------------------------------------------------
# Scores
# ---------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_coco_scorers():
    assert len(golden["scores"]) == 300
    for seed, *expected in golden["scores"]:
        scores = score_words(*random_corpus(seed))
        ours = [scores[name] / 100 for name in METRICS]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6, err_msg=f"seed {seed}")


@pytest.mark.skipif(not importlib.util.find_spec("pycocoevalcap"), reason="needs pycocoevalcap")
def test_scores_are_those_of_the_installed_coco_scorers():
    for seed in range(1000, 1050):
        scores = score_words(*random_corpus(seed))
        ours = [scores[name] / 100 for name in METRICS]
        np.testing.assert_allclose(ours, coco_scores(*random_corpus(seed)), rtol=0, atol=1e-6)


def test_bleu_by_hand():
    said = {1: "the the the cat".split()}
    wanted = {1: ["the cat sat".split(), "the the mat was red".split()]}
    scores = bleu(said, wanted)
    # "the" counts twice, as in the second reference, "cat" once; pairs: "the the" once, "the cat".
    # The references have 3 and 5 words: of two lengths as close as each other, the shorter counts.
    assert scores["BLEU-1"] == pytest.approx(75)
    assert scores["BLEU-2"] == pytest.approx(100 * math.sqrt(3 / 4 * 2 / 3))
    assert scores["length ratio"] == pytest.approx(4 / 3)


def test_short_candidates_pay_the_brevity_penalty_once_for_the_corpus():
    wanted = {1: ["a b c d".split()], 2: ["e f g h".split()]}
    scores = bleu({1: "a b c d".split(), 2: "e f".split()}, wanted)
    assert scores["length ratio"] == pytest.approx(6 / 8)
    assert scores["BLEU-1"] == pytest.approx(100 * math.exp(1 - 8 / 6))


def test_rouge_l_takes_precision_and_recall_from_the_best_reference_of_each():
    said = {1: "a b c d".split()}
    wanted = {1: ["a x b x c x".split(), "d".split()]}
    precision, recall = 3 / 4, 1
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l(said, wanted) == pytest.approx(100 * expected)


def test_cider_d_by_hand():
    wanted = {1: [["a", "dog"]], 2: [["a", "cat"]]}
    cider = CIDErD(wanted)
    # "a" is said of both images and weighs nothing; "dog" and "a dog" weigh log 2: cosine 1 each.
    assert cider.score(1, ["a", "dog"]) == pytest.approx(1000 * 2 / 4)
    assert cider.score(1, ["a", "cat"]) == 0
    # Three words too many; "dog" is one of four words that weigh log 2, "a dog" one of four pairs.
    expected = 1000 / 4 * (1 / 2 + 1 / 2) * math.exp(-9 / (2 * 6**2))
    assert cider.score(1, "a dog x y z".split()) == pytest.approx(expected)
    # Said three times "dog" counts once, and its norm thrice.
    assert CIDErD({1: [["dog"]], 2: [["cat"]]}).score(1, ["dog"] * 3) == pytest.approx(
        1000 / 4 / 3 * math.exp(-4 / (2 * 6**2))
    )


def test_a_corpus_has_the_mean_cider_d_of_its_captions():
    said, wanted = random_corpus(5)
    cider = CIDErD(wanted)
    each = [cider.score(image, words) for image, words in said.items()]
    assert each == [cider.score(image, words) for image, words in said.items()]
    assert cider_d(said, wanted) == pytest.approx(np.mean(each))
    assert cider.score(next(iter(said)), []) == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_neither_the_order_of_references_nor_that_of_images_matters(seed):
    said, wanted = random_corpus(seed)
    turned = {image: wanted[image][::-1] for image in reversed(wanted)}
    assert score_words(said, turned) == pytest.approx(score_words(said, wanted))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_what_a_person_said_word_for_word_has_all_points(seed):
    _, wanted = random_corpus(seed)
    wanted = {image: [[*"pqrs", *captions[0], str(image)]] for image, captions in wanted.items()}
    scores = score_words({image: captions[0] for image, captions in wanted.items()}, wanted)
    assert [scores[name] for name in METRICS] == pytest.approx([100] * 5 + [1000])
    assert scores["length ratio"] == pytest.approx(1)


def test_captions_given_as_text_are_taken_apart():
    said = {7: "A dog isn't running.", "x": "Two men"}
    wanted = {7: ["a dog is n't running"], "x": ["two men", "Two women!"]}
    scores = score(said, wanted)
    assert list(scores) == [*METRICS, "length ratio"]
    assert scores["BLEU-1"] == pytest.approx(100)
    assert scores["ROUGE-L"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("function", "said", "wanted", "says"),
    [
        (cider_d, {1: ["a"]}, {1: [["a"]]}, "found 1 image, expected at least 2"),
        (bleu, {}, {}, "found no images"),
        (bleu, {1: ["a"], 2: ["b"]}, {1: [["a"]]}, "image 2: found a caption, no references"),
        (rouge_l, {1: ["a"]}, {1: [["a"]], 2: [["b"]]}, "image 2: found references, no caption"),
        (bleu, {1: ["a"]}, {1: []}, "image 1: found no references"),
        (bleu, {1: "a dog"}, {1: [["a"]]}, "found the text 'a dog', expected a list of words"),
        (bleu, {1: ["a"]}, {1: ["a", "dog"]}, "found the text 'a', expected a list of words"),
        (score, {1: ["a"]}, {1: ["a"]}, "expected text as its caption"),
        (score, {1: "a"}, {1: "a dog"}, "expected text as its caption"),
    ],
)
def test_what_cannot_be_scored_is_refused(function, said, wanted, says):
    with pytest.raises(ValueError, match=says):
        function(said, wanted)


def test_an_image_without_references_is_refused():
    with pytest.raises(ValueError, match="image 3 has no references"):
        CIDErD({1: [["a"]], 2: [["b"]]}).score(3, ["a"])


# ---------------------------------------------------------------------------------------------
# Controls
# ---------------------------------------------------------------------------------------------

NAMES = "ant bee cat dog elk fox".split()
REFERENCES = {
    i: [f"The {name} runs on red grass.", f"A {name} that runs", f"one {name} on the red grass"]
    for i, name in enumerate(NAMES)
}
SAID = {i: f"a {name} runs on grass" for i, name in enumerate(NAMES)}


def test_controls_tell_captions_of_the_image_from_any_captions():
    found = controls(SAID, REFERENCES, training=["A ant runs on grass .", "a cat"])
    right = score(SAID, REFERENCES)["CIDEr-D"]
    assert found["shuffled"]["CIDEr-D"] < right / 2
    assert found["constant"]["CIDEr-D"] < right / 2
    assert found["people"]["CIDEr-D"] > found["shuffled"]["CIDEr-D"]
    assert found["distinct"] == 1
    assert found["novel"] == pytest.approx(5 / 6)


def test_shuffled_captions_are_all_of_another_image():
    names = {i: name for i, name in enumerate(NAMES)}
    found = controls(names, {i: [name] for i, name in names.items()})
    assert found["shuffled"]["BLEU-1"] == pytest.approx(0, abs=1e-6)
    assert found["people"] is None
    assert found["novel"] is None


def test_the_commonest_candidate_is_the_one_caption_for_all():
    said = SAID | {4: SAID[5]}
    found = controls(said, REFERENCES)
    assert found["constant caption"] == SAID[5]
    assert found["constant"] == score(dict.fromkeys(SAID, SAID[5]), REFERENCES)
    assert found["distinct"] == pytest.approx(5 / 6)


def test_people_are_held_against_the_others_of_their_image():
    wanted = {1: ["a b c d e", "a b c d e"], 2: ["f g h i j", "f g h i j"], 3: ["k"]}
    said = dict.fromkeys(wanted, "a")
    assert controls(said, wanted)["people"]["BLEU-4"] == pytest.approx(100)
    wanted = {1: ["a b", "c d"], 2: ["e f", "g h"]}
    assert controls(dict.fromkeys(wanted, "a"), wanted)["people"]["BLEU-1"] == pytest.approx(0)


def test_words_joined_by_a_hyphen_are_not_novel_where_training_saw_them_apart():
    said = {1: "a t shirt", 2: "a hat"}
    found = controls(said, {1: ["a"], 2: ["b"]}, training=["A T-shirt ."])
    assert found["novel"] == 0.5


# ---------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Candidates and references of six images, as files."""
    rows = [{"image_id": i, "caption": text} for i, text in SAID.items()]
    write_json(tmp_path / "said.json", rows)
    write_json(tmp_path / "wanted.json", REFERENCES)
    return tmp_path


def run_json(command, *arguments) -> dict:
    code, out, error = command("core.metrics", *arguments, "--json")
    assert (code, error) == (0, "")
    return json.loads(out)


def test_the_command_scores_files(command, files):
    arguments = "--candidates", "said.json", "--references", "wanted.json"
    result = run_json(command, *arguments)
    expected = score(SAID, REFERENCES)
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    assert (result["images"], result["references"]) == (6, 18)

    code, out, _ = command("core.metrics", *arguments)
    assert code == 0
    assert f"{expected['CIDEr-D']:.1f}" in out
    assert "scale: 0 to 100" in out


def test_the_command_reads_coco_annotations(command, files):
    annotations = [
        {"id": n, "image_id": i, "caption": text}
        for n, (i, text) in enumerate((i, text) for i in REFERENCES for text in REFERENCES[i])
    ]
    write_json(files / "coco.json", {"images": [{"id": 0}], "annotations": annotations})
    result = run_json(command, "--candidates", "said.json", "--references", "coco.json")
    assert result["CIDEr-D"] == pytest.approx(score(SAID, REFERENCES)["CIDEr-D"])


def test_a_subset_is_scored_only_when_asked_for(command, refuses, files):
    write_json(files / "wanted.json", REFERENCES | {9: ["a bird"]})
    arguments = "--candidates", "said.json", "--references", "wanted.json"
    refuses("core.metrics", *arguments, says=("1 of the 7", "image 9", "--subset"))
    result = run_json(command, *arguments, "--subset")
    assert result["CIDEr-D"] == pytest.approx(score(SAID, REFERENCES)["CIDEr-D"])


def test_controls_of_the_command(command, files):
    arguments = "--candidates", "said.json", "--references", "wanted.json", "--controls"
    found = run_json(command, *arguments)["controls"]
    assert found.pop("passed") is True
    assert found == controls(SAID, REFERENCES)
    code, out, _ = command("core.metrics", *arguments)
    assert code == 0
    for words in ("people", "one caption for all: a ant", "shuffled", "distinct captions: 100.0%"):
        assert words in out
    assert "training captions are not known" in out


def test_captions_that_fit_any_image_fail_the_controls(command, files):
    rows = [{"image_id": i, "caption": "a cat runs on grass"} for i in SAID]
    write_json(files / "said.json", rows)
    arguments = "--candidates", "said.json", "--references", "wanted.json", "--controls"
    code, out, _ = command("core.metrics", *arguments)
    assert code == 1
    assert "failed: CIDEr-D does not fall" in out
    code, out, _ = command("core.metrics", *arguments, "--json")
    assert code == 1
    assert json.loads(out)["controls"]["passed"] is False


def save_data_folder(folder, captions) -> None:
    features = {split: np.ones((len(of), 3), np.float32) for split, of in captions.items()}
    save_coco_data(
        folder,
        {
            s: [(i, text.split()) for i, ts in of.items() for text in ts]
            for s, of in captions.items()
        },
        WORDS,
        {split: [f"{split}{i}.jpg" for i in of] for split, of in captions.items()},
        {"pooled": features},
        {"pooled": ({"encoder": "none", "output": "pooled"}, {})},
        image_root=".",
        about={},
    )


def test_references_of_a_data_folder(command, refuses, tmp_path):
    captions = {
        "train": {0: ["a cat sits"], 1: ["a dog"]},
        "val": {0: ["a cat sits", "a zebra sits"], 1: ["a dog runs", "a zebra runs"]},
    }
    save_data_folder(tmp_path / "data", captions)
    rows = [
        {"image_id": 0, "file_name": "val0.jpg", "caption": "a cat sits"},
        {"image_id": 1, "file_name": "val1.jpg", "caption": "a <UNK> runs"},
    ]
    write_json("said.json", rows)
    arguments = "--candidates", "said.json", "--references", "data"
    result = run_json(command, *arguments, "--controls")
    # Two rare words are no match for each other, nor for a candidate that says <UNK>.
    wanted = {0: ["a cat sits", "a u1 sits"], 1: ["a dog runs", "a u2 runs"]}
    expected = score({0: "a cat sits", 1: "a u3 runs"}, wanted)
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    assert result["note"].startswith("16.7% of the words")
    assert result["controls"]["novel"] == 0.5

    says = ("image 0 is val0.jpg", "data, train it is train0.jpg", "--split")
    refuses("core.metrics", *arguments, "--split", "train", says=says)
    refuses("core.metrics", *arguments, "--split", "test", says=("--split test", "no such split"))


def test_references_of_a_photo_folder_are_matched_by_file_name(command, refuses, tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    lines = [f"{i}.jpg,{text}" for i in REFERENCES for text in REFERENCES[i]]
    (root / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    (root / "0.jpg").touch()
    (root / "Flickr_8k.trainImages.txt").write_text("0.jpg\n1.jpg\n2.jpg")
    (root / "Flickr_8k.devImages.txt").write_text("3.jpg\n4.jpg\n5.jpg")
    rows = [
        {"image_id": i - 3, "file_name": f"elsewhere/{i}.jpg", "caption": SAID[i]}
        for i in (3, 4, 5)
    ]
    write_json("said.json", rows)
    arguments = "--candidates", "said.json", "--references", "photos"
    result = run_json(command, *arguments, "--controls")
    expected = score({i: SAID[i] for i in (3, 4, 5)}, {i: REFERENCES[i] for i in (3, 4, 5)})
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    assert result["controls"]["novel"] == 1

    says = ("3.jpg has no references in photos, train", "--split")
    refuses("core.metrics", *arguments, "--split", "train", says=says)
    refuses("core.metrics", *arguments, "--split", "test", says=("--split test", "no such split"))
    write_json("said.json", [{"image_id": 0, "caption": "a"}])
    refuses("core.metrics", *arguments, says=("said.json: image 0 has no file_name", "photos, val"))


GOOD = [{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": "a cat"}]


@pytest.mark.parametrize(
    ("said", "wanted", "says"),
    [
        (GOOD[:1] * 2, {}, ("image 1 has two captions",)),
        (
            [*GOOD, {"image_id": 3, "caption": "a"}],
            {},
            ("image 3 has no references in wanted.json",),
        ),
        (GOOD[:1], {}, ("no caption for 1 of the 2 images", "image 2 the first")),
        ([], {}, ("said.json: found an empty list", "inference.py --out")),
        ({"1": "a dog"}, {}, ("said.json: found an object",)),
        ([{"caption": "a"}], {}, ("said.json: caption 1 has no image_id",)),
        ([{"image_id": True, "caption": "a"}], {}, ("caption 1 has no image_id",)),
        (["a dog"], {}, ("caption 1 has no image_id",)),
        ([*GOOD, {"image_id": 3}], {}, ("caption 3 (image 3) has nothing as its caption",)),
        ([{"image_id": 3, "caption": 4}], {}, ("has a number as its caption, expected text",)),
        (GOOD, {"1": "a dog", "2": ["a"]}, ("wanted.json: image 1 has text as its captions",)),
        (GOOD, {"1": [], "2": ["a"]}, ("wanted.json: image 1 has an empty list",)),
        (GOOD, [], ("wanted.json: found an empty list", "{image id: [captions]}")),
        (GOOD, {"annotations": []}, ("wanted.json: found an object without references",)),
        (GOOD, {"annotations": [{"image_id": 1}]}, ("wanted.json: caption 1 (image 1)",)),
        (GOOD[:1], {"1": ["a"]}, ("CIDEr-D: found 1 image, expected at least 2",)),
    ],
)
def test_files_of_another_form_are_refused(refuses, tmp_path, said, wanted, says):
    write_json(tmp_path / "said.json", said)
    write_json(tmp_path / "wanted.json", {"1": ["a"], "2": ["b"]} if wanted == {} else wanted)
    arguments = "--candidates", "said.json", "--references", "wanted.json"
    refuses("core.metrics", *arguments, says=says)


def test_files_that_are_not_there_or_torn_are_refused(refuses, files):
    said, wanted = ("--candidates", "said.json"), ("--references", "wanted.json")
    refuses("core.metrics", "--candidates", "no.json", *wanted, says=("no.json: no such file",))
    refuses("core.metrics", *said, "--references", "no", says=("no: no such file",))
    refuses("core.metrics", *said, *wanted, "--split", "val", says=("--split val", "wanted.json"))
    (files / "empty").mkdir()
    refuses("core.metrics", *said, "--references", "empty", says=("captions.txt", "data folder"))
    (files / "wanted.json").write_text('{"1": ["a')
    refuses("core.metrics", *said, *wanted, says=("wanted.json: is not valid JSON",))
    (files / "said.json").write_text("")
    refuses("core.metrics", *said, *wanted, says=("said.json: is not valid JSON",))
