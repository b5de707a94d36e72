"""The command line: results on stdout, progress and messages on stderr, --json the stable form.

Exit codes: 0 done, 1 refused or failed (one line says why), 2 usage, 130 interrupted.
"""

from fastlstm.cli.main import main

__all__ = ["main"]
