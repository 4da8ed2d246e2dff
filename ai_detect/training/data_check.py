"""Whether the training log is the one that the checkpoint was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ai_detect.errors import ConfigError
from ai_detect.ingest.fingerprint import FileFingerprint, prefix_sha256
from ai_detect.ingest.log_sources import LogSource


def is_same_data(stored: Sequence[Mapping[str, Any]], found: Sequence[FileFingerprint]) -> bool:
    """Whether the content is the same; paths do not matter."""
    return [item["sha256"] for item in stored] == [item.sha256 for item in found]


def check_same_data(
    stored: Sequence[Mapping[str, Any]], found: Sequence[FileFingerprint], sources: Sequence[LogSource], spec: str
) -> None:
    """Raise ConfigError with both fingerprints unless the content is the same; paths do not matter."""
    if is_same_data(stored, found):
        return
    for old, new, source in zip(stored, found, sources, strict=False):
        if old["sha256"] != new.sha256:
            grown = ""
            if old["n_bytes"] < new.n_bytes and prefix_sha256(source, old["n_bytes"]) == old["sha256"]:
                grown = f" (it grew by {new.n_lines - old['n_lines']:,} lines)"
            raise ConfigError(
                f"--train_file {spec}: {new.path} ({new.n_bytes:,} bytes, sha256 {new.sha256[:12]}) is not "
                f"the training log of the "
                f"checkpoint ({old['path']}, {old['n_bytes']:,} bytes, sha256 "
                f"{old['sha256'][:12]}){grown}; give that log, fine-tune "
                "on this one with --new_data, or train anew in another --checkpoint_dir"
            )
    raise ConfigError(
        f"--train_file {spec}: {len(found)} files, the checkpoint was trained on {len(stored)}; give the "
        f"same files, fine-tune on these with --new_data, or train anew in another --checkpoint_dir"
    )
