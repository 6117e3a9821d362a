"""What a newcomer meets who fills the workbook from the lessons: hints, promises, odd files."""

from __future__ import annotations

import ast
import io

import numpy as np
import pytest

from core.gradient_check.apart import rng_of
from core.gradient_check.case import our_function
from core.gradient_check.cases import CASES
from core.gradient_check.checking import check_case
from core.workbook.begin import BEGIN
from core.workbook.page import Page
from core.workbook.road import FUNCTIONS
from core.workbook.telling import tell_prints
from core.workbook.worth import WORTH


def problems(name: str, **functions) -> str:
    """What the check of a case says of these functions."""
    case = next(case for case in CASES if case.name == name)
    rows = check_case(case, rng_of(case, 0), functions)
    return "\n".join(row.problem for row in rows if not row.passed)


# -- where to begin ----------------------------------------------------------------------------


def test_every_function_has_a_way_to_go_and_a_line_of_what_a_file_has():
    assert tuple(BEGIN) == FUNCTIONS
    for name, (_, line) in BEGIN.items():
        assert len(line) < 100, name
        tree = ast.parse(line + " pass" if line.endswith(":") else line)
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        called = {function.id for function in calls if isinstance(function, ast.Name)}
        assert called <= {*FUNCTIONS, "len", "sum", "range", "reversed"}, name
    assert len({way for way, _ in BEGIN.values()}) == len(FUNCTIONS)
    assert all(WORTH[name][1] != way for name, (way, _) in BEGIN.items())


def test_a_hint_for_an_empty_function_names_no_helper_of_ours(command):
    assert command("core.workbook", "new", "mine.py", "--only", "rnn")[0] == 0
    code, out, _ = command("core.workbook", "check", "mine.py", "--hint", "3")
    assert code == 1
    assert "Hint 2: the equation as it is" in out
    assert "    next_h = np.tanh(x @ Wx + prev_h @ Wh + b)" in out
    assert "floats" not in out


# -- what a docstring promises is tried --------------------------------------------------------


def _loss(x, y, mask, verbose=False, smoothing=0.0, log_of_softmax=False, clean=True, smooth=True):
    """The loss of lesson 3, with the slips that a first version has."""
    if clean:
        x, y = np.where(mask[..., None], x, 0), np.where(mask, y, 0)
    shifted = x - x.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    if log_of_softmax:
        log_p = np.log(np.exp(log_p))
    target = np.eye(x.shape[2], dtype=x.dtype)[y]
    if smooth:
        target = (1 - smoothing) * target + smoothing / x.shape[2]
    weights = mask[..., None] / len(x)
    kept = np.where(target > 0, target * log_p, 0)
    return -np.sum(weights * kept), (weights * (np.exp(log_p) - target)).astype(x.dtype)


def _with(**slip):
    def loss(x, y, mask, verbose=False, smoothing=0.0):
        return _loss(x, y, mask, verbose, smoothing, **slip)

    return loss


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_loss_is_tried_with_all_that_its_docstring_allows():
    assert problems("temporal_softmax_loss", temporal_softmax_loss=_with()) == ""
    for slip, words in (
        ({"log_of_softmax": True}, "leads by 800: log of 0"),
        ({"clean": False}, "x is NaN and y is -99"),
        ({"smooth": False}, "fails for smoothing=0.1"),
    ):
        assert words in problems("temporal_softmax_loss", temporal_softmax_loss=_with(**slip))


def test_a_loss_without_smoothing_is_that_of_a_course_and_holds():
    def loss(x, y, mask, verbose=False):
        return _loss(x, y, mask, clean=False)

    assert problems("temporal_softmax_loss", temporal_softmax_loss=loss) == ""


# -- what is said ------------------------------------------------------------------------------


def test_a_call_that_failed_says_what_it_was_given():
    def forward(x, w, b):
        return x @ w + b, (x, w)

    said = problems("affine", affine_forward=forward)
    assert "affine_forward raised ValueError: matmul" in said
    assert "; it was given x (" in said
    assert "), w (" in said


def test_float64_for_float32_says_how_to_make_an_array():
    def forward(x, h0, Wx, Wh, b):
        h, cache = our_function("rnn_forward")(x, h0, Wx, Wh, b)
        return h.astype(np.float64), cache

    assert "make new arrays with dtype=x.dtype" in problems("rnn", rnn_forward=forward)


def test_a_wrong_shape_is_said_once(command, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def affine_forward(x, w, b):\n"
        "    return x.reshape(len(x), -1) @ w + b, (x, w)\n"
        "def affine_backward(dout, cache):\n"
        "    x, w = cache\n"
        "    return dout @ w.T, x.reshape(len(x), -1).T @ dout, dout.sum(axis=0)\n",
        encoding="utf-8",
    )
    _, out, _ = command("core.workbook", "check", "mine.py")
    assert "\n  affine_backward returned shape (" in out


def test_check_says_with_which_options_a_function_is_wrong(command, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from core.transformer_layers import decoder_block_forward as ours\n"
        "def decoder_block_forward(*arguments, norm_first=True, **options):\n"
        "    return ours(*arguments, **options)\n",
        encoding="utf-8",
    )
    code, out, _ = command("core.workbook", "check", file)
    assert code == 1
    assert "with norm_first=False and activation='gelu': out: the forward" in out.replace("\n ", "")


def test_of_many_prints_the_first_are_shown_and_all_counted(command, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def positional_encoding(length, width):\n"
        "    print('\\n'.join(map(str, range(30_000))), end='')\n",
        encoding="utf-8",
    )
    code, out, _ = command("core.workbook", "check", "mine.py")
    assert code == 1
    assert "printed, 5 of 30,000 lines:" in out
    assert "    0\n    1\n    2\n    3\n    4\n" in out


def test_few_prints_are_not_counted():
    stream = io.StringIO()
    tell_prints(Page(stream), "mine.py", ["a"], 1)
    assert stream.getvalue() == "mine.py printed:\n    a\n"


def test_a_file_that_is_no_utf8_text_is_told_so(refuses, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def affine_forward(x, w, b):\n    return 1\n", encoding="utf-16")
    refuses("core.workbook", "check", file, says=("mine.py", "UTF-8"))


@pytest.mark.parametrize(
    "changed",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("    ", "\t").encode(),
    ],
    ids=["CRLF", "BOM", "tabs"],
)
def test_any_editor_will_do(command, tmp_path, changed):
    file = tmp_path / "my layers ü.py"
    text = "import numpy as np\ndef word_embedding_forward(x, W):\n    return W[x], None\n"
    file.write_bytes(changed(text))
    _, out, _ = command("core.workbook", "check", file.name)
    assert "1 of 7 hold, 6 empty" in out


# -- right in a plainer way ----------------------------------------------------------------------


def test_plain_functions_without_our_options_hold():
    def greedy(model, features, max_length=30):
        captions = np.full((len(features), max_length), model.null)
        tokens, state = np.full(len(features), model.start), model.begin(features)
        ended = np.zeros(len(features), bool)
        for t in range(max_length):
            log_probs, state = model.step(state, tokens)
            log_probs = log_probs.copy()
            log_probs[:, [model.null, model.start, model.unknown]] = -np.inf
            tokens = log_probs.argmax(axis=1)
            captions[~ended, t] = tokens[~ended]
            ended |= tokens == model.end
        return captions

    def sgd(w, dw, config):
        return w - config["learning_rate"] * dw, config

    assert problems("greedy", greedy=greedy) == ""
    assert problems("sgd", sgd=sgd) == ""
    config_may_be_left_out = {"sgd": lambda w, dw, config=None: sgd(w, dw, config)}
    assert "fails for config=None" in problems("sgd", **config_may_be_left_out)


def test_dropout_may_draw_in_another_precision():
    def dropout_forward(x, p, rng, train=True):
        mask = (rng.random(x.shape) >= p) / (1 - p) if train else np.ones(x.shape)
        mask = mask.astype(x.dtype)
        return x * mask, mask

    assert problems("dropout", dropout_forward=dropout_forward) == ""
