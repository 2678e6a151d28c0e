"""Whether a cloud can be what a LiDAR on a vehicle sees, and what the model was trained on: the one place that judges.

    watch = CloudWatch(PointsExpected.of_config(cfg), columns=("x", "y", "z", "intensity", "ring"))
    watch.look("Point file 'a.bin'", points)      # warns, or raises what makes every result meaningless

Bytes are judged by `datasets.point_bytes`; here the numbers are, by name of column. Limits lie far from what 160 real
scans and the generated datasets have, so that a finding is worth a look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from base.checks import Finding, settle
from base.errors import ConfigError
from base.parsing import FiniteFloat, Record, parse
from datasets.cloud_facts import MIN_JUDGED, CloudFacts, measure_cloud
from models.known_checks import KNOWN_CHECKS

__all__ = ["EXPECTED_KEY", "CloudRemedies", "CloudWatch", "PointsExpected", "judge_cloud"]

EXPECTED_KEY: Final = "points_trained_on"
"""Key of a model config that says what the points were like that the model was trained on."""

# Share of the coordinates of a cloud beyond any sensor (100 km) above which the file is not what it is read as.
_MAX_BEYOND = 0.01
# Distances of the middle of a cloud, metres; scans have 5 to 25.
_AWAY_M = 1000.0
_FAR_MIDDLE_M, _NEAR_MIDDLE_M, _USUAL_MIDDLE_M = 250.0, 0.3, 12.0
_UNITS = (("millimetres", 1e-3), ("centimetres", 1e-2))
# How far from where it should be the ground may lie. Sensors stand 1.5 to 3 m above it, slopes and trucks less.
_GROUND_LIMIT_M = 0.9
# Clouds of a run that are all looked at, and how many of the others.
_FIRST, _ONE_IN = 16, 8
_MAX_OUTSIDE, _MAX_ZEROS, _MAX_INVALID, _MAX_REPEATED = 0.9, 0.01, 0.5, 0.1
# Of so few points, intensities are not judged. Those as far below or above their scale are of another one: the dimmest
# scan reaches a third of it.
_MIN_BRIGHT = 50
_DIM_SHARE, _BRIGHT_SHARE = 1 / 200, 1.01
# Datasets of mmdet3d and this project's -> largest intensity; and of those whose frame has its origin on the ground.
_INTENSITY_MAX = {"T4Dataset": 255.0, "NuScenesDataset": 255.0, "LyftDataset": None, "KittiDataset": 1.0}
_ON_THE_GROUND = ("T4Dataset",)


class _Given(Record):
    """What `points_trained_on` may say."""

    intensity_max: Annotated[float, Field(gt=0, le=1e9)] | None = None
    ground_z_m: FiniteFloat | None = None


@dataclass(frozen=True)
class PointsExpected:
    """What the points are like that a model was trained on.

    Attributes:
        intensity_max: Intensities are 0 to this; None: not known, and not judged.
        ground_z_m: Height of flat ground around the vehicle: 0 in `base_link`, about -1.8 in the frame of a sensor on
            a roof; None: not known, and not judged.
        range_m: The model's (x, y, z, x, y, z), low then high; None where no model is there yet.
    """

    intensity_max: float | None = 255.0
    ground_z_m: float | None = 0.0
    range_m: tuple[float, ...] | None = None

    @classmethod
    def of_config(cls, cfg: Any, dataset: str, range_m: Sequence[float] | None = None) -> PointsExpected:
        """What a model config says in `points_trained_on`; where it is silent, what the kind of dataset implies.

        Args:
            cfg: `mmengine.Config`.
            dataset: Type of the dataset that it trains on.
            range_m: The model's.

        Raises:
            ConfigError: `points_trained_on` has an unknown key, or a value of the wrong type or out of range.
        """
        given = cfg.get(EXPECTED_KEY)
        intensity = _INTENSITY_MAX.get(dataset)
        ground = 0.0 if dataset in _ON_THE_GROUND else None
        if given is not None:
            plain = dict(given) if isinstance(given, Mapping) else given
            said = parse(_Given, plain, file="the model config", at=(EXPECTED_KEY,), error=ConfigError)
            intensity = said.intensity_max if "intensity_max" in said.model_fields_set else intensity
            ground = said.ground_z_m if "ground_z_m" in said.model_fields_set else ground
        return cls(intensity, ground, None if range_m is None else tuple(range_m))


def _rescale(factor: float) -> str:
    return f"Multiply them by {factor:.3g} where the files are made"


def _raise(height_m: float) -> str:
    return f"Move the points into base_link where the files are made: add {height_m:.1f} m to z"


@dataclass(frozen=True)
class CloudRemedies:
    """What to do about what is found, in the words of a command.

    Attributes:
        rescale: Of the factor that brings intensities to the model's scale.
        raise_by: Of the metres that bring the ground to where the model expects it.
        expectation: How to say that the model was trained on such points.
    """

    rescale: Callable[[float], str] = _rescale
    raise_by: Callable[[float], str] = _raise
    expectation: str = f"If the model was trained on such points, say so in its config ({EXPECTED_KEY})"


def judge_cloud(
    place: str, facts: CloudFacts, expected: PointsExpected, remedies: CloudRemedies | None = None
) -> list[Finding]:
    """What speaks against a cloud; nothing of one with a few hundred points, which cannot be judged.

    Args:
        place: The file, for messages: "Point file 'a.bin'".
        facts: Its numbers.
        expected: What the model was trained on.
        remedies: What messages advise.
    """
    remedies = remedies or CloudRemedies()
    found = [*_frame(place, facts)] or [*_values(place, facts)] or [*_unit(place, facts)]
    if not found:
        found += [*_axes(place, facts), *_range(place, facts, expected)]
        if not found:
            found += [*_height(place, facts, expected, remedies)]
        found += [*_intensity(place, facts, expected, remedies)]
    return [*found, *_counted(place, facts)]


def _finding(check: str, place: str, value: str, remedy: str) -> Finding:
    return Finding(KNOWN_CHECKS[check], place, value, remedy=remedy)


def _values(place: str, facts: CloudFacts) -> Iterator[Finding]:
    if facts.points >= MIN_JUDGED and facts.beyond > _MAX_BEYOND * facts.points:
        yield _finding(
            "cloud-values",
            place,
            f"{facts.beyond / facts.points:.0%} of {facts.points} points lie where no sensor sees, up to "
            f"{facts.farthest_m:.3g} m",
            "The file holds numbers of another type or another number of columns than it is read as.",
        )


def _frame(place: str, facts: CloudFacts) -> Iterator[Finding]:
    if facts.off_centre and facts.middle_m is not None and facts.middle_m > _AWAY_M:
        yield _finding(
            "cloud-frame",
            place,
            f"all points lie together, {facts.middle_m:.0f} m from the origin",
            "They are in a map's frame or that of another vehicle, not around the sensor: move them into base_link.",
        )


def _unit(place: str, facts: CloudFacts) -> Iterator[Finding]:
    middle = facts.middle_m
    if middle is None:
        return
    if middle > _FAR_MIDDLE_M and not facts.off_centre:
        unit, factor = min(_UNITS, key=lambda item: abs(np.log(middle * item[1] / _USUAL_MIDDLE_M)))
        yield _finding(
            "cloud-unit",
            place,
            f"half of the points are farther away than {middle:.0f}, so coordinates look like {unit}, not metres",
            f"Multiply x, y, z by {factor:g} where the file is made.",
        )
    elif middle < _NEAR_MIDDLE_M and facts.farthest_m < 10 * _NEAR_MIDDLE_M:
        yield _finding(
            "cloud-unit",
            place,
            f"half of the points are nearer than {middle:.2g} and none is farther away than {facts.farthest_m:.2g}, so "
            "coordinates are not metres around a vehicle",
            "Give metres: perhaps they are kilometres, or were divided by their range.",
        )


def _axes(place: str, facts: CloudFacts) -> Iterator[Finding]:
    if facts.vertical not in ("z", ""):
        yield _finding(
            "cloud-axes",
            place,
            f"the surroundings are flat along {facts.vertical}, not along z",
            "Axes are x forward, y left, z up; those of a camera (x right, y down, z forward) must be turned first.",
        )
    elif facts.upside_down:
        yield _finding(
            "cloud-axes",
            place,
            "points end in a flat layer on top, and objects hang below it",
            "z seems to point down. Axes are x forward, y left, z up: turn the points by half a turn about x "
            "(y and z change their signs).",
        )


def _range(place: str, facts: CloudFacts, expected: PointsExpected) -> Iterator[Finding]:
    if expected.range_m is None or facts.points < MIN_JUDGED or facts.outside <= _MAX_OUTSIDE * facts.points:
        return
    low, high = expected.range_m[:3], expected.range_m[3:]
    spans = ", ".join(
        f"{axis} {a:.1f} to {b:.1f} (model {c:g} to {d:g})"
        for axis, a, b, c, d in zip("xyz", facts.low_m, facts.high_m, low, high, strict=True)
    )
    share = facts.outside / facts.points
    yield _finding(
        "cloud-range",
        place,
        f"{share:.1%} of {facts.points} points are outside the model's range: {spans}",
        "Check unit and frame of the points.",
    )


def _height(place: str, facts: CloudFacts, expected: PointsExpected, remedies: CloudRemedies) -> Iterator[Finding]:
    ground, wanted = facts.ground_z_m, expected.ground_z_m
    if ground is None or wanted is None or abs(ground - wanted) <= _GROUND_LIMIT_M:
        return
    where = "the ground of base_link is z = 0" if wanted == 0 else f"the model expects it at z = {wanted:.1f} m"
    sensor = " They look like points in the sensor's frame." if ground < wanted else ""
    yield _finding(
        "cloud-height",
        place,
        f"the ground around the vehicle lies at z = {ground:.1f} m, but {where}",
        f"{sensor} {remedies.raise_by(wanted - ground)}. {remedies.expectation}.".strip(),
    )


def _intensity(place: str, facts: CloudFacts, expected: PointsExpected, remedies: CloudRemedies) -> Iterator[Finding]:
    most, top, bright = expected.intensity_max, facts.top_intensity, facts.bright_intensity
    if most is None or top is None or bright is None or facts.points < _MIN_BRIGHT:
        return
    advice = f"{remedies.expectation}."
    if top == 0 or facts.lowest_intensity == top:
        value = f"every intensity is {top:g}, so the model sees none"
        yield _finding("cloud-intensity", place, value, "Write the sensor's intensities into the file.")
    elif facts.lowest_intensity is not None and facts.lowest_intensity < 0:
        value = f"intensities go down to {facts.lowest_intensity:.3g}, the model expects 0 to {most:g}"
        yield _finding("cloud-intensity", place, value, advice)
    elif bright > _BRIGHT_SHARE * most or top <= _DIM_SHARE * most:
        scale = top if top > 1 else 1.0
        factor = most / scale
        # Advice is tried before it is given.
        fits = _DIM_SHARE * most < top * factor and bright * factor <= _BRIGHT_SHARE * most
        first = f"{remedies.rescale(factor)}. " if fits else ""
        looks = f"; they look like 0 to {scale:g}" if scale == 1 else ""
        value = f"intensities reach {top:.3g}, the model expects 0 to {most:g}{looks}"
        yield _finding("cloud-intensity", place, value, f"{first}{advice}")


def _counted(place: str, facts: CloudFacts) -> Iterator[Finding]:
    if facts.in_file < MIN_JUDGED:
        return
    for check, count, most, what, remedy in (
        (
            "cloud-zeros",
            facts.zeros,
            _MAX_ZEROS,
            "are exactly (0, 0, 0)",
            "These are no echoes: rays without one, or rows that fill up a file of fixed size. Leave them out where "
            "the file is made.",
        ),
        (
            "cloud-invalid",
            facts.invalid,
            _MAX_INVALID,
            "hold NaN or infinite values and are left out",
            "Organized clouds mark rays without an echo so; if this is none, the sensor or its driver is at fault.",
        ),
        (
            "cloud-repeated",
            facts.repeated,
            _MAX_REPEATED,
            "are in the file more than once",
            "The same revolution was joined to it twice; the model would see objects with twice the points.",
        ),
    ):
        if count > most * facts.in_file:
            value = f"{count} of {facts.in_file} points ({count / facts.in_file:.0%}) {what}"
            yield _finding(check, place, value, remedy)


@dataclass
class CloudWatch:
    """Looks at the clouds of a run as they are read, each file once: the first ones, then one in eight.

    What is found of the first cloud of a kind stands for the others: a finding is told once, and counted.

    Attributes:
        expected: What the model was trained on.
        columns: Names of the numbers of a point.
        remedies: What messages advise.
        seen: Files that were looked at.
    """

    expected: PointsExpected
    columns: Sequence[str]
    remedies: CloudRemedies = field(default_factory=CloudRemedies)
    seen: dict[str, CloudFacts] = field(default_factory=dict)
    _told: dict[str, Finding] = field(default_factory=dict)

    def look(self, name: str, place: str, points: NDArray[np.float32]) -> CloudFacts:
        """Judges a cloud as its file has it.

        Args:
            name: The file.
            place: The same, for messages.
            points: (N, C) float32, as `columns`; points that are no numbers included.

        Returns:
            Its numbers; of a cloud that is passed over, counts alone.

        Raises:
            DataError: it cannot be what it is taken for, and nobody accepted that.
        """
        if name in self.seen:
            return self.seen[name]
        intensity = self.columns.index("intensity") if "intensity" in self.columns else None
        number = len(self.seen)
        passed_over = number >= _FIRST and number % _ONE_IN != 0
        facts = measure_cloud(points, intensity, self.expected.range_m, counts_only=passed_over)
        self.seen[name] = facts
        if passed_over:
            return facts
        found = judge_cloud(place, facts, self.expected, self.remedies)
        settle([self._told.setdefault(finding.check.id, finding) for finding in found])
        return facts
