"""Which layers to leave in floating point for a given loss of mAP."""

from __future__ import annotations

import math
from collections.abc import Collection

from base.errors import ConfigError
from quant.sensitivity.profile import Effect, LayerSensitivity, SensitivityProfile

__all__ = ["get_sensitive_layers", "predicted_drop", "shares"]


def shares(profile: SensitivityProfile, by: str = "map") -> dict[str, float]:
    """Each entry's share of the loss of the fully quantized network; they add up to 1.

    The stakes (what a layer loses alone and what the rest gains without it, averaged) as far as any is above 0; else
    the same of the outputs' noise relative to their signal.

    Args:
        profile: Of the model.
        by: "map" as above; "sqnr" takes the noise in any case: it is known far more exactly than a loss of mAP.

    Raises:
        ConfigError: another word.
    """
    if by not in ("map", "sqnr"):
        raise ConfigError(f"by is '{by}'; it is 'map' or 'sqnr'.")
    weights = {layer.name: layer.stake for layer in profile.layers}
    if by == "sqnr" or not any(weights.values()):
        weights = {layer.name: _noise_stake(layer, profile) for layer in profile.layers}
    total = sum(weights.values())
    return {name: weight / total if total else 0.0 for name, weight in weights.items()}


def predicted_drop(profile: SensitivityProfile, skipped: Collection[str]) -> float:
    """mAP that the network loses with these entries in floating point and all others quantized.

    The measured loss of the fully quantized network, less the shares of what is skipped: losses are taken to add up. It
    is an estimate; the network itself has the last word (`quant.search` asks it).
    """
    of_layer = shares(profile)
    return max(profile.map_drop, 0.0) * (1.0 - sum(of_layer[name] for name in skipped))


def get_sensitive_layers(profile: SensitivityProfile, max_map_drop: float) -> tuple[str, ...]:
    """The fewest layers to leave in floating point so that the predicted loss of mAP stays within a budget.

    Args:
        profile: Of the model.
        max_map_drop: Allowed loss of mAP, mAP from 0 to 1: 0.001 is a tenth of a point.

    Returns:
        Module paths for `skip_layers`, the most sensitive first; none where the fully quantized network is within the
        budget.

    Raises:
        ConfigError: a negative budget, or a profile without mAP.
    """
    if not max_map_drop >= 0.0:
        raise ConfigError(f"max_map_drop is {max_map_drop}; give a loss of mAP from 0 to 1, such as 0.001.")
    if math.isnan(profile.map_drop):
        raise ConfigError("The profile has no mAP: its frames hold no object. Analyse frames with ground truth.")
    share = shares(profile)
    order = sorted(profile.layers, key=lambda layer: (-share[layer.name], -_noise(layer.alone)))
    chosen: list[LayerSensitivity] = []
    for layer in order:
        # A share of 0 cannot help; neither can rounding in the sum of all shares be made up for.
        if predicted_drop(profile, [item.name for item in chosen]) <= max_map_drop + 1e-12 or not share[layer.name]:
            break
        chosen.append(layer)
    return tuple(path for layer in chosen for path in layer.layers)


def _noise_stake(layer: LayerSensitivity, profile: SensitivityProfile) -> float:
    """Noise that it adds, averaged over both directions; 0 where the rest is noisier without it: errors may cancel."""
    return max((_noise(layer.alone) + _noise(profile.quantized) - _noise(layer.all_but)) / 2.0, 0.0)


def _noise(effect: Effect) -> float:
    """Of all outputs, each relative to its signal."""
    return sum(math.pow(10.0, -ratio / 10.0) for ratio in effect.sqnr_db.values())
