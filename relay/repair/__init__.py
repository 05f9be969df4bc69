"""What operators do by hand: replay, discard, skip, pause, and what is to become of quarantined requests.

Owns which deliveries are meant and may be changed, one bounded step at a time. `plan` says what follows from
a replay, `progress` what travels between steps, `refusal` why something can't be done. Who may ask, and in
which form, is left to `admin`; the change itself and its record to the store.
"""

from relay.repair.aftermath import Lanes
from relay.repair.legible import legible
from relay.repair.plan import RepairConfig
from relay.repair.progress import (
    MAX_ID,
    MAX_STEP,
    USUAL_STEP,
    Goal,
    Progress,
    Step,
    Sweep,
    a_cursor,
    a_pace,
    mark,
    read_progress,
)
from relay.repair.refusal import Refusal, RepairRefusedError
from relay.repair.repairs import Released, Repairs

__all__ = [
    "MAX_ID",
    "MAX_STEP",
    "USUAL_STEP",
    "Goal",
    "Lanes",
    "Progress",
    "Refusal",
    "Released",
    "RepairConfig",
    "RepairRefusedError",
    "Repairs",
    "Step",
    "Sweep",
    "a_cursor",
    "a_pace",
    "legible",
    "mark",
    "read_progress",
]
