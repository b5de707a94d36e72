"""python -m fastlstm.cli"""

import sys

from fastlstm.cli.main import main

sys.exit(main())
