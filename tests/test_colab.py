"""The repository's address is in one place: with it notebooks lead to Colab, without it never."""

from __future__ import annotations

import sys

import pytest
from conftest import ROOT

LESSON = "notebooks/05_the_vanilla_rnn.ipynb"


@pytest.fixture
def build(monkeypatch):
    pytest.importorskip("jupytext")
    monkeypatch.syspath_prepend(str(ROOT / "notebooks"))
    import build

    return build


def cells_with(build, monkeypatch, address):
    monkeypatch.setattr(build, "address", lambda: address)
    master = next(build.MASTERS.glob("05_*.py"))
    return {kind: nb.cells[:2] for kind, nb in build.notebooks_of(master).items()}


def test_with_an_address_on_github_each_notebook_opens_itself_in_colab(build, monkeypatch):
    cells = cells_with(build, monkeypatch, "https://github.com/some-one/caption.scratch")
    for kind, folder in (("lessons", ""), ("exercises", "exercises/"), ("solutions", "solutions/")):
        title, first = cells[kind]
        place = f"notebooks/{folder}05_the_vanilla_rnn.ipynb"
        assert title.source.startswith("# ")
        assert (
            "(https://colab.research.google.com/github/some-one/caption.scratch/blob/main/"
            f"{place})" in title.source
        )
        assert (ROOT / place).is_file()
        assert '"https://github.com/some-one/caption.scratch"' in first.source
        compile(first.source, "first cell", "exec")


def test_another_host_is_fetched_from_but_not_opened_in_colab(build):
    badge, code = build.opening("https://example.org/caption", LESSON)
    assert badge == ""
    assert '"https://example.org/caption"' in code


def test_without_an_address_no_word_of_it(build, monkeypatch):
    for title, first in cells_with(build, monkeypatch, None).values():
        assert "colab" not in (title.source + first.source).lower()
        assert "git" not in first.source


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ("[project.urls]\n", None),
        ('[project.urls]\nRepository = "https://github.com/a/b"\n', "https://github.com/a/b"),
        ('[project.urls]\nRepository = "https://github.com/a/b.git"\n', "https://github.com/a/b"),
        ('[project.urls]\nRepository = "https://github.com/a/b/"\n', "https://github.com/a/b"),
    ],
)
def test_the_address_is_the_one_in_pyproject(build, monkeypatch, tmp_path, settings, address):
    (tmp_path / "pyproject.toml").write_text(settings, encoding="utf-8")
    monkeypatch.setattr(build, "HERE", tmp_path / "notebooks")
    assert build.address() == address


def test_the_first_cell_takes_this_core_and_no_other(build, monkeypatch, tmp_path):
    _, code = build.opening(None, LESSON)
    monkeypatch.syspath_prepend(str(ROOT))
    exec(code, {})
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").write_text("")
    for name in [n for n in sys.modules if n == "core" or n.startswith("core.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    # that of an editable install finds core.lessons under any core
    finders = [
        f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__editable")
    ]
    monkeypatch.setattr(sys, "meta_path", finders)
    with pytest.raises(AssertionError, match="pip install -e"):
        exec(code, {})
