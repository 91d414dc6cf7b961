"""The command's parser: `isocline fit | validate | show | compare | equations | predict | export | demo | reproduce | bench | doctor`.

A package of its own, since `isocline` itself loads PyTorch, which takes seconds: help, and what is wrong with an option, need
none of it. A command loads it once its line is understood.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

# Objects made before the collector of cycles looks at them, where Python takes 700: what PyTorch and pandas leave behind is
# so much that looking at it takes a third of a second of a fit.
COLLECT = (20_000, 20, 20)
# Commands that write files and do not share their work among processes.
ALONE = ("validate", "demo", "bench", "reproduce")


def main(tokens: Sequence[str] | None = None) -> None:
    """Runs the command line; exit code 2 and one message for what is the user's to mend."""
    import cyclopts

    from isocline_command.app import app

    _alone(sys.argv[1:] if tokens is None else tokens)
    usual = gc.get_threshold()
    gc.set_threshold(*COLLECT)
    try:
        result = app(tokens, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        fail(" ".join(str(error).split()))
    except BrokenPipeError:
        sys.exit(1)
    finally:
        gc.set_threshold(*usual)
    sys.exit(result if isinstance(result, int) else 0)


def _alone(tokens: Sequence[str]) -> None:
    """Ends where torchrun started several processes of a command that would have all of them write the same files."""
    count = os.environ.get("WORLD_SIZE", "1")
    if tokens and tokens[0] in ALONE and count.isdigit() and int(count) > 1:
        if os.environ.get("RANK", "0") == "0":
            fail(
                f"{tokens[0]}: expected one process, torchrun started {count}; of the commands fit shares its work among several"
            )
        sys.exit(2)


def fail(message: str) -> NoReturn:
    """One message on stderr, exit code 2."""
    print(f"isocline: {message}", file=sys.stderr)
    sys.exit(2)
