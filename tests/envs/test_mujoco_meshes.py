"""Meshes with fewer triangles: what goes, and what stays."""

import numpy as np

from lewm.envs.mujoco.meshes import merged

SQUARE = np.array([[0.1, 0.1, 0], [5.1, 0.1, 0], [5.1, 5.1, 0], [0.1, 5.1, 0], [0.2, 0.1, 0]])


def test_a_triangle_that_loses_a_side_goes_and_the_others_keep_their_order():
    faces, kept = merged(SQUARE, np.array([[0, 4, 1], [0, 1, 2], [4, 2, 3]]), 1.0)
    assert kept.tolist() == [1, 2]
    assert faces.tolist() == [[0, 1, 2], [0, 2, 3]]


def test_of_triangles_that_become_equal_one_stays():
    assert merged(SQUARE, np.array([[0, 1, 2], [1, 2, 4]]), 1.0)[1].tolist() == [0]


def test_a_grid_finer_than_the_mesh_changes_nothing():
    faces = np.array([[0, 4, 1], [0, 1, 2], [4, 2, 3]])
    found, kept = merged(SQUARE, faces, 0.01)
    np.testing.assert_array_equal(found, faces)
    assert kept.tolist() == [0, 1, 2]


def test_a_mesh_that_would_vanish_stays_as_it_is():
    faces = np.array([[0, 1, 2]])
    np.testing.assert_array_equal(merged(SQUARE, faces, 100.0)[0], faces)
