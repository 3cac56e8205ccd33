#pragma once
#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_inference(nb::module_& module);
