"""The report as a browser sees it, at desktop and phone width."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support import Run, Shop

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-quic", "--disable-component-update", "--disable-sync"]
# Reports its own width and that of its content into the page, after everything is laid out.
PROBE = (
    "<script>addEventListener('load',()=>document.title="
    "`laid out ${document.documentElement.scrollWidth} in ${innerWidth}`)</script></body>"
)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_fits_and_shows_the_finding(run: Run, shop: Shop, tmp_path: Path, width: int) -> None:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    assert run("detect", "--log_file", shop.test, "--model_dir", shop.model, "--output_dir", tmp_path).code == 0
    page = tmp_path / "report.html"
    assert "http://" not in page.read_text().replace("http://www.w3.org", "")  # nothing is fetched from elsewhere
    probed = tmp_path / "probed.html"
    text = page.read_text()
    policy = text[text.index("<meta http-equiv") :].split(">", 1)[0] + ">"
    probed.write_text(text.replace(policy, "").replace("</body>", PROBE))
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1600", "--dump-dom"]
    done = subprocess.run([*command, probed.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "disk failure" in done.stdout
    laid_out, inner = done.stdout.split("<title>laid out ")[1].split("</title>")[0].split(" in ")
    assert int(laid_out) <= int(inner)  # no sideways scrolling
