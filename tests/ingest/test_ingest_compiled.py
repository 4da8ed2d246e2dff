"""Machine code that is kept is that of these sources, and never stands in the way of a run."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ai_detect.ingest import compiled as module
from ai_detect.ingest.compiled import compiled, is_kept

ROOT = Path(module.__file__).parents[2]


def twice(number: int) -> int:
    return 2 * number


def test_code_that_is_not_whole_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    kept = module._KeptCode(str(tmp_path), "f-1.py311", "stamp")
    kept.save(("int64",), ("code", b"x" * 100))
    assert kept.load(("int64",)) == ("code", b"x" * 100)
    assert kept.load(("float64",)) is None
    (path,) = kept.paths()
    whole = path.read_bytes()
    for broken in (b"", whole[:-1], whole[:40], whole[:50] + b"?" + whole[51:], os.urandom(200)):
        path.write_bytes(broken)
        assert kept.load(("int64",)) is None
    kept.flush()
    assert not kept.paths()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner and mode here")
def test_code_that_others_may_have_written_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = module._KeptCode(str(tmp_path), "f-1.py311", "stamp")
    kept.save(("int64",), b"code")
    (path,) = kept.paths()
    for open_to_all in (path, tmp_path):
        mode = open_to_all.stat().st_mode
        open_to_all.chmod(mode | 0o002)
        assert kept.load(("int64",)) is None
        open_to_all.chmod(mode)
        assert kept.load(("int64",)) == b"code"
    found = list(path.stat())
    found[stat.ST_UID] = os.geteuid() + 1
    monkeypatch.setattr(module.os, "fstat", lambda descriptor: os.stat_result(found))
    assert kept.load(("int64",)) is None


def test_code_that_cannot_be_written_is_not_kept(tmp_path: Path) -> None:
    kept = module._KeptCode(str(tmp_path / "absent"), "f-1.py311", "stamp")
    kept.save(("int64",), b"code")
    assert kept.load(("int64",)) is None
    assert not kept.paths()


def test_kept_code_runs_without_what_compiles_it(tmp_path: Path) -> None:
    program = (
        "import sys; import numpy as np; from ai_detect.ingest.compiled import any_bits\n"
        "print(any_bits(np.array([1, 4], np.uint8)), 'numba.np.linalg' in sys.modules)"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    made, kept = (subprocess.check_output(command, env=environment, text=True) for _ in range(2))
    assert (made.split(), kept.split()) == (["5", "True"], ["5", "False"])


def test_the_stamp_is_of_the_content_of_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ingest/compiled.py", "parsing/masks.py", "tables.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("LIMIT = 1\n")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "ingest" / "compiled.py"))
    stamps = {module._stamp()}
    for name in ("ingest/compiled.py", "parsing/masks.py", "tables.py"):
        times = (tmp_path / name).stat().st_atime_ns, (tmp_path / name).stat().st_mtime_ns
        (tmp_path / name).write_text("LIMIT = 2\n")
        os.utime(tmp_path / name, ns=times)  # as where an archive sets one time for all files
        stamps.add(module._stamp())
    assert len(stamps) == 4


def test_a_numba_that_keeps_code_otherwise_compiles_in_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        pass

    monkeypatch.setattr(module, "IndexDataCacheFile", Other)
    function = compiled(twice)
    assert function(4) == 8
    assert not is_kept(function)


def test_functions_stay_as_they_are_where_numba_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CAN_COMPILE", False)
    assert compiled(twice) is twice
    assert not is_kept(twice)
