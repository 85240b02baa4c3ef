"""Entry point: python -m sidestep_cli."""

import sys

from .main import main

sys.exit(main())
