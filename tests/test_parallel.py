"""All intervals at once: the same trajectory."""

import pytest
import torch

import isocline as ic

F64 = torch.float64


def field(t, y, k):
    return torch.stack((y[..., 1], -k * torch.sin(y[..., 0])), -1) + 0.1 * torch.cos(t).reshape(
        -1, *[1] * (y.dim() - 1)
    )


@pytest.mark.parametrize("shape", [(2,), (3, 2)])
@pytest.mark.parametrize("end", [6.0, -6.0])
def test_it_converges_to_the_fine_solution(shape, end):
    """What is left of the joints falls by a factor each time; the ends of the intervals miss by the tolerances alone."""
    y0, k = torch.linspace(-1, 1, 6, dtype=F64)[: torch.Size(shape).numel()].reshape(shape), 1.3
    ts = torch.linspace(0, end, 16, dtype=F64)
    want = ic.solve(field, y0, ts, args=(k,), rtol=1e-10, atol=1e-12).ys
    changes = []
    for iterations in (1, 2, 3):
        changes.append(ic.parareal(field, y0, ts, iterations=iterations, tol=0.0, args=(k,)).change)
    assert changes[1] < 0.1 * changes[0] and changes[2] < 0.1 * changes[1]
    got = ic.parareal(field, y0, ts, fine={"rtol": 1e-10, "atol": 1e-12}, args=(k,))
    assert got.change <= 1e-8 and got.iterations < 15
    assert float((got.ys - want).abs().max()) < 1e-7


def test_after_as_many_iterations_as_intervals_it_is_the_chain_of_fine_solves():
    y0, ts = torch.tensor([1.0, 0.0], dtype=F64), torch.linspace(0, 3, 5, dtype=F64)
    fine = {"solver": "rk4", "step": 0.1}
    got = ic.parareal(field, y0, ts, coarse={"solver": "euler", "step": 1.0}, fine=fine, tol=0.0, args=(1.0,))
    want = y0
    for n in range(4):
        want = ic.solve(field, want, ts[n : n + 2], args=(1.0,), **fine).ys[-1]
    assert got.iterations == 4
    assert torch.allclose(got.ys[-1], want, rtol=1e-13)


def test_gradients_are_those_of_the_solve():
    ts = torch.linspace(0, 3, 7, dtype=F64)
    grads = []
    for run in (ic.solve, ic.parareal):
        y0 = torch.tensor([1.0, 0.3], dtype=F64, requires_grad=True)
        k = torch.tensor(1.2, dtype=F64, requires_grad=True)
        ys = run(field, y0, ts, args=(k,)).ys
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(ys.square().sum(), (y0, k))]))
    assert torch.allclose(grads[0], grads[1], rtol=1e-5)


def test_mistakes_are_named(unchecked):
    y0 = torch.ones(2)
    with pytest.raises(TypeError, match="y0: expected a real tensor, got tuple"):
        ic.parareal(field, (y0, y0), torch.linspace(0, 1, 3))
    with pytest.raises(ValueError, match=r"ts: shape \(1,\), expected \(T,\) with T ≥ 2"):
        ic.parareal(field, y0, torch.zeros(1))
    with pytest.raises(ValueError, match="fine: batching and args are set by parareal"):
        ic.parareal(field, y0, torch.linspace(0, 1, 3), fine={"batching": "shared"})
