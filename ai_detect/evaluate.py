"""Run as a file, from any folder, installed or not: the same program as `ai-detect evaluate`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts this file's own folder first on the path; modules in it would then be imported under a second name.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from ai_detect.cli.main import main

    sys.exit(main(["evaluate", *sys.argv[1:]]))
