// Which builds of the kernels there are, and which this processor and operating system run.
#pragma once
#include <vector>

#include "inference/engine.h"
#include "kernels.h"

using Builds = std::vector<const Kernels*>;  // best first

Builds built_kernels();

// Asked once: in a virtual machine the processor takes 37 microseconds to answer.
const Builds& usable_kernels();
