"""What decodes the blocks of a text file: chosen by its format and its first block.

first block ──► header line, separator, layout of the columns ──► [BlockDecoder] ──► Decoded of each block
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping

from driftgraph.stream.errors import SourceError
from driftgraph.stream.events import Decoded
from driftgraph.stream.formats import FieldNames
from driftgraph.stream.formats.canonical_json import CanonicalJson
from driftgraph.stream.formats.delimited import (
    Delimited,
    Layout,
    NoColumnError,
    layout_of_header,
    layout_of_positions,
    layout_of_taobao,
)
from driftgraph.stream.formats.event_rules import Decoder, EventRules, RowOrigin, Rows, shown
from driftgraph.stream.sources.file_options import FORMATS, FileOptions
from driftgraph.stream.sources.first_lines import check_json_lines, head_of
from driftgraph.stream.sources.part_files import Part


class BlockDecoder:
    """Decodes the blocks of one text file, of JSON lines or CSV.

    ``head_lines`` of its lines stand before the first event. ``options.format`` is not None here.

    Raises:
        SourceError: The first block is not in the format, or does not name the columns.
    """

    def __init__(
        self, part: Part, rules: EventRules, options: FileOptions, names: FieldNames, first_block: bytes
    ) -> None:
        self._part, self._options, self._names = part, options, names
        self._json: Decoder | None = None
        if options.format == "json":
            check_json_lines(first_block, part.path)
            make = options.decoder
            self._json = CanonicalJson(rules, names) if make is None else make(rules)
            self.head_lines = 0
            return
        head = head_of(first_block, part.path)
        separator = options.separator or head.separator or ("\t" if ".tsv" in part.path.suffixes else ",")
        self._delimited = Delimited(rules, self._layout(head.line, separator), separator)
        self.head_lines = head.skipped + (options.format == "csv" and not options.no_header)

    def decode(self, block: bytes, first_line: int) -> Decoded:
        """The events of whole lines, the first of which has this number."""
        if self._json is not None:
            return self._json.decode(_rows_of(block, first_line, self._origin))
        return self._delimited.decode(block, first_line, self._origin)

    def _layout(self, first_line: bytes, separator: str) -> Layout:
        path = self._part.path
        try:
            if self._options.format == "taobao":
                return layout_of_taobao(self._options.attributes)
            if self._options.no_header:
                own = self._options
                return layout_of_positions(first_line, own.columns, separator, own.attributes)
            return layout_of_header(first_line, self._names, separator)
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{path} is no text in UTF-8 ({error}); convert it, or if it is no CSV "
                f"{self._options.wording.format} {', '.join(FORMATS)}"
            ) from error
        except (ValueError, csv.Error) as error:
            meant = error.meant if isinstance(error, NoColumnError) else {}
            what_to_do = self._what_to_do(first_line, separator, meant)
            raise SourceError(f"cannot read {path}: {error}; {what_to_do}") from error

    def _what_to_do(self, first_line: bytes, separator: str, meant: Mapping[str, str]) -> str:
        """What to do about a first line that does not name the columns."""
        say = self._options.wording
        other = next((sign for sign in (b";", b"\t", b"|", b",") if first_line.count(sign) >= 3), None)
        if other is not None and other.decode() != separator:
            return f"{say.separator} {shown(other.decode())}"
        if self._options.no_header:
            return say.positions
        if meant:
            return say.these_columns(meant)
        return f"{say.columns}, or {say.no_header} if the first line is an event"

    def _origin(self, line: int) -> str:
        return f"{self._part.name}:{line}"


def _rows_of(block: bytes, first_line: int, origin: Callable[[int], str]) -> Rows:
    """JSON lines as rows, without the blank lines."""
    lines = block.removesuffix(b"\n").split(b"\n")
    kept = [at for at, line in enumerate(lines) if line and line != b"\r"]
    payloads = lines if len(kept) == len(lines) else [lines[at] for at in kept]
    return Rows(payloads, lambda row: RowOrigin(origin(first_line + kept[row])))
