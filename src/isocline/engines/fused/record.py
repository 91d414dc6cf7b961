"""What a function of tensors does, operation by operation, as a graph.

PyTorch's own `make_fx` records the same, but loads the whole of its compiler first: more than a second, in every process, for
what then takes milliseconds.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from isocline.engines.fused.lanes import CannotFuseError

aten = torch.ops.aten
PLAIN = {Tensor, nn.Parameter, nn.Buffer}
FEW = 250  # numbers of a constant that is known, whatever it is computed into
UNKNOWN = object()  # what a tensor's numbers are that hang on the inputs


def record(f: Callable[..., Tensor], inputs: tuple[Tensor, ...], parts: Mapping[Any, Any]) -> fx.GraphModule:
    """The graph of f: its placeholders are the inputs, its attributes the tensors that f holds.

    Every node's `meta["val"]` has the shape and dtype of its result, and no numbers.

    Args:
        f: `f(*inputs)` to a tensor.
        inputs: their numbers do not matter where no branch hangs on them.
        parts: what operations are made of, by operation; what is not among them is recorded as it is.

    Raises:
        CannotFuseError: where f reads a number out of a tensor that is neither held nor made of constants.

    Example:
        >>> y = torch.ones(3)
        >>> [node.op for node in record(lambda x: torch.tanh(x) * y, (torch.zeros(3),), {}).graph.nodes]
        ['placeholder', 'call_function', 'get_attr', 'call_function', 'output']
    """
    recorder = _Recorder(parts)
    for i, x in enumerate(inputs):
        recorder.know(x, recorder.graph.placeholder(f"arg{i}"))
    with recorder:
        result = f(*inputs)
    recorder.graph.output(recorder.node(result))
    return fx.GraphModule(recorder.held, recorder.graph)


class Lookout(TorchDispatchMode):
    """Sees operations below autograd, without loading PyTorch's compiler only to tell it to look away."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _Recorder(Lookout):
    """Those of a derivative that a function takes, too.

    Attributes:
        graph: of what was seen.
        held: by name, the tensors that nothing seen here made.
        nodes: of tensors, by identity; they are kept, so that no other takes it.
        constants: the numbers of tensors that are made of numbers alone, by node.
    """

    def __init__(self, parts: Mapping[Any, Any]) -> None:
        super().__init__()
        self.parts, self.graph = parts, fx.Graph()
        self.held: dict[str, Tensor] = {}
        self.nodes: dict[int, tuple[fx.Node, Tensor]] = {}
        self.constants: dict[fx.Node, Tensor] = {}

    def know(self, x: Tensor, node: fx.Node) -> None:
        """A tensor that a node gives."""
        node.meta["val"] = torch.empty(x.shape, dtype=x.dtype, device="meta")
        self.nodes[id(x)] = node, x

    def node(self, x: Tensor) -> fx.Node:
        """The one that gives a tensor."""
        if id(x) not in self.nodes:
            name = f"held{len(self.held)}"
            self.held[name] = x
            self.know(x, self.graph.get_attr(name))
        return self.nodes[id(x)][0]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(one not in PLAIN for one in types):  # they see to themselves, and come again with plain ones
            return NotImplemented
        kwargs = kwargs or {}
        made = self.parts.get(func)
        if made is None and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            made = func.decompose  # what autograd, where it is on, has already taken apart
        if made is not None:
            with self:
                found = made(*args, **kwargs)
            if found is not NotImplemented:
                return found
        numbers: Any = pytree.tree_map_only(Tensor, self._numbers, (args, kwargs))
        known = all(x is not UNKNOWN for x in pytree.tree_leaves(numbers))
        if torch.Tag.data_dependent_output in func.tags:
            if not known:
                raise CannotFuseError(f"the field could not be traced: it reads a number out of a tensor, by {func}")
            return func(*numbers[0], **numbers[1])
        # `torch.tensor(2.0)` must give a new one each time, or what is written into it would stay.
        fresh = func is aten.lift_fresh.default
        nodes: Any = pytree.tree_map_only(Tensor, self.node, (args, kwargs))
        node = self.graph.call_function(aten.lift_fresh_copy.default if fresh else func, *nodes)
        node.meta["val"] = None
        out = func(*args, **kwargs)
        if isinstance(out, (list, tuple)):
            for i, x in enumerate(out):
                self.know(x, self.graph.call_function(operator.getitem, (node, i)))
        if not isinstance(out, Tensor):
            return out
        self.know(out, node)
        if fresh and out.numel() <= FEW:
            self.constants[node] = out.clone()
        elif known and not func._schema.is_mutable and any(n in self.constants for n in node.all_input_nodes):
            self.constants[node] = out
        return out

    def _numbers(self, x: Tensor) -> Any:
        """Those of a tensor that is held, or made of constants; UNKNOWN of others, which hang on the inputs."""
        node = self.nodes[id(x)][0] if id(x) in self.nodes else None
        return x if node is None or node.op == "get_attr" else self.constants.get(node, UNKNOWN)
