// Weights as files hold them -> tiles of blocks (formats.h). Nothing is rounded: where a type keeps
// its scales in 6 bits and a common factor they become their product in float32, and codes of 2, 3,
// 5 and 6 bits take 8.
#pragma once
#include <stdint.h>

#include <string>

#include "model.h"

// The format that a GGUF type (Q4_0, BF16, ...) is packed into; -1 for one that is not packed.
int32_t format_of(const std::string& type);

int64_t bytes_of_row(const std::string& type, int64_t inputs);
int64_t packed_bytes(int32_t format, int64_t outputs, int64_t inputs);

// Rows [outputs, bytes_of_row] -> tiles `first` .. `last` - 1 of `packed`. False where a number or
// a scale is not finite: a product of int8 activations would make it a number like any other.
bool pack_tiles(const std::string& type, const uint8_t* rows, const Matrix& shape, int64_t first,
                int64_t last, char* packed);
