"""Step-size control: fixed steps, PID control, Hairer's initial step, and the times a solve must step to exactly."""

from isocline.control.controllers import PID, Controller, FixedStep
from isocline.control.observer import Observer
from isocline.control.schedule import Stops

__all__ = ["PID", "Controller", "FixedStep", "Observer", "Stops"]
