"""training.py and inference.py as a user calls them, and what they say when something is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT, WORDS, in_folder, make_tiny_folder, slow_but
from PIL import Image

from core.checkpoint import load_checkpoint, save_checkpoint
from core.support.command_line import fail


def test_a_command_that_is_a_package_goes_by_its_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(ROOT / "core" / "metrics" / "__main__.py")])
    with pytest.raises(SystemExit):
        fail("no such file")
    assert capsys.readouterr().err == "metrics: error: no such file\n"


SHORT = ("--model", "lstm", "--num_epochs", 2, "--hidden_dim", 8, "--wordvec_dim", 8)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """A short run on tiny data; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    with in_folder(folder) as command:
        command("training.py", *SHORT, "--data", make_tiny_folder(folder / "tiny"), "--out", "run")
    return folder / "run"


@pytest.fixture
def tiny_run(trained_once, tmp_path):
    """A copy of it, to do with as one likes; the data are shared."""
    return shutil.copytree(trained_once, tmp_path / "run")


@pytest.fixture
def run_on_tiny_folder(tiny_folder, command, tmp_path):
    """Such a run, for tests that change its data."""
    code, _, error = command("training.py", *SHORT, "--data", tiny_folder, "--out", "run")
    assert code == 0, error
    return tmp_path / "run"


def test_a_learning_rate_that_falls_to_nothing_is_said(tiny_folder, command):
    known = ("training.py", *SHORT[:2], *SHORT[4:], "--data", tiny_folder, "--patience", 1)
    code, text, error = command(*known, "--num_epochs", 30, "--out", "long")
    assert code == 0, error
    assert "--lr_decay 0.82: in epoch 30 the learning rate is 0.32% of the first" in text
    assert "--lr_decay 0.926 keeps a tenth" in text
    for more in (("--num_epochs", 10), ("--num_epochs", 30, "--schedule", "cosine")):
        code, text, error = command(*known, *more, "--out", "as wanted")
        assert code == 0, error
        assert "keeps a tenth" not in text


# ---------------------------------------------------------------------------------------------
# The promise: small data are said back
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "more"),
    [
        pytest.param("rnn", [], marks=pytest.mark.slow),
        ("lstm", ["--num_epochs", 60]),
        *(
            pytest.param(name, ["--num_epochs", 60], marks=pytest.mark.slow)
            for name in ("attention", "transformer")
        ),
    ],
)
def test_fifty_captions_are_said_back(command, shapes_folder, tmp_path, model, more):
    """The commands of the README; half as many epochs will do for the models that are slower."""
    code, out, error = command("training.py", "--model", model, "--num_samples", 50, *more)
    assert code == 0, error
    assert f"run folder runs/{model}" in out
    code, out, error = command(
        "inference.py",
        *("--model", model, "--split", "train"),
        *("--out", "captions.json", "--figure", "grid.png"),
    )
    assert code == 0, error
    assert "said back word for word: 50 of 50 (100%)" in out
    rows = json.loads((tmp_path / "captions.json").read_text())
    assert len(rows) == 50
    for row in rows:
        assert row.keys() == {"image_id", "file_name", "caption", "references"}
        assert row["references"] == [row["caption"]]
        assert (shapes_folder / row["file_name"]).is_file()
    assert Image.open(tmp_path / "grid.png").width > 500

    run = tmp_path / "runs" / model
    assert {path.name for path in run.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "last.npz",
        "best.npz",
        "loss.png",
    }
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"epoch", "train_loss", "val_loss", "tokens_per_second"} <= metrics[0].keys()
    assert json.loads((run / "config.json").read_text())["num_samples"] == 50

    photo = shapes_folder / rows[0]["file_name"]
    code, out, error = command("inference.py", "--model", model, "--image", photo)
    assert code == 0, error
    assert rows[0]["caption"] in out, "the picture file was captioned otherwise than its features"


@pytest.mark.parametrize("engine", slow_but(["plain", "numpy"], "numpy"))
def test_the_same_command_gives_the_same_run(command, shapes_folder, tmp_path, engine):
    options = [
        "--engine",
        engine,
        "--model",
        "rnn",
        "--num_samples",
        20,
        "--num_epochs",
        3,
        "--dropout",
        0.2,
    ]
    for out in ("one", "two"):
        assert command("training.py", *options, "--out", out)[0] == 0
    assert command("training.py", *options, "--seed", 1, "--out", "three")[0] == 0
    one, two, three = (load_checkpoint(tmp_path / n / "last.npz") for n in ("one", "two", "three"))
    for name, parameter in one.params.items():
        np.testing.assert_array_equal(parameter, two.params[name])
    assert not np.array_equal(one.params["Wh"], three.params["Wh"])


def test_a_numpy_run_never_imports_torch(shapes_folder, tmp_path):
    """Poisoned: importing torch would end the command."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    commands = (
        ("training.py", "--model", "rnn", "--num_samples", "5", "--num_epochs", "1"),
        ("inference.py", "--model", "rnn", "--split", "train"),
        ("inference.py", "--model", "rnn", "--image", str(shapes_folder / "images/val/00001.png")),
    )
    for name, *options in commands:
        done = subprocess.run(
            [sys.executable, ROOT / name, *options],
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["training.py", "inference.py"])
def test_help_imports_nothing_heavy(name):
    script = (
        f"import runpy, sys; sys.argv = [{name!r}, '--help']\n"
        f"try: runpy.run_path({name!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'torch', 'matplotlib', 'h5py'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--num_samples" in done.stdout


def test_float64_run(tiny_folder, command, tmp_path):
    options = ["--model", "rnn", "--data", tiny_folder, "--num_epochs", 1, "--dtype", "float64"]
    assert command("training.py", *options, "--out", "run")[0] == 0
    checkpoint = load_checkpoint(tmp_path / "run" / "last.npz")
    assert {p.dtype for p in checkpoint.params.values()} == {np.dtype(np.float64)}


def test_grid_of_a_validation_split(tiny_run, command):
    code, out, error = command("inference.py", "--checkpoint", tiny_run, "--figure", "g.png")
    assert code == 0, error
    assert "val0.png" in out
    assert "reference" in out
    code, out, error = command("inference.py", "--checkpoint", tiny_run / "last.npz")
    assert code == 0, error


# ---------------------------------------------------------------------------------------------
# Attention
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def attentive_run(shapes_folder, tmp_path_factory):
    """A Transformer that has hardly learned anything, and its folder; not to be changed."""
    folder = tmp_path_factory.mktemp("attentive")
    with in_folder(folder) as command:
        command(
            *("training.py", "--model", "transformer", "--num_samples", 20, "--num_epochs", 8),
            *("--wordvec_dim", 16, "--num_heads", 2, "--num_layers", 3, "--out", "run"),
        )
    return folder / "run"


def test_attention_is_drawn(attentive_run, command, tmp_path):
    options = ["--checkpoint", attentive_run, "--num_samples", 1, "--attention"]
    code, out, error = command("inference.py", *options, "mean.png")
    assert code == 0, error
    assert "attention: mean.png" in out
    code, out, error = command("inference.py", *options, "heads.png", "--heads")
    assert code == 0, error
    options += ["torch.png", "--heads", "--engine", "torch"]
    code, out, error = command("inference.py", *options)
    assert code == 0, error
    mean, heads, torch = (
        Image.open(tmp_path / f"{name}.png") for name in ("mean", "heads", "torch")
    )
    # The engines differ by rounding, which may move a pixel by a grey level.
    np.testing.assert_allclose(np.asarray(torch, float), np.asarray(heads, float), atol=2)
    assert heads.width == mean.width
    assert heads.height == 6 * mean.height, "two heads of three blocks, a row each"


def test_options_of_the_model_reach_it(attentive_run):
    config = load_checkpoint(attentive_run / "best.npz").config
    assert (config["num_heads"], config["num_layers"], config["wordvec_dim"]) == (2, 3, 16)


@pytest.mark.slow
def test_grounding_of_a_run(attentive_run, command):
    code, out, error = command("core.grounding", "--checkpoint", attentive_run)
    assert code == 0, error
    assert "true of the picture: " in out
    code, out, error = command("core.grounding", "--checkpoint", attentive_run, "--json")
    assert code == 0, error
    report = json.loads(out)
    assert report["pictures"] == 300
    assert 0 <= report["true"] <= 1


def test_grounding_of_a_checkpoint_without_settings(attentive_run, command):
    """As one has that was saved from a notebook: the defaults stand in."""
    checkpoint = load_checkpoint(attentive_run / "best.npz")
    save_checkpoint(attentive_run / "bare.npz", replace(checkpoint, settings={}))
    code, out, error = command("core.grounding", "--checkpoint", attentive_run / "bare.npz")
    assert code == 0, error
    assert "true of the picture: " in out


def test_grounding_refuses_other_data(tiny_run, refuses):
    refuses("core.grounding", "--checkpoint", tiny_run, says=("embedded data", "--data shapes"))


@pytest.mark.parametrize("model", ["attention", "transformer"])
def test_pooled_features_are_one_location(tiny_folder, command, model):
    """Data without a grid train, with a warning of one line that names what cannot learn."""
    options = ["--model", model, "--data", tiny_folder, "--num_epochs", 1, "--out", "run"]
    code, _, error = command("training.py", *options)
    assert code == 0, error
    assert error.startswith("training.py: warning: ")
    assert error.count("\n") == 1
    assert {"attention": "v_attend", "transformer": "block1.cross.Wk"}[model] in error
    code, out, error = command("inference.py", "--checkpoint", "run")
    assert code == 0, error
    assert "val0.png" in out


def test_every_way_of_decoding(attentive_run, command, tmp_path):
    def captions(*options):
        code, out, error = command(
            "inference.py", "--checkpoint", attentive_run, "--out", "c.json", *options
        )
        assert code == 0, error
        rows = json.loads((tmp_path / "c.json").read_text())
        assert len(rows) == 20
        return rows, out

    greedy, _ = captions("--decode", "greedy")
    assert captions() == captions("--decode", "beam", "--beam_size", 5)
    beam_1, _ = captions("--decode", "beam", "--beam_size", 1)
    assert beam_1 == greedy
    assert captions("--decode", "sample", "--top_k", 1)[0] == greedy
    assert captions("--decode", "sample", "--temperature", 1e-4)[0] == greedy
    drawn, _ = captions("--decode", "sample")
    assert drawn == captions("--decode", "sample", "--seed", 0)[0]
    assert drawn != captions("--decode", "sample", "--seed", 1)[0]
    best, out = captions("--decode", "beam", "--n_best", 3, "--length_penalty", 0.5)
    for row in best:
        scores = [other["score"] for other in row["n_best"]]
        assert scores == sorted(scores, reverse=True)
        assert row["caption"] == row["n_best"][0]["caption"]
        assert f"{scores[0]:8.3f}  {row['caption']}" in out


@pytest.mark.parametrize("decode", ["greedy", "beam", "sample"])
def test_no_word_twice(decode, attentive_run, command, tmp_path):
    def twice(*options):
        code, _, error = command(
            "inference.py", "--checkpoint", attentive_run, "--decode", decode, "--out", "c.json",
            "--report", "r.html", *options,
        )  # fmt: skip
        assert code == 0, error
        said = [row["caption"].split() for row in json.loads((tmp_path / "c.json").read_text())]
        return sum(len(set(words)) < len(words) for words in said)

    assert twice() > 0
    assert twice("--no_repeat", 1) == 0
    assert "no_repeat 1" in (tmp_path / "r.html").read_text()


# ---------------------------------------------------------------------------------------------
# Nothing is lost
# ---------------------------------------------------------------------------------------------


def test_a_second_run_moves_the_first_aside(tiny_run, tiny_folder, command):
    before = (tiny_run / "last.npz").read_bytes()
    options = ["--model", "rnn", "--data", tiny_folder, "--num_epochs", 1, "--out", tiny_run]
    for number in (1, 2):
        code, out, _ = command("training.py", *options)
        assert code == 0
        assert f"{tiny_run}.old{number}" in out
    assert (tiny_run.with_name("run.old1") / "last.npz").read_bytes() == before


def test_a_folder_with_other_files_is_spared(refuses, tiny_folder, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("long work")
    options = ["training.py", "--model", "rnn", "--data", tiny_folder]
    refuses(*options, "--out", tmp_path / "thesis", says=("thesis", "holds files that are no run"))
    refuses(
        *options, "--out", tmp_path / "thesis" / "chapter1.txt", says=("chapter1.txt", "is a file")
    )
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter1.txt"]


def test_a_failed_start_leaves_the_old_run(tiny_run, refuses):
    before = sorted((p.name, p.stat().st_mtime_ns) for p in tiny_run.iterdir())
    refuses(
        "training.py", "--model", "rnn", "--data", "nowhere", "--out", tiny_run, says=("nowhere",)
    )
    assert sorted((p.name, p.stat().st_mtime_ns) for p in tiny_run.iterdir()) == before


# ---------------------------------------------------------------------------------------------
# Usage errors
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--model", "gru"], ("--model", "gru", "lstm")),
        ([], ("--model", "rnn")),
        (["--model", "rnn", "--num_samples", "0"], ("--num_samples", "'0'", "at least 1")),
        (["--model", "rnn", "--num_samples", "-5"], ("--num_samples", "-5")),
        (["--model", "rnn", "--num_samples", "ten"], ("--num_samples", "'ten'")),
        (["--model", "rnn", "--num_samples", "1.5"], ("--num_samples", "'1.5'")),
        (["--model", "rnn", "--num_epochs", "0"], ("--num_epochs",)),
        (["--model", "rnn", "--batch_size", "x"], ("--batch_size",)),
        (["--model", "rnn", "--hidden_dim", "0"], ("--hidden_dim",)),
        (["--model", "rnn", "--wordvec_dim", "-1"], ("--wordvec_dim",)),
        (["--model", "rnn", "--learning_rate", "nan"], ("--learning_rate", "'nan'")),
        (["--model", "rnn", "--learning_rate", "inf"], ("--learning_rate", "'inf'")),
        (["--model", "rnn", "--learning_rate", "0"], ("--learning_rate",)),
        (["--model", "rnn", "--lr_decay", "1.5"], ("--lr_decay",)),
        (["--model", "rnn", "--clip_norm", "-1"], ("--clip_norm",)),
        (["--model", "rnn", "--dropout", "1"], ("--dropout", "below 1")),
        (["--model", "rnn", "--dropout", "nan"], ("--dropout",)),
        (["--model", "rnn", "--patience", "0"], ("--patience",)),
        (["--model", "rnn", "--seed", "-1"], ("--seed",)),
        (["--model", "rnn", "--dtype", "float16"], ("--dtype", "float16")),
        (["--model", "rnn", "--update_rule", "lion"], ("--update_rule", "lion")),
        (["--model", "rnn", "--nonsense"], ("--nonsense",)),
        (["--model", "rnn", "--average", "0.98"], ("--average",)),
        (["--model", "rnn", "--num_samples", "100000"], ("100000", "8000 images")),
        (["--model", "lstm", "--num_heads", "2"], ("--num_heads", "transformer", "lstm")),
        (["--model", "transformer", "--attention_dim", "9"], ("--attention_dim", "of attention")),
        (["--model", "attention", "--double_stochastic", "-1"], ("--double_stochastic", "-1")),
        (["--model", "transformer", "--num_heads", "7"], ("num_heads", "7", "divisor")),
        (["--model", "transformer", "--activation", "tanh"], ("--activation", "gelu")),
        (["--resume"], ("--model",)),
        (["--model", "rnn", "--resume"], ("runs/rnn", "no run to resume")),
    ],
    ids=" ".join,
)
def test_training_refuses(refuses, shapes_folder, tmp_path, options, says):
    refuses("training.py", *options, says=says)
    assert not (tmp_path / "runs").exists(), "something was written"


def test_resume_refuses_other_settings_by_name(tiny_run, refuses, command):
    for option, value in (("--hidden_dim", 16), ("--learning_rate", 0.5), ("--model", "rnn")):
        refuses(
            "training.py", "--resume", "--out", tiny_run, option, value, says=(option, str(value))
        )
    code, _, error = command("training.py", "--resume", "--out", tiny_run, "--num_epochs", 3)
    assert code == 0, error
    assert len((tiny_run / "metrics.jsonl").read_text().splitlines()) == 3


def test_another_vocabulary_is_refused(run_on_tiny_folder, refuses, tmp_path, tiny_folder):
    other = make_tiny_folder(tmp_path / "other", [*WORDS, "zebra"])
    refuses(
        "inference.py",
        *("--checkpoint", run_on_tiny_folder, "--data", other),
        says=("other", "another vocabulary", "10 words", "9 words"),
    )
    tiny_folder.rename(tmp_path / "moved")
    other.rename(tiny_folder)
    refuses(
        "training.py",
        *("--resume", "--num_epochs", 9, "--out", run_on_tiny_folder),
        says=("another vocabulary", "10 words", "9 words"),
    )


def test_resume_refuses_an_edited_config(tiny_run, refuses):
    settings = json.loads((tiny_run / "config.json").read_text())
    (tiny_run / "config.json").write_text(json.dumps(settings | {"hidden_dim": 16}))
    refuses(
        "training.py",
        *("--resume", "--num_epochs", 3, "--out", tiny_run),
        says=("config.json", "hidden_dim 16", "made with 8"),
    )


def test_a_run_older_than_an_option_is_resumed(tiny_run, command):
    settings = json.loads((tiny_run / "config.json").read_text())
    del settings["bleu_reward"]
    (tiny_run / "config.json").write_text(json.dumps(settings))
    code, _, error = command("training.py", "--resume", "--out", tiny_run, "--num_epochs", 3)
    assert code == 0, error
    assert len((tiny_run / "metrics.jsonl").read_text().splitlines()) == 3


def test_resume_refuses_fewer_epochs_than_done(tiny_run, refuses):
    refuses(
        "training.py",
        *("--resume", "--num_epochs", 1, "--out", tiny_run),
        says=("--num_epochs", "found 1", "2 already"),
    )


def test_resuming_a_finished_run_draws_what_is_missing(tiny_run, command):
    (tiny_run / "loss.png").unlink()
    assert command("training.py", "--resume", "--out", tiny_run)[0] == 0
    assert (tiny_run / "loss.png").is_file()


def test_a_torn_file_of_a_killed_start_does_not_block_the_folder(tiny_folder, command, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.part.json").write_text("{")
    options = ["--model", "rnn", "--data", tiny_folder, "--num_epochs", 1, "--out", "run"]
    code, _, error = command("training.py", *options)
    assert code == 0, error


def test_a_diverging_run_ends_with_one_line(tiny_folder, refuses):
    refuses(
        "training.py",
        *("--model", "rnn", "--data", tiny_folder, "--learning_rate", "1e300"),
        says=("the loss is", "lower learning_rate"),
    )


def test_features_of_another_extractor_are_refused(run_on_tiny_folder, refuses, tiny_folder):
    info = json.loads((tiny_folder / "dataset.json").read_text())
    info["extractors"]["pooled"]["preprocessing"]["size"] = 32
    (tiny_folder / "dataset.json").write_text(json.dumps(info))
    refuses("inference.py", "--checkpoint", run_on_tiny_folder, says=("extractor",))
    refuses(
        "training.py",
        "--resume",
        "--num_epochs",
        3,
        "--out",
        run_on_tiny_folder,
        says=("extractor", "tiny"),
    )


@pytest.mark.parametrize("name", ["best.npz", "last.npz"])
@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_a_torn_checkpoint_is_named(tiny_run, refuses, name, share):
    path = tiny_run / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    if name == "best.npz":
        refuses(
            "inference.py", "--checkpoint", tiny_run, says=("best.npz", "not a whole checkpoint")
        )
    else:
        refuses(
            "training.py",
            *("--resume", "--num_epochs", 9, "--out", tiny_run),
            says=("last.npz", "not a whole checkpoint"),
        )


def test_a_damaged_byte_is_noticed(tiny_run, refuses):
    content = bytearray((tiny_run / "best.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (tiny_run / "best.npz").write_bytes(content)
    refuses("inference.py", "--checkpoint", tiny_run, says=("best.npz",))


def test_files_that_are_no_checkpoint(refuses, tmp_path):
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    np.savez(tmp_path / "little.npz", meta=np.array('{"format": 1}'))
    np.savez(tmp_path / "list.npz", meta=np.array("[1]"))
    np.savez(tmp_path / "pickled.npz", meta=np.array([{"format": 1}], dtype=object))
    (tmp_path / "text.npz").write_text("hello")
    for name in ("other.npz", "little.npz", "list.npz", "pickled.npz", "text.npz"):
        refuses(
            "inference.py", "--checkpoint", tmp_path / name, says=(name, "not a whole checkpoint")
        )


def test_a_broken_config_is_named(tiny_run, refuses):
    (tiny_run / "config.json").write_text("{")
    refuses("training.py", "--resume", "--out", tiny_run, says=("config.json", "not valid JSON"))
    for text in ("{}", "[]", "3", '{"model": "rnn"}'):
        (tiny_run / "config.json").write_text(text)
        refuses(
            "training.py", "--resume", "--out", tiny_run, says=("config.json", "settings of a run")
        )


def test_a_run_can_be_used_from_another_folder(tiny_folder, command, tmp_path, monkeypatch):
    options = ["--model", "rnn", "--num_epochs", 1, "--out", tmp_path / "run"]
    code, _, error = command("training.py", *options, "--data", tiny_folder.relative_to(tmp_path))
    assert code == 0, error
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, error = command("inference.py", "--checkpoint", tmp_path / "run")
    assert code == 0, error
    code, _, error = command(
        "training.py", "--resume", "--out", "../run", "--data", f"{tiny_folder}/", "--num_epochs", 2
    )
    assert code == 0, error


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], ("--model", "--checkpoint")),
        (["--model", "gru"], ("gru",)),
        (["--model", "rnn"], ("runs/rnn", "training.py --model rnn")),
        (["--checkpoint", "nowhere.npz"], ("nowhere.npz",)),
        (["--checkpoint", "RUN", "--split", "test"], ("--split test", "no such split")),
        (["--checkpoint", "RUN", "--image", "no.jpg"], ("no.jpg", "no such picture")),
        (["--checkpoint", "RUN", "--image", "torn.jpg"], ("torn.jpg", "cannot be read")),
        (["--checkpoint", "RUN", "--images", "nowhere"], ("--images nowhere", "no such folder")),
        (["--checkpoint", "RUN", "--images", "empty"], ("--images empty", "no pictures")),
        (["--checkpoint", "RUN", "--num_samples", "0"], ("--num_samples",)),
        (["--checkpoint", "RUN", "--out", "captions.txt"], ("--out captions.txt", ".json")),
        (["--checkpoint", "RUN", "--out", "no/such/c.json"], ("--out", "no folder no/such")),
        (["--checkpoint", "RUN", "--figure", "f.exe"], ("--figure f.exe", ".png")),
        (["--checkpoint", "RUN", "--attention", "a.png"], ("--attention", "lstm", "no attention")),
        (["--checkpoint", "RUN", "--attention", "a.txt"], ("--attention a.txt", ".png")),
        (["--checkpoint", "RUN", "--heads"], ("--heads", "--attention")),
        (["--checkpoint", "RUN", "--top_k", "3"], ("--top_k", "--decode sample")),
        (["--checkpoint", "RUN", "--decode", "greedy", "--beam_size", "3"], ("--beam_size",)),
        (["--checkpoint", "RUN", "--decode", "beam", "--n_best", "9"], ("--n_best", "9", "5")),
        (["--checkpoint", "RUN", "--decode", "best"], ("--decode", "best", "beam")),
        (["--checkpoint", "RUN", "--decode", "sample", "--top_p", "2"], ("--top_p", "2")),
        (["--checkpoint", "RUN", "--data", "nowhere"], ("nowhere", "no such data folder")),
        (["--checkpoint", "RUN", "--image", "a.jpg", "--split", "val"], ("not allowed with",)),
    ],
    ids=" ".join,
)
def test_inference_refuses(refuses, tiny_run, tmp_path, options, says):
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    (tmp_path / "empty").mkdir()
    refuses(
        "inference.py",
        *[str(tiny_run) if option == "RUN" else option for option in options],
        says=says,
    )
    assert not list(tmp_path.glob("captions*"))


def test_a_run_without_an_epoch(refuses, tiny_run):
    (tiny_run / "best.npz").unlink()
    refuses("inference.py", "--checkpoint", tiny_run, says=("best.npz", "not finished an epoch"))


def test_published_features_cannot_caption_a_photo(command, refuses, tmp_path):
    from test_coco_utils import make_published

    folder = make_published(tmp_path / "coco")
    options = ["--model", "rnn", "--data", folder, "--num_epochs", 1, "--out", "run"]
    code, _, error = command("training.py", *options)
    assert code == 0, error
    code, _, error = command("inference.py", "--checkpoint", "run")
    assert code == 0, error
    Image.new("RGB", (50, 50)).save(tmp_path / "p.png")
    refuses(
        "inference.py", "--checkpoint", "run", "--image", "p.png", says=("not known", "flickr8k")
    )
