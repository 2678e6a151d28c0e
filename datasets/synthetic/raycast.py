"""Ray casting against primitives and terrain: numba kernels, one thread, same result on every run.

All rays of a sweep leave one point. Each primitive is projected into the sensor's (beam, column) grid and only the
rays inside its outline are intersected, nearest primitives first, keeping the nearest hit of each ray.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from datasets.synthetic.primitives import CYLINDER, ELLIPSOID, TAPERED_BOX

NO_HIT = -1
GROUND = -2
_FAR = 1e9
_TWO_PI = 2.0 * math.pi


@nb.njit
def hash_uniform(key, a, b):  # type: ignore[no-untyped-def]
    """A number in (0, 1) from three integers (splitmix64): random access, so no order of evaluation matters."""
    z = np.uint64(key) + np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(b) * np.uint64(0xC2B2AE3D27D4EB4F)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (float(z >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)


@nb.njit
def intersect_tapered_box(p, ox, oy, oz, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Distance to the entry point and cosine of incidence; `_FAR` when missed or when the ray starts inside."""
    x, y, z = ox - p[0], oy - p[1], oz - p[2]
    hx, hy, h = p[3], p[4], p[5]
    enter, leave, cosine = -_FAR, _FAR, 0.0
    for face in range(6):
        # Each face: n . q <= c, with n not normalized for the leaning ones.
        nx, ny, nz, c = 0.0, 0.0, 0.0, 0.0
        if face == 0:
            nz, c = -1.0, 0.0
        elif face == 1:
            nz, c = 1.0, h
        elif face == 2:
            nx, nz, c = 1.0, p[6] / h, hx
        elif face == 3:
            nx, nz, c = -1.0, p[7] / h, hx
        elif face == 4:
            ny, nz, c = 1.0, p[8] / h, hy
        else:
            ny, nz, c = -1.0, p[8] / h, hy
        rate = nx * dx + ny * dy + nz * dz
        gap = c - (nx * x + ny * y + nz * z)
        if rate == 0.0:
            if gap < 0.0:
                return _FAR, 0.0
        elif rate < 0.0:
            t = gap / rate
            if t > enter:
                enter = t
                cosine = -rate / math.sqrt(nx * nx + ny * ny + nz * nz)
        else:
            t = gap / rate
            if t < leave:
                leave = t
        if enter > leave:
            return _FAR, 0.0
    if enter <= 0.0:
        return _FAR, 0.0
    return enter, cosine


@nb.njit
def ellipsoid_interval(p, ox, oy, oz, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Distances where the ray's line enters and leaves an ellipsoid; (`_FAR`, `_FAR`) when missed."""
    x, y, z = (ox - p[0]) / p[3], (oy - p[1]) / p[4], (oz - p[2]) / p[5]
    u, v, w = dx / p[3], dy / p[4], dz / p[5]
    a = u * u + v * v + w * w
    b = x * u + y * v + z * w
    c = x * x + y * y + z * z - 1.0
    disc = b * b - a * c
    if disc <= 0.0:
        return _FAR, _FAR
    root = math.sqrt(disc)
    return (-b - root) / a, (-b + root) / a


@nb.njit
def intersect_ellipsoid(p, ox, oy, oz, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Distance to the entry point and cosine of incidence."""
    t, _ = ellipsoid_interval(p, ox, oy, oz, dx, dy, dz)
    if t <= 0.0 or t >= _FAR:
        return _FAR, 0.0
    nx = (ox + t * dx - p[0]) / (p[3] * p[3])
    ny = (oy + t * dy - p[1]) / (p[4] * p[4])
    nz = (oz + t * dz - p[2]) / (p[5] * p[5])
    return t, abs(nx * dx + ny * dy + nz * dz) / math.sqrt(nx * nx + ny * ny + nz * nz)


@nb.njit
def intersect_cylinder(p, ox, oy, oz, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Distance to the entry point and cosine of incidence; side first, then the two end discs."""
    ax, ay, az = p[3] - p[0], p[4] - p[1], p[5] - p[2]
    length = math.sqrt(ax * ax + ay * ay + az * az)
    ax, ay, az = ax / length, ay / length, az / length
    x, y, z = ox - p[0], oy - p[1], oz - p[2]
    along_o = x * ax + y * ay + z * az
    along_d = dx * ax + dy * ay + dz * az
    # Components across the axis.
    px, py, pz = x - along_o * ax, y - along_o * ay, z - along_o * az
    qx, qy, qz = dx - along_d * ax, dy - along_d * ay, dz - along_d * az
    a = qx * qx + qy * qy + qz * qz
    b = px * qx + py * qy + pz * qz
    c = px * px + py * py + pz * pz - p[6] * p[6]
    best, cosine = _FAR, 0.0
    if a > 1e-12:
        disc = b * b - a * c
        if disc < 0.0:
            return _FAR, 0.0
        t = (-b - math.sqrt(disc)) / a
        s = along_o + t * along_d
        if t > 0.0 and 0.0 <= s <= length:
            nx, ny, nz = px + t * qx, py + t * qy, pz + t * qz
            return t, abs(nx * dx + ny * dy + nz * dz) / p[6]
    if abs(along_d) > 1e-12:
        end = 0.0 if along_d > 0.0 else length
        t = (end - along_o) / along_d
        if t > 0.0:
            ex, ey, ez = px + t * qx, py + t * qy, pz + t * qz
            if ex * ex + ey * ey + ez * ez <= p[6] * p[6]:
                best, cosine = t, abs(along_d)
    return best, cosine


@nb.njit
def intersect_foliage(p, u, ox, oy, oz, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Where a beam stops among leaves: free path exponential with the density, `u` uniform in (0, 1)."""
    near, far = ellipsoid_interval(p, ox, oy, oz, dx, dy, dz)
    if far >= _FAR or far <= 0.0:
        return _FAR, 0.0
    t = max(near, 0.0) - math.log(u) / p[6]
    if t >= far:
        return _FAR, 0.0
    return t, 0.7  # leaves face every way


@nb.njit
def outline(bounds, pose, origin, rotation):  # type: ignore[no-untyped-def]
    """Angular outline of a primitive's bounding box seen from the sensor.

    Returns:
        (azimuth centre, half width, lowest elevation, highest elevation, nearest distance), radians and metres.
    """
    cy, sy = math.cos(pose[3]), math.sin(pose[3])
    xs = np.empty(8)
    ys = np.empty(8)
    z_low, z_high, far = _FAR, -_FAR, 0.0
    mx, my = 0.0, 0.0
    for i in range(8):
        bx = bounds[3] if i & 1 else bounds[0]
        by = bounds[4] if i & 2 else bounds[1]
        bz = bounds[5] if i & 4 else bounds[2]
        wx = pose[0] + cy * bx - sy * by - origin[0]
        wy = pose[1] + sy * bx + cy * by - origin[1]
        wz = pose[2] + bz - origin[2]
        # World to sensor: transpose of the sensor's rotation.
        xs[i] = rotation[0, 0] * wx + rotation[1, 0] * wy + rotation[2, 0] * wz
        ys[i] = rotation[0, 1] * wx + rotation[1, 1] * wy + rotation[2, 1] * wz
        z = rotation[0, 2] * wx + rotation[1, 2] * wy + rotation[2, 2] * wz
        z_low, z_high = min(z_low, z), max(z_high, z)
        far = max(far, math.hypot(xs[i], ys[i]))
        mx += xs[i] / 8.0
        my += ys[i] / 8.0
    # Nearest horizontal distance to the footprint (bottom and top may differ by the sensor's tilt).
    near = _FAR
    inside = False
    for level in range(2):
        side = 0
        for k in range(4):
            i = level * 4 + (k if k < 2 else 5 - k)  # 0, 1, 3, 2: around the rectangle
            n = (k + 1) % 4
            j = level * 4 + (n if n < 2 else 5 - n)
            ex, ey = xs[j] - xs[i], ys[j] - ys[i]
            cross = ex * (-ys[i]) - ey * (-xs[i])
            side += 1 if cross >= 0.0 else -1
            length2 = ex * ex + ey * ey
            s = 0.0
            if length2 > 0.0:
                s = min(1.0, max(0.0, -(xs[i] * ex + ys[i] * ey) / length2))
            near = min(near, math.hypot(xs[i] + s * ex, ys[i] + s * ey))
        if side == 4 or side == -4:
            inside = True
    if inside or near < 0.05:
        return 0.0, math.pi, -0.5 * math.pi, 0.5 * math.pi, 0.0
    center = math.atan2(my, mx)
    half = 0.0
    for i in range(8):
        d = math.atan2(ys[i], xs[i]) - center
        d -= _TWO_PI * math.floor((d + math.pi) / _TWO_PI)
        half = max(half, abs(d))
    low = math.atan2(z_low, near if z_low < 0.0 else far)
    high = math.atan2(z_high, near if z_high > 0.0 else far)
    return center, half, low, high, near


@nb.njit
def cast_primitives(  # type: ignore[no-untyped-def]
    kind,
    params,
    bounds,
    body,
    opacity,
    poses,
    origin,
    rotation,
    directions,
    elevations,
    offsets,
    max_range,
    key,
    depth,
    hit,
    cosine,
):
    """Write nearest hits into `depth (B, N)`, `hit (B, N)` and `cosine (B, N)`.

    Args:
        poses: (bodies, 4) `[x, y, z, yaw]` in the world.
        origin, rotation: the sensor's position (3,) and its sensor-to-world rotation (3, 3).
        directions: (B, N, 3) unit rays in the world; beam b of column c points at azimuth
            `2 pi c / N + offsets[b]` and elevation `elevations[b]` (ascending) of the sensor's frame.
    """
    columns = depth.shape[1]
    count = kind.shape[0]
    outlines = np.empty((count, 5))
    for i in range(count):
        center, half, low, high, near = outline(bounds[i], poses[body[i]], origin, rotation)
        outlines[i, 0] = center
        outlines[i, 1] = half
        outlines[i, 2] = low
        outlines[i, 3] = high
        outlines[i, 4] = near
    order = np.argsort(outlines[:, 4], kind="mergesort")
    per_radian = columns / _TWO_PI
    margin = 2e-3
    for rank in range(count):
        i = order[rank]
        center, half, low, high, near = outlines[i, 0], outlines[i, 1], outlines[i, 2], outlines[i, 3], outlines[i, 4]
        if near > max_range:
            break
        pose = poses[body[i]]
        cy, sy = math.cos(pose[3]), math.sin(pose[3])
        rx, ry = origin[0] - pose[0], origin[1] - pose[1]
        ox, oy, oz = cy * rx + sy * ry, -sy * rx + cy * ry, origin[2] - pose[2]
        p = params[i]
        first = np.searchsorted(elevations, low - margin)
        last = np.searchsorted(elevations, high + margin)
        for b in range(first, last):
            if half >= math.pi:
                start, stop = 0, columns
            else:
                start = math.floor((center - half - margin - offsets[b]) * per_radian)
                stop = min(start + columns, math.ceil((center + half + margin - offsets[b]) * per_radian) + 1)
            for cc in range(start, stop):
                c = cc % columns
                if depth[b, c] <= near:
                    continue
                wx, wy, dz = directions[b, c, 0], directions[b, c, 1], directions[b, c, 2]
                dx, dy = cy * wx + sy * wy, -sy * wx + cy * wy
                if kind[i] == TAPERED_BOX:
                    t, cosi = intersect_tapered_box(p, ox, oy, oz, dx, dy, dz)
                elif kind[i] == CYLINDER:
                    t, cosi = intersect_cylinder(p, ox, oy, oz, dx, dy, dz)
                elif kind[i] == ELLIPSOID:
                    t, cosi = intersect_ellipsoid(p, ox, oy, oz, dx, dy, dz)
                else:
                    u = hash_uniform(key, i, b * columns + c)
                    t, cosi = intersect_foliage(p, u, ox, oy, oz, dx, dy, dz)
                if t >= depth[b, c]:
                    continue
                if opacity[i] < 1.0 and hash_uniform(key, i + 1000003, b * columns + c) > opacity[i]:
                    continue
                depth[b, c] = t
                hit[b, c] = i
                cosine[b, c] = cosi


@nb.njit
def bilinear(grid, x0, y0, cell, x, y):  # type: ignore[no-untyped-def]
    """Value of `grid[iy, ix]` at (x, y), clamped at its border."""
    fx = min(max((x - x0) / cell, 0.0), grid.shape[1] - 1.001)
    fy = min(max((y - y0) / cell, 0.0), grid.shape[0] - 1.001)
    ix, iy = int(fx), int(fy)
    fx -= ix
    fy -= iy
    top = grid[iy, ix] * (1.0 - fx) + grid[iy, ix + 1] * fx
    bottom = grid[iy + 1, ix] * (1.0 - fx) + grid[iy + 1, ix + 1] * fx
    return top * (1.0 - fy) + bottom * fy


@nb.njit
def cast_ground(  # type: ignore[no-untyped-def]
    height, kerb_distance, x0, y0, cell, kerb, kerb_ramp, max_slope, origin, directions, max_range, depth, hit, cosine
):
    """Intersect the rays with the terrain `height + kerb * clip(kerb_distance / kerb_ramp, 0, 1)`.

    Safe steps: the smooth height changes by at most `max_slope` per metre, and the distance to the kerb by at most
    one metre per metre, so no step can jump over the surface but by less than the minimum step.
    """
    beams, columns = depth.shape
    for b in range(beams):
        for c in range(columns):
            dx, dy, dz = directions[b, c, 0], directions[b, c, 1], directions[b, c, 2]
            horizontal = math.sqrt(dx * dx + dy * dy)
            closing = max_slope * horizontal - dz
            if closing <= 1e-3:
                continue
            limit = min(max_range, depth[b, c])
            t, before = 0.0, 0.0
            found = False
            for _ in range(2000):
                if t >= limit:
                    break
                x, y, z = origin[0] + t * dx, origin[1] + t * dy, origin[2] + t * dz
                ground = bilinear(height, x0, y0, cell, x, y)
                edge = bilinear(kerb_distance, x0, y0, cell, x, y)
                lift = kerb * min(max(edge / kerb_ramp, 0.0), 1.0)
                gap = z - ground - lift
                if gap <= 0.0:
                    found = True
                    break
                safe = (z - ground - kerb) / closing
                step = max(safe, min(gap / closing, abs(edge) / horizontal))
                before = t
                t += max(step, 0.01 + 2e-4 * t)
            if not found:
                continue
            low, high = before, t
            for _ in range(12):
                mid = 0.5 * (low + high)
                x, y = origin[0] + mid * dx, origin[1] + mid * dy
                edge = bilinear(kerb_distance, x0, y0, cell, x, y)
                lift = kerb * min(max(edge / kerb_ramp, 0.0), 1.0)
                if origin[2] + mid * dz - bilinear(height, x0, y0, cell, x, y) - lift <= 0.0:
                    high = mid
                else:
                    low = mid
            if high >= limit:
                continue
            x, y = origin[0] + high * dx, origin[1] + high * dy
            edge = bilinear(kerb_distance, x0, y0, cell, x, y)
            depth[b, c] = high
            hit[b, c] = GROUND
            # A kerb's face stands upright; elsewhere the ground is close to level.
            cosine[b, c] = horizontal if 0.0 < edge < kerb_ramp else min(1.0, abs(dz) + 0.01)


@nb.njit
def count_points_in_boxes(points, boxes):  # type: ignore[no-untyped-def]
    """Number of `points (N, >=3)` inside each of `boxes (M, 7) [x, y, z, l, w, h, yaw]`, z at the centre."""
    counts = np.zeros(boxes.shape[0], dtype=np.int64)
    for m in range(boxes.shape[0]):
        cx, cy, cz = boxes[m, 0], boxes[m, 1], boxes[m, 2]
        hl, hw, hh = boxes[m, 3] / 2, boxes[m, 4] / 2, boxes[m, 5] / 2
        c, s = math.cos(boxes[m, 6]), math.sin(boxes[m, 6])
        reach = math.hypot(hl, hw)
        for n in range(points.shape[0]):
            x = points[n, 0] - cx
            if x > reach or x < -reach:
                continue
            y = points[n, 1] - cy
            if abs(c * x + s * y) <= hl and abs(c * y - s * x) <= hw and abs(points[n, 2] - cz) <= hh:
                counts[m] += 1
    return counts
