"""Damaged checkpoints, weight files and settings: one line with the file, or right numbers."""

from __future__ import annotations

import errno
import io
import json
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.damage_checkpoints import WORDS, kinds
from core.captioning_solver import CaptioningSolver
from core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core.encoders import Extractor
from core.encoders.tiny_cnn import TinyCNN
from core.encoders.weights import load_network
from core.models import MODELS, build_model
from core.parameter_shapes import parameter_shapes
from core.runs.data import first_other_word
from core.runs.saving import Saving, restore
from core.support.command_line import advice_on_memory, run_command
from core.support.declared import SETTINGS
from core.support.schema import Entries, Number, Text, Whole

NEVER_SAID = ("allow_pickle", "weights_only", "Traceback", "\n")
SIZES = {"input_dim": 6, "wordvec_dim": 5, "hidden_dim": 4}
KINDS = list(kinds())


@pytest.mark.parametrize(("name", "make", "read"), KINDS, ids=[kind[0] for kind in KINDS])
@pytest.mark.filterwarnings("ignore")
def test_whatever_the_damage(tmp_path, name, make, read):
    rng, said = np.random.default_rng([18, *name.encode()]), []
    for _ in range(40):
        path = make(rng, tmp_path)
        try:
            read(path)
        except (ValueError, OSError) as error:
            said.append(str(error))
    assert len(said) > 20
    for line in said:
        assert path.name in line
        assert not [words for words in NEVER_SAID if words in line]


@pytest.fixture
def whole():
    rng = np.random.default_rng(0)
    params = build_model("lstm", SIZES, WORDS, rng=rng).params
    return Checkpoint("lstm", SIZES, WORDS, params)


def refused(path, words):
    with pytest.raises((ValueError, OSError), match=words) as error:
        load_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ")
    assert not [words for words in NEVER_SAID if words in str(error.value)]


# -- numbers that are none ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["W_embed", "b_vocab", "Wh"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x * np.nan, "holds numbers that are not finite"),
        (lambda x: np.where(x == x.max(), -np.inf, x), "holds numbers that are not finite"),
        (lambda x: x.astype(float) + 1e60, "holds numbers that are not finite"),  # in float32
        (lambda x: x.astype(str), "holds <U32 numbers, expected floating-point ones"),
        (lambda x: x > 0, "holds bool numbers"),
        (lambda x: x.astype(np.int64), "holds int64 numbers"),
        (lambda x: x.astype(complex), "holds complex128 numbers"),
        (lambda x: x[..., :-1], "has shape"),
        (lambda x: x[None], "has shape"),
    ],
)
def test_parameters_that_are_no_numbers_of_the_model(tmp_path, whole, name, change, words):
    params = whole.params | {name: change(whole.params[name])}
    save_checkpoint(tmp_path / "c.npz", replace(whole, params=params))
    refused(tmp_path / "c.npz", f"{name}.*{words}")


def test_an_endless_beam_of_nothing_is_no_success(command, refuses, tiny_folder, tmp_path):
    """Numbers that are finite one by one, and too large together."""
    options = ("--model", "lstm", "--data", tiny_folder, "--hidden_dim", 4, "--num_epochs", 1)
    assert command("training.py", *options, "--out", "run")[0] == 0
    path = tmp_path / "run" / "best.npz"
    checkpoint = load_checkpoint(path)
    huge = {name: np.full_like(x, 1e38) for name, x in checkpoint.params.items()}
    save_checkpoint(path, replace(checkpoint, params=huge))
    refuses("inference.py", "--checkpoint", "run", "--out", "c.json", says=("best.npz", "so large"))
    assert not (tmp_path / "c.json").exists()


def test_a_flipped_bit_is_noticed_by_the_checksum(tmp_path, whole):
    path = tmp_path / "c.npz"
    save_checkpoint(path, whole)
    data = bytearray(path.read_bytes())
    place = bytes(data).index(whole.params["Wh"].tobytes()) + 2
    data[place] ^= 1  # still a finite number
    path.write_bytes(data)
    refused(path, "BadZipFile")


# -- nothing is read that was not asked for ----------------------------------------------------


def archive_of(path, members: dict[str, bytes], kind=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def members_of(whole, tmp_path) -> dict[str, bytes]:
    save_checkpoint(tmp_path / "whole.npz", whole)
    with zipfile.ZipFile(tmp_path / "whole.npz") as archive:
        return {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("name", ["params/W_embed", "params/extra", "extractor/pca_mean", "meta"])
def test_a_small_file_cannot_take_much_memory(tmp_path, whole, name):
    members, path = members_of(whole, tmp_path), tmp_path / "bomb.npz"
    text = np.array(" " * 5_000_000)
    members[name] = npy(text if name == "meta" else np.zeros(20_000_000, np.float32))
    archive_of(path, members)
    assert path.stat().st_size < 10**6
    del text, members
    tracemalloc.start()
    refused(path, "inflates|has shape|unknown parameter|projection")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 10**6


@pytest.mark.parametrize(
    "config",
    [{"hidden_dim": 10**9}, {"hidden_dim": 99_999, "wordvec_dim": 99_999}, {"input_dim": 10**40}],
)
def test_a_config_cannot_either(tmp_path, whole, config):
    save_checkpoint(tmp_path / "c.npz", replace(whole, config=whole.config | config))
    tracemalloc.start()
    refused(tmp_path / "c.npz", next(iter(config)) + "|has shape")
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_what_a_checkpoint_may_be_beside(tmp_path, whole):
    """Compressed, of another byte order, with settings of another version."""
    members = members_of(replace(whole, settings={"average": 0.9, "seed": 3}), tmp_path)
    members["params/Wx"] = npy(whole.params["Wx"].astype(">f8"))
    archive_of(tmp_path / "c.npz", members)
    loaded = load_checkpoint(tmp_path / "c.npz")
    assert loaded.settings == {"average": 0.9, "seed": 3}
    np.testing.assert_array_equal(loaded.params["Wx"], whole.params["Wx"])


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("more", [{}, {"tied": True, "positions": "sinusoidal", "num_layers": 3}])
def test_shapes_are_those_of_the_model(name, more):
    config = SIZES | {"wordvec_dim": 8} | (more if name == "transformer" else {})
    params = build_model(name, config, WORDS).params
    assert parameter_shapes(name, config, len(WORDS)) == {k: x.shape for k, x in params.items()}


# -- entries -----------------------------------------------------------------------------------

EXTRACTOR = {
    "encoder": "fixed_cnn",
    "output": "grid",
    "preprocessing": {"size": 64},
    "weights": None,
    "sha256": None,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "gru"}, "model is 'gru', expected one of rnn, lstm"),
        ({"config": SIZES | {"dropout": "x"}}, "its config: dropout is 'x', expected a number"),
        ({"config": SIZES | {"hidden_dim": True}}, "its config: hidden_dim is True"),
        ({"config": SIZES | {"new": 1}}, "'new', which this version does not know"),
        ({"config": {"input_dim": 6}}, "its config: has no wordvec_dim"),
        ({"settings": {"seed": -1}}, "settings seed is -1, expected a whole number"),
        ({"settings": {"data": "a\0b"}}, "settings data .* the name of a file"),
        ({"settings": {"data": "a\ud800"}}, "settings data .* the name of a file"),
        ({"idx_to_word": [*WORDS[:-1], WORDS[0]]}, "a word is in its vocabulary twice"),
        ({"idx_to_word": [*WORDS[:-1], 3]}, "idx_to_word entry 6 is 3, expected text"),
        ({"extractor": {"encoder": "fixed_cnn"}}, "extractor has no output"),
        ({"extractor": EXTRACTOR | {"output": "fc7"}}, "fixed_cnn has no output 'fc7'"),
        ({"extractor": EXTRACTOR | {"grid": 99}}, "no grid of 99 cells"),
        ({"extractor": EXTRACTOR | {"encoder": "vgg16"}}, "preprocessing has"),
        ({"extractor_arrays": {"pca_mean": np.ones(3)}}, "projection is not whole"),
        ({"optimizer": {"nobody": {"t": 3}}}, "its optimizer knows 'nobody'"),
        ({"optimizer": {"b": {"m": np.ones(3)}}}, "'optimizer/b/m' does not belong"),
        ({"optimizer": {"b": {"t": "x"}}}, "optimizer 'b' 't' is 'x', expected a number"),
        ({"training": {"history": [3]}}, "training history entry 0 is 3, expected an object"),
        ({"training": {"shuffling": {"bit_generator": "MT19937"}}}, "shuffling has no state"),
        ({"data": {"train": []}}, "data train is a list of 0, expected an object"),
    ],
)
def test_an_entry_of_a_wrong_kind_is_named(tmp_path, whole, change, words):
    save_checkpoint(tmp_path / "c.npz", replace(whole, **change))
    refused(tmp_path / "c.npz", words)


def test_an_unreadable_file_is_not_called_torn(tmp_path, whole, monkeypatch):
    save_checkpoint(tmp_path / "c.npz", whole)

    def fails(*_):
        raise PermissionError(errno.EACCES, "Permission denied", "c.npz")

    monkeypatch.setattr("core.checkpoint.open", fails, raising=False)
    refused(tmp_path / "c.npz", "cannot be read .Permission denied")


# -- going on ----------------------------------------------------------------------------------


@pytest.fixture
def saved(tiny_folder, tmp_path):
    """A solver, and what it saved after an epoch."""
    from core.coco_utils import load_coco_data

    data = load_coco_data(tiny_folder)
    words = data["idx_to_word"]

    def solver(after=None):
        model = build_model("lstm", SIZES, words)
        return CaptioningSolver(model, data, num_epochs=1, after_epoch=after, verbose=False)

    solver(Saving(tmp_path, Checkpoint("lstm", SIZES, words, {}))).train()
    return solver(), load_checkpoint(tmp_path / "last.npz")


@pytest.mark.parametrize("lost", ["m", "v", "t", "beta1", "learning_rate"])
def test_what_an_update_rule_forgot_is_not_made_up(saved, lost):
    solver, last = saved
    del last.optimizer["Wx"][lost]
    with pytest.raises(ValueError, match=rf"last\.npz: .*no {lost} of Wx in its optimizer"):
        restore(solver, last, "last.npz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": 2}, "epoch 2, and a history of 1 rows"),
        ({"history": []}, "epoch 1, and a history of 0 rows"),
        ({"history": [{"epoch": 1, "train_loss": 1.0}]}, "no val_loss of an epoch"),
    ],
)
def test_a_history_that_does_not_fit(saved, change, words):
    solver, last = saved
    last.training |= change
    with pytest.raises(ValueError, match=words):
        restore(solver, last)


@pytest.mark.parametrize("lost", ["shuffling", "dropout", "loss_history"])
def test_a_state_that_is_not_whole(saved, lost):
    solver, last = saved
    del last.training[lost]
    with pytest.raises(ValueError, match=f"no {lost}"):
        restore(solver, last)


def test_a_run_of_another_version_is_named(command, refuses, tiny_folder, tmp_path):
    options = ("--model", "rnn", "--data", tiny_folder, "--hidden_dim", 4, "--num_epochs", 1)
    assert command("training.py", *options, "--out", "run")[0] == 0
    path, config = (tmp_path / "run" / name for name in ("last.npz", "config.json"))
    last, settings = load_checkpoint(path), json.loads(config.read_text())
    save_checkpoint(path, replace(last, settings=last.settings | {"average": 0.9}))
    resume = ("training.py", "--resume", "--out", "run", "--num_epochs", 2)
    refuses(*resume, says=("last.npz", "'average'", "does not know"))
    for name, value in (("seed", "3"), ("hidden_dim", 10**12), ("tied", 1), ("data", "a\0")):
        config.write_text(json.dumps(settings | {name: value}))
        refuses(*resume, says=("config.json", f"{name} is ", "expected"))


# -- weight files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x * torch.nan, "not finite"),
        (lambda x: x.double() + 1e300, "not finite"),
        (lambda x: x.to("meta"), "without plain numbers"),
        (lambda x: x.to_sparse(), "without plain numbers"),
        (
            lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
            "without plain numbers",
        ),
        (lambda x: x.to(torch.complex64), "holds torch.complex64 numbers"),
        (lambda x: x > 0, "holds torch.bool numbers"),
        (lambda x: x.long(), "holds torch.int64 numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_no_numbers(tmp_path, change, words):
    path, state = tmp_path / "w.pth", TinyCNN().state_dict()
    name = next(iter(state))
    torch.save(state | {name: change(state[name])}, path)
    with pytest.raises(ValueError, match=f"w.pth: '{name}' .*{words}"):
        load_network("tiny_cnn", str(path))


def test_half_precision_will_do(tmp_path):
    state = {name: x.half() if x.is_floating_point() else x for name, x in _tiny().items()}
    torch.save(state, tmp_path / "w.pth")
    load_network("tiny_cnn", str(tmp_path / "w.pth"))


def _tiny():
    return TinyCNN().state_dict()


@pytest.mark.parametrize("content", ["script", "pickle", "text", "model"])
def test_no_advice_to_load_unsafely(tmp_path, content):
    path = tmp_path / "w.pth"
    if content == "script":
        torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    elif content == "text":
        path.write_text("<html>not found</html>")
    else:
        torch.save(TinyCNN() if content == "model" else {"a": Number(0)}, path)
    with pytest.raises(
        ValueError, match=r"w\.pth: cannot be read as a PyTorch state dict"
    ) as error:
        load_network("tiny_cnn", str(path))
    assert not [words for words in NEVER_SAID if words in str(error.value)]


def test_checksums_of_a_weight_file_are_compared(tmp_path):
    path, state = tmp_path / "w.pth", _tiny()
    torch.save(state, path)
    data = bytearray(path.read_bytes())
    data[bytes(data).index(next(iter(state.values())).numpy().tobytes()) + 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"w\.pth: is damaged"):
        load_network("tiny_cnn", str(path))


def test_features_that_are_not_finite_are_refused():
    extractor = Extractor("tiny_cnn", "grid", "random")
    for parameter in extractor.network.parameters():
        parameter.data.fill_(3e38)
    with pytest.raises(ValueError, match="features that are not finite"), np.errstate(all="ignore"):
        extractor([np.full((64, 64, 3), 200, np.uint8)])


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--num_layers", "1000000000"], ("--num_layers", "at most 1,000")),
        (["--num_heads", "1000000000"], ("--num_heads", "at most 100,000")),
        (["--hidden_dim", "999999999"], ("--hidden_dim", "at most")),
        (["--workers", "100000"], ("--workers", "at most 256")),
        (["--hidden_dim=--"], ("--hidden_dim", "'--'")),
        (["--out=--"], ("--out", "'--'")),
        (["--out", ""], ("--out", "is empty")),
        (["--data", ""], ("--data", "is empty")),
        (["--init", ""], ("--init", "is empty")),
        (["--seed", "9" * 5000], ("--seed", "expected a whole number")),
        (["--learning_rate", "nan"], ("--learning_rate", "expected a number above 0")),
        (["--dropout", "1"], ("--dropout", "below 1")),
    ],
)
def test_options_of_a_training_are_bounded(refuses, tmp_path, options, says):
    refuses("training.py", "--model", "transformer", *options, says=says)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--hidden_dim", "100000", "--wordvec_dim", "100000"], ("GB", "smaller widths")),
        (["--num_layers", "1000", "--wordvec_dim", "8192"], ("GB", "smaller widths")),
        (["--init", "nowhere"], ("--init ", "nowhere: no such file or run folder")),
    ],
)
def test_a_model_that_cannot_fit_is_refused_before_it_is_built(refuses, tiny_folder, options, says):
    options = ["--data", tiny_folder, *options]
    tracemalloc.start()
    refuses("training.py", "--model", "transformer", *options, says=says)
    assert tracemalloc.get_traced_memory()[1] < 10**8
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--beam_size", "1000000000"], ("--beam_size", "at most 1,000")),
        (["--length_penalty", "1e308"], ("--length_penalty", "at most 10")),
        (["--max_length", "1000000000"], ("--max_length", "at most 10,000")),
        (["--temperature", "1e-320"], ("--temperature", "at least 1e-09")),
        (["--beam_size=--"], ("--beam_size", "'--'")),
        (["--checkpoint", ""], ("--checkpoint", "is empty")),
    ],
)
def test_options_of_captioning_are_bounded(refuses, options, says):
    which = [] if "--checkpoint" in options else ["--checkpoint", "nowhere"]
    refuses("inference.py", *which, *options, says=says)


def test_a_loop_of_links_is_no_run(refuses, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refuses("inference.py", "--checkpoint", "loop", says=("--checkpoint loop", "no file"))
    refuses("training.py", "--model", "rnn", "--init", "loop", says=("--init", "loop"))


def test_the_advice_on_memory_is_one_that_a_command_has(capsys):
    def main():
        with advice_on_memory("take a smaller --beam_size"):
            raise MemoryError("Unable to allocate 4 GiB")

    with pytest.raises(SystemExit):
        run_command(main)
    error = capsys.readouterr().err
    assert error.endswith(
        "not enough memory: Unable to allocate 4 GiB; take a smaller --beam_size\n"
    )


def test_a_full_disk_names_the_file(tmp_path, whole, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"c\.npz: could not be written \(No space left"):
        save_checkpoint(tmp_path / "c.npz", whole)


# -- the descriptions --------------------------------------------------------------------------


def test_the_first_word_that_differs_is_said():
    assert first_other_word(WORDS, list(WORDS)) is None
    assert first_other_word(["a", "b"], ["a", "c"]) == "word 1 is 'b', expected 'c'"
    assert first_other_word(["a"], ["a", "c"]) == "word 1 is no more words, expected 'c'"


@pytest.mark.parametrize("value", [True, 1.0, "1", None, -1, 4, 10**400, [1]])
def test_a_whole_number_is_one(value):
    assert Whole(0, 3).fault(value)
    assert Whole(0, 3).fault(3) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, True, "1", 0, 1])
def test_a_number_is_one(value):
    assert Number(0, 1, beyond=True, below=True).fault(value)
    assert Number(0, 1).fault(1) is None


def test_settings_are_the_options():
    from core.runs.settings import DEFAULTS

    assert SETTINGS.keys() == {"model", *DEFAULTS}
    assert Entries(SETTINGS).fault(DEFAULTS | {"model": "rnn"}) is None
    assert Text(name=True).fault("\udcff") is None, "a name of bytes that are no UTF-8"
