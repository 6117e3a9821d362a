"""What ``compare`` and ``confirm`` say of typical errors, and what they never say."""

import sys
from collections import Counter, OrderedDict, defaultdict, namedtuple

import numpy as np
import pytest

from core.lessons.answers import compare, confirm
from core.lessons.slips import COMPARED, CONFIRMED

X = np.array([[3.25, 1.5, 2.0, 7.0], [0.5, 6.0, -4.0, 5.0], [9.0, 8.0, 1.25, 11.0]])


def right(x):
    return 2 * x + 1


TYPICAL = [
    (lambda x: None, "returned None: is it written yet"),
    (lambda x: -right(x), "has the wrong sign"),
    (lambda x: right(x) / 2, "is half of what is expected"),
    (lambda x: right(x) / 3, "is 3 times too small: a mean where a sum belongs?"),
    (lambda x: right(x) * 12, "is 12 times too large: a sum where a mean belongs?"),
    (lambda x: right(x) / np.sqrt(3), "off by the root of 3"),
    (lambda x: right(x) * 1.7, "is 1.7 times what is expected"),
    (lambda x: right(x) + 4, "is too large by the same everywhere"),
    (lambda x: right(x).T, "returned shape (4, 3), expected (3, 4): two axes are exchanged"),
    (lambda x: right(x).ravel(), "as many entries, in another arrangement"),
    (lambda x: right(x)[:2], "returned shape (2, 4), expected (3, 4)"),
    (lambda x: right(x).tolist(), "returned a list, expected an array"),
    (lambda x: tuple(right(x)), "returned a tuple, expected an array"),
    (lambda x: right(x).astype(np.float32), "returned float32, expected float64"),
    (lambda x: right(x).astype(int), "returned integers, expected floating-point numbers"),
    (lambda x: right(x) > 0, "returned booleans, expected floating-point numbers"),
    (lambda x: right(x).astype(object), "returned the dtype object"),
    (lambda x: np.floor(right(x)), "rounded to whole numbers"),
    (lambda x: right(x)[::-1], "in reversed order along axis 0"),
    (lambda x: np.roll(right(x), 1, axis=0), "one place too late along axis 0"),
    (lambda x: np.roll(right(x), -1, axis=1), "one place too early along axis 1"),
    (lambda x: np.sort(right(x)), "is sorted; expected is the same in another order"),
    (lambda x: right(x)[[1, 0, 2]], "has the right entries in another order"),
    (lambda x: 0 * x, "is zero everywhere"),
    (lambda x: np.where(x > 8, np.nan, right(x)), "is NaN at 2 of 12 places, first at [2, 0]"),
    (lambda x: np.where(x > 8, np.inf, right(x)), "is infinite at 2 of 12 places"),
    (lambda x: right(x) + (x > 8), "is wrong at 2 of 12 places, first at [2, 0]: got 20, expected"),
    (lambda x: 3.0, "returned a number, expected an array of shape (3, 4)"),
    (lambda x: x.append(1), "raised AttributeError"),
    (lambda x, y: x, "raised TypeError"),
    (lambda x: right(np.add(x, 1, out=x)), "it also writes into what it was given"),
    (lambda x: right(x) + 0 * np.add(x, 1, out=x), "writes into what it was given"),
]


@pytest.mark.parametrize("number", range(len(TYPICAL)))
def test_typical_errors_are_named(number):
    wrong, sentence = TYPICAL[number]
    answer = compare(wrong, right, X)
    assert not answer
    assert sentence in answer.text
    assert len(answer.text) < 250
    assert "\n" not in answer.text


def test_the_arrangement_of_several_values_is_named():
    for got, expected, sentence in (
        ([1, 2], (1, 2), "returned a list, expected a tuple of 2"),
        (X, (X, X), "returned an array of shape (3, 4), expected a tuple of 2"),
        ((X, 1.0), (X, X[0]), "[1] returned a number, expected an array of shape (4,)"),
        ((X[0], X[1]), (X[1], X[0]), "[0] and [1] are exchanged"),
        ((X, -X, X), (X, X, -X), "[1] and [2] are exchanged"),
        ({"a": 1, "b": 2}, {"a": 3, "b": 4.5}, "(2 of 2 are wrong)"),
        (1, True, "returned a number, expected True or False"),
        (False, True, "returned False, which is not right"),
        (X, 1.0, "returned an array of shape (3, 4), expected one number"),
        (1 + 0j, 1.0, "returned a complex number, expected a number"),
        ("a dog", "a cat", "returned 'a dog', which is not right"),
    ):
        answer = compare(lambda got=got: got, lambda expected=expected: expected)
        assert sentence in answer.text, answer.text


def test_a_number_is_never_shown():
    """How far off, but not what is expected; an array of one entry is a number as well."""
    for expected in (1234.0, 1234, np.array([1234.0])):
        for got in (617, 2468, 1235, 1233.5, 1250.25, -1234, 1e9, 0, np.inf, 1234.0001):
            given = np.full(1, got) if isinstance(expected, np.ndarray) else got
            answer = compare(lambda given=given: given, lambda expected=expected: expected)
            assert not answer
            assert not {"1234", "1234.0"} & set(answer.text.replace(",", " ").split()), answer


def test_the_first_step_that_differs_is_named():
    way = np.arange(20.0).reshape(10, 2) ** 2
    later = way + 0.5 * (np.arange(10) >= 7)[:, None] * np.array([1.0, 3.0])
    answer = compare(lambda: later, lambda: way, axis="step")
    assert "is right up to step 7 of 10 and wrong from the next on" in answer.text
    answer = compare(lambda: way + way.max(), lambda: way, axis="step")
    assert "by the same everywhere" in answer.text


def test_further_arguments_are_tried_and_said():
    also = {"for one row": (X[:1],), "for no row": (X[:0],)}
    assert compare(right, right, X, also=also)
    answer = compare(lambda x: right(x) if len(x) > 1 else x, right, X, also=also)
    assert "<lambda>, for one row, is wrong" in answer.text


def test_an_assertion_of_the_exercise_is_its_sentence():
    def mine(x):
        raise AssertionError("it must be zero")

    assert compare(mine, right, X).text == "mine does not hold: it must be zero"


def test_pages_are_never_shown():
    page = np.arange(10_000.0)

    def loud():
        raise ValueError(f"{page.tolist()}")

    for answer in (
        compare(loud, lambda: 1.0),
        compare(lambda: "page " * 1000, lambda: "word"),
        confirm(page, lambda found: found.sum() < 0, "less"),
        confirm(page.tolist(), lambda found: sum(found) < 0, "less"),
        confirm("page\n" * 1000, lambda found: found == "", "less"),
        confirm(loud, lambda found: True, "less"),
    ):
        assert not answer
        assert len(answer.text) < 400
        assert "\n" not in answer.text


def test_confirm_calls_what_it_is_given():
    assert confirm(lambda: 3, lambda found: found == 3, "three")
    answer = confirm(lambda: 1 / 0, lambda found: True, "three")
    assert "It raised ZeroDivisionError: division by zero" in answer.text
    assert "expected three" in answer.text
    assert "no answer yet" in confirm(lambda: None, lambda found: True, "three").text


def test_each_slip_has_a_sentence_of_its_own():
    for table in (COMPARED, CONFIRMED):
        for exercise, slips in table.items():
            assert len(slips) >= 1, exercise
            assert all(len(sentence) < 90 for sentence in slips)


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError

    __repr__ = __str__


def _raises():
    raise Unspeakable


@pytest.mark.parametrize(
    ("given", "expected", "words"),
    [
        (lambda: sys.exit(3), 1.0, "raised SystemExit: 3"),
        (_raises, 1.0, "raised Unspeakable: its own message cannot be made"),
        (lambda: {Unspeakable(): 1}, {1: 1}, "lacks the key 1"),
        (lambda: 10**400, 1.0, "far too large"),
        (lambda: np.ma.masked_array(np.ones(2), [True, False]), np.ones(2), "a masked array"),
        (lambda: np.ma.masked_array(np.ones(2), True), np.zeros(2), "a masked array"),
        (lambda one: 1.0, 1.0, "missing 1 required positional argument: 'one'"),
    ],
)
def test_whatever_comes_back_is_answered_by_a_sentence(given, expected, words):
    answer = compare(given, lambda: expected)
    assert not answer
    assert words in answer.text
    assert "got = function" not in answer.text  # a line of ours
    answer = confirm(given, lambda value: False, "a number")
    assert not answer
    assert "got = got" not in answer.text


def test_kinds_of_dicts_and_tuples_are_dicts_and_tuples():
    for given in (Counter("a"), OrderedDict(a=1), defaultdict(int, a=1)):
        assert compare(lambda given=given: given, lambda: {"a": 1})
    assert compare(lambda: namedtuple("Pair", "a b")(1, 2), lambda: (1, 2))
    assert not compare(lambda: [1, 2], lambda: (1, 2))
