"""The forward pass without torch, in NumPy; and the C++ kernels that training on CPUs uses."""
