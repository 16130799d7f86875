"""What a lowered kernel has to do, and how long a target should take for it: from its statements, never its name."""

from tilewright.cost.kind import KINDS, kind_of
from tilewright.cost.predict import Prediction, Rates, device_rates, predict, predicted_seconds, rates_of
from tilewright.cost.record import KernelRecord, read_record, record_of
from tilewright.cost.work import Amount, Work, work_of

__all__ = [
    "KINDS",
    "Amount",
    "KernelRecord",
    "Prediction",
    "Rates",
    "Work",
    "device_rates",
    "kind_of",
    "predict",
    "predicted_seconds",
    "rates_of",
    "read_record",
    "record_of",
    "work_of",
]
