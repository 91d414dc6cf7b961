"""torchdiffeq's four functions, with its signatures and options, on isocline's solvers.

    from isocline.compat.torchdiffeq import odeint, odeint_adjoint

`docs/migration.md` lists what differs, and why.
"""

from isocline.compat.torchdiffeq.adjoint import odeint_adjoint
from isocline.compat.torchdiffeq.dense import odeint_dense
from isocline.compat.torchdiffeq.direct import odeint, odeint_event

__version__ = "0.2.5"  # of the interface: code written for torchdiffeq may ask

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]
