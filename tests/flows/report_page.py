"""A report read as a browser reads it."""

from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """The parts of a page by the nearest id around them: texts, tables as rows of cells, and tags with attributes."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.within: list[tuple[str, str | None]] = []
        self.pieces: list[tuple[tuple[str, ...], str, str]] = []
        self.classes: list[tuple[tuple[str, ...], list[str]]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        sizes = [float(tag[1][side] or "nan") for tag in self.tags if tag[0] == "svg" for side in ("width", "height")]
        assert all(50 < size < 2000 for size in sizes), sizes

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.classes.append((self._ids(), (dict(attrs).get("class") or "").split()))
        if tag not in self.VOID:
            self.within.append((tag, dict(attrs).get("id")))
        if tag == "tr":
            self.tables.setdefault(self._table(), []).append([])
        if tag in ("td", "th"):
            self.tables[self._table()][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.within, f"</{tag}> closes nothing"
        assert self.within[-1][0] == tag, f"</{tag}> closes <{self.within[-1][0]}>"
        self.within.pop()

    def handle_data(self, data: str) -> None:
        self.pieces.append((self._ids(), self.within[-1][0] if self.within else "", data))
        if any(tag in ("td", "th") for tag, _ in self.within):
            self.tables[self._table()][-1][-1] += data

    def text(self, name: str, tag: str | None = None) -> str:
        """What is written within the element of this id, or in its elements of one tag."""
        return " ".join(" ".join(d for ids, t, d in self.pieces if name in ids and tag in (None, t)).split())

    def classes_within(self, name: str) -> list[list[str]]:
        """The classes of each element within the element of this id."""
        return [classes for ids, classes in self.classes if name in ids]

    def _ids(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.within if name)

    def _table(self) -> str:
        return next(name for _, name in reversed(self.within) if name)
