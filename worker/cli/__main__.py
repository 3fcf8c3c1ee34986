"""`python -m worker.cli`: the planrelay command, for processes that are started without the console script."""

import sys

from worker.cli import main

if __name__ == "__main__":
    sys.exit(main())
