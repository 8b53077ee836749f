"""Meshes to pictures by casting rays on the CPU: no display, no OpenGL, no driver."""

from pathlib import Path

import numpy as np
import trimesh

from utils.errors import BadInput

VIEW_ANGLE_DEGREES = 40  # of the camera; the mesh's bounding sphere just fits in
ELEVATION_DEGREES = 30  # of the camera over the mesh's middle, as in MVCNN
AMBIENT = 0.25  # light on a surface seen edge-on; 1 on one that faces the camera
SAMPLES = 2  # rays per pixel and direction, averaged
BACKGROUND = 1.0  # white


def read_mesh(path: Path) -> trimesh.Trimesh:
    """A triangle mesh whose bounding box is centred and whose farthest vertex is at distance 1.

    Raises BadInput where the file is missing, empty or damaged, or its faces have no area.
    """
    try:
        mesh = trimesh.load_mesh(path, process=False)
        vertices = np.asarray(mesh.vertices, float)[np.unique(mesh.faces)]  # others are not seen
    except Exception as error:  # a damaged file can fail in any way
        raise BadInput(f"{path}: unreadable mesh ({error})") from error
    if len(vertices) == 0:
        raise BadInput(f"{path}: has no face")
    if not np.isfinite(vertices).all():
        raise BadInput(f"{path}: a vertex is not a finite number")
    middle = (vertices.min(0) + vertices.max(0)) / 2
    radius = np.linalg.norm(vertices - middle, axis=1).max()
    if not radius > 0:
        raise BadInput(f"{path}: all vertices lie in one point")
    mesh.apply_translation(-middle)
    mesh.apply_scale(1 / radius)
    if not mesh.area > 1e-9:
        raise BadInput(f"{path}: its faces have no area")
    return mesh


def render(mesh: trimesh.Trimesh, azimuth_degrees: float, size: int) -> np.ndarray:
    """(size, size) uint8: the mesh in grey on white, z upwards, in perspective.

    Each face is shaded by its angle to the camera, the same from both sides, since meshes do not
    agree on which side of a face is its outer one.

    mesh: as `read_mesh` gives it. azimuth_degrees: of the camera around z; 180 apart are opposite.
    """
    azimuth, elevation = np.radians([azimuth_degrees, ELEVATION_DEGREES])
    level = np.cos(elevation)
    outwards = np.array([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)])
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0])
    up = np.cross(outwards, right)
    half_angle = np.radians(VIEW_ANGLE_DEGREES / 2)
    camera = outwards / np.sin(half_angle)
    steps = (np.arange(size * SAMPLES) + 0.5) / (size * SAMPLES) * 2 - 1
    x, y = np.meshgrid(steps * np.tan(half_angle), -steps * np.tan(half_angle))
    rays = x.reshape(-1, 1) * right + y.reshape(-1, 1) * up - outwards
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)

    face = mesh.ray.intersects_first(np.broadcast_to(camera, rays.shape), rays)
    facing = np.abs((mesh.face_normals[face] * rays).sum(1))
    light = np.where(face < 0, BACKGROUND, AMBIENT + (1 - AMBIENT) * facing)
    light = light.reshape(size, SAMPLES, size, SAMPLES).mean((1, 3))
    return (255 * light).round().clip(0, 255).astype(np.uint8)
