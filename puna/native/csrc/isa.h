// Which builds of the kernels this processor and operating system can run, best first.
#pragma once
#include <vector>

#include "kernels.h"

std::vector<const Kernels*> usable_kernels();
