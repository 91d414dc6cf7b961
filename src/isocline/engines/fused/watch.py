"""The Python state that a field's values hang on, remembered, so that asking whether it is still the same costs microseconds.

Attributes and modes of modules, entries of lists and dicts, closures, defaults and globals are compared by identity. Tensors
are read anew for each solve and may change in place. What cannot be seen through (an object of C, a field that reads numbers
out of tensors) is not watched.
"""

from __future__ import annotations

import dis
import enum
import functools
import operator
import re
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.overrides import TorchFunctionMode

from isocline.autocast import Autocast
from isocline.engines.fused.record import Lookout

ATOMS = (
    type(None), bool, int, float, complex, str, bytes, range, slice, enum.Enum, torch.dtype, torch.device, torch.layout,
    torch.memory_format, torch.Size, type(Ellipsis), type(NotImplemented), property, staticmethod, classmethod,
    types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.GetSetDescriptorType,
    types.MemberDescriptorType, torch._ops.OpOverload, torch._ops.OpOverloadPacket, types.GenericAlias, re.Pattern,
)  # fmt: skip
TRUSTED = {*sys.stdlib_module_names, "torch", "numpy", "jaxtyping", "beartype"}
# Of a module what no forward pass looks at.
BOOKS = frozenset({
    "_non_persistent_buffers_set", "_is_full_backward_hook", "_state_dict_hooks", "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
})  # fmt: skip
MOST = 2000  # things looked at before giving up


class UnwatchedError(Exception):
    """A field whose state cannot be seen through; the message names where."""


class Watch:
    """What a callable's result can depend on beside its arguments and the numbers in tensors, as it is now.

    Args:
        f: the callable.

    Raises:
        UnwatchedError: naming what cannot be looked into.

    Example:
        >>> layer = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
        >>> watch = Watch(layer)
        >>> watch.holds(), watch.holds() if layer.eval() is None else watch.holds()
        (True, False)
    """

    def __init__(self, f: Callable[..., Any]) -> None:
        self.root, self.kept = f, []
        self.dicts: list[Any] = []
        self.views: list[Callable[[], Any]] = []  # of each, what gives those of its values that matter
        self.lists: list[Any] = []
        self.empty: list[Any] = [modules._global_forward_hooks, modules._global_forward_pre_hooks]
        self.cells: list[Any] = []
        self.names: list[tuple[dict[str, Any], tuple[str, ...]]] = []
        self.objects: list[Any] = []  # referred to weakly: what is kept for a field must not keep it alive
        seen: set[int] = set()
        roots = [f, f.__self__] if isinstance(f, types.MethodType) else [f]
        self.waiting: list[Any] = [f]
        while self.waiting:
            thing = self.waiting.pop()
            if id(thing) in seen:
                if any(thing is root for root in roots):
                    raise UnwatchedError("it holds itself")
                continue
            seen.add(id(thing))
            if len(seen) > MOST:
                raise UnwatchedError("it holds too much")
            self._look(thing)
        del self.waiting, self.root
        self.size, self.values = sum(map(len, self.dicts)), [*self._values()]
        self.entries = list(chain.from_iterable(self.lists))
        self.others = self._others()
        self.kept += [*self.values, *self.entries]

    def holds(self) -> bool:
        """Whether all is as it was."""
        try:
            return (
                not any(self.empty)
                and sum(map(len, self.dicts)) == self.size
                and all(map(operator.is_, self._values(), self.values))
                and sum(map(len, self.lists)) == len(self.entries)
                and all(map(operator.is_, chain.from_iterable(self.lists), self.entries))
                and self._others() == self.others
            )
        except KeyError:  # one name in the place of another
            return False

    def _values(self) -> Iterator[Any]:
        return chain.from_iterable(map(operator.call, self.views))

    def _others(self) -> Any:
        return (
            [type(ref()) for ref in self.objects],
            [id(cell.cell_contents) for cell in self.cells] if self.cells else None,
            [id(where.get(name)) for where, names in self.names for name in names] if self.names else None,
        )

    # ---- looking ----------------------------------------------------------------------------------------------------
    def _look(self, thing: Any) -> None:
        if isinstance(thing, (*ATOMS, Tensor)):
            return
        if isinstance(thing, types.ModuleType):
            if _package(thing.__name__) not in TRUSTED:
                raise UnwatchedError(f"it uses the module {thing.__name__}")
        elif isinstance(thing, (types.FunctionType, types.MethodType, functools.partial)):
            self._callable(thing)
        elif isinstance(thing, type):
            self._class(thing)
        elif isinstance(thing, (list, tuple, set, frozenset)):
            (self.lists if thing else self.empty).append(thing)
            self.waiting += thing
        elif isinstance(thing, (dict, types.MappingProxyType)):
            self._dict(thing)
        elif isinstance(thing, nn.Module) or (hasattr(thing, "__dict__") and not hasattr(type(thing), "__slots__")):
            self._object(thing)
        else:
            raise UnwatchedError(f"it holds a {type(thing).__name__}")

    def _object(self, thing: Any) -> None:
        try:
            self.objects.append(weakref.ref(thing))
        except TypeError:
            raise UnwatchedError(f"it holds a {type(thing).__name__}") from None
        names = [name for name in vars(thing) if name not in BOOKS]
        if isinstance(thing, nn.Module) and len(names) > 1:
            self._values_of(vars(thing), functools.partial(operator.itemgetter(*names), vars(thing)))
        else:
            self._dict(vars(thing))
        self._class(type(thing))

    def _dict(self, thing: Any) -> None:
        if thing:
            self._values_of(thing, thing.values)
        else:
            self.empty.append(thing)

    def _values_of(self, thing: Any, view: Callable[[], Any]) -> None:
        self.dicts.append(thing)
        self.views.append(view)
        self.waiting += view()

    def _class(self, cls: type) -> None:
        """What its methods use, of those classes that a user may have written."""
        for base in cls.__mro__:
            if _package(base.__module__) in TRUSTED or base is object:
                continue
            self.dicts.append(vars(base))
            self.views.append(vars(base).values)
            for name, value in vars(base).items():
                if isinstance(value, (types.FunctionType, nn.Module)) and name not in ("__init__", "__repr__"):
                    self.waiting.append(value)
                elif isinstance(value, (staticmethod, classmethod)):
                    self.waiting.append(value.__func__)
                elif isinstance(value, property):
                    self.waiting.append(value.fget)
                elif isinstance(value, (list, dict, Tensor)) and not name.startswith("__"):
                    self.waiting.append(value)

    def _callable(self, thing: Any) -> None:
        if isinstance(thing, types.MethodType):
            self.waiting += [thing.__self__, thing.__func__]
            return
        if isinstance(thing, functools.partial):
            self.waiting += [thing.func, *thing.args, *thing.keywords.values()]
            return
        if _package(thing.__module__) in TRUSTED:
            return
        self.kept.append(thing)
        self.waiting += [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
        self._dict(vars(thing))
        for cell in thing.__closure__ or ():
            try:
                self.waiting.append(cell.cell_contents)
            except ValueError:  # filled later
                raise UnwatchedError("it has an empty closure") from None
            self.cells.append(cell)
        where = thing.__globals__
        names = tuple(sorted(name for name in _names(thing.__code__) if name in where))
        if names:
            self.names.append((where, names))
            self.waiting += [where[name] for name in names]
            self.kept += [where[name] for name in names]


def home(f: Any) -> tuple[Any, Any]:
    """What a callable is known by from solve to solve, and what tells it from others known by the same: a bound method and a
    function within a function are objects made anew each time."""
    if isinstance(f, Autocast):
        thing, more = home(f.f)
        return thing, (more, f.device_type, f.dtype)
    if isinstance(f, types.MethodType):
        return f.__self__, f.__func__
    return (f.__code__ if isinstance(f, types.FunctionType) else f), None


def _package(name: str | None) -> str:
    return (name or "").partition(".")[0]


def _names(code: types.CodeType) -> set[str]:
    """The globals that code uses, that of functions inside too."""
    found = {str(one.argval) for one in dis.get_instructions(code) if one.opname == "LOAD_GLOBAL"}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return found


class Reads(TorchFunctionMode):
    """Notices in its context whether numbers are read out of tensors, on which a branch or a constant may then hang.

    Example:
        >>> with Reads() as reads:
        ...     _ = torch.ones(2).sum()
        >>> reads.found
        False
        >>> with Reads() as reads:
        ...     _ = float(torch.ones(()))
        >>> reads.found
        True
    """

    NAMES = frozenset({
        "item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__", "__complex__", "data_ptr",
        "equal", "is_nonzero", "allclose", "__contains__", "untyped_storage", "storage", "__reduce_ex__", "__format__",
    })  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.found = False
        self.below = _ReadsBelow(self)

    def __enter__(self) -> Reads:
        self.below.__enter__()
        super().__enter__()
        return self

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        super().__exit__(exc_type, exc_val, exc_tb)
        self.below.__exit__(exc_type, exc_val, exc_tb)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found |= getattr(func, "__name__", "") in self.NAMES
        return func(*args, **(kwargs or {}))


class _ReadsBelow(Lookout):
    """The same below autograd, where operations made of others show what they read."""

    def __init__(self, above: Reads) -> None:
        super().__init__()
        self.above = above

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.above.found |= func._overloadpacket in READING
        return func(*args, **(kwargs or {}))


READING = {torch.ops.aten._local_scalar_dense, torch.ops.aten.equal, torch.ops.aten.is_nonzero, torch.ops.aten.nonzero}
