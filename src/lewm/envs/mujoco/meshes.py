"""Meshes with fewer triangles for small pictures: a robot arm as shipped has more triangles than a frame of 64 px has pixels, forty times over.

Axes: K vertex, F triangle.
"""

import copy
from typing import Any

import numpy as np

MIN_FACES = 1000
"""Smaller meshes stay as they are: they cost little, and some are all edges."""


def coarsened(model: Any, grid_m: float) -> Any:
    """A copy of a MuJoCo model, to draw with, whose large meshes have one vertex at most in each cube of a grid of this width.

    Triangles that lose a side go, and those that have become equal but for one. The model that is simulated stays as it is.
    """
    coarse = copy.copy(model)
    for mesh in range(model.nmesh):
        first, num_vertices = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
        start, num_faces = int(model.mesh_faceadr[mesh]), int(model.mesh_facenum[mesh])
        if num_faces < MIN_FACES:
            continue
        rows = slice(start, start + num_faces)
        faces, kept = merged(model.mesh_vert[first : first + num_vertices], model.mesh_face[rows], grid_m)
        coarse.mesh_face[start : start + len(kept)] = faces
        for name in ("mesh_facenormal", "mesh_facetexcoord"):
            getattr(coarse, name)[start : start + len(kept)] = getattr(model, name)[rows][kept]
        coarse.mesh_facenum[mesh] = len(kept)
    return coarse


def merged(vertices: np.ndarray, faces: np.ndarray, grid_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Triangles [F', 3] over one vertex of [K, 3] for each cube of the grid, and which of ``faces`` [F, 3] they are, int64 [F'].

    A mesh that would vanish is left as it is.
    """
    _, representative, cube = np.unique(np.floor(vertices / grid_m), axis=0, return_index=True, return_inverse=True)
    moved = representative[cube.reshape(-1)][faces]
    ordered = np.sort(moved, axis=-1)
    has_area = (ordered[:, 0] != ordered[:, 1]) & (ordered[:, 1] != ordered[:, 2])
    _, distinct = np.unique(ordered, axis=0, return_index=True)
    kept = np.sort(distinct[has_area[distinct]])
    return (moved[kept], kept) if len(kept) else (faces, np.arange(len(faces)))
