"""Push-T: a pusher, a T-shaped block, and an expert that searches on the simulator."""
