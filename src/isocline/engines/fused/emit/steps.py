"""Runs of fixed steps of a small field as C++ functions: states, slopes and their cotangents stay in registers from stage to
stage, where the machine leaves every one in memory.

The machine (together.hpp) calls them for steps that nobody looks into, with tiles of NV vectors a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product
from textwrap import indent

from isocline.engines.fused.emit.blocks import blocks, statements
from isocline.engines.fused.emit.values import number, result, uniform
from isocline.engines.fused.program import Instruction, Operand
from isocline.engines.fused.traced import Traced
from isocline.solvers.tableau import Tableau

LARGEST = 400  # statements of all stages together
NUMBERS = 32  # of the leaves, and of what is summed up for them
STATE = 8  # numbers of a state
AHEAD = 8  # steps that states are fetched before they are read

FORWARD = """
INLINE void slope(const V<T> *w, V<T> t, const V<T> *u, const V<T> *y, V<T> *dy, V<T> *kept) {{
  (void)w, (void)t, (void)u, (void)kept;
{slope}
}}
extern "C" void isocline_steps(const T *const *leaves, const V<T> *low, const T *times, const T *hs, int64_t count, V<T> *y,
                               V<T> *states, bool past) {{
  const V<T> w[] = {{{numbers}}};
  V<T> first[{size} * NV], none[{kept}];
  (void)leaves, (void)low, (void)times, (void)first, (void)w;
{begin}
  for (int64_t step = 0; step < count; step++) {{
    const V<T> h = all<T>(hs[step]), t[] = {{{times}}};
    (void)t;
#pragma GCC unroll 2
    for (int v = 0; v < NV; v++) {{
      const V<T> u[] = {{{further}}};
      V<T> {stages};
{steps}
    }}
    if (states) states += {size} * NV;
  }}
}}
"""
BACKWARD = """
INLINE void pull(const V<T> *w, V<T> t, const V<T> *u, const V<T> *y, const V<T> *kept, const V<T> *g, V<T> *gy, V<T> *gu,
                 V<T> *sums) {{
  (void)w, (void)t, (void)u, (void)y, (void)kept, (void)g, (void)gu, (void)sums;
{pull}
}}
extern "C" void isocline_steps_back(const T *const *leaves, const V<T> *low, const T *times, const T *hs, int64_t count,
                                    const V<T> *states, V<T> *lambda, V<T> *further, V<T> *const *into) {{
  const V<T> w[] = {{{numbers}}};
  V<T> sums[{sums}] = {{}};
  (void)leaves, (void)low, (void)times, (void)further, (void)into, (void)w, (void)sums;
  for (int64_t step = count - 1; step >= 0; step--) {{
    const V<T> h = all<T>(hs[step]), t[] = {{{times}}}, *from = states + step * {size} * NV;
    (void)t;
#pragma GCC unroll 2
    for (int v = 0; v < NV; v++) {{
      const V<T> u[] = {{{further}}};
      V<T> gu[{inputs}] = {{}}, gy[{size}], l[{size}], kept[{used}][{kept}], {stages}, {slopes};
{steps}
    }}
  }}
{end}
}}
"""


def forward(traced: Traced, tableau: Tableau) -> str:
    """The function `isocline_steps` of an explicit method; nothing where the field is too large, or none of this kind."""
    steps = _Steps(traced, tableau)
    return steps.forward() if steps.small() else ""


def backward(traced: Traced, tableau: Tableau) -> str:
    """The function `isocline_steps_back` likewise, after that of `forward`."""
    steps = _Steps(traced, tableau)
    return steps.backward() if steps.small() else ""


class _Steps:
    def __init__(self, traced: Traced, tableau: Tableau) -> None:
        self.field, self.derivative, self.tableau = traced.encoded, traced.encoded_derivative, tableau
        rows = [row for _, first, count in traced.program.inputs for row in range(first, first + count)]
        self.time, self.out = rows[0], [row for _, found in traced.program.outputs for row in found]
        self.size = len(self.out)
        self.y, self.u = rows[1 : 1 + self.size], rows[1 + self.size :]
        rest = self.derivative
        self.back = [row for _, found in rest.program.outputs for row in found]
        read = {row for one in (*rest.plain, *rest.collects) for row in one.reads()} | set(self.back)
        self.kept = sorted(read & {row for one in self.field.plain for row in range(one.out, one.out + one.count)})
        self.slopes, self.factors = self._apart()
        self.a = [(), *tableau.a]
        self.used = max(i for i, b in enumerate(tableau.b) if b) + 1
        self.numbers: dict[tuple[int, int], int] = {}  # of the leaves, by where they are handed over
        self.sums: dict[tuple[int, int], int] = {}

    def small(self) -> bool:
        """Whether there are registers and time to compile it."""
        plain = [*self.field.plain, *self.derivative.plain]
        work = sum(map(statements, (*plain, *self.derivative.collects))) * self.tableau.stages
        if self.size > STATE or len(self.u) > STATE or work > LARGEST:
            return False
        if any(block.kind != "straight" for part in (self.field, self.derivative) for block in blocks(part.plain)):
            return False
        self._slope(), self._pull()
        return len(self.numbers) <= NUMBERS and len(self.sums) <= NUMBERS

    def _apart(self) -> tuple[list[int], list[Callable[[], str] | None]]:
        """Rows of the slopes, and what they are still to be multiplied by: of a product with a number that all samples share the
        other factor, where nobody else reads the product. Such a number goes into the weights of a step, once for all lanes."""
        made = {one.out + i: (one, i) for one in self.field.plain for i in range(one.count)}
        others = {row for one in (*self.field.plain, *self.field.collects) for row in one.reads()} | set(self.kept)
        rows, factors = list[int](), list[Callable[[], str] | None]()
        for row in self.out:
            one, i = made.get(row, (None, 0))
            shared = [x for x in one.operands if x.kind not in ("rows", "splat")] if one is not None else []
            if one is None or one.op != "mul" or len(shared) != 1 or row in others or self.out.count(row) > 1:
                rows.append(row)
                factors.append(None)
                continue
            (other,) = (x for x in one.operands if x is not shared[0])
            rows.append(other.at + (i if other.kind == "rows" else 0))
            factors.append(partial(uniform, shared[0], i, self._entry))
        return rows, factors

    # ---- the two programs -----------------------------------------------------------------------------------------
    def _entry(self, leaf: int, index: int | str) -> str:
        return f"w[{self.numbers.setdefault((leaf, int(index)), len(self.numbers))}]"

    def _names(self) -> dict[int, str]:
        """Of the rows that are handed over."""
        return (
            {self.time: "t"}
            | {row: f"y[{d}]" for d, row in enumerate(self.y)}
            | {row: f"u[{d}]" for d, row in enumerate(self.u)}
        )

    def _reader(self, names: dict[int, str]) -> Callable[[Operand, int], str]:
        def read(operand: Operand, i: int) -> str:
            if operand.kind in ("rows", "splat"):
                return names[operand.at + (i if operand.kind == "rows" else 0)]
            return uniform(operand, i, self._entry)

        return read

    def _statements(self, code: Iterable[Instruction], names: dict[int, str]) -> list[str]:
        read, found = self._reader(names), []
        for one in code:
            for i in range(one.count):
                value = result(one, i, read, names.__getitem__, self._entry)
                names[one.out + i] = f"r{one.out + i}"
                found.append(f"const V<T> r{one.out + i} = {value};")
        return found

    def _slope(self) -> str:
        names = self._names()
        found = self._statements(self.field.plain, names)
        found += [f"dy[{d}] = {names[row]};" for d, row in enumerate(self.slopes)]
        found += [f"kept[{i}] = {names[row]};" for i, row in enumerate(self.kept)]
        return _lines(found, 1)

    def _pull(self) -> str:
        names, inputs = self._names(), self.derivative.program.inputs
        names |= {row: f"kept[{i}]" for i, row in enumerate(self.kept)}
        _, first, count = inputs[-1]
        names |= {first + d: f"g[{d}]" for d in range(count)}
        found, read = self._statements(self.derivative.plain, names), self._reader(names)
        for one in self.derivative.collects:
            outer = one.op == "outer"
            for i, j in product(range(one.count), range(one.width if outer else 1)):
                at = i * one.width + j if outer else one.out + (i if one.op == "gather" else 0)
                value = read(one.operands[0], i) + (f" * {read(one.operands[1], j)}" if outer else "")
                found.append(f"sums[{self.sums.setdefault((one.leaf, at), len(self.sums))}] += {value};")
        found += [f"gy[{d}] = {names[row]};" for d, row in enumerate(self.back[1 : 1 + self.size])]
        found += [f"gu[{j}] += {names[row]};" for j, row in enumerate(self.back[1 + self.size :])]
        return _lines(found, 1)

    # ---- the steps ------------------------------------------------------------------------------------------------
    def _combined(self, weights: Sequence[float], d: int) -> str:
        """Number d of the state y + h Σ weights_j k_j: slopes are summed first, or each sum would be rounded as the state is."""
        terms = [(j, w) for j, w in enumerate(weights) if w]
        if not terms:
            return f"x0[{d}]"
        by_weight = {w: _sum([f"k{j}[{d}]" for j, v in terms if v == w]) for _, w in terms}
        last, factor = terms[-1][1], self.factors[d]
        slope = by_weight.pop(last)
        for w, others in by_weight.items():
            slope = f"({number(w / last)} * {others} + {slope})"
        return f"x0[{d}] + {_times('h' if factor is None else f'(h * {factor()})', last)} * {slope}"

    def _stages(self, first: int, last: int, kept: str) -> list[str]:
        found = []
        for i in range(first, last):
            if i:
                found += [f"x{i}[{d}] = {self._combined(self.a[i], d)};" for d in range(self.size)]
            found.append(f"slope(w, t[{i}], u, x{i}, k{i}, {kept.format(i)});")
        return found

    def _shared(self) -> dict[str, object]:
        by_stage = [f"all<T>(times[step * {self.tableau.stages} + {i}])" for i in range(self.tableau.stages)]
        return {
            "size": self.size,
            "kept": max(1, len(self.kept)),
            "numbers": ", ".join(f"all<T>(leaves[{leaf}][{k}])" for leaf, k in self.numbers) or "V<T>{}",
            "times": ", ".join(by_stage),
            "further": ", ".join(f"low[{row} * NV + v]" for row in self.u) or "V<T>{}",
        }

    def _arrays(self, names: str, stages: int) -> str:
        return ", ".join(f"{name}{i}[{self.size}]" for i in range(stages) for name in names)

    def forward(self) -> str:
        fsal, last, each = self.tableau.fsal, self.tableau.stages - 1, range(self.size)
        begin = []
        if fsal:  # the first slope of all lanes
            begin = [
                "for (int v = 0; v < NV && count; v++) {",
                f"  const V<T> u[] = {{{self._shared()['further']}}}, x[] = {{{', '.join(f'y[{d} * NV + v]' for d in each)}}};",
                f"  V<T> k[{self.size}];",
                "  slope(w, all<T>(times[0]), u, x, k, none);",
                *(f"  first[{d} * NV + v] = k[{d}];" for d in each),
                "}",
            ]
        steps = [f"x0[{d}] = y[{d} * NV + v];" for d in each]
        steps += ["if (states) {", *(f"  store<T>(states + {d} * NV + v, x0[{d}], past);" for d in each), "}"]
        if fsal:
            steps += [f"k0[{d}] = first[{d} * NV + v];" for d in each]
        steps += self._stages(int(fsal), self.tableau.stages, "none")
        ends = [f"x{last}[{d}]" if fsal else self._combined(self.tableau.b, d) for d in each]
        steps += [f"y[{d} * NV + v] = {ends[d]};" for d in each]
        if fsal:
            steps += [f"first[{d} * NV + v] = k{last}[{d}];" for d in each]
        return FORWARD.format(
            slope=self._slope(),
            begin=_lines(begin, 1),
            stages=self._arrays("xk", self.tableau.stages),
            steps=_lines(steps, 3),
            **self._shared(),
        )

    def backward(self) -> str:
        each, pull = range(self.size), self._pull()
        ahead = f"{AHEAD} * {self.size} * NV"  # they come from far away, one after the other
        steps = [f"__builtin_prefetch(from + ({d} * NV + v) - {ahead});" for d in each]
        steps += [f"x0[{d}] = from[{d} * NV + v]; l[{d}] = lambda[{d} * NV + v];" for d in each]
        steps += self._stages(0, self.used, "kept[{}]")
        steps += [f"g{i}[{d}] = {_times('h', b)} * l[{d}];" for i, b in enumerate(self.tableau.b) if b for d in each]
        given = {i for i, b in enumerate(self.tableau.b) if b}
        for i in range(self.used - 1, -1, -1):
            if i not in given:
                continue
            steps.append(f"pull(w, t[{i}], u, x{i}, kept[{i}], g{i}, gy, gu, sums);")
            steps += [f"l[{d}] += gy[{d}];" for d in each]
            for j in (j for j, w in enumerate(self.a[i]) if w):
                sign = "+=" if j in given else "="
                given.add(j)
                steps += [f"g{j}[{d}] {sign} {_times('h', self.a[i][j])} * gy[{d}];" for d in each]
        steps += [f"lambda[{d} * NV + v] = l[{d}];" for d in each]
        steps += [f"further[{j} * NV + v] += gu[{j}];" for j in range(len(self.u))]
        end = [f"into[{leaf}][{k}] += sums[{i}];" for (leaf, k), i in self.sums.items()]
        return BACKWARD.format(
            pull=pull,
            sums=max(1, len(self.sums)),
            inputs=max(1, len(self.u)),
            used=self.used,
            stages=self._arrays("xk", self.used),
            slopes=self._arrays("g", self.used),
            steps=_lines(steps, 3),
            end=_lines(end, 1),
            **self._shared(),
        )


def _times(name: str, weight: float) -> str:
    return name if weight == 1 else f"({name} * {number(weight)})"


def _sum(terms: Sequence[str]) -> str:
    return terms[0] if len(terms) == 1 else f"({' + '.join(terms)})"


def _lines(found: Iterable[str], depth: int) -> str:
    return indent("\n".join(found), "  " * depth)
