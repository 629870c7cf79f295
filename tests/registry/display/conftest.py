"""HTML as a reader takes it, and what must not be obeyed in a page that shows what others wrote."""

import json
from html.parser import HTMLParser

import pytest

ELEMENTS = {
    "div", "p", "b", "span", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "details",
    "summary", "svg", "title", "path", "circle", "g", "text", "img", "a", "br",
}  # fmt: skip
PAGE_ELEMENTS = {"html", "head", "meta", "style", "body", "h1", "h2", "h3"}
ATTRIBUTES = {
    "style", "title", "open", "role", "viewbox", "width", "height", "d", "fill", "stroke",
    "stroke-width", "stroke-opacity", "stroke-linejoin", "stroke-dasharray", "cx", "cy", "r", "x",
    "y", "text-anchor", "opacity", "lang", "src", "alt", "loading", "href", "class", "id",
}  # fmt: skip
EMPTY = {"img", "meta", "br"}

NASTY = "<img src=x onerror=alert(1)></script><script>alert('&\"')</script>"
HOSTILE = (
    NASTY, "\x1b[31mred", "\u202egnp.exe", "two\nlines", "javascript:alert(1)", "<svg onload=x>",
    '" onmouseover="alert(1)', "=HYPERLINK(1)", "\udcff",
)  # fmt: skip


class Page(HTMLParser):
    """Checks that only our own elements are there, all of them closed, and collects text.

    ``cells`` is the text of each cell, ``text`` all of it, ``links`` what is linked or shown.
    """

    def __init__(self, html, more=()):
        super().__init__()
        self.elements, self.cells, self.text, self.links, self.titles = [], [], "", [], []
        self._open, self._more = [], set(more)
        self.feed(html)
        self.close()
        assert self._open == []
        self.text = self.text.strip()
        assert html.replace("\n", "").isprintable()

    def handle_starttag(self, tag, attrs):
        assert tag in ELEMENTS | self._more, tag
        if tag != "meta":
            assert {name for name, _ in attrs} <= ATTRIBUTES, attrs
        self.elements.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        self.titles += [value for name, value in attrs if name == "title"]
        if tag not in EMPTY:
            self._open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        # <path/> is told as a beginning and an end.
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "title" in self._open or "style" in self._open:
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self.cells[-1] += data

    def rows(self, columns):
        """Return the cells as rows of so many columns."""
        return [self.cells[i : i + columns] for i in range(0, len(self.cells), columns)]


@pytest.fixture
def page():
    """Read HTML, see :class:`Page`."""
    return Page


@pytest.fixture
def whole_page():
    """Read a page that stands alone."""
    return lambda html: Page(html, PAGE_ELEMENTS)


@pytest.fixture(params=HOSTILE, ids=range(len(HOSTILE)))
def hostile(request):
    """Text that would do something, were it not escaped."""
    return request.param


@pytest.fixture
def hostile_run(track, damage):
    """A run with hostile text wherever it may stand."""
    text = {f"{i} {each}": each for i, each in enumerate(HOSTILE) if each.isascii()}
    run = track(
        "hostile", params=text, tags=text, rows=[dict.fromkeys(text, 1.0), dict.fromkeys(text, 2.0)]
    )
    damage(run, json.dumps({
        "git": {"commit": NASTY, "branch": NASTY}, "command": ["python", *HOSTILE[:6]],
        "hostname": NASTY,
    }), "environment.json")  # fmt: skip
    damage(run, json.dumps({"inputs": [{"name": each, "path": each} for each in HOSTILE[:-1]]}),
           "inputs.json")  # fmt: skip
    entries = [{"name": e, "path": e, "kind": k, "step": e} for e in HOSTILE for k in (e, "figure")]
    damage(run, json.dumps({"artifacts": entries}), "artifacts.json")
    summary = json.loads((run.path / "summary.json").read_text())
    error = {"type": NASTY, "message": "\n".join(HOSTILE[:-1])}
    summary |= {
        "notes": "\n".join(HOSTILE[:-1]),
        "error": error,
        "group": NASTY,
        "status": "failed",
    }
    damage(run, json.dumps(summary))
    return run
