"""``--impl``: a learner's functions train and say captions, and what they do wrong is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, WORDS, slow_but

from core import decoding, layers, optim
from core.checkpoint import load_checkpoint
from core.gradient_check import apart
from core.gradient_check.learner import Functions
from core.models import build_model, captioning_transformer
from core.runs.in_place import in_place
from core.runs.own import Own
from core.runs.saving import Saving
from core.support.choices import MODEL_NAMES
from core.workbook.road import FUNCTIONS

SOLUTIONS = Path(__file__).with_name("solutions.py")
TINY = ("--hidden_dim", 8, "--wordvec_dim", 8, "--num_epochs", 1, "--num_samples", 6)


@pytest.fixture
def train(command, tiny_folder, monkeypatch, tmp_path):
    """Trains a tiny model with a file of the given text; returns exit code, stdout, stderr."""
    monkeypatch.setattr(Own, "warn_of_wrong", lambda *_: None)  # which starts a process
    monkeypatch.setattr(Saving, "draw", lambda *_: None)

    def run(text, *options, model="lstm") -> tuple[int, str, str]:
        path = tmp_path / "my_layers.py"
        if text is not None:
            path.write_text(text, encoding="utf-8")
        options = ("--impl", path, "--out", "run", *TINY, *options)
        return command("training.py", "--model", model, "--data", tiny_folder, *options)

    return run


def fails(result, *says) -> None:
    code, _, error = result
    error = "".join(line for line in error.splitlines(True) if "one location an image" not in line)
    assert (code, error.count("\n")) == (2, 1), error
    assert "Traceback" not in error
    for words in says:
        assert words in error, error


DELEGATING = """
import numpy as np
import core.layers, core.rnn_layers, core.attention_layers, core.transformer_layers
import core.optim, core.decoding
CALLED = []
def _of(name, module):
    def function(*arguments, **options):
        CALLED.append(name)
        return getattr(module, name)(*arguments, **options)
    return function
for module in (core.layers, core.rnn_layers, core.attention_layers, core.transformer_layers,
               core.optim, core.decoding):
    for name in NAMES:
        if hasattr(module, name):
            globals()[name] = _of(name, module)
            globals()[name].__module__ = __name__
"""


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_what_is_counted_is_what_is_called(train, command, model):
    text = f"NAMES = {FUNCTIONS!r}" + DELEGATING
    code, out, error = train(text, "--dropout", 0.1, model=model)
    assert code == 0, error
    called = set(sys.modules["learner_implementation"].CALLED)
    impl = load_checkpoint("run/best.npz").settings["impl"]
    assert set(impl["functions"]) == called
    assert out.startswith(f"{len(called)} of {len(called)} functions are yours (my_layers.py")
    code, out, error = command(
        *("inference.py", "--checkpoint", "run", "--impl", "my_layers.py"),
        *("--decode", "greedy", "--max_length", 4),
    )
    assert code == 0, error
    called = set(sys.modules["learner_implementation"].CALLED)
    assert out.startswith(f"{len(called)} of {len(called)} functions are yours (my_layers.py")


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_a_learners_functions_train_as_ours_do(train, command, tiny_folder, model):
    dropout = ("--dropout", 0.2)  # whose draws are theirs alone
    code, _, error = train(SOLUTIONS.read_text(encoding="utf-8"), *dropout, model=model)
    assert code == 0, error
    assert "my_layers" not in error
    options = ("--data", tiny_folder, "--out", "ours", "--engine", "plain", *TINY, *dropout)
    code, _, _ = command("training.py", "--model", model, *options)
    theirs, ours = (load_checkpoint(f"{run}/best.npz") for run in ("run", "ours"))
    for name, w in theirs.params.items():
        assert w.dtype == np.float32
        np.testing.assert_allclose(w, ours.params[name], atol=1e-4)
    said = [
        command("inference.py", "--checkpoint", "run", "--max_length", 5, *more)[1]
        for more in (("--engine", "plain"), ("--impl", "my_layers.py"))
    ]
    assert said[0].split("said back")[0] in said[1]
    # Nothing of theirs is left behind.
    assert optim.RULES["adam"] is optim.adam
    assert optim.adam.__module__ == "core.optim"
    assert captioning_transformer.affine_forward is layers.affine_forward
    assert layers.affine_forward.__module__ == "core.layers"
    step = captioning_transformer.CaptioningTransformer.step
    assert step.__module__ == "core.models.captioning_transformer"


def test_the_first_lines_say_what_is_whose(train):
    code, out, error = train(
        "import numpy as np\n"
        "def affine_forward(x, w, b):\n    return x.reshape(len(x), -1) @ w + b, (x, w)\n"
        "def affine_backward(dout, cache):\n    '''Not yet.'''\n    raise NotImplementedError\n"
        "def word_embedding_backward(dout, cache):\n"
        "    words, W = cache\n    dW = np.zeros_like(W)\n    np.add.at(dW, words, dout)\n"
        "    return dW\n"
        "def rnn_step_forward(x, prev_h, Wx, Wh, b):\n    raise NotImplementedError('later')\n"
        "def sgd(w, dw, config=None):\n    return w, config\n"
        "def lstm_step_foward(x):\n    return x\n"
        "def helper(x):\n    return x\n"
        "def _private(x):\n    return x\n"
        "class CaptioningRNN:\n    pass\n"
    )
    assert code == 0, error
    assert out.splitlines()[:6] == [
        "1 of 15 functions are yours (my_layers.py, --engine plain); ours: affine_forward, "
        "affine_backward, temporal_affine_forward, temporal_affine_backward, "
        "word_embedding_forward, temporal_softmax_loss, adam, clip_gradient_norm, "
        "lstm_step_forward, lstm_step_backward, lstm_forward, lstm_backward, dropout_forward, "
        "dropout_backward",
        "still empty, so ours: affine_backward",
        "without its backward, so both are ours: affine_forward",
        "not used by this run: sgd",
        "ignored, no known name: lstm_step_foward (did you mean lstm_step_forward?)",
        "only for your own functions, as none of ours has that name: CaptioningRNN, helper",
    ]


def test_an_unfilled_file_trains_with_ours(train):
    text = "".join(
        f"def {name}(*arguments):\n    raise NotImplementedError\n" for name in FUNCTIONS
    )
    code, out, error = train(text)
    assert code == 0, error
    assert out.startswith("0 of 15 functions are yours (my_layers.py, --engine plain); ours: all\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, ["my_layers.py: no such file"]),
        ("def f(:", ["my_layers.py: line 1"]),
        ("import sys\nsys.exit(3)", ["could not be imported: SystemExit"]),
        ("def helper(x):\n    return x", ["--impl", "under a known name", "affine_forward"]),
    ],
)
def test_files_of_no_use(train, text, says):
    fails(train(text), *says)
    assert not Path("run/config.json").exists()


BACKWARD = "def lstm_backward(dh, cache):\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BACKWARD + "    return 1 / 0", ["lstm_backward raised ZeroDivisionError", "line 2 of"]),
        (
            "import numpy as np\n" + BACKWARD + "    return np.stack([])",
            ["lstm_backward raised ValueError: need at least one", "(line 3 of my_layers.py)"],
        ),
        (BACKWARD + "    raise SystemExit", ["lstm_backward raised SystemExit", "line 2 of"]),
        (BACKWARD + "    dx = 0", ["line 1: lstm_backward returned None", "--layer lstm"]),
        (BACKWARD + "    return dh, dh", ["lstm_backward returned 2 values, expected 5"]),
        (
            BACKWARD + "    return dh, dh, dh, dh, dh.sum(1)",
            ["lstm_backward returned shape", "expected (2, 8), for dh0"],
        ),
        (
            "def dropout_forward(x, p, rng, train=True):\n    return x[:1], None\n"
            "def dropout_backward(dout, cache):\n    return dout",
            ["dropout_forward returned shape (1, 6), expected (2, 6), for out"],
        ),
        (
            "def temporal_softmax_loss(x, y, mask):\n    return (x * float('nan')).sum(), x",
            ["the loss is nan", "temporal_softmax_loss of my_layers.py (line 1)"],
        ),
        ("def adam(w, dw, config):\n    return w", ["adam returned 1 values, expected 2"]),
        ("def adam(w, dw, config):\n    return w, None", ["adam returned no dict for config"]),
        (
            "def adam(w, dw, config):\n    config['past'] = [dw]\n    return w, config",
            ["adam keeps 'past' in config, a list"],
        ),
        (
            "def clip_gradient_norm(grads, max_norm):\n    return {}, 1.0",
            ["clip_gradient_norm returned nothing of W_embed"],
        ),
        (
            "def adam(w, dw, config):\n    return w, {}",
            ["adam returned a config without a number for learning_rate"],
        ),
        (
            "def adam(w, dw, config):\n    config['learning_rate'] = 0 * w\n    return w, config",
            ["adam returned a config without a number for learning_rate"],
        ),
        *(
            (
                f"def adam(w, dw, config):\n    config['v'] = {value}\n    return w, config",
                [f"adam keeps 'v' in config, {kind} numbers of shape (", "float arrays"],
            )
            for value, kind in {
                "w.astype(object)": "object",
                "w.astype(int)": "int64",
                "w.astype(complex)": "complex128",
                "w > 0": "bool",
                "w * float('nan')": "float32",
            }.items()
        ),
    ],
)
def test_what_a_function_does_wrong_is_one_line(train, text, says):
    fails(train(text), *says)
    assert ("nan" in says[0]) == Path("run").exists()  # the others end before a file is written


AFFINE = """
def affine_forward(x, w, b):
    during()
    return x.reshape(len(x), -1) @ w + b, (x, w)
def affine_backward(dout, cache):
    x, w = cache
    return (dout @ w.T).reshape(x.shape), x.reshape(len(x), -1).T @ dout, dout.sum(0)
"""


def test_what_a_file_changes_is_put_back(train):
    Path("elsewhere").mkdir()
    Path("beside.py").write_text("import os, numpy\n", encoding="utf-8")
    code, out, error = train(
        "import os, warnings, numpy, core.layers, core.optim\n"
        "def during():\n"
        "    from beside import os, numpy\n"
        "    os.chdir(os.path.dirname(__file__) + '/elsewhere')\n"
        "    numpy.seterr(all='raise')\n"
        "during()\n"
        "warnings.simplefilter('error')\n"
        "core.layers.affine_forward = core.optim.RULES['adam'] = None\n" + AFFINE
    )
    assert code == 0, error
    assert out.startswith("2 of 15 functions are yours")
    assert error == (
        "training.py: warning: my_layers.py: changes core.optim.RULES.adam, core.layers."
        "affine_forward, which is as it was again; a function under a known name is enough\n"
    )
    assert Path("run/best.npz").is_file()
    assert not any(Path("elsewhere").iterdir())
    assert np.geterr()["under"] == "ignore"


def test_what_breaks_around_a_learners_functions_is_one_line(train):
    text = "import core.optim\ndef during():\n    core.optim.RULES.clear()\n" + AFFINE
    rules = dict(optim.RULES)
    try:
        fails(
            train(text), "what calls its functions broke, by KeyError: 'adam'", "core or of NumPy"
        )
    finally:
        optim.RULES.update(rules)


@pytest.mark.parametrize(
    ("text", "option", "model", "says"),
    [
        (
            "def temporal_softmax_loss(x, y, mask, verbose=False):\n    return 0.0, x",
            ("--label_smoothing", 0.1),
            "lstm",
            ["temporal_softmax_loss has no argument smoothing, which --label_smoothing needs"],
        ),
        (
            "def feed_forward_forward(x, W1, b1, W2, b2):\n    return x, None\n"
            "def feed_forward_backward(dout, cache):\n    return dout",
            ("--activation", "gelu"),
            "transformer",
            ["feed_forward_forward has no argument activation, which --activation needs"],
        ),
        (
            "def decoder_block_forward(x, memory, params, num_heads, mask):\n    return x, None\n"
            "def decoder_block_backward(dout, cache):\n    return dout",
            ("--dropout", 0.1),
            "transformer",
            ["decoder_block_forward has no argument dropout, which --dropout needs"],
        ),
    ],
)
def test_an_option_that_a_function_cannot_take_is_named(train, text, option, model, says):
    fails(train(text, *option, model=model), "my_layers.py, line 1", *says)


def test_what_only_some_options_need(train):
    options = ("--positions", "sinusoidal", "--post_norm", "--activation", "gelu", "--tied")
    options += ("--dropout", 0.1, "--dtype", "float64", "--update_rule", "adamw")
    text = SOLUTIONS.read_text(encoding="utf-8")
    code, out, error = train(text, *options, model="transformer")
    assert code == 0, error
    assert out.startswith("20 of 20 functions are yours")
    assert "my_layers" not in error


def test_a_search_of_theirs_chooses_the_epoch(command, tiny_folder, monkeypatch):
    monkeypatch.setattr(Own, "warn_of_wrong", lambda *_: None)
    monkeypatch.setattr(Saving, "draw", lambda *_: None)
    options = ("--data", tiny_folder, *TINY[:-2], "--select", "bleu4", "--impl", SOLUTIONS)
    code, out, error = command("training.py", "--model", "rnn", *options)
    assert code == 0, error
    assert out.startswith("16 of 16 functions are yours")


def test_fewer_arguments_are_enough_where_the_others_say_nothing(train):
    code, _, error = train(
        SOLUTIONS.read_text(encoding="utf-8") + "\n\ndef _rest(f):\n    return lambda *a: f(*a)\n\n"
        "_block, _loss, _drop = decoder_block_forward, temporal_softmax_loss, dropout_forward\n\n"
        "def decoder_block_forward(x, memory, params, heads, allowed):\n"
        "    return _block(x, memory, params, heads, allowed)\n\n"
        "def temporal_softmax_loss(x, y, mask, verbose):\n    return _loss(x, y, mask)\n\n"
        "def dropout_forward(x, p, rng, on=True):\n    return _drop(x, p, rng, on)\n",
        model="transformer",
    )
    assert code == 0, error
    assert "my_layers" not in error


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--engine", "numpy"), ["--engine numpy", "--engine plain"]),
        (("--engine", "torch"), ["--engine torch", "--engine plain"]),
    ],
)
def test_another_engine_is_refused(train, options, says):
    fails(train("", *options), *says)


def test_a_float64_is_said_and_does_not_spread(train):
    text = SOLUTIONS.read_text(encoding="utf-8") + (
        "\n\n_rule = adam\n\ndef adam(w, dw, config=None):\n"
        "    w, config = _rule(w, dw, config)\n    return w.astype(float), config\n"
    )
    code, _, error = train(text)
    assert code == 0
    assert error == (
        "training.py: warning: my_layers.py: adam returned float64 numbers for float32 ones, which "
        "are taken as those\n"
    )
    assert {w.dtype for w in load_checkpoint("run/best.npz").params.values()} == {np.dtype("f4")}


# -- the checkpoint, and going on ----------------------------------------------------------------


def test_the_checkpoint_says_whose_functions_they_were(train, command):
    code, out, _ = train(SOLUTIONS.read_text(encoding="utf-8"))
    assert out.splitlines()[-1].endswith(
        "--split train --impl " + str(Path("my_layers.py").resolve())
    )
    config = json.loads(Path("run/config.json").read_text(encoding="utf-8"))
    assert config["engine"] == "plain"
    assert config["impl"]["ours"] == []
    assert len(config["impl"]["functions"]) == 15
    Path("my_layers.py").unlink()
    code, out, error = command("inference.py", "--checkpoint", "run")
    assert (code, error) == (0, "")
    assert out.splitlines()[-1] == "trained with 15 functions of my_layers.py"


def test_going_on_gives_the_uninterrupted_run(train, command):
    text = SOLUTIONS.read_text(encoding="utf-8")
    assert train(text, "--num_epochs", 2)[0] == 0
    whole = load_checkpoint("run/last.npz")
    assert train(text, "--num_epochs", 1)[0] == 0
    code, out, error = command("training.py", "--resume", "--out", "run", "--num_epochs", 2)
    assert (code, error) == (0, ""), error
    assert out.startswith("15 of 15 functions are yours")
    again = load_checkpoint("run/last.npz")
    assert again.settings["impl"]["changed_after"] == []
    for name, w in whole.params.items():
        np.testing.assert_array_equal(w, again.params[name])


def test_a_rule_may_remember_what_it_likes(train, command):
    code, _, error = train(
        "import numpy as np\n"
        "def adam(w, dw, config):\n"
        "    config['steps'] = config.get('steps', 0.0) + 1\n"
        "    config['mean'] = 0.9 * config.get('mean', 0 * w) + 0.1 * dw\n"
        "    return w - config['learning_rate'] * np.sign(config['mean']), config\n"
    )
    assert code == 0, error
    assert load_checkpoint("run/last.npz").optimizer["b"]["steps"] == 1
    code, _, error = command("training.py", "--resume", "--out", "run", "--num_epochs", 2)
    assert code == 0, error
    config = load_checkpoint("run/last.npz").optimizer["b"]
    assert config["steps"] == 2
    assert config["mean"].shape == (32,)
    assert "m" not in config
    assert config["beta1"] == 0.9  # ours, to choose from


def test_a_changed_file_goes_on_and_is_said(train, command, refuses):
    text = SOLUTIONS.read_text(encoding="utf-8")
    assert train(text)[0] == 0
    Path("my_layers.py").rename("moved.py")
    resume = ("training.py", "--resume", "--out", "run", "--num_epochs", 2)
    refuses(*resume, says=("my_layers.py: no such file", "--impl"))
    text = text.replace("def lstm_forward", "def mine").replace("def lstm_backward", "def back")
    Path("moved.py").write_text(text, encoding="utf-8")
    refuses(*resume, "--impl", "moved.py", "--engine", "numpy", says=("--engine numpy",))
    code, out, error = command(*resume, "--impl", "moved.py")
    assert (code, error) == (0, ""), error
    assert "moved.py has changed: after epoch 1 its functions of now go on" in out
    impl = load_checkpoint("run/last.npz").settings["impl"]
    assert impl["changed_after"] == [1]
    assert impl["ours"] == ["lstm_backward", "lstm_forward"]
    assert "lstm_forward" not in impl["functions"]
    code, out, _ = command("inference.py", "--checkpoint", "run")
    assert out.splitlines()[-1] == (
        "trained with 13 functions of moved.py, which was changed after epoch 1"
    )


def test_a_run_of_ours_does_not_go_on_with_theirs(train, command, refuses, tiny_folder):
    assert command("training.py", "--model", "lstm", "--data", tiny_folder, *TINY)[0] == 0
    refuses(
        *("training.py", "--resume", "--out", "runs/lstm", "--num_epochs", 2),
        *("--impl", SOLUTIONS),
        says=("--impl: the run in", "was begun with core's functions alone"),
    )


# -- saying captions -----------------------------------------------------------------------------


def test_forwards_alone_can_say_captions(train, command, tmp_path):
    assert train(SOLUTIONS.read_text(encoding="utf-8"))[0] == 0
    text = (
        "import numpy as np\n"
        "def affine_forward(x, w, b):\n    return x.reshape(len(x), -1) @ w + b, None\n"
        "def greedy(model, features, max_length):\n"
        "    return np.full((len(features), max_length), WORD)\n"
    )
    Path("some.py").write_text(text.replace("WORD", "4"), encoding="utf-8")
    options = ("inference.py", "--checkpoint", "run", "--impl", "some.py", "--decode", "greedy")
    code, out, error = command(*options, "--max_length", 2)
    assert (code, error) == (0, ""), error
    assert out.startswith(
        "2 of 4 functions are yours (some.py, --engine plain); ours: word_embedding_forward, "
        "lstm_step_forward\n"
    )
    assert " a a " in out
    Path("some.py").write_text(text.replace("WORD", "99"), encoding="utf-8")
    fails(command(*options), "greedy returned ids outside of the vocabulary")
    Path("some.py").write_text(text.replace("WORD", "4.0"), encoding="utf-8")
    fails(command(*options), "greedy returned float64 numbers of shape", "expected word ids")
    ragged = text.replace("np.full((len(features), max_length), WORD)", "[[1], [1, 2]]")
    Path("ragged.py").write_text(ragged, encoding="utf-8")
    other = [name.replace("some.py", "ragged.py") for name in options]
    fails(command(*other), "ragged.py, line", "greedy returned no array of word ids")
    fails(command(*options, "--allow_unknown"), "no argument allow_unknown", "--allow_unknown")
    fails(command(*options, "--engine", "torch"), "--engine torch", "--engine plain")


def test_a_block_of_theirs_says_the_captions_too(train, command):
    # Without its residual: what our block would say of such parameters is something else.
    text = SOLUTIONS.read_text(encoding="utf-8")
    text = text.replace("        x = x + y\n", "        x = 0.5 * x + y\n")
    text = text.replace("        dx = dx + dy\n", "        dx = 0.5 * dx + dy\n")
    code, _, error = train(
        text,
        *("--num_epochs", 25, "--wordvec_dim", 16, "--learning_rate", 0.05, "--num_samples", 3),
        *("--num_layers", 1),
        model="transformer",
    )
    assert code == 0, error
    code, out, _ = command("inference.py", "--checkpoint", "run", "--impl", "my_layers.py")
    assert "said back word for word: 3 of 3" in out
    assert out.splitlines()[-1] == (
        "every function was yours, in learning and in saying it back: my_layers.py"
    )
    for option in ("--attention", "--report"):
        name = "a.png" if option == "--attention" else "a.html"
        fails(
            command("inference.py", "--checkpoint", "run", "--impl", "my_layers.py", option, name),
            option,
            "--impl",
        )


# -- the check before ----------------------------------------------------------------------------


def test_a_wrong_function_trains_after_a_warning(command, tiny_folder, monkeypatch):
    def messages(path, seed, names, streams):  # here, where another process takes seconds to start
        sent = []
        apart.serve(str(path), seed, names, sent.append)
        return iter(sent)

    monkeypatch.setattr(apart, "messages_of", messages)
    monkeypatch.setattr(Saving, "draw", lambda *_: None)
    text = SOLUTIONS.read_text(encoding="utf-8")
    start, end = (
        text.index(f"def {name}_forward") for name in ("temporal_affine", "word_embedding")
    )
    wrong = text[start:end].replace("x @ w + b", "x @ w - b")
    Path("my_layers.py").write_text(f"import numpy as np\n{wrong}", encoding="utf-8")
    options = ("--impl", "my_layers.py", "--out", "run", "--data", tiny_folder, *TINY)
    code, _, error = command("training.py", "--model", "rnn", *options)
    assert code == 0, error
    [warning] = (line for line in error.splitlines() if "checking your functions" not in line)
    assert warning.startswith("training.py: warning: my_layers.py: temporal_affine_forward")
    assert warning.endswith("my_layers.py --layer temporal_affine")


@pytest.mark.slow
def test_a_check_in_another_process_is_not_heard(tiny_folder, tmp_path):
    text = "import numpy, warnings\nprint('HELLO')\n"
    text += "def during():\n    warnings.warn('LOOK')\n    numpy.log(numpy.zeros(1))\n"
    for name in ("numpy.py", "random.py", "core.py"):
        (tmp_path / name).write_text(text + AFFINE.replace("+ b", "- b"), encoding="utf-8")
    options = ("--impl", "numpy.py", "--out", "run", "--data", tiny_folder, *TINY)
    command = (sys.executable, ROOT / "training.py", "--model", "rnn", *options)
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("HELLO") == 1
    warning, look = (line for line in done.stderr.splitlines() if "checking your" not in line)
    assert warning.startswith("training.py: warning: numpy.py: affine_forward, out")
    assert look == "training.py: warning: LOOK"


# -- any mixture -----------------------------------------------------------------------------------


@pytest.mark.parametrize("each", slow_but([True, False], False))
@pytest.mark.parametrize("model", MODEL_NAMES)
def test_any_mixture_of_theirs_and_ours_computes_the_same(model, each):
    own = Own(SOLUTIONS, [model], [], training=True)
    everything = dict(own.functions)
    rng = np.random.default_rng(0)
    sizes = {"input_dim": 5, "wordvec_dim": 4, "hidden_dim": 6, "dtype": "float64", "dropout": 0.2}
    if model == "transformer":
        sizes |= {"num_heads": 2, "positions": "sinusoidal", "activation": "gelu"}
    params = build_model(model, sizes, WORDS, rng=rng).params
    features = rng.standard_normal((3, 4, 5) if model in ("attention", "transformer") else (3, 5))
    captions = np.array([[1, 4, 5, 2], [1, 6, 2, 0], [1, 7, 7, 2]])

    def computed():
        built = build_model(model, sizes, WORDS, params, rng=np.random.default_rng(1))
        loss, grads = built.loss(features, captions)
        return {"loss": loss, **grads, "said": decoding.beam_search(built, features, 2, 4)[1]}

    ours = computed()
    names = {name.removesuffix("_forward").removesuffix("_backward") for name in everything}
    # Each alone and all but it; or every second, so that many call one that is not of their own.
    for some in [[name] for name in sorted(names)] if each else [sorted(names)[::2]]:
        these = {n for name in some for n in (name, f"{name}_forward", f"{name}_backward")}
        one = {n: f for n, f in everything.items() if n in these}
        others = {n: f for n, f in everything.items() if n not in these}
        for own.functions in (Functions(one), Functions(others)):
            with in_place(own):
                theirs = computed()
            for quantity, expected in ours.items():
                np.testing.assert_allclose(
                    theirs[quantity], expected, atol=1e-12, err_msg=f"{quantity} {some}"
                )


@pytest.mark.slow
@pytest.mark.parametrize("model", MODEL_NAMES)
def test_fifty_captions_are_said_back_by_a_learners_functions(command, shapes_folder, model):
    options = ("--model", model, "--engine", "plain", "--num_samples", 50, "--impl", SOLUTIONS)
    code, _, error = command("training.py", *options, "--out", "run")
    assert code == 0, error
    say = ("inference.py", "--checkpoint", "run", "--split", "train")
    code, out, error = command(*say, "--impl", SOLUTIONS)
    assert code == 0, error
    assert "said back word for word: 50 of 50 (100%)" in out
    assert out.splitlines()[-1] == (
        "every function was yours, in learning and in saying it back: solutions.py"
    )
    code, out, error = command(*say, "--impl", SOLUTIONS, "--decode", "sample")
    assert "ours: sample\n" in out.splitlines(True)[0]
    code, out, error = command(*say)
    assert out.splitlines()[-1].endswith(
        "functions of solutions.py, all of them yours: with --impl your functions say the captions "
        "as well"
    )
