"""`python -m sandbox`: serves the stand-ins of the three vendors."""

import argparse
import sys

from sandbox.remote import serve


def main(argv: list[str] | None = None) -> int:
    """Reads the arguments and serves; 2 for arguments that make no sense."""
    parser = argparse.ArgumentParser(
        "python -m sandbox", description="Stand-ins of barometerIT, Planview Admin, Planpoint"
    )
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one; default 8765")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--quota", help="Planview Admin's points window, such as 50/2s; default: no limit")
    parser.add_argument("--latency", help="of every answer, such as 100ms or 80ms-120ms; default: none")
    parser.add_argument("--seed", type=int, default=0, help="of all chance; default 0")
    parser.add_argument("--journal-limit", type=int, default=200_000, help="entries kept; default 200000")
    parser.add_argument("--attached", action="store_true", help="end when standard input ends")
    try:
        serve(**vars(parser.parse_args(argv)))
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
