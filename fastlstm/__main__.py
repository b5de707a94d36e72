"""python -m fastlstm: the command line."""

import sys

from fastlstm.cli import main

sys.exit(main())
