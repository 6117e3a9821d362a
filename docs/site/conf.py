"""Settings of the site of the lessons: `make site`. Nothing on its pages needs a network."""

project = "Caption from Scratch"
author = "the authors of Caption from Scratch"
extensions = ["myst_nb", "sphinx_book_theme"]
html_theme = "sphinx_book_theme"
html_title = project
html_theme_options = {
    "show_navbar_depth": 1,
    "show_prev_next": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_show_sphinx = False
html_copy_source = html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

nb_execution_mode = "off"  # the pages show the notebooks as they were executed
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
mathjax_path = "mathjax/tex-mml-chtml.js"
# Pages lead to lines of code and to folders, which are not pages.
suppress_warnings = ["myst.xref_missing", "myst.header", "mystnb.unknown_mime_type"]
exclude_patterns = ["conf.py", "_static"]
