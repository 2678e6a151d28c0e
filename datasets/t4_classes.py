"""Which category of a raw T4 dataset counts as which class."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from base.documents import read_json
from base.parsing import FromList, Items, NonEmptyStr, Record
from datasets.infos import ClassNames

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
_MAX_BYTES = 1 << 20
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
        given = read_json(path, _RulesFile, limit=_MAX_BYTES)
        usual = cls()
        classes = given.classes or usual.classes
        merges = given.merge_objects
        if "merge_objects" not in given.model_fields_set:
            # Parts that are classes of their own are to be found as such.
            merges = tuple(item for item in usual.merge_objects if not ({*item[1]} - {item[0]}) & {*classes})
        return cls(
            classes,
            usual.name_mapping if given.name_mapping is None else given.name_mapping,
            usual.filter_attributes if given.filter_attributes is None else given.filter_attributes,
            merges or (),
            given.merge_type,
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


_Pair = Annotated[tuple[NonEmptyStr, NonEmptyStr], FromList()]


class _RulesFile(Record):
    """The file of `ClassRules.read`."""

    classes: ClassNames | None = None
    name_mapping: dict[NonEmptyStr, NonEmptyStr] | None = None
    filter_attributes: Items[_Pair] | None = None
    merge_objects: Items[Annotated[tuple[NonEmptyStr, _Pair], FromList()]] | None = None
    merge_type: Literal["extend_longer", "union"] | None = "extend_longer"
