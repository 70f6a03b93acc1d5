"""What mkdocs does beside its own for the site: files that stand outside of docs/, and code fences with a second word.

    docs/*.md, examples/, deploy/, CONTRIBUTING.md, CHANGELOG.md ──► [on_files, on_page_markdown] ──► the pages of the site

A page links to a file as the repository has it, ``../examples/shop/README.md``, so that the link also leads
somewhere where the repository is read. On the site these files have the place that they have in the repository.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md")
FOLDERS = ("examples", "deploy")
OUT_OF_DOCS = re.compile(r"(\]\()\.\./")  # of a link on a page of docs/
INTO_DOCS = re.compile(r"(\]\()(?:\.\./)*docs/")  # of a link on a page outside
FENCE = re.compile(r"^```(\w+) \w+$", re.MULTILINE)  # ```json message: a test reads the second word


def on_files(files: Any, config: Any) -> Any:
    """Add the files that stand outside of docs/."""
    found = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file())
    named = [ROOT / name for name in (*OUTSIDE, "docker-compose.yml")]
    for path in (*named, *(p for p in found if p.suffix not in (".pyc",))):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite what the site has at another place than the repository."""
    source = page.file.src_uri
    if source in OUTSIDE:
        markdown = INTO_DOCS.sub(r"\1", markdown)
    elif source.startswith("examples/"):
        markdown = INTO_DOCS.sub(r"\1" + "../" * source.count("/"), markdown)
    else:
        markdown = OUT_OF_DOCS.sub(r"\1", markdown)
    return FENCE.sub(r"```\1", markdown)
