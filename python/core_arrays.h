// What a caller of the Python package hands in as an array: anything with DLPack or the buffer protocol, on the CPU,
// taken without a copy. Every refusal is one line that names the argument. Needs the GIL.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <string>

#include "router/c_api.h"

namespace pointsman::python {

namespace nb = nanobind;

// Raises pointsman.Error or the subclass for `status`.
[[noreturn]] void Raise(int32_t status, const std::string& message);
void Check(pm_status status, const pm_error& error);

// A dense matrix [rows, columns] of fp32, bf16 or fp16. Keeps its owner alive.
struct Matrix {
  nb::ndarray<nb::ro> owner;
  void* data = nullptr;
  size_t rows = 0, columns = 0;
  pm_dtype type = PM_F32;
};

enum class Access { kRead, kWrite };
Matrix MatrixOf(const char* name, nb::handle array, Access access, bool only_float32);

// A dense vector [length] of exactly this element type. Keeps its owner alive.
struct Vector {
  nb::ndarray<nb::ro> owner;
  const void* data = nullptr;
  size_t length = 0;
};
Vector VectorOf(const char* name, nb::handle array, nb::dlpack::dtype type, const char* type_name);

}  // namespace pointsman::python
