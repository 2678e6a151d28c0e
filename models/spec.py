"""Everything about a CenterPoint that follows from its model config: one immutable value that travels with artifacts.

Nothing else in the project derives a shape, a name or a decoding parameter from a model config.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from base.errors import ConfigError
from base.messages import shown_file
from models.facts import (
    BACKBONE_NECK_HEAD,
    BRANCH_ORDER,
    CIRCLE,
    CLASS_PEAKS,
    HEAD_ORDER,
    INPUT_FEATURES,
    PILLAR_FEATURES,
    ROTATE,
    SPATIAL_FEATURES,
    TOP_K,
    VOXEL_ENCODER,
    ComponentSpec,
    HeadSpec,
    ModelFacts,
    TaskSpec,
    TensorSpec,
    branch_of,
)
from models.point_columns import implied_columns, stored_columns
from models.validity import check_config, check_spec

__all__ = [
    "BACKBONE_NECK_HEAD",
    "BRANCH_ORDER",
    "CIRCLE",
    "CLASS_PEAKS",
    "HEAD_ORDER",
    "INPUT_FEATURES",
    "PILLAR_FEATURES",
    "ROTATE",
    "SPATIAL_FEATURES",
    "TOP_K",
    "VOXEL_ENCODER",
    "ComponentSpec",
    "HeadSpec",
    "ModelSpec",
    "TaskSpec",
    "TensorSpec",
    "branch_of",
]

# Of a model with one task; files hold them beside the model's own, as they did before there were tasks.
_OF_THE_TASK = ("class_names", "heads", "nms_min_radius_m2")


@dataclass(frozen=True)
class ModelSpec(ModelFacts):
    """A pillar CenterPoint: its facts, how a config gives them, and how artifacts keep them."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_dict` reads it back.

        What came later is written only where it says something: names of columns where they are others than their
        number stood for, tasks where there are several, fields of `omitted_default` where they differ from it. What
        files of other models hold, and with it their checksums, did not change.
        """
        plain: dict[str, Any] = {}
        omitted = self.omitted()
        for name, value in json.loads(json.dumps(dataclasses.asdict(self))).items():
            if name == "point_columns":
                plain["point_features"] = self.point_features
                if self.point_columns != implied_columns(self.point_features):
                    plain[name] = value
            elif name == "tasks":
                plain |= value[0] if len(value) == 1 else {name: value}
            elif name not in omitted or getattr(self, name) != omitted[name]:
                plain[name] = value
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], file: str = "Model specification") -> ModelSpec:
        """Reads what `to_dict` wrote.

        Args:
            values: A JSON object.
            file: Where it stands, for messages.

        Raises:
            ConfigError: a field is missing or unknown, of a wrong type or out of range.
        """
        from models.schema import parse_spec

        own = {field.name for field in dataclasses.fields(cls)} - {"point_columns", "tasks"}
        optional = {"point_columns", *cls.omitted()}
        if isinstance(values, Mapping):
            tasks = ("tasks",) if "tasks" in values else _OF_THE_TASK
            known = (own | {"point_features", *tasks}) - optional
            if set(values) - optional != known:
                raise ConfigError(
                    f"{file} has unknown fields {sorted(map(str, set(values) - known - optional))} and lacks "
                    f"{sorted(known - set(values))}; it is of another version of this project. Export the model again."
                )
        record = parse_spec(values, file)
        fields: dict[str, Any] = {name: getattr(record, name) for name in own}
        fields["point_columns"] = stored_columns(record.point_columns, record.point_features, file)
        fields["tasks"] = tuple(
            TaskSpec(
                task.class_names,
                tuple(HeadSpec(head.name, head.channels) for head in task.heads),
                task.nms_min_radius_m2,
            )
            for task in record.all_tasks()
        )
        spec = cls(**fields)
        check_spec(spec, file)
        return spec

    @classmethod
    def from_json(cls, text: str, file: str) -> ModelSpec:
        """Reads what an artifact keeps of `to_dict`.

        Args:
            text: JSON.
            file: The artifact, for messages.

        Raises:
            ConfigError: it is no JSON, or as `from_dict`.
        """
        from base.documents import parse_json

        where = f"the specification in {shown_file(file)}"
        return cls.from_dict(parse_json(text, file=file, error=ConfigError, remedy="Export the model again."), where)

    def fingerprint(self) -> str:
        """SHA-256 over the specification; artifacts of the same network share it."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_config(cls, cfg: Any) -> ModelSpec:
        """Derives the specification from an mmdet3d model config.

        Args:
            cfg: An `mmengine.Config` as `models.config.load_model_config` returns it.

        Raises:
            ConfigError: the config is no pillar CenterPoint, a value of it is of a wrong type or out of
                range, or it contradicts itself.
        """
        from models.point_loading import network_columns
        from models.schema import parse_model
        from models.tasks import suppression_of, tasks_of

        file = str(cfg.filename or "model config")
        model = parse_model(cfg.model, file)
        layer, encoder, head = model.data_preprocessor.voxel_layer, model.pts_voxel_encoder, model.pts_bbox_head
        coder, suppression = head.bbox_coder, model.test_cfg.pts
        if encoder.is_backward and not encoder.has_backward_offsets:
            raise ConfigError(
                f"{file}: pts_voxel_encoder is a {encoder.type}, which has both offsets, no distance and a maximum, "
                "whatever it is told. Set legacy=False, with_distance=False, mode='max' and leave the rest out."
            )
        max_voxels = layer.max_voxels
        is_dynamic = model.data_preprocessor.voxel_type == "dynamic"
        spec = cls(
            name=str(cfg.get("name", "")) or _stem(file),
            point_cloud_range=layer.point_cloud_range,
            voxel_size=layer.voxel_size,
            max_points_per_voxel=layer.max_num_points,
            max_voxels=max_voxels if isinstance(max_voxels, int) else max_voxels[1],
            point_columns=network_columns(cfg, encoder.in_channels, file),
            voxel_center_dims=encoder.center_dims,
            encoder_channels=encoder.feat_channels[-1],
            out_size_factor=coder.out_size_factor,
            tasks=tasks_of(head, suppression, file),
            norm_bbox=head.norm_bbox,
            max_detections_before_nms=coder.max_num,
            post_center_range=coder.post_center_range,
            decoding=suppression.decoding,
            **suppression_of(coder, suppression),
            cluster_center=encoder.with_cluster_center,
            point_distance=bool(encoder.with_distance),
            # Without the offset there is nothing that the legacy path would write into its input.
            legacy_encoder=encoder.legacy and encoder.with_voxel_center and not is_dynamic,
            encoder_mode=encoder.mode,
            dynamic_pillars=is_dynamic,
        )
        check_config(spec, model, file)
        return spec


def _stem(file: str) -> str:
    return file.rsplit("/", 1)[-1].removesuffix(".py")
