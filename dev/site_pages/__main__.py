"""Writes the pages and pictures that come from the code: ``python -m site_pages``, after a change of a key or command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from site_pages import commands, configuration, pictures, sizing

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
PAGES: Final[dict[str, Callable[[], str]]] = {
    "commands.md": commands.page,
    "configuration.md": configuration.page,
    "sizing.md": sizing.page,
    **pictures.PICTURES,
}


def main() -> None:
    """Write each page, and say which one changed."""
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        same = path.exists() and path.read_text(encoding="utf-8") == text
        if not same:
            path.write_text(text, encoding="utf-8")
        print(f"{path.name}: {'as it was' if same else 'written anew'}")


if __name__ == "__main__":
    main()
