"""The command: `isocline fit | validate | show | compare | equations | predict | export | demo | reproduce | bench | doctor`.

PyTorch is imported inside the commands only, so that help is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def main(tokens: Sequence[str] | None = None) -> None:
    """Runs the command line; exit code 2 and one message for what is the user's to mend."""
    import cyclopts

    from isocline.cli.app import app

    try:
        result = app(tokens, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        fail(" ".join(str(error).split()))
    except BrokenPipeError:
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)


def fail(message: str) -> NoReturn:
    """One message on stderr, exit code 2."""
    print(f"isocline: {message}", file=sys.stderr)
    sys.exit(2)
