"""What looks at the answer to a task before ``compare`` does, and names the slip that it knows.

An AssertionError says the sentence: ``compare`` shows it as its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps

import numpy as np


def watched(look: Callable) -> Callable[[Callable], Callable]:
    """A decorator: the function, each of whose results is looked at first.

    ``look`` takes the result and the arguments that led to it; its AssertionError says what is
    wrong. A function that is not written yet (it returns None or ...) is not looked at.
    """

    def around(function: Callable) -> Callable:
        @wraps(function)
        def called(*arguments):
            found = function(*arguments)
            if found is not None and found is not Ellipsis:
                look(found, *arguments)
            return found

        return called

    return around


def with_slips(function: Callable, slips: Mapping[str, Callable]) -> Callable:
    """The function; where it returns what a well-known slip gives, the slip's sentence is said.

    ``slips``: sentence -> the function with that slip.
    """

    @watched
    def look(found, *arguments):
        for sentence, slip in slips.items():
            made = slip(*arguments)
            same = np.shape(found) == np.shape(made) and np.allclose(found, made)
            assert not same, sentence

    return look(function)
