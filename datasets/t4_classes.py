"""Which category of a raw T4 dataset counts as which class."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from base.errors import DataError
from base.files import read_json

__all__ = ["ClassRules"]

_CLASSES = ("car", "truck", "bus", "bicycle", "pedestrian")
# Categories of T4 datasets, old and new names, and the class that they count as. What is not here has label -1.
_CATEGORIES = {
    "car": "car kart forklift police_car ambulance vehicle.car vehicle.police vehicle.ambulance "
    "vehicle.emergency_(ambulance_&_police)",
    "truck": "truck fire_truck tractor_unit construction_vehicle vehicle.truck vehicle.construction vehicle.fire",
    "bus": "bus vehicle.bus vehicle.bus_(bendy_&_rigid)",
    "bicycle": "bicycle motorcycle vehicle.bicycle vehicle.motorcycle",
    "pedestrian": "pedestrian police_officer construction_worker stroller wheelchair personal_mobility "
    "pedestrian.adult pedestrian.child pedestrian.construction_worker pedestrian.personal_mobility "
    "pedestrian.police_officer pedestrian.stroller pedestrian.wheelchair",
}
_TWO_WHEELERS = ("bicycle", "motorcycle", "vehicle.bicycle", "vehicle.motorcycle")
_RIDERLESS = ("vehicle_state.parked", "cycle_state.without_rider", "motorcycle_state.without_rider")


@dataclass(frozen=True)
class ClassRules:
    """Which category is which class.

    Attributes:
        classes: In the order of their labels.
        name_mapping: Category -> class; one that maps to no class of `classes` has label -1.
        filter_attributes: (category, attribute): an object of this category with this attribute is not to be detected.
    """

    classes: tuple[str, ...] = _CLASSES
    name_mapping: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {
            category.replace("_(", " (").replace("_&_", " & "): name
            for name, categories in _CATEGORIES.items()
            for category in categories.split()
        }
    )
    filter_attributes: tuple[tuple[str, str], ...] = tuple(
        (category, attribute) for category in _TWO_WHEELERS for attribute in _RIDERLESS
    )

    @classmethod
    def read(cls, path: Path) -> ClassRules:
        """From JSON with any of `classes`, `name_mapping` and `filter_attributes`; what is left out keeps its default.

        Raises:
            DataError: the file is missing or of another form.
        """
        values = read_json(path)
        known = {item.name for item in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) - known:
            raise DataError(f"'{path}' must be an object with some of {sorted(known)}.")
        classes = values.get("classes", list(cls().classes))
        mapping = values.get("name_mapping", cls().name_mapping)
        pairs = values.get("filter_attributes", cls().filter_attributes)
        if (
            not (isinstance(classes, list) and all(isinstance(name, str) for name in classes))
            or not isinstance(mapping, dict)
            or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs)
        ):
            raise DataError(
                f"'{path}': classes is a list of names, name_mapping an object of category: class, filter_attributes a "
                "list of [category, attribute]."
            )
        return cls(tuple(classes), mapping, tuple((str(category), str(attribute)) for category, attribute in pairs))

    def label(self, category: str) -> int:
        """Index of a category's class; -1 where it has none."""
        name = self.name_mapping.get(category)
        return self.classes.index(name) if name in self.classes else -1

    def filtered(self, category: str, attributes: Sequence[str]) -> bool:
        """Whether an object is not to be detected because of an attribute."""
        return any((category, attribute) in self.filter_attributes for attribute in attributes)
