"""What the MuJoCo worlds share: simulators, states, labels, rendering."""
