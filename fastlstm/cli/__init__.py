"""The command line: results on stdout, progress and messages on stderr, --json the stable form.

Exit codes: 0 done, 1 refused or failed (one line says why), 2 usage, 130 interrupted.
"""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        from fastlstm.cli.app import run

        return run(arguments)
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("fastlstm: interrupted", file=sys.stderr)
        return 130


__all__ = ["main"]
