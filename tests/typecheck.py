"""The run-time checker of annotations: integers pass for floats, as in PEP 484.

To check a call takes longer than most calls, and the thousandth of a test rarely says what the first ten did not. So of every
function the first calls of each test are checked, later ones ever more rarely. To wrap a function takes longer still: those
made inside others, step after step, are wrapped as rarely.
"""

import functools
import types
from collections import Counter

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
FIRST = 8
counts: Counter = Counter()  # of calls in this test, by the function's code


def due(what):
    """Whether this call is to be checked: one of the first, or the 16th, 32nd, 64th …"""
    if jaxtyping.config.jaxtyping_disable:
        return False
    counts[what] += 1
    n = counts[what]
    return n <= FIRST or n & (n - 1) == 0


def sparingly(fn=None, *, typechecker, wrap=jaxtyping.jaxtyped):
    """In place of `jaxtyping.jaxtyped`, which checks every call."""
    if fn is None:
        return functools.partial(sparingly, typechecker=typechecker)
    if isinstance(fn, type):
        if "__dataclass_fields__" in vars(fn) and "__init__" in vars(fn):
            fn.__init__ = sparingly(fn.__init__, typechecker=typechecker)
        return fn
    if not isinstance(fn, types.FunctionType):
        return wrap(fn, typechecker=typechecker)
    if "<locals>" in fn.__qualname__ and not due((fn.__code__, "made")):
        return fn
    checked = None

    @functools.wraps(fn)
    def called(*args, **kwargs):
        nonlocal checked
        if not due(fn.__code__):
            return fn(*args, **kwargs)
        if checked is None:
            checked = wrap(fn, typechecker=typechecker)
        return checked(*args, **kwargs)

    return called


def unwrapped(fn):
    """The function that was wrapped here; None where it was not."""
    return fn.__wrapped__ if getattr(fn, "__code__", None) is sparingly(install, typechecker=check).__code__ else None


def install(every_call):
    """From here on isocline is imported with its annotations checked."""
    if not every_call:
        setattr(jaxtyping, "jaxtyped", sparingly)  # noqa: B010 - what the import hook calls
    jaxtyping.install_import_hook("isocline", "typecheck.check")
