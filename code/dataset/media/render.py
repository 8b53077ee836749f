"""Meshes to pictures by casting rays on the CPU: no display, no OpenGL, no driver."""

import re
from pathlib import Path

import numpy as np
import trimesh
from trimesh.geometry import triangulate_quads

from dataset._limits import check_cost, naming
from dataset._values import LARGEST
from utils.errors import BadInput

VIEW_ANGLE_DEGREES = 40  # of the camera; the mesh's bounding sphere just fits in
ELEVATION_DEGREES = 30  # of the camera over the mesh's middle, as in MVCNN
AMBIENT = 0.25  # light on a surface seen edge-on; 1 on one that faces the camera
SAMPLES = 2  # rays per pixel and direction, averaged
BACKGROUND = 1.0  # white


def read_off(path: Path) -> trimesh.Trimesh:
    """The mesh of an OFF file, a vertex or a face a line, as triangles.

    Comments and empty lines may stand anywhere, and the counts right behind the word OFF. Raises
    BadInput where fewer vertices, faces or corners of a face are there than the file promises, or a
    face has fewer than three.
    """
    check_cost(bytes=path.stat().st_size)
    text = path.read_bytes().decode("utf-8", "replace")
    lines = [line.split("#", 1)[0].split() for line in re.split(r"[\r\n]", text)]
    lines = [words for words in lines if words]
    header = re.fullmatch(r"(?:ST)?C?N?OFF(.*)", " ".join(lines[0]))
    if header is None:
        raise BadInput(f"{path}: does not begin with OFF")
    if header[1]:
        lines.insert(1, header[1].split())
    vertex_count, face_count = (int(word) for word in lines[1][:2])
    if min(vertex_count, face_count) < 0:
        raise BadInput(f"{path}: promises {vertex_count} vertices and {face_count} faces")
    check_cost(vertices_and_faces=vertex_count + face_count)
    first_face, end = 2 + vertex_count, 2 + vertex_count + face_count
    corners = [
        [int(word) for word in words[: int(words[0]) + 1]] for words in lines[first_face:end]
    ]
    missing = max(0, end - len(lines)) + sum(len(words) <= max(words[0], 3) for words in corners)
    if missing:
        promised = f"{vertex_count} vertices and {face_count} faces"
        raise BadInput(f"{path}: truncated, {missing} of {promised} are not there or not whole")
    vertices = np.array([words[:3] for words in lines[2:first_face]], float).reshape(-1, 3)
    faces = triangulate_quads([words[1:] for words in corners])
    if len(faces) and not (0 <= faces.min() and faces.max() < vertex_count):
        raise BadInput(f"{path}: a face has a corner that is none of its {vertex_count} vertices")
    return trimesh.Trimesh(vertices, faces, process=False)


def read_mesh(path: Path) -> trimesh.Trimesh:
    """A triangle mesh whose bounding box is centred and whose farthest vertex is at distance 1.

    Raises BadInput where the file is no OFF file, missing, empty or damaged, or its faces have no
    area.
    """
    with naming(path, what="unreadable mesh"):
        mesh = read_off(path)
        vertices = mesh.vertices[np.unique(mesh.faces)]  # others are not seen
    if len(vertices) == 0:
        raise BadInput(f"{path}: has no face")
    if not np.abs(vertices).max() <= LARGEST:  # nan too
        raise BadInput(f"{path}: a vertex is not a finite number, or beyond {LARGEST:g}")
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
