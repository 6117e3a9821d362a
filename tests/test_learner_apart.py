"""A learner's file is judged from outside: what it does to its process is no success."""

from __future__ import annotations

import json
import textwrap

import numpy as np
import pytest

from core.gradient_check import apart
from core.gradient_check.cases import CASES

RIGHT = """
def affine_forward(x, w, b):
    return x.reshape(len(x), -1) @ w + b, (x, w, b)
def affine_backward(dout, cache):
    x, w, b = cache
    return (dout @ w.T).reshape(x.shape), x.reshape(len(x), -1).T @ dout, dout.sum(0)
"""
AFFINE = next(case for case in CASES if case.name == "affine")


@pytest.fixture
def check(command, tmp_path):
    def run(source, *options):
        path = tmp_path / "layers.py"
        path.write_text(textwrap.dedent(source))
        return command("core.gradient_check", "--impl", path, "--layer", "affine", *options)

    return run


def test_a_right_file_holds_in_a_process_of_its_own(check):
    never_ends = "import threading, time\nthreading.Thread(target=time.sleep, args=(1e6,)).start()"
    code, out, error = check(RIGHT + never_ends)
    assert (code, error) == (0, "")
    assert "all 4 hold" in out


LEAVES = 'import os\nprint("all 4 hold")\ndef affine_forward(x, w, b):\n    os._exit(0)'
HAS_LIMITS_OF_ITS_OWN = """
from core.gradient_check import apart, checking
checking.TORCH_TOLERANCE = checking.DIFFERENCE_TOLERANCE = 1e9
checking.relative_error = lambda *_: 0.0
def affine_forward(x, w, b):
    return x.reshape(len(x), -1) @ w + b + 1, (x, w, b)
"""


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (LEAVES, "ended the process (exit code 0) in a call of affine_forward"),
        pytest.param(
            HAS_LIMITS_OF_ITS_OWN, "the forward pass itself differs", marks=pytest.mark.slow
        ),
    ],
)
def test_no_file_says_of_itself_that_it_holds(check, source, words):
    code, out, error = check(source)
    assert (code, error) == (1, "")
    assert words in out
    assert " hold: " not in out


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (
            [{"call": "affine_forward"}, None],
            "took more than 30 seconds in a call of affine_forward",
        ),
        ([{"ended": -9}], "ended the process (signal 9)"),
        ([{}], "wrote into what checks it"),
        ([3], "wrote into what checks it"),
        ([{"broken": "TypeError"}], "broke by TypeError"),
        ([{"case": "lstm"}], "sent something else"),
        ([{"case": "affine", "calls": 3}], "did not come back"),
        (
            [{"case": "affine", "calls": [{"outputs": [{"dtype": "O", "shape": [1]}]}]}],
            "came back damaged",
        ),
        (
            [{"case": "affine", "calls": [{"outputs": [{"type": "list"}]}]}],
            "affine_forward returned a list",
        ),
        ([], "said no more"),
    ],
)
def test_whatever_comes_back_is_a_sentence(monkeypatch, messages, words):
    first = {"names": ["affine_forward"]}
    monkeypatch.setattr(apart, "messages_of", lambda *_: iter([first, *messages]))
    names, rows = apart.check_apart("layers.py", [AFFINE], 0)
    assert names == {"affine_forward"}
    assert [row.passed for row in rows] == [False]
    assert words in rows[-1].problem


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (
            {"ended": 0},
            r"layers\.py: could not be checked: ended the process \(exit code 0\) while",
        ),
        (None, r"layers\.py: .* took more than 30 seconds while it was imported"),
        ({"names": 3}, r"layers\.py: could not be checked: it changes what checks it"),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused(monkeypatch, first, words):
    monkeypatch.setattr(apart, "messages_of", lambda *_: iter([first]))
    with pytest.raises(ValueError, match=words):
        next(apart.check_apart("layers.py", [AFFINE], 0))


def test_one_that_ends_its_process_does_not_keep_the_others_from_being_checked(monkeypatch):
    first = {"names": ["affine_forward", "dropout_forward"]}
    cases = [AFFINE, next(case for case in CASES if "dropout_forward" in case.functions)]
    monkeypatch.setattr(apart, "messages_of", lambda *_: iter([first, {"ended": 3}]))
    _, one, other = apart.check_apart("layers.py", cases, 0)
    assert "exit code 3" in one[0].problem
    assert "exit code 3 in a call of dropout_forward" in other[0].problem.replace("(", "").replace(
        ")", ""
    )


def test_a_learners_numbers_are_ours_to_compare(monkeypatch, tmp_path):
    """Gradients of another size than ours, with difference quotients that agree with them."""
    (tmp_path / "layers.py").write_text(RIGHT)
    sent = []
    apart.serve(str(tmp_path / "layers.py"), 0, ["affine"], sent.append)
    record = next(each for each in sent if "case" in each)
    gradients = record["calls"][1]
    double = [apart._packed(2 * apart._unpacked(x)) for x in gradients["gradients"]]
    gradients["gradients"] = record["numerical"] = double
    monkeypatch.setattr(apart, "messages_of", lambda *_: iter(json.loads(json.dumps(sent))))
    _, rows = apart.check_apart("layers.py", [AFFINE], 0)
    assert [row.passed for row in rows] == [True, False, False, False]


@pytest.mark.parametrize("value", [np.arange(6.0).reshape(2, 3), 3.5, np.float32(2), True, None])
def test_numbers_travel_bit_for_bit(value):
    back = apart._unpacked(json.loads(json.dumps(apart._packed(value))))
    if value is None or isinstance(value, bool):
        assert type(back).__name__ == type(value).__name__
    else:
        np.testing.assert_array_equal(back, value)
        assert back.dtype == np.asarray(value).dtype
