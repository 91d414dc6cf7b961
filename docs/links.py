"""Checks the built site: every link within it leads to a page that is there, and to an anchor that is on it.

`python docs/links.py docs/_build/html` prints what leads nowhere and ends with 1, or says how many links it followed.
Links to other servers are counted and left alone.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

GENERATED = {"search.html", "genindex.html"}  # their anchors are made by scripts


class Page(HTMLParser):
    """The links of a page, and the anchors on it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is not None and (name == "id" or (tag == "a" and name == "name")):
                self.anchors.add(value)
            elif value is not None and name in ("href", "src"):
                self.links.append(value)


def check(root: Path) -> tuple[list[str], int, int]:
    """(what leads nowhere, links followed, links to other servers)."""
    files = [path for path in root.rglob("*.html") if "_static" not in path.parts]  # there lie templates of the theme
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in files}
    broken, followed, outside = [], 0, 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                outside += parts.scheme != "data"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            followed += 1
            anchor = unquote(parts.fragment)
            if not target.exists():
                broken.append(f"{path.relative_to(root.resolve())}: {link}")
            elif target in pages and target.name not in GENERATED and anchor not in pages[target].anchors:
                broken.append(f"{path.relative_to(root.resolve())}: {link}: no such anchor")
    return broken, followed, outside


if __name__ == "__main__":
    broken, followed, outside = check(Path(sys.argv[1]))
    print(*broken, sep="\n", end="\n" if broken else "")
    print(f"{followed} links followed, {len(broken)} lead nowhere; {outside} to other servers")
    sys.exit(bool(broken))
