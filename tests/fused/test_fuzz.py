"""Random fields: the program is the field, the native solve the eager one, and so are their gradients."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_fields import COMMON, OWN, STATES, RandomField, fields

import isocline as ic
from isocline.engines.fused import native
from isocline.engines.fused.lanes import LANES
from isocline.engines.fused.trace import trace

pytestmark = [
    pytest.mark.machine,
    pytest.mark.usefixtures("unchecked"),
]  # the checks take three times as long as the rest
F32, F64 = torch.float32, torch.float64
BATCH = 7
# An example is shown as it was drawn, ten operations at most: to shrink it takes minutes.
QUIET = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "phases": [Phase.generate]}
FEW = settings(max_examples=12, derandomize=True, **QUIET)
MANY = settings(max_examples=500, derandomize=True, **QUIET)


def drawn(count, seed=0):
    """t, y, u, v, c in double precision."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((count, STATES), (count, OWN), (COMMON,), ())
    t = torch.rand(count, 1, generator=generator, dtype=F64)
    return [t, *(torch.randn(shape, generator=generator, dtype=F64) for shape in shapes)]


def agree(ours, reference, slack):
    """Each in units of its own size; slack of what another evaluation in the same precision misses, or more."""
    for i, (a, b, s) in enumerate(zip(ours, reference, slack, strict=True)):
        assert a.shape == b.shape and torch.equal(a.isfinite(), b.isfinite()), i
        off = float((a.double() - b).abs().max()) if a.numel() else 0.0
        assert off <= s, f"number {i}: {off:.1e} apart, {s:.1e} allowed"


def slack_of(single, reference, units, dtype):
    """What a reference in double precision and the same in single lie apart, twenty times, in roundings of `dtype`; at least
    `units` of them."""
    eps, coarse = (torch.finfo(x).eps for x in (dtype, single[0].dtype))
    largest = max(float(b.abs().max()) for b in reference if b.numel())
    return [
        eps * (20 / coarse * float((a.double() - b).abs().max()) + units * (float(b.abs().max()) + 0.1 * largest))
        for a, b in zip(single, reference, strict=True)
    ]


# ---- programs -----------------------------------------------------------------------------------------------------
def by_autograd(field, inputs, g):
    """The slope, and its derivatives by all inputs and parameters."""
    inputs = [x.detach().to(g.dtype).requires_grad_() for x in inputs]
    dy = field(*inputs)
    if not dy.requires_grad:
        dy = dy + 0 * inputs[1]
    return [dy.detach(), *torch.autograd.grad(dy, [*inputs, *field.parameters()], g, materialize_grads=True)]


def by_the_machine(field, inputs, g):
    """The same by the program and its derivative."""
    inputs = [x.detach().to(g.dtype) for x in inputs]
    shared = [x.clone().requires_grad_() for x in inputs[3:]]
    t, y, u, *_ = drawn(LANES, seed=1)
    traced = trace(field, *(x.to(g.dtype) for x in (t, y)), [u.to(g.dtype)], shared)
    flat = dict(zip(("t", "y", "u0"), inputs, strict=False))
    leaves = traced.prologue(shared)
    plain = [leaf.detach() for leaf in leaves]
    value, _ = native.evaluate(traced.encoded, flat, plain)
    found, collected = native.evaluate(native.Encoded(traced.derivative), {**flat, "g": g}, plain)
    alive = [(leaf, part) for leaf, part in zip(leaves, collected, strict=True) if leaf.requires_grad]
    rest = [*shared, *field.parameters()]
    parts = [torch.zeros_like(x) for x in rest]
    if alive:
        parts = torch.autograd.grad([x for x, _ in alive], rest, [x for _, x in alive], materialize_grads=True)
    return [value["dy"], *(found[name].view_as(x) for name, x in zip(("t", "y", "u0"), inputs, strict=False)), *parts]


def check_program(field):
    inputs = drawn(37)
    g = torch.randn(37, STATES, generator=torch.Generator().manual_seed(2), dtype=F64)
    exact = by_autograd(RandomField(field), inputs, g)
    single = by_autograd(RandomField(field, F32), inputs, g.float())
    for dtype in (F64, F32):
        found = by_the_machine(RandomField(field, dtype), inputs, g.to(dtype))
        agree(found, exact, slack_of(single, exact, 300, dtype))


@FEW
@given(fields)
def test_the_program_of_a_random_field_is_the_field(field):
    check_program(field)


@pytest.mark.slow
@MANY
@given(fields)
def test_the_programs_of_500_random_fields_are_the_fields(field):
    check_program(field)


# ---- solves -------------------------------------------------------------------------------------------------------
def solved(field, engine, dtype, off=0.0, **options):
    """Solution, and what is compared: observations and the gradients by y0, arguments, parameters and times.

    Of the gradient by an observation's time its own slope is taken away, which is f at its own state: where f jumps, a rounding
    of that state decides which slope it is. States are compared anyway. `off` moves the start, in units of its numbers.
    """
    _, y0, u, v, c = (x.to(dtype).requires_grad_() for x in drawn(BATCH))
    ts = (torch.tensor([0.0, 0.3, 0.55, 1.0], dtype=F64) * torch.linspace(0.6, 1.0, BATCH, dtype=F64)[:, None]).to(
        dtype
    )
    ts.requires_grad_()
    module = RandomField(field, dtype)
    args = (u, v, c)
    sol = ic.solve(module, y0 * (1 + off), ts, args=args, batching="per_sample", engine=engine, **options)
    weights = torch.linspace(-1, 1, sol.ys.numel(), dtype=dtype).view_as(sol.ys)
    wanted = [ts, y0, u, v, c, *module.parameters()]
    by_ts, *grads = torch.autograd.grad((sol.ys * weights).sum(), wanted, materialize_grads=True)
    at = [module(t.unsqueeze(1), y, *args) for t, y in zip(ts.t()[1:], sol.ys[1:], strict=True)]
    own = (torch.stack(at) * weights[1:]).sum(2).t().detach()
    by_ts = torch.cat([by_ts[:, :1], by_ts[:, 1:] - own], 1)
    return sol, [sol.ys.detach(), by_ts, *grads]


def counts(sol):
    return torch.stack((sol.stats.accepted, sol.stats.rejected, sol.stats.evaluations))


def apart(ours, reference):
    return [float((a - b).abs().max()) if b.numel() else 0.0 for a, b in zip(ours, reference, strict=True)]


def within(ours, reference, slack):
    return all(off <= s for off, s in zip(apart(ours, reference), slack, strict=True))


def wider(slack, others, reference):
    """By twenty times what others, solved with a few roundings between, miss the reference by."""
    return [s + 20 * max(each) for s, *each in zip(slack, *(apart(x, reference) for x in others), strict=True)]


def check_fixed(field, dtype, solver):
    """To rounding."""
    options = {"solver": solver, "step": 0.1}
    _, reference = solved(field, "eager", F64, **options)
    _, single = solved(field, "eager", F32, **options)
    fused, found = solved(field, "fused", dtype, **options)
    assert torch.equal(counts(fused), counts(solved(field, "eager", dtype, **options)[0]))
    slack = slack_of(single, reference, 3000, dtype)
    if not within(found, reference, slack):
        # On which side of a jump, or of a kink, a stage is may hang on the last bits of a state.
        near = [solved(field, "eager", dtype, k * torch.finfo(dtype).eps, **options)[1] for k in (-8, 0, 8)]
        slack = wider(slack, near, reference)
    agree(found, reference, slack)


def check_adaptive(field, dtype, solver):
    """The same steps, but where tolerances a little larger or smaller change them too."""
    rtol, little = (1e-6, 1e-6) if dtype == F64 else (1e-3, 0.05)

    def by_eager(tol, off=0.0):
        return solved(field, "eager", dtype, off, solver=solver, rtol=tol, atol=tol)

    eager, reference = by_eager(rtol)
    fused, found = solved(field, "fused", dtype, solver=solver, rtol=rtol, atol=rtol)
    differ = (counts(eager) != counts(fused)).any(0)
    if differ.any():
        near = [counts(by_eager(tol)[0]) for tol in (rtol * (1 + little), rtol * (1 - little))]
        unsteady = (near[0] != near[1]).any(0)
        assert not bool((differ & ~unsteady).any()), f"steps: eager {counts(eager)}, fused {counts(fused)}"
    # Step lengths hang on the rounding of error estimates, and the result on them within the error of the method. In single
    # precision the estimate of the first step is a difference of a few digits: what rounding does there, fixed steps tell.
    share = rtol if differ.any() or dtype == F32 else 1e-3 * rtol
    slack = [share * (1e2 * float(b.abs().max()) + 1) for b in reference]
    if not within(found, reference, slack):
        # Where a step ends just before a kink or a jump or just after hangs on less than that: what a few roundings of the
        # tolerance and of the start do to the eager solve is allowed.
        eps = torch.finfo(dtype).eps
        near = [by_eager(rtol * (1 + 50 * eps))[1], *(by_eager(rtol, k * eps)[1] for k in (-8, 8))]
        slack = wider(slack, near, reference)
    agree(found, [b.double() for b in reference], slack)


solvers = st.sampled_from(("dopri5", "tsit5", "bosh3", "heun", "dopri8"))


@FEW
@given(fields, st.sampled_from((F32, F64)), solvers)
def test_native_solves_of_random_fields_are_the_eager_ones(field, dtype, solver):
    check_fixed(field, dtype, solver)
    check_adaptive(field, dtype, solver)


@pytest.mark.slow
@MANY
@given(fields, st.sampled_from((F32, F64)), solvers)
def test_native_solves_of_500_random_fields_are_the_eager_ones(field, dtype, solver):
    check_fixed(field, dtype, solver)
    check_adaptive(field, dtype, solver)


def test_an_observation_where_the_field_jumps_is_compared_by_what_does_not_hang_on_a_rounding():
    # The last state lies on the jump within the tolerance: the engines' slopes there are those of either side.
    field = [("normalised", 5, 3, 3), ("where both", 1, 4, 4), ("where both", 4, 1, 2)], "tanh"
    check_fixed(field, F32, "dopri8")
    check_adaptive(field, F32, "dopri8")
