"""What a session's program is made of, for tests that count calls into compiled code."""

from collections.abc import Mapping

import numpy as np

import fastlstm
from fastlstm.program import HostStep, Program


def program(session: fastlstm.Session, feeds: Mapping[str, np.ndarray]) -> Program:
    """Return the program of a call with inputs of these shapes."""
    shapes = tuple(np.shape(feeds[spec.name]) for spec in session.inputs)
    frame = session._plan.bind(shapes)
    assert frame.waits_for is None
    return frame.program


def numpy_steps(session: fastlstm.Session, feeds: Mapping[str, np.ndarray]) -> list[str]:
    """Return the nodes of a call that NumPy computes."""
    return [step.node for step in program(session, feeds).steps if isinstance(step, HostStep)]


def is_one_call(session: fastlstm.Session, feeds: Mapping[str, np.ndarray]) -> bool:
    """Tell whether a call with inputs of these shapes is one call into compiled code."""
    return program(session, feeds).only_call is not None
