"""Class names as Autoware's evaluation reads them: which names mean the same class."""

from __future__ import annotations

import difflib

from base.errors import DataError
from base.messages import shown

__all__ = ["HAZARD", "UNKNOWN", "canonical_label"]

UNKNOWN = "unknown"
HAZARD = "hazard"

# Class -> the names registered for it by perception_eval 1.3.6, besides its own.
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "car": (
        "vehicle.car",
        "vehicle.emergency (ambulance & police)",
        "vehicle.police",
        "vehicle.ambulance",
        "police_car",
        "ambulance",
        "kart",
        "forklift",
        "other_vehicle",
    ),
    "truck": (
        "vehicle.truck",
        "trailer",
        "vehicle.trailer",
        "semi_trailer",
        "tractor_unit",
        "vehicle.construction",
        "construction_vehicle",
        "vehicle.fire",
        "fire_truck",
    ),
    "bus": ("vehicle.bus", "vehicle.bus (bendy & rigid)"),
    "bicycle": ("vehicle.bicycle",),
    "motorbike": ("motorcycle", "vehicle.motorcycle"),
    "pedestrian": (
        "pedestrian.adult",
        "pedestrian.child",
        "pedestrian.construction_worker",
        "pedestrian.personal_mobility",
        "pedestrian.police_officer",
        "pedestrian.stroller",
        "pedestrian.wheelchair",
        "stroller",
        "wheelchair",
        "police_officer",
        "construction_worker",
        "personal_mobility",
        "other_pedestrian",
    ),
    "animal": (),
    HAZARD: (
        "traffic_cone",
        "trafficcone",
        "movable_object.traffic_cone",
        "movable_object.trafficcone",
        "barrier",
        "movable_object.barrier",
        "debris",
        "movable_object.debris",
        "movable_object.pushable_pullable",
        "static_object.bollard",
    ),
    UNKNOWN: ("static_object.bicycle rack", "static_object.bicycle_rack"),
}
_CLASS_OF = {name: label for label, names in _SYNONYMS.items() for name in (label, *names)}
# With `merge_similar_labels`.
_MERGED = {"truck": "car", "bus": "car", "motorbike": "bicycle", HAZARD: UNKNOWN}
_FALSE_POSITIVE = "false_positive"


def canonical_label(name: str, *, merge: bool = False) -> str:
    """The class that a name stands for.

    Args:
        name: As in the data; capitals do not matter.
        merge: Trucks and buses are cars, motorbikes bicycles, and hazards unknown.

    Raises:
        DataError: the name is not registered, or asks for another evaluation task.
    """
    lower = name.lower()
    if lower == _FALSE_POSITIVE:
        raise DataError(
            f"label '{name}' belongs to the false-positive validation task; leave such boxes out of a detection score"
        )
    label = _CLASS_OF.get(lower)
    if label is None:
        near = difflib.get_close_matches(lower[:100], _CLASS_OF, n=1)
        raise DataError(
            f"unknown label {shown(name)}"
            + (f"; did you mean '{near[0]}'? Use" if near else "; use")
            + f" one of {', '.join(_SYNONYMS)}, or a synonym listed in eval/score_labels.py; boxes of no class "
            f"that counts are labelled '{UNKNOWN}'"
        )
    return _MERGED.get(label, label) if merge else label
