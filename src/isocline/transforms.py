"""What `torch.func` and forward-mode differentiation ask of a solve.

Their wrapped tensors pass through ordinary operations only, not through the gradient methods' own nodes. Under a
transform the steps are therefore recorded one operation at a time, as by `Backprop`: the same derivative.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch.autograd import forward_ad

from isocline.gradients import Backprop, Checkpointed, Forward, Gradient, GradientError
from isocline.solvers import Solver, snake_case

F = TypeVar("F", bound=Callable[..., Any])
# Whether `torch.export` looks on, strict or not, as it does for `torch.onnx.export`; torch 2.6 cannot tell.
exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)


def nowhere(field: Any, engine: Any, given: dict[str, Any]) -> bool:
    """No."""
    return False


def outside_graphs(function: F, inside: Callable[[Any, Any, dict[str, Any]], bool] = nowhere) -> F:
    """Under `torch.compile` a solve is one call outside of the compiled graphs.

    How many steps it takes depends on numbers: traced, it would break into dozens of graphs, compiled anew for every
    size. The model around it is compiled, and so is a field that was compiled itself, `solve(torch.compile(f), …)`.
    With `engine="unrolled"`, and under `torch.export`, its steps are operations of the graph.

    Args:
        inside: of the field, the engine and the keyword arguments: whether the solve is one operator of the graph.
    """
    plain = torch._disable_dynamo(function)

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling() or exporting() or kwargs.get("engine") == "unrolled":
            return function(*args, **kwargs)
        field = args[0] if args else kwargs.get("field")
        return (function if inside(field, kwargs.get("engine"), kwargs) else plain)(*args, **kwargs)

    return cast(F, called)


def transformed() -> bool:
    """Whether a transform of `torch.func` or a forward-mode level is active."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def mapped() -> bool:
    """Whether one of the active transforms is `vmap`."""
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() == torch._C._functorch.TransformType.Vmap for level in stack)


def under_transforms(gradient: Gradient, solver: Solver) -> Gradient:
    """The gradient method to use: that asked for, or plain backpropagation where a transform looks on.

    Raises:
        GradientError: the method is not the derivative of the discretisation, which is what a transform gives; or `vmap`
            over a solver that remembers.

    Example:
        >>> import torch, isocline
        >>> f = lambda k: isocline.solve(lambda t, y: -k * y, torch.ones(1), [0.0, 1.0]).ys[-1].sum()
        >>> round(torch.func.grad(f)(torch.tensor(1.0)).item(), 3)
        -0.368
        >>> value, tangent = torch.func.jvp(f, (torch.tensor(1.0),), (torch.tensor(1.0),))
        >>> round(tangent.item(), 3)
        -0.368
    """
    if not transformed():
        return gradient
    if solver.remembers and mapped():
        raise GradientError(
            f"solver={snake_case(type(solver).__name__)!r} under vmap: what it remembers of earlier steps is not mapped; "
            f"use batching='per_sample', or a solver without a memory such as 'tsit5'"
        )
    if isinstance(gradient, (Backprop, Checkpointed, Forward)):
        return Backprop()
    raise GradientError(
        f"{type(gradient).__name__} under torch.func or forward-mode differentiation: the transform differentiates the steps "
        f"themselves; use gradient='checkpointed' or 'backprop' there"
    )
