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
    # No class of the detector: a part of a truck, see `ClassRules.merge_objects`.
    "trailer": "trailer semi_trailer vehicle.trailer",
    "pedestrian": "pedestrian police_officer construction_worker stroller wheelchair personal_mobility "
    "pedestrian.adult pedestrian.child pedestrian.construction_worker pedestrian.personal_mobility "
    "pedestrian.police_officer pedestrian.stroller pedestrian.wheelchair",
}
_MERGE_TYPES = ("extend_longer", "union")
_TWO_WHEELERS = ("bicycle", "motorcycle", "vehicle.bicycle", "vehicle.motorcycle")
_RIDERLESS = ("vehicle_state.parked", "cycle_state.without_rider", "motorcycle_state.without_rider")


@dataclass(frozen=True)
class ClassRules:
    """Which category is which class.

    Attributes:
        classes: In the order of their labels.
        name_mapping: Category -> class; one that maps to no class of `classes` has label -1.
        filter_attributes: (category, attribute): an object of this category with this attribute is not to be detected.
        merge_objects: (class, (name, name)): two objects of these names that touch or stand within 2 m become one of
            the class; names are those that `name_mapping` gives. `datasets.t4_merging` does it.
        merge_type: "extend_longer" or "union": the box that they become; None merges nothing.
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

    merge_objects: tuple[tuple[str, tuple[str, str]], ...] = (("truck", ("truck", "trailer")),)
    merge_type: str | None = "extend_longer"

    @classmethod
    def read(cls, path: Path) -> ClassRules:
        """From JSON with any of the attributes; what is left out keeps its default, but trailers stay where they are a
        class.

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
        # Parts that are classes of their own are to be found as such.
        usual = [item for item in cls().merge_objects if not ({*item[1]} - {item[0]}) & {*classes}]
        merges = values.get("merge_objects", usual) or []
        if not isinstance(merges, (list, tuple)) or not all(_is_merge(item) for item in merges):
            raise DataError(
                f'\'{path}\': merge_objects is a list of [class, [name, name]], such as ["truck", ["truck", '
                f'"trailer"]]; two objects are merged, not more.'
            )
        merge_type = values.get("merge_type", cls().merge_type)
        if merge_type is not None and merge_type not in _MERGE_TYPES:
            raise DataError(f"'{path}': merge_type is {merge_type!r}; it must be {' or '.join(_MERGE_TYPES)}, or null.")
        return cls(
            tuple(classes),
            mapping,
            tuple((str(category), str(attribute)) for category, attribute in pairs),
            tuple((str(target), (str(first), str(second))) for target, (first, second) in merges),
            merge_type,
        )

    def class_name(self, category: str) -> str:
        """Name that a category is mapped to; its own where it is not mapped."""
        return self.name_mapping.get(category, category)

    def label(self, category: str) -> int:
        """Index of a category's class; -1 where it has none."""
        name = self.class_name(category)
        return self.classes.index(name) if name in self.classes else -1

    def filtered(self, category: str, attributes: Sequence[str]) -> bool:
        """Whether an object is not to be detected because of an attribute."""
        return any((category, attribute) in self.filter_attributes for attribute in attributes)


def _is_merge(item: object) -> bool:
    """Whether this is [class, [name, name]]."""
    if not isinstance(item, (list, tuple)) or len(item) != 2 or not isinstance(item[0], str):
        return False
    parts = item[1]
    return isinstance(parts, (list, tuple)) and len(parts) == 2 and all(isinstance(part, str) for part in parts)
