"""What a step of a loss will cost before it is run: memory, operations, bytes sent and time, for each strategy.

Counts (operations, bytes) follow the code and are tested against it. Times come from a stated model of the machine.
"""

from clipfast.plan.machine import Machine
from clipfast.plan.problem import Problem
from clipfast.plan.strategies import Plan, plans

__all__ = ["Machine", "Plan", "Problem", "plans"]
