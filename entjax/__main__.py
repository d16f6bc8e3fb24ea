"""python -m entjax"""

import sys

from entjax.cli import main

sys.exit(main())
