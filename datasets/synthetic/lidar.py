"""The spinning LiDAR: beam pattern, range limits, noise and intensity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.carrier import Carrier
from datasets.synthetic.raycast import GROUND, NO_HIT, cast_ground, cast_primitives
from datasets.synthetic.scene import Scene

Array = NDArray[np.float64]

MOUNT_M = (0.9, 0.0, 2.0)
"""Sensor position in `base_link` (on the ground below the rear axle, x forward, y left, z up); no rotation."""

SPIN_PERIOD_S = 0.1
OWN_VEHICLE = -3
"""In place of a primitive's index, as `GROUND` and `NO_HIT`."""


def beam_elevations(beams: int) -> Array:
    """Elevation of each beam in degrees, ascending: dense around the horizon, sparse towards the ground.

    64 beams: 1/6 degree from -6 to +2, one degree down to -14, then -19 and -25; 3, 5, 8, 11, 15 above.
    128 beams: 1/8 degree from -6 to +4, about half a degree down to -20, 1.25 degrees to -25; 0.65 degree up to +15.
    """
    if beams == 64:
        dense = np.linspace(-6.0, 2.0, 49)
        return np.concatenate([[-25.0, -19.0], np.arange(-14.0, -6.0), dense, [3.0, 5.0, 8.0, 11.0, 15.0]])
    if beams == 128:
        dense = np.linspace(-6.0, 4.0, 81)
        low = np.concatenate([np.linspace(-25.0, -20.0, 5), np.linspace(-20.0, -6.0, 27)[1:-1]])
        return np.concatenate([low, dense, np.linspace(4.0, 15.0, 18)[1:]])
    raise ValueError(f"unknown LiDAR with {beams} beams: choose 64 or 128")


@dataclass(frozen=True)
class Lidar:
    """A rotating unit.

    Attributes:
        elevations: (B,) radians, ascending; ring index = position in this table.
        azimuth_offsets: (B,) radians, each beam's horizontal offset from the rotor's angle.
        columns: firings per revolution.
        min_range_m, max_range_m: returns outside are not reported.
        range_sigma_m: standard deviation of a range measurement.
        range_step_m: ranges are reported in multiples of it.
        dropout: share of returns lost for no reason of geometry.
        threshold: half of the returns of this strength (reflectivity x cosine / range^2) are lost.
        mount_m: position in `base_link`; no rotation.
        period_s: time of a revolution.
        half_view_rad: points farther than this from straight ahead are left out; None: none are.
        first_ring: number of the lowest beam, where several units make one cloud.
        dark: share of points whose intensity is reported as 0.
        near_m: up to here returns are the darker, the nearer they are.
        speckle: standard deviation of an intensity's logarithm.
        beam_bias_m: (B,) what each beam measures too much, the same in every scan; None: nothing.
        intensity_of: from strength and depth to 0..255: (gain, power, metres at which a third is left).
    """

    elevations: Array
    azimuth_offsets: Array
    columns: int = 1800
    min_range_m: float = 1.5
    max_range_m: float = 120.0
    range_sigma_m: float = 0.02
    range_step_m: float = 0.004
    dropout: float = 0.015
    threshold: float = 2.4e-6
    mount_m: tuple[float, float, float] = MOUNT_M
    period_s: float = SPIN_PERIOD_S
    half_view_rad: float | None = None
    first_ring: int = 0
    dark: float = 0.0
    intensity_of: tuple[float, float, float] = (160.0, 1.0, 150.0)
    near_m: float = 4.0
    speckle: float = 0.25
    beam_bias_m: Array | None = None

    @staticmethod
    def with_beams(beams: int) -> Lidar:
        """The 64- or the 128-beam unit."""
        elevations = np.radians(beam_elevations(beams))
        # Four laser banks stand side by side, a fraction of a column apart.
        offsets = np.radians(np.array([-0.45, 0.31, -0.16, 0.52]))[np.arange(beams) % 4]
        return Lidar(elevations, offsets)

    def directions(self) -> Array:
        """(B, N, 3) unit rays in the sensor's frame."""
        azimuth = 2.0 * math.pi * np.arange(self.columns) / self.columns + self.azimuth_offsets[:, None]
        level, up = np.cos(self.elevations)[:, None], np.sin(self.elevations)[:, None]
        return np.stack([level * np.cos(azimuth), level * np.sin(azimuth), np.broadcast_to(up, azimuth.shape)], axis=-1)


@dataclass(frozen=True)
class Returns:
    """Noise-free nearest hits of one sweep.

    Attributes:
        depth: (B, N) metres, large where nothing was hit.
        hit: (B, N) primitive index, `GROUND`, `OWN_VEHICLE` or `NO_HIT`.
        cosine: (B, N) cosine of the angle of incidence.
        reflectivity, gaps: (B, N) of bodies' materials; the ground's are not in it.
        directions: (B, N, 3) rays in the world.
        origin: (3,) the sensor in the world.
    """

    depth: Array
    hit: NDArray[np.int64]
    cosine: Array
    reflectivity: Array
    gaps: Array
    directions: Array
    origin: Array


def trace(lidar: Lidar, scene: Scene, time_s: float, key: int, carrier: Carrier | None = None) -> Returns:
    """Cast all rays of the sweep at `time_s` (the world stands still during a sweep: motion-compensated points).

    Args:
        carrier: the vehicle below the unit; None: nothing stands in the way of its rays.
    """
    ego = scene.ego_pose(time_s)
    rotation, origin = ego[:3, :3].copy(), ego[:3, :3] @ np.array(lidar.mount_m) + ego[:3, 3]
    directions = lidar.directions() @ rotation.T
    shape = directions.shape[:2]
    depth = np.full(shape, 1e9)
    hit = np.full(shape, NO_HIT, dtype=np.int64)
    cosine = np.zeros(shape)
    table, terrain = scene.table, scene.terrain
    cast_primitives(
        table.kind, table.params, table.bounds, table.body, table.opacity, scene.body_poses(time_s), origin, rotation,
        directions, lidar.elevations, lidar.azimuth_offsets, lidar.max_range_m, np.uint64(key), depth, hit, cosine,
    )  # fmt: skip
    cast_ground(
        terrain.height, terrain.kerb_distance, terrain.x0, terrain.y0, terrain.cell, terrain.kerb, terrain.kerb_ramp,
        terrain.max_slope, origin, directions, lidar.max_range_m, depth, hit, cosine,
    )  # fmt: skip
    reflectivity, gaps, met = np.zeros(shape), np.zeros(shape), hit >= 0
    reflectivity[met], gaps[met] = table.reflectivity[hit[met]], table.gaps[hit[met]]
    if carrier is not None:
        own = carrier.hits(lidar.directions(), lidar.elevations, lidar.azimuth_offsets, lidar.mount_m)
        hit[own.hit] = OWN_VEHICLE if carrier.reported else NO_HIT
        depth[own.hit], cosine[own.hit] = own.depth[own.hit], own.cosine[own.hit]
        reflectivity[own.hit], gaps[own.hit] = own.reflectivity[own.hit], 0.0
    return Returns(depth, hit, cosine, reflectivity, gaps, directions, origin)


def measure(lidar: Lidar, scene: Scene, returns: Returns, rng: np.random.Generator) -> NDArray[np.float32]:
    """Turn hits into the sensor's output.

    Returns:
        (M, 5) float32 `[x, y, z, intensity, ring]` in `base_link`, in firing order (column by column, lowest beam
        first); intensity is a whole number from 0 to 255.
    """
    # One draw of fixed size per quantity, so that what one ray meets cannot shift another ray's noise.
    shape = returns.depth.T.shape
    noise, gain = rng.standard_normal(shape), rng.standard_normal(shape)
    luck, lost, rough = rng.random(shape), rng.random(shape), rng.standard_normal(shape)
    hit, depth = returns.hit.T, returns.depth.T
    seen = (hit != NO_HIT) & (depth < lidar.max_range_m) & (depth > lidar.min_range_m)
    beam = np.nonzero(seen)[1]
    depth, hit, cosine = depth[seen], hit[seen], returns.cosine.T[seen]
    rays = returns.directions.transpose(1, 0, 2)[seen]
    ground = hit == GROUND
    reflectivity = returns.reflectivity.T[seen]
    spot = returns.origin + depth[ground, None] * rays[ground]
    reflectivity[ground], roughness = scene.ground_texture(spot)
    # Rough surfaces send some light back even at grazing incidence.
    strength = reflectivity * (0.10 + 0.90 * cosine)
    gaps = returns.gaps.T[seen]
    if gaps.any():  # else nothing is drawn: scenes without such materials are what they were
        strength *= rng.random(shape)[seen] ** gaps
    survives = 1.0 / (1.0 + (lidar.threshold * depth**2 / strength) ** 3)
    kept = (luck[seen] < survives) & (lost[seen] >= lidar.dropout)
    measured = depth + lidar.range_sigma_m * noise[seen]
    if lidar.beam_bias_m is not None:
        measured += lidar.beam_bias_m[beam]
    # Grass and gravel stand up: the beam stops a little before the mean surface.
    lift = np.zeros(len(hit))
    lift[ground] = np.abs(roughness * rough[seen][ground])
    measured -= np.minimum(lift / np.maximum(np.abs(rays[:, 2]), 0.05), 0.6)
    measured = np.round(measured / lidar.range_step_m) * lidar.range_step_m
    near = np.minimum(1.0, depth / lidar.near_m)
    brightness, power, reach = lidar.intensity_of
    strength = strength if power == 1.0 else strength**power
    intensity = brightness * strength * near * np.exp(-depth / reach) * np.exp(lidar.speckle * gain[seen])
    directions = lidar.directions().transpose(1, 0, 2)[seen]
    points = np.empty((len(hit), 5), dtype=np.float32)
    points[:, :3] = measured[:, None] * directions + np.array(lidar.mount_m)
    points[:, 3] = np.clip(np.round(intensity), 0.0, 255.0)
    if lidar.dark > 0.0:
        points[rng.random(shape)[seen] < lidar.dark, 3] = 0.0
    points[:, 4] = beam + lidar.first_ring
    kept &= measured > lidar.min_range_m
    if lidar.half_view_rad is not None:
        kept &= np.abs(np.arctan2(directions[:, 1], directions[:, 0])) < lidar.half_view_rad
    return np.asarray(points[kept])
