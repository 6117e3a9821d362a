"""The site of the lessons: `make site`, where Sphinx and what it needs are installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import pytest
from chromium import PROGRAM, Chromium

ROOT = Path(__file__).resolve().parent.parent
# The Python that has them, where that is not the one of the tests.
PYTHON = os.environ.get("SITE_PYTHON", sys.executable)
_CHECK = "import sphinx, myst_nb, sphinx_book_theme, latex2mathml"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        subprocess.run([PYTHON, "-c", _CHECK], capture_output=True).returncode != 0,
        reason="the extra 'site' is not installed",
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages; a site that was built already is taken from SITE."""
    if "SITE" in os.environ:
        return Path(os.environ["SITE"])
    folder = tmp_path_factory.mktemp("site")
    command = [PYTHON, "-m", "sphinx", "-q", "-c", "docs/site", ".", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def pages_of(site: Path) -> dict[Path, str]:
    found = [p for p in sorted(site.rglob("*.html")) if "_static" not in p.parts]
    return {p: p.read_text(encoding="utf-8") for p in found}


def test_every_lesson_has_a_page(site):
    for notebook in (ROOT / "notebooks").rglob("*.ipynb"):
        if ".ipynb_checkpoints" not in notebook.parts:
            assert (site / notebook.relative_to(ROOT).with_suffix(".html")).is_file()


def test_no_page_fetches_from_the_network(site):
    fetched = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\ssrc=\"(?:https?:)?//[^\"]*\""
        r"|<link(?![^>]*canonical)[^>]*\shref=\"(?:https?:)?//[^\"]*\""
    )
    for path, text in pages_of(site).items():
        assert not fetched.findall(text), path
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.findall(r"url\([\"']?(?:https?:)?//|@import[^;]*//", text), style


def test_links_lead_to_pages_and_places(site):
    pages = pages_of(site)
    broken = []
    for path, text in pages.items():
        for link in re.findall(r"<(?:a|img|link)[^>]*\s(?:href|src)=\"([^\"]+)\"", text):
            if re.match(r"[a-z]+:|//", link):
                continue
            name, _, place = unquote(link).partition("#")
            target = (path.parent / name.partition("?")[0]).resolve() if name else path
            ids = pages.get(target)
            if not target.exists() or (place and ids and f'id="{place}"' not in ids):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken, broken[:20]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if PROGRAM is None:
        pytest.skip("no Chromium")
    with Chromium(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.mark.parametrize("width", [390, 1400])
def test_pages_load_without_an_error_and_fit_the_screen(site, browser, width):
    browser.problems.clear()
    for path in pages_of(site):
        if path == site / "index.html":  # it leads on to the README at once
            continue
        browser.open(path, width=width)
        assert not browser.problems, f"{path}: {browser.problems}"
        wide = browser.run("document.documentElement.scrollWidth")
        assert wide <= width, f"{path} is {wide} pixels wide on a screen of {width}"


def visible(browser, selector: str) -> int:
    """How many elements can be seen somewhere on the page."""
    return browser.run(
        f"[...document.querySelectorAll({selector!r})].filter("
        "e => e.checkVisibility() && e.getBoundingClientRect().width > 0).length"
    )


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("page", ["README.html", "notebooks/05_the_vanilla_rnn.html"])
def test_one_way_to_search_and_the_ways_on(site, browser, page, width):
    browser.open(site / page, width=width)
    assert visible(browser, ".search-button, .search-button-field") == 1
    assert visible(browser, "a.right-next") == 1
    assert visible(browser, "a.left-prev") == (page != "README.html")


def test_a_search_on_a_phone_finds_pages(site, browser):
    browser.open(site / "search.html", width=390)
    browser.run("location.search = '?q=perplexity'")
    for _ in range(100):
        if found := browser.run("document.querySelectorAll('ul.search li').length"):
            break
        time.sleep(0.1)
    assert found
    assert not browser.problems


def test_figures_have_a_light_ground_in_the_dark_and_code_one_width(site, browser):
    for dark in (False, True):
        browser.open(site / "notebooks" / "08_soft_attention.html", dark=dark)
        theme = browser.run("document.documentElement.dataset.theme")
        assert theme == ("dark" if dark else "light")
    ground = browser.run(
        "getComputedStyle(document.querySelector('.bd-article img')).backgroundColor"
    )
    assert min(map(int, re.findall(r"\d+", ground)[:3])) > 200
    font = browser.run("getComputedStyle(document.querySelector('pre')).fontFamily")
    assert font.endswith("monospace")
