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
import unicodedata

import numpy as np
import pytest
from conftest import REAL_DATA, WORDS
from hypothesis import given, settings
from hypothesis import strategies as st
from make_golden_metrics import GOLDEN, coco_scores, coco_tokens, random_corpus

from core import metrics
from core.coco_utils import plain_words, save_coco_data
from core.metrics import (
    METRICS,
    CIDErD,
    SentenceBLEU,
    bleu,
    cider_d,
    controls,
    ptb_tokenize,
    rouge_l,
    score,
    score_words,
)
from core.photos import read_photo_folder
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


# Whole for both; Stanford's tokenizer does not know the marks of the first three, nor the joiners.
WORDS_OF_SCRIPTS = [
    "\u0c95\u0ca8\u0ccd\u0ca8\u0ca1 \u0ca8\u0cbe\u0caf\u0cbf",  # Kannada
    "\u1781\u17d2\u1798\u17c2\u179a \u1786\u17d2\u1780\u17c2",  # Khmer
    "\u1019\u103c\u1014\u103a\u1019\u102c \u1001\u103d\u1031\u1038",  # Burmese
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u06a9\u062a\u200c\u0647\u0627",  # Persian
    "\u0d9a\u0dca\u200d\u0dbb\u0dd3\u0da9\u0dcf \u0dc1\u0dca\u200d\u0dbb\u0dd3",  # Sinhala
    "\u0928\u0947\u092a\u093e\u0932\u0940 \u0915\u0941\u0924\u094d\u0924\u093e",  # Nepali
    "\u0c24\u0c46\u0c32\u0c41\u0c17\u0c41 \u0c15\u0c41\u0c15\u0c4d\u0c15",  # Telugu
    "\u0e2a\u0e38\u0e19\u0e31\u0e02 \u0e27\u0e34\u0e48\u0e07",  # Thai
    "\u0f41\u0fb1\u0f72 \u0f63\u0f7a\u0f42\u0f66",  # Tibetan
    "x\u0301 m\u0304\u0302 \u00aa\u0301 a\u00aa",  # no letter of their own in Unicode
]


@pytest.mark.parametrize("text", WORDS_OF_SCRIPTS)
def test_combining_marks_and_joiners_belong_to_their_word(text):
    assert plain_words(text) == ptb_tokenize(text) == text.split()
    assert plain_words(f"\u201c{text}\u201d.") == text.split()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("isn\u2019t isn\u2018t isn\u02bct isn`t isn\u00b4t isn\u2032t isn\uff07t", ["isn't"] * 7),
        ("l\u2019\u00e9t\u00e9 l'e\u0301te\u0301", ["l'\u00e9t\u00e9"] * 2),
        ("Hawai\u02bbi Hawai'i", ["hawai'i"] * 2),
        ("`quoted' \u2018t-shirt\u2019", ["quoted", "t", "shirt"]),
        ("\u0130ki i\u0307ki I\u0307KI", ["i\u0307ki"] * 3),
        (
            "J\u030c \u01f0",
            ["\u01f0"] * 2,
        ),  # only the small letter is one character
        ("ba\u00adby wo\u2060man \u200eman\u200f heart\ufe0f", ["baby", "woman", "man", "heart"]),
        ("one\u200btwo a\u20dd 2\ufe0f\u20e3 dogs", ["one", "two", "a", "2", "dogs"]),
        ("\u0301a (\u0301) _\u0301 b\u200c \u200dc", ["a", "b", "c"]),  # marks on nothing
        ("t\u2011shirt", ["t", "shirt"]),
        (
            "\u5973\u5b69 \U00020bb7\u91ce\u5bb6 \U0001f469\u200d\U0001f467",
            ["\u5973\u5b69", "\U00020bb7\u91ce\u5bb6"],
        ),
    ],
)
def test_words_have_one_spelling(text, words):
    assert plain_words(text) == words


def test_both_tokenizers_share_one_spelling():
    assert ptb_tokenize("isn\u02bct man\u00b4s t\u2011shirt") == [
        "is",
        "n't",
        "man",
        "'s",
        "t-shirt",
    ]
    assert ptb_tokenize("\u0130ki ba\u00adby \u2764\ufe0f") == ["i\u0307ki", "baby", "\u2764"]


@settings(max_examples=200, deadline=None)
@given(
    st.text(
        st.one_of(
            st.characters(),
            st.sampled_from("aE\u00aa'\u2019`-\u0301\u0307\u0915\u093e\u200c\u0130 "),
        )
    )
)
def test_spelling_does_not_depend_on_how_text_is_stored(text):
    for tokenize in (plain_words, ptb_tokenize):
        words = tokenize(text)
        assert words == tokenize(unicodedata.normalize("NFD", text))
        assert [unicodedata.normalize("NFC", word) for word in words] == words
    words = plain_words(text)
    assert plain_words(" ".join(words)) == words  # what a model says is taken apart again


def test_decomposed_accents_score_as_composed_ones():
    said = {
        0: "Das Ma\u0308dchen la\u0308uft u\u0308ber die Stra\u00dfe",
        1: "ein Vo\u0308gelchen hu\u0308pft dort",
    }
    wanted = {i: [unicodedata.normalize("NFC", text)] for i, text in said.items()}
    scores = score(said, wanted)
    assert [scores[name] for name in METRICS] == pytest.approx([100] * 5 + [1000])


def test_four_hindi_words_are_one_run_of_four():
    girl, boy = "\u0932\u0921\u093c\u0915\u0940", "\u0932\u0921\u093c\u0915\u093e"
    rest = "\u092a\u093e\u0928\u0940 \u092e\u0947\u0902 \u0939\u0948"
    scores = score({0: f"{girl} {rest}"}, {0: [f"{boy} {rest}"]})
    assert scores["BLEU-1"] == pytest.approx(75)
    assert scores["BLEU-4"] == pytest.approx(0, abs=0.1)


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


def naive_sentence_bleu(words, references):
    """BLEU-4 by counting, n-gram by n-gram; 1 added to both counts from the pairs on."""
    logs = []
    for n in range(1, 5):
        said = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        pools = [[tuple(r[i : i + n]) for i in range(len(r) - n + 1)] for r in references]
        right = sum(min(said.count(x), max(p.count(x) for p in pools)) for x in set(said))
        more = n > 1
        if right + more == 0:
            return 0.0
        logs.append(math.log((right + more) / (len(said) + more)))
    closest = min((abs(len(r) - len(words)), len(r)) for r in references)[1]
    brevity = 1 if len(words) >= closest else math.exp(1 - closest / len(words))
    return 100 * brevity * math.exp(sum(logs) / 4)


def test_bleu_of_a_sentence_by_hand():
    wanted = {1: ["the cat sat".split(), "the the mat was red".split()], 2: [["a", "dog"]]}
    bleu_of = SentenceBLEU(wanted)
    # 3 of 4 words, 2 of 3 pairs, none of 2 and 1: with 1 more from the pairs on.
    expected = 100 * (3 / 4 * 3 / 4 * 1 / 3 * 1 / 2) ** (1 / 4)
    assert bleu_of.score(1, "the the the cat".split()) == pytest.approx(expected)
    # One word of two: the references have 3 and 5, the closest has 3.
    expected = 100 * math.exp(1 - 3 / 1)
    assert bleu_of.score(1, ["cat"]) == pytest.approx(expected)
    assert bleu_of.score(2, ["cat"]) == bleu_of.score(2, []) == 0
    assert bleu_of.score(2, ["a", "dog"]) == pytest.approx(100)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6))
def test_bleu_of_a_sentence_is_that_of_a_naive_one(seed):
    said, wanted = random_corpus(seed)
    bleu_of = SentenceBLEU(wanted)
    for image, words in said.items():
        assert bleu_of.score(image, words) == pytest.approx(
            naive_sentence_bleu(words, wanted[image]), rel=1e-12
        )


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
    with pytest.raises(ValueError, match="image 3 has no references"):
        SentenceBLEU({1: [["a"]]}).score(3, ["a"])
    with pytest.raises(ValueError, match="image 1: found no references"):
        SentenceBLEU({1: []})


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

    says = ("image val0.jpg has no references in data, train", "1 more", "--split val")
    refuses("core.metrics", *arguments, "--split", "train", says=says)
    refuses("core.metrics", *arguments, "--split", "test", says=("--split test", "no such split"))


def test_references_of_a_photo_folder_are_matched_by_file_name(command, refuses, tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    lines = [f"{i}.jpg,{text}" for i in REFERENCES for text in REFERENCES[i]]
    (root / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    for i in REFERENCES:
        (root / f"{i}.jpg").touch()
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

    says = ("3.jpg has no references in photos, train", "2 more", "--split val")
    refuses("core.metrics", *arguments, "--split", "train", says=says)
    refuses("core.metrics", *arguments, "--split", "test", says=("--split test", "no such split"))
    write_json("said.json", [{"image_id": 0, "caption": "a"}])
    refuses("core.metrics", *arguments, says=("said.json: image 0 has no file_name", "photos"))


# ---------------------------------------------------------------------------------------------
# Which image is which
# ---------------------------------------------------------------------------------------------

# Of the six, all but the first are in another place than the one that their name has.
ORDER = [0, 2, 4, 1, 5, 3]


def named(name="{}.jpg", order=ORDER) -> list[dict]:
    """Candidates with file names, numbered by their places."""
    return [
        {"image_id": place, "file_name": name.format(NAMES[i]), "caption": SAID[i]}
        for place, i in enumerate(order)
    ]


def coco(name="{}.jpg") -> dict:
    """COCO's annotations of the six images, numbered from 0."""
    rows = [{"id": i, "file_name": name.format(NAMES[i])} for i in REFERENCES]
    annotations = [
        {"id": 10 * i + k, "image_id": i, "caption": text}
        for i in REFERENCES
        for k, text in enumerate(REFERENCES[i])
    ]
    return {"images": rows, "annotations": annotations}


NAMELESS = {"annotations": coco()["annotations"]}


def karpathy(splits: dict[str, str]) -> dict:
    """The six images in Karpathy's form; ``splits`` says which split each is in."""
    return {
        "dataset": "own",
        "images": [
            {
                "filename": f"{name}.jpg",
                "imgid": i,
                "split": splits[name],
                "sentences": [{"raw": text} for text in REFERENCES[i]],
            }
            for i, name in enumerate(NAMES)
        ],
    }


def by_name(name="{}.jpg") -> dict:
    return {name.format(NAMES[i]): REFERENCES[i] for i in REFERENCES}


def scored(command, said, wanted, *options) -> dict:
    write_json("said.json", said)
    write_json("wanted.json", wanted)
    arguments = "--candidates", "said.json", "--references", "wanted.json"
    return run_json(command, *arguments, *options)


OF_SIX = score(SAID, REFERENCES)["CIDEr-D"]


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (named(), coco()),
        (named("deep/down/{}.jpg"), coco("down/{}.jpg")),
        (named("C:\\photos\\{}.jpg"), coco("{}.JPG")),
        (named("{}.jpg"), by_name()),
        (named("Images/{}.jpg"), by_name("{}")),
        (named("{}"), by_name("Images/{}.jpeg")),
        (named(), {n: [{"caption": c} for c in of] for n, of in by_name("{}").items()}),
        (named("e\u0301{}.jpg"), by_name("\u00e9{}.jpg")),
        (named("v1.{}.x.jpg"), coco("v1.{}.x")),
        ([{"image_id": r["file_name"], "caption": r["caption"]} for r in named()], by_name()),
        (named(), karpathy(dict.fromkeys(NAMES, "test"))),
    ],
)
def test_images_are_matched_by_file_name_wherever_both_sides_name_files(command, said, wanted):
    result = scored(command, said, wanted)
    assert result["CIDEr-D"] == pytest.approx(OF_SIX)
    assert (result["images"], result["of"], result["matched by"]) == (6, 6, "file name")
    assert "note" not in result


@pytest.mark.parametrize("wanted", [coco(), by_name(), karpathy(dict.fromkeys(NAMES, "val"))])
def test_a_subset_is_of_the_images_that_are_named(command, refuses, wanted):
    said = named(order=[4, 2, 5])  # by number they would be 0, 1 and 2
    right = score({i: SAID[i] for i in (4, 2, 5)}, {i: REFERENCES[i] for i in (4, 2, 5)})
    result = scored(command, said, wanted, "--subset")
    assert {name: result[name] for name in right} == pytest.approx(right)
    assert (result["images"], result["of"]) == (3, 6)
    says = ("no caption for 3 of the 6 images", "ant.jpg the first", "--subset")
    refuses("core.metrics", "--candidates", "said.json", "--references", "wanted.json", says=says)


def test_what_was_scored_is_said(command, files):
    write_json("said.json", named(order=[4, 2, 5]))
    write_json("wanted.json", coco())
    arguments = "--candidates", "said.json", "--references", "wanted.json", "--subset"
    code, out, _ = command("core.metrics", *arguments)
    assert code == 0
    assert "scored 3 of 6 images of wanted.json, matched by file name" in out


def test_numbers_are_the_last_resort_and_it_is_said(command, files):
    numbers = [{"image_id": i, "caption": SAID[i]} for i in SAID]
    for said, wanted in [
        (numbers, coco()),  # candidates that name no files
        (named(order=range(6)), NAMELESS),  # references that name none
        (numbers, NAMELESS),
        (numbers, {str(i): REFERENCES[i] for i in REFERENCES}),
        ([row | {"image_id": float(row["image_id"])} for row in numbers], coco()),
        (numbers, karpathy(dict.fromkeys(NAMES, "val"))),
    ]:
        result = scored(command, said, wanted)
        assert result["CIDEr-D"] == pytest.approx(OF_SIX)
        assert result["matched by"] == "bare number"
        assert "bare numbers" in result["note"]
    assert "bare numbers" not in str(scored(command, named(), coco()))


def test_text_that_is_an_id_on_both_sides_needs_no_warning(command, files):
    rows = zip(ORDER, named("{}-at-large.jpg"), strict=True)
    said = [row | {"image_id": NAMES[i]} for i, row in rows]
    result = scored(command, said, by_name("{}"))
    assert result["CIDEr-D"] == pytest.approx(OF_SIX)
    assert (result["matched by"], result.get("note")) == ("image id", None)


REVERSED = {str(i): REFERENCES[i] for i in reversed(REFERENCES)}


@pytest.mark.parametrize(
    ("said", "wanted", "says"),
    [
        # a subset by numbers that are places in a list
        (named(order=[4, 2, 5]), NAMELESS, ("captions of 3 images", "bare numbers")),
        (named(order=[4, 2, 5]), REVERSED, ("has 6, which it does not name", "name files")),
        # other photos with the same numbers
        (named("other_{}.jpg"), coco(), ("image other_ant.jpg has no references", "5 more")),
        (
            named("cats/{}.jpg"),
            coco("dogs/{}.jpg"),
            ("image cats/ant.jpg has no references", "dogs/ant.jpg is in another folder"),
        ),
        (named("{}.png"), by_name(), ("image ant.png has no references",)),
        # names that fit two
        (named("{}"), by_name() | by_name("{}.png"), ("image ant may be ant.jpg or ant.png",)),
        (named(), by_name("a/{}.jpg") | by_name("b/{}.jpg"), ("may be a/ant.jpg or b/ant.jpg",)),
        (named() + named("x/{}.jpg", [0]), by_name(), ("image_id 0 is ant.jpg and x/ant.jpg",)),
        (
            [*named(), {"image_id": 9, "file_name": "x/ant.jpg", "caption": "a"}],
            by_name(),
            ("image ant.jpg has two captions",),
        ),
        # a file name that is another image's number
        (
            [row | {"file_name": f"{5 - row['image_id']}.jpg"} for row in named()],
            REVERSED,
            ("5.jpg has the image_id 0", "references of 5, which may be either's"),
        ),
        # names on one side for some images only
        ([*named()[:5], {"image_id": 5, "caption": "a"}], coco(), ("only 5 of its 6",)),
        (
            named(),
            coco() | {"images": [*coco()["images"][:5], {"id": 5}]},
            ("wanted.json",),
        ),
    ],
)
def test_no_score_of_images_that_may_be_others(refuses, files, said, wanted, says):
    write_json("said.json", said)
    write_json("wanted.json", wanted)
    arguments = "--candidates", "said.json", "--references", "wanted.json", "--subset"
    refuses("core.metrics", *arguments, says=says)


def test_karpathys_json_is_read_by_split(command, refuses, files):
    homes = dict(zip(NAMES, ("train", "val", "val", "test", "restval", "val"), strict=True))
    right = score({i: SAID[i] for i in (1, 2, 5)}, {i: REFERENCES[i] for i in (1, 2, 5)})
    for options in ((), ("--split", "val")):
        result = scored(command, named(order=[5, 1, 2]), karpathy(homes), *options)
        assert {name: result[name] for name in right} == pytest.approx(right)
        assert (result["of"], result["where"]) == (3, "wanted.json, val")
    arguments = "--candidates", "said.json", "--references", "wanted.json"
    says = ("image fox.jpg has no references in wanted.json, test", "--split val")
    refuses("core.metrics", *arguments, "--split", "test", "--subset", says=says)
    write_json("said.json", named(order=[5, 1]))
    says = ("no caption for 1 of the 3 images of wanted.json, val", "cat.jpg the first")
    refuses("core.metrics", *arguments, says=says)
    write_json("wanted.json", by_name())
    says = ("--split val: wanted.json has no such split",)
    refuses("core.metrics", *arguments, "--split", "val", says=says)


def test_other_caption_files_are_references_too(command, files):
    lines = [f"{NAMES[i]}.jpg,{text}" for i in REFERENCES for text in REFERENCES[i]]
    (files / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    write_json("said.json", named())
    arguments = "--candidates", "said.json", "--references", "captions.txt"
    assert run_json(command, *arguments)["CIDEr-D"] == pytest.approx(OF_SIX)


@pytest.mark.parametrize(
    "text",
    [
        '{"1": ["a"], "2": ["b"], "1": ["c"]}',
        '{"ant.jpg": ["a"], "bee.jpg": ["b"], "ant.jpg": ["a"]}',
        '{"annotations": [{"image_id": 1, "caption": "a", "image_id": 2}]}',
        '{"images": [], "annotations": [], "annotations": []}',
    ],
)
def test_a_key_twice_is_refused(refuses, files, text):
    (files / "wanted.json").write_text(text)
    arguments = "--candidates", "said.json", "--references", "wanted.json"
    refuses("core.metrics", *arguments, says=("wanted.json: the key", "twice in one object"))


def test_one_image_has_all_scores_but_cider_d(command, refuses, files):
    for i, said, wanted in (
        (0, [{"image_id": 0, "caption": SAID[0]}], {"0": REFERENCES[0]}),
        (3, named(order=[3]), by_name()),
    ):
        result = scored(command, said, wanted, "--subset")
        expected = score({i: SAID[i]}, {i: REFERENCES[i]})
        assert {name: result[name] for name in expected} == pytest.approx(expected)
        assert result["CIDEr-D"] is None
        assert result["BLEU-1"] > 50
        assert result["ROUGE-L"] > 50
        assert "CIDEr-D is left out" in result["note"]
    arguments = "--candidates", "said.json", "--references", "wanted.json", "--subset"
    code, out, _ = command("core.metrics", *arguments)
    assert code == 0
    assert "1 image, 3 references;" in out
    assert "  -\n" in out
    says = ("controls: found 1 image, expected at least 2",)
    refuses("core.metrics", *arguments, "--controls", says=says)


def test_captions_without_words_are_counted(command, files):
    said = [*named()[:5], named()[5] | {"caption": "..."}]
    wanted = by_name() | {"ant.jpg": ["the ant", ""]}
    note = scored(command, said, wanted)["note"]
    assert "1 of the 6 candidates have no words" in note
    assert "1 of the 17 references have no words" in note


@pytest.fixture
def photos(tmp_path):
    """A folder of 20 photos with captions and without split lists."""
    root = tmp_path / "photos"
    root.mkdir()
    lines = [f"p{i}.jpg,{text} {i}" for i in range(20) for text in REFERENCES[i % 6]]
    (root / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    for i in range(20):
        (root / f"p{i}.jpg").touch()
    return root


def test_a_random_split_can_be_scored(command, refuses, photos):
    split = {seed: read_photo_folder(photos, seed) for seed in (0, 7)}
    names = split[7].splits["val"]
    assert names != split[0].splits["val"]
    rows = [
        {"image_id": i, "file_name": name, "caption": f"a {name[1]} runs"}
        for i, name in enumerate(names)
    ]
    write_json("said.json", rows)
    right = score(
        {row["file_name"]: row["caption"] for row in rows},
        {name: split[7].captions[name] for name in names},
    )
    arguments = "--candidates", "said.json", "--references", "photos"
    for options, of in (((), 20), (("--seed", 7), 2), (("--seed", 7, "--split", "val"), 2)):
        result = run_json(command, *arguments, *options)
        assert {name: result[name] for name in right} == pytest.approx(right)
        assert (result["images"], result["of"]) == (2, of)
    _, out, _ = command("core.metrics", *arguments)
    assert "scored 2 of 20 images of photos" in out
    assert "drawn at random" in out

    says = (f"image {names[0]} has no references in photos, val", "--seed")
    refuses("core.metrics", *arguments, "--split", "val", says=says)
    write_json("said.json", rows[:1])
    refuses("core.metrics", *arguments, "--seed", 7, says=("no caption for 1 of the 2 images",))
    write_json("wanted.json", by_name())
    says = ("--seed 7: is for photo folders", "wanted.json")
    refuses("core.metrics", *arguments[:3], "wanted.json", "--seed", 7, says=says)
    (photos / "Flickr_8k.trainImages.txt").write_text("\n".join(f"p{i}.jpg" for i in range(18)))
    (photos / "Flickr_8k.devImages.txt").write_text("p18.jpg\np19.jpg")
    refuses("core.metrics", *arguments, "--seed", 7, says=("--seed 7", "are not drawn"))


def test_the_split_of_a_photo_folder_is_that_of_the_candidates(command, refuses, photos):
    (photos / "Flickr_8k.trainImages.txt").write_text("\n".join(f"p{i}.jpg" for i in range(14)))
    (photos / "Flickr_8k.devImages.txt").write_text("p14.jpg\np15.jpg\np16.jpg")
    (photos / "Flickr_8k.testImages.txt").write_text("p17.jpg\np18.jpg\np19.jpg")

    def of(*numbers) -> None:
        rows = [{"image_id": i, "file_name": f"p{i}.jpg", "caption": "a dog"} for i in numbers]
        write_json("said.json", rows)

    arguments = "--candidates", "said.json", "--references", "photos"
    for split, numbers in (("val", (14, 15, 16)), ("test", (17, 18, 19))):
        of(*numbers)
        result = run_json(command, *arguments)
        assert (result["of"], result["where"]) == (3, f"photos, {split}")
    of(17, 19)
    refuses("core.metrics", *arguments, says=("1 of the 3 images of photos, test", "p18.jpg"))
    of(16, 17)
    refuses("core.metrics", *arguments, says=("18 of the 20 images of photos,",))
    assert run_json(command, *arguments, "--subset")["of"] == 20


def test_names_of_a_data_folder_count_more_than_numbers(command, refuses, tmp_path):
    captions = {
        "train": {0: ["a cat sits"], 1: ["a dog"]},
        "val": {0: ["a cat sits"], 1: ["a dog runs"]},
    }
    save_data_folder(tmp_path / "data", captions)
    rows = [
        {"image_id": 1, "file_name": "val0.jpg", "caption": "a cat sits"},
        {"image_id": 0, "file_name": "val1.jpg", "caption": "a dog runs"},
    ]
    write_json("said.json", rows)
    arguments = "--candidates", "said.json", "--references", "data"
    result = run_json(command, *arguments)
    assert result["BLEU-1"] == pytest.approx(100)
    assert result["matched by"] == "file name"
    write_json("said.json", [{**row, "file_name": f"x{i}.jpg"} for i, row in enumerate(rows)])
    refuses("core.metrics", *arguments, "--subset", says=("x0.jpg has no references in data, val",))


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
        (GOOD, GOOD, ("wanted.json: found candidates", "{image id: [captions]}")),
        (GOOD, {"1": [{"text": "a"}], "2": ["b"]}, ("image 1 has a list as its captions",)),
        (GOOD, {"annotations": []}, ("wanted.json: found an object without references",)),
        (GOOD, {"annotations": [{"image_id": 1}]}, ("wanted.json: caption 1 (image 1)",)),
        ([*GOOD, {"image_id": 1.5, "caption": "a"}], {}, ("caption 3 has no image_id",)),
        ([GOOD[0] | {"file_name": 3}], {}, ("caption 1 (image 1) has a number as its file_name",)),
        ([GOOD[0] | {"file_name": "a.jpg"}, GOOD[1]], {"a.jpg": ["a"]}, ("only 1 of its 2",)),
        (GOOD, {"1": ["a"], "a.jpg": ["b"]}, ("wanted.json: found image ids and file names",)),
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
    refuses(
        "core.metrics",
        *said,
        "--references",
        "empty",
        says=("empty: holds no captions", "data folder"),
    )
    (files / "wanted.json").write_text('{"1": ["a')
    refuses("core.metrics", *said, *wanted, says=("wanted.json: is not valid JSON",))
    (files / "said.json").write_text("")
    refuses("core.metrics", *said, *wanted, says=("said.json: is not valid JSON",))


def test_both_tokenizers_have_their_earlier_names_too():
    from core import flickr8k, ptb

    assert flickr8k.tokenize("A dog's t-shirt") == plain_words("A dog's t-shirt")
    assert ptb.tokenize("A dog's t-shirt") == ptb_tokenize("A dog's t-shirt")
