"""The forward pass without torch: today its NumPy twin, the oracle of the kernels to come."""
