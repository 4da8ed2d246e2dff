"""parse: templates and events of a log, nothing learned beyond them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ai_detect import artifacts
from ai_detect.cli.command_settings import ParseCommand
from ai_detect.cli.progress import TerminalProgress
from ai_detect.errors import DataError
from ai_detect.ingest.log_reader import LogSource, fetch_lines, find_sources, stored_bytes
from ai_detect.ingest.messages import MessageReader
from ai_detect.parsing.events import learn_events
from ai_detect.parsing.template_miner import TemplateMiner
from ai_detect.tables import EventTable


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
        artifacts.write_text(folder / "events.csv", _events_csv(events, miner))
        artifacts.write_text(folder / "templates.csv", _templates_csv(events, miner, sources, command.encoding))
    except OSError as error:
        raise DataError(f"{folder}: results cannot be written ({error.strerror}); give another --output_dir") from error
    n_lines = events.counters["n_lines"]
    print(f"{n_lines:,} lines, {len(events):,} messages, {events.n_known:,} templates, read as '{reader.format.name}'")
    print(f"results in {folder}")
    return 0


def _events_csv(events: EventTable, miner: TemplateMiner) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    several = len(events.sources) > 1
    writer.writerow([*(["file"] if several else []), "line", "event_id", "template"])
    ids = miner.template_ids
    for row in range(len(events)):
        event = int(events.event_id[row])
        place = [events.source_of(row).path] if several else []
        writer.writerow([*place, int(events.line[row]), ids[event], events.templates[event]])
    return text.getvalue()


def _templates_csv(events: EventTable, miner: TemplateMiner, sources: list[LogSource], encoding: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["event_id", "template", "count", "first_line", "example"])
    found, first, counts = np.unique(events.event_id, return_index=True, return_counts=True)
    by_path = {source.path: source for source in sources}
    example: dict[int, str] = {}
    for span in events.sources:
        rows = [int(row) for row in first if events.source_of(int(row)) is span]
        lines = fetch_lines(by_path[span.path], [(int(events.offset[row]), 1) for row in rows], encoding)
        example.update({row: "".join(part) for row, part in zip(rows, lines, strict=True)})
    for at in np.lexsort((found, -counts)):
        event, row = int(found[at]), int(first[at])
        writer.writerow(
            [miner.template_ids[event], events.templates[event], int(counts[at]), int(events.line[row]), example[row]]
        )
    return text.getvalue()
