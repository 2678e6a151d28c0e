"""Which decode a run evaluates: the training framework's, Autoware's, or both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from base.checks import Finding, settle
from base.errors import ConfigError, ExportError
from base.files import sha256_file
from deploy.config.paths import input_path
from models.known_checks import KNOWN_CHECKS
from models.point_columns import NODE_COLUMNS
from runtime.decoders import AUTOWARE, TRAINING, TRAINING_DECODER, Decoder, autoware_decoder

if TYPE_CHECKING:
    from deploy.config.schema import EvaluationConfig
    from eval.vehicle import VehicleSettings
    from models.spec import ModelSpec

__all__ = ["evaluated_decoder", "vehicle_settings"]


def vehicle_settings(config: EvaluationConfig, spec: ModelSpec, source: str) -> VehicleSettings | None:
    """How the node decodes in this run; None where the run does not ask for it.

    Raises:
        ConfigError: the node cannot decode such a model, or the bundle is missing, broken, or of other classes; or one
            is named although nothing uses it.
    """
    bundle = config.autoware.bundle
    if config.decode == TRAINING:
        if bundle is not None:
            raise ConfigError(
                f"{source}: 'evaluation.autoware.bundle' is {bundle!r}, but 'evaluation.decode' is '{TRAINING}', which "
                f"does not use it. Set it to '{AUTOWARE}' or 'both' (--decode)."
            )
        return None

    from eval.vehicle import VehicleSettings
    from runtime.autoware_params import AutowareDecodeParams
    from runtime.autoware_postprocess import why_undecodable

    reason = why_undecodable(spec)
    if reason:
        raise ConfigError(
            f"{source}: 'evaluation.decode' is {config.decode!r}, but {reason}. Set it to '{TRAINING}' "
            f"(--decode {TRAINING})."
        )
    if spec.point_columns not in NODE_COLUMNS:
        fed = " or ".join(", ".join(columns) for columns in NODE_COLUMNS)
        finding = Finding(
            KNOWN_CHECKS["columns-of-node"],
            f"{source}, 'evaluation.decode' {config.decode!r},",
            f"what the vehicle sees, whose node feeds {fed}",
            f"model '{spec.name}'",
            f"that it takes {', '.join(spec.point_columns)}",
            "Only the decode is the node's then; no bundle is made of such a model.",
        )
        settle([finding])
    if bundle is None:
        return VehicleSettings(AutowareDecodeParams.from_spec(spec))

    from autoware.reading import decode_params_of_bundle
    from autoware.yaml_file import ML_PACKAGE

    folder = input_path(bundle)
    try:
        params = decode_params_of_bundle(folder, spec)
    except ExportError as error:
        raise ConfigError(f"{source}: 'evaluation.autoware.bundle': {error}") from error
    return VehicleSettings(params, f"bundle {Path(folder).name}, sha256 {sha256_file(folder / ML_PACKAGE)[:12]}")


def evaluated_decoder(config: EvaluationConfig, settings: VehicleSettings | None) -> Decoder:
    """The decoder of the evaluation itself."""
    if config.decode == AUTOWARE and settings is not None:
        return autoware_decoder(settings.params)
    return TRAINING_DECODER
