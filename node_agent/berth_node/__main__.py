"""``python -m berth_node``."""

import sys

from berth_node.cli import main

sys.exit(main())
