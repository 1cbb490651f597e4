"""`python -m tag2mask.jobs.benchmark FILE.json [PAGE.md]`."""

import sys

from tag2mask.jobs.benchmark.page import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
