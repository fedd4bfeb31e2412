"""Joint outcome probabilities of a photon pair at the two receivers."""

from __future__ import annotations

import numpy as np

from qkdd_hil.physics.polarization import ANALYSERS, Matrix


def correlation_tensor(visibility_z: float, visibility_x: float, eve: float) -> Matrix:
    """float64[3, 3]: E(a, b) = a^T tensor b for analyser directions a (Alice), b (Bob) on the Poincaré sphere.

    Phi+ is diag(1, 1, -1). Independent dephasing in the two bases leaves visibility_z * visibility_x on the circular
    axis (a positive state for all visibilities). Intercept-resend on Bob's photon, in Z or X with equal chance,
    projects Bob's axis on the one that Eve measured: on average diag(1/2, 1/2, 0). The marginals stay uniform, so
    mixing tensors is exactly the statistics of treating the fraction `eve` of the pairs so.
    """
    pure = np.diag([visibility_z, visibility_x, -visibility_z * visibility_x])
    intercepted = pure @ np.diag([0.5, 0.5, 0.0])
    mixed: Matrix = (1.0 - eve) * pure + eve * intercepted
    return mixed


def outcome_probabilities(tensor: Matrix, turn_a: Matrix, turn_b: Matrix, basis_z_a: float, basis_z_b: float) -> Matrix:
    """float64[4, 4]: probability that a pair with both photons at the receivers leaves by Alice's port i and Bob's
    port j (H, V, D, A). turn_*: rotation of fibre and paddles of that side. Sums to one."""
    correlation = ANALYSERS @ turn_a @ tensor @ turn_b.T @ ANALYSERS.T
    port_a = np.repeat([basis_z_a, 1.0 - basis_z_a], 2)
    port_b = np.repeat([basis_z_b, 1.0 - basis_z_b], 2)
    probabilities: Matrix = np.outer(port_a, port_b) * (1.0 + correlation) / 4.0
    return probabilities


def detection_probabilities(outcome: Matrix, eta_a: Matrix, eta_b: Matrix) -> Matrix:
    """float64[5, 5]: probability that a pair sent is detected by Alice's i and Bob's j; index 4 = lost on that side.

    eta_*: float64[4], total efficiency of each arm with its detector. Entry [4, 4], both lost, is set to zero because
    nothing is ever drawn from it.
    """
    joint = np.zeros((5, 5))
    joint[:4, :4] = outcome * np.outer(eta_a, eta_b)
    joint[:4, 4] = outcome.sum(axis=1) * eta_a - joint[:4, :4].sum(axis=1)
    joint[4, :4] = outcome.sum(axis=0) * eta_b - joint[:4, :4].sum(axis=0)
    return np.clip(joint, 0.0, 1.0)
