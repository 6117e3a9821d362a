"""What is installed: how much that was, bounds that agree with each other, and what files say."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from core.support.packages import NEEDED

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def install():
    spec = importlib.util.spec_from_file_location("install", ROOT / ".ci" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_pip_fetched_is_added_up(install, tmp_path):
    wheel = tmp_path / "h5py-3.16.0-cp311-cp311-manylinux_2_28_x86_64.whl"
    wheel.write_bytes(bytes(2_500_000))
    lines = [
        "Collecting numpy>=2.0",
        "  Downloading numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.whl (16.9 MB)",
        "     ━━━━━━━━━━━━━━━━━━ 16.9/16.9 MB 100.0 MB/s eta 0:00:00",
        "Downloading six-1.17.0-py2.py3-none-any.whl (11 kB)",
        "  Downloading numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.whl.metadata (6.6 kB)",
        "  Using cached torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl (1.5 GB)",
        f"Processing {wheel} (from caption-from-scratch)",
        "Processing /gone/tqdm-4.70.1-py3-none-any.whl",
        "Processing /home/me/project",
    ]
    assert install.summary(lines) == (
        "2 packages, 16.9 MB, downloaded; 1 package, 1500.0 MB, from pip's cache; "
        "2 packages, 2.5 MB, from this disk"
    )


@pytest.mark.parametrize("lines", [[], ["Requirement already satisfied: numpy"], [""]])
def test_nothing_fetched_is_said_as_well(install, lines):
    assert install.summary(lines) == "0 packages, 0.0 MB, downloaded"


def test_the_exit_code_of_pip_is_handed_on(install, capfd):
    assert install.main(["--no-index", "no-such-package-anywhere"]) != 0
    assert "no-such-package-anywhere" in capfd.readouterr().err


def lowest() -> dict[str, str]:
    text = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8")
    return {m[1].lower(): m[2] for m in re.finditer(r"^([\w-]+)==([\d.]+)$", text, re.M)}


def padded(version: str) -> tuple[int, ...]:
    numbers = [int(part) for part in version.split(".")]
    return tuple(numbers + [0] * (3 - len(numbers)))


def test_the_lowest_versions_are_those_of_the_bounds():
    extras = PROJECT["project"]["optional-dependencies"]
    bounds = {}
    for wanted in [*PROJECT["project"]["dependencies"], *extras["dev"]]:
        name, _, version = wanted.partition(">=")
        bounds[name.lower()] = padded(version)
    # ruff formats differently from release to release, and runs no code of this project
    assert bounds.pop("ruff")
    assert {name: padded(version) for name, version in lowest().items()} == bounds


def test_the_versions_that_tests_run_with_are_within_the_bounds():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = re.findall(r"^([\w-]+)==(\d[\d.]*\d)", text, re.M)
    for name, version in pinned:
        if name.lower() in lowest():
            assert padded(version)[:3] >= padded(lowest()[name.lower()]), name


def test_soupsieve_on_a_python_older_than_it_needs():
    """4.1 needs Python 3.11.5; Debian 12 has 3.11.2."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    markers = dict(re.findall(r"^soupsieve==([\d.]+); python_full_version (\S+ \S+)", text, re.M))
    assert markers == {"4.1.1": '>= "3.11.5"', "2.10": '< "3.11.5"'}


def test_the_base_has_neither_torch_nor_scipy_nor_jupyter():
    names = {re.match(r"[\w-]+", each)[0].lower() for each in PROJECT["project"]["dependencies"]}
    assert names == {"numpy", "h5py", "matplotlib", "pillow", "threadpoolctl", "tqdm"}


def test_packages_that_are_missed_by_name_are_those_of_the_base():
    names = {re.match(r"[\w-]+", each)[0] for each in PROJECT["project"]["dependencies"]}
    assert {"Pillow" if name == "PIL" else name for name in NEEDED} == names


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("training.py --model lstm", "training.py"),
        ("inference.py --checkpoint notebooks/trained/rnn", "inference.py"),
        ("-m core.metrics --help", "core.metrics"),
        ("-m core.gradient_check", "core.gradient_check"),
        ("datasets/fetch_coco.py --help", "fetch_coco.py"),
        ("examples/features_from_timm.py --help", "features_from_timm.py"),
    ],
)
def test_a_python_without_the_packages_is_told_where_they_are(command, program):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    words = [sys.executable, "-S", *command.split()]  # -S: nothing that was installed is found
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    told = rf"{program}: error: .+ has no (numpy|h5py), which the project needs; .*\.venv.*pip"
    assert re.match(told, done.stderr), done.stderr


def test_of_pytorchs_index_uv_takes_pytorch_alone():
    (index,) = PROJECT["tool"]["uv"]["index"]
    assert index["explicit"] is True
    assert index["name"] == PROJECT["tool"]["uv"]["sources"]["torch"][0]["index"]


def test_version_and_licence_are_the_same_everywhere():
    project = PROJECT["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {project['version']}\n" in citation
    assert f"\nlicense: {project['license']}\n" in citation
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_python_that_is_allowed_is_named_and_tested():
    names = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if ":: 3." in c]
    assert names == ["3.10", "3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["project"]["requires-python"] == ">=3.10,<3.15"
    jobs = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    for name in names:
        assert f'"{name}"' in jobs
    for system in ("ubuntu", "macos", "windows"):
        assert f"{system}-latest" in jobs


def test_targets_that_jobs_and_pages_name_are_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.M))
    for name in (".github/workflows/ci.yml", "CONTRIBUTING.md", "CHANGELOG.md", ".ci/run"):
        named = re.findall(r"\bmake ([a-z][a-z-]+)", (ROOT / name).read_text(encoding="utf-8"))
        assert set(named) - {"NN"} <= targets, name


def test_whatever_an_extra_asks_for_has_its_version():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    pinned = set(re.findall(r"^([\w-]+)==", text, re.M))
    for name, wanted in PROJECT["project"]["optional-dependencies"].items():
        if name == "app":  # Gradio asks for a Pillow below 13, which the tests run with
            continue
        names = {re.match(r"[\w-]+", each)[0].lower() for each in wanted}
        assert names <= pinned, name
