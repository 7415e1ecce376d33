"""`python -m rlhf_trainer.launch stage.json`: how the operator and the command of every release start a stage.

The launcher itself is `runtime.launcher`; this name stays, because an operator also runs images of other releases.
"""

from __future__ import annotations

import sys

from rlhf_trainer.runtime.launcher import main

if __name__ == "__main__":
    sys.exit(main())
