"""What a step of a loss will cost before it is run: memory, operations, bytes sent and time, for each strategy.

Operations and bytes are counted from the sweep's own schedule and tested against steps that run. Times come from a model of
the machine.
"""

from clipfast.plan.machine import Machine
from clipfast.plan.problem import Problem
from clipfast.plan.strategies import Plan, plans

__all__ = ["Machine", "Plan", "Problem", "plans"]
