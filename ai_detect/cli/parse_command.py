"""parse: templates and events of a log, nothing learned beyond them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ai_detect import artifacts, scratch
from ai_detect.cli.command_settings import ParseCommand
from ai_detect.cli.progress import TerminalProgress
from ai_detect.errors import DataError
from ai_detect.ingest.log_reader import fetch_lines
from ai_detect.ingest.log_sources import LogSource, find_sources, stored_bytes
from ai_detect.ingest.messages import MessageReader
from ai_detect.parsing.events import learn_events
from ai_detect.parsing.matching import template_id
from ai_detect.parsing.template_miner import TemplateMiner
from ai_detect.tables import EventTable

#: Rows of events.csv that are made at once; only memory depends on it.
_ROWS = 1 << 14


def run(command: ParseCommand, typed: Mapping[str, Any]) -> int:
    """Write events.csv (line,event_id,template) and templates.csv (event_id,template,count,first_line,example)."""
    progress = TerminalProgress(command.quiet)
    sources = find_sources(command.log_file)
    miner = TemplateMiner.from_drain_ini(command.drain_config) if command.drain_config else TemplateMiner()
    with progress.stage("parsing", stored_bytes(sources), "B") as advance:
        reader = MessageReader(sources, command, on_progress=advance)
        events = learn_events(reader, miner)
    folder = Path(command.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        artifacts.write_parts(folder / "events.csv", _events_csv(events))
        artifacts.write_text(folder / "templates.csv", _templates_csv(events, sources, command.encoding))
    except OSError as error:
        raise DataError(f"{folder}: results cannot be written ({error.strerror}); give another --output_dir") from error
    n_lines = events.counters["n_lines"]
    print(f"{n_lines:,} lines, {len(events):,} messages, {events.n_known:,} templates, read as '{reader.format.name}'")
    print(f"results in {folder}")
    return 0


def _events_csv(events: EventTable) -> Iterator[str]:
    several = len(events.sources) > 1
    yield ("file," if several else "") + "line,event_id,template\n"
    endings = [_csv_row(pair) for pair in zip(map(template_id, events.templates), events.templates, strict=True)]
    ends = [*(source.first_event for source in events.sources[1:]), len(events)]
    for source, end in zip(events.sources, ends, strict=True):
        begin = _csv_row([source.path]).removesuffix("\n") + "," if several else ""
        for block in scratch.blocks(end - source.first_event, _ROWS):
            rows = slice(source.first_event + block.start, source.first_event + block.stop)
            lines, found = events.line[rows].tolist(), events.event_id[rows].tolist()
            yield "".join([f"{begin}{line},{endings[event]}" for line, event in zip(lines, found, strict=True)])


def _csv_row(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _templates_csv(events: EventTable, sources: list[LogSource], encoding: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["event_id", "template", "count", "first_line", "example"])
    counts, first_row = events.tally
    found = np.flatnonzero(counts)
    first, counts = first_row[found], counts[found]
    by_path = {source.path: source for source in sources}
    example: dict[int, str] = {}
    for span in events.sources:
        rows = [int(row) for row in first if events.source_of(int(row)) is span]
        lines = fetch_lines(by_path[span.path], [(int(events.offset[row]), 1) for row in rows], encoding)
        example.update({row: "".join(part) for row, part in zip(rows, lines, strict=True)})
    for at in np.lexsort((found, -counts)):
        event, row = int(found[at]), int(first[at])
        writer.writerow(
            [
                template_id(events.templates[event]),
                events.templates[event],
                int(counts[at]),
                int(events.line[row]),
                example[row],
            ]
        )
    return text.getvalue()
