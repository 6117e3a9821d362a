"""Settings of the site of the lessons: `make site`. Nothing on its pages needs a network."""

project = "Caption from Scratch"
author = "the authors of Caption from Scratch"
extensions = ["myst_nb"]
html_theme = "sphinx_book_theme"
html_title = project
html_theme_options = {
    "use_download_button": False,
    "navigation_with_keys": False,
    "navbar_persistent": [],  # the search is at the side already
}
html_context = {"default_mode": "auto"}  # light or dark, as the system is
html_show_search_summary = False  # read from a disk, a page may fetch no other
html_show_sphinx = False
html_copy_source = html_show_sourcelink = False
html_static_path = ["_static"]
html_extra_path = ["extra"]  # index.html, which leads to the first page
html_css_files = ["site.css"]
html_math_renderer = "mathml"

root_doc = "README"
include_patterns = [
    "README.md",
    "docs/*.md",
    "datasets/README.md",
    "notebooks/*.md",
    "notebooks/*.ipynb",
    "notebooks/exercises/*.ipynb",
    "notebooks/solutions/*.ipynb",
]
nb_execution_mode = "off"  # the pages show the notebooks as they were executed
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
# Pages lead to lines of code and to folders, which are not pages; masters begin with any heading.
suppress_warnings = ["myst.xref_missing", "myst.header"]

_TREE = """

```{{toctree}}
:hidden:
:glob:
:caption: {caption}

{pages}
```
"""
_PARTS = {
    "Lessons": "notebooks/[0-9]*\nnotebooks/GLOSSARY\nnotebooks/README",
    "Exercises": "notebooks/exercises/*",
    "Solutions": "notebooks/solutions/*",
    "More": "docs/*\ndatasets/README",
}


def _add_contents(app, name, source):
    """The README stays free of the site's own directives."""
    if name == root_doc:
        source[0] += "".join(_TREE.format(caption=c, pages=p) for c, p in _PARTS.items())


def _mathml(writer, node, display):
    """Formulas as MathML, which browsers draw by themselves: no script, no fonts."""
    from docutils.nodes import SkipNode
    from latex2mathml.converter import convert

    tex = node.astext()
    try:
        formula = convert(tex, display=display)
    except Exception as error:
        raise ValueError(f"a formula that cannot be drawn: {tex}: {error!r}") from error
    if display == "inline" and len(tex) > 50:  # wider than a phone
        formula = f'<span class="wide-formula">{formula}</span>'
    writer.body.append(formula)
    raise SkipNode


def setup(app):
    app.connect("source-read", _add_contents)
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(lambda writer, node: _mathml(writer, node, "inline"), None),
        block_renderers=(lambda writer, node: _mathml(writer, node, "block"), None),
    )
