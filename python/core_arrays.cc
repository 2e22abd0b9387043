#include "core_arrays.h"

#include <nanobind/stl/string.h>

#include <string>

namespace pointsman::python {
namespace {

std::string TypeName(nb::dlpack::dtype type) {
  using Code = nb::dlpack::dtype_code;
  const auto code = static_cast<Code>(type.code);
  const char* name = code == Code::Float    ? "float"
                     : code == Code::Bfloat ? "bfloat"
                     : code == Code::Int    ? "int"
                     : code == Code::UInt   ? "uint"
                     : code == Code::Bool   ? "bool"
                                            : "type-" /* complex and the like */;
  return name + std::to_string(type.bits);
}

std::string ShapeText(const nb::ndarray<nb::ro>& array) {
  std::string text = "[";
  for (size_t i = 0; i < array.ndim(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(array.shape(i));
  return text + "]";
}

[[noreturn]] void Refuse(const char* name, const std::string& problem) {
  Raise(PM_INVALID_ARGUMENT, std::string(name) + ": " + problem);
}

// An import costs microseconds for a tensor, whose export is Python code: once, unless it is to be refused.
nb::ndarray<nb::ro> Import(const char* name, nb::handle array, Access access) {
  nb::ndarray<nb::ro> imported;
  if (nb::ndarray<> writable; access == Access::kWrite && nb::try_cast(array, writable, false)) {
    imported = nb::ndarray<nb::ro>(writable);
  } else if (!nb::try_cast(array, imported, false)) {
    const std::string type = nb::cast<std::string>(nb::str(array.type().attr("__name__")));
    Refuse(name, "a " + type + " that gives no array by DLPack or the buffer protocol; pass a numpy array or a tensor" +
                     std::string(nb::hasattr(array, "requires_grad") ? " (.detach() first)" : ""));
  } else if (access == Access::kWrite) {
    Refuse(name, "is read-only, but it is what changes; pass a writable array");
  }
  if (access == Access::kWrite && nb::getattr(array, "requires_grad", nb::none()).is(nb::handle(Py_True))) {
    Refuse(name, "needs gradients, which a change in place would make wrong; pass .detach(), or use torch_routing");
  }
  if (imported.device_type() != nb::device::cpu::value) {
    Refuse(name, "is not on the CPU; use pointsman.torch_routing on accelerators, or pass .cpu()");
  }
  return imported;
}

bool IsDense(const nb::ndarray<nb::ro>& array) {
  int64_t expected = 1;
  for (size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) > 1 && array.stride(i) != expected) return false;
    expected *= static_cast<int64_t>(array.shape(i));
  }
  return true;
}

}  // namespace

void Raise(int32_t status, const std::string& message) {
  const nb::module_ errors = nb::module_::import_("pointsman.errors");
  const char* subclass = status == PM_MISMATCH      ? "MismatchError"
                         : status == PM_REJECTED    ? "RejectedError"
                         : status == PM_UNSUPPORTED ? "UnsupportedError"
                                                    : nullptr;
  const nb::object error =
      subclass != nullptr ? errors.attr(subclass)(message) : errors.attr("Error")(message, pm_status_name(status));
  PyErr_SetObject(error.type().ptr(), error.ptr());
  throw nb::python_error();
}

void Check(pm_status status, const pm_error& error) {
  if (status != PM_OK) Raise(status, error.message);
}

Matrix MatrixOf(const char* name, nb::handle array, Access access, bool only_float32) {
  Matrix matrix{.owner = Import(name, array, access)};
  const auto& imported = matrix.owner;
  using Code = nb::dlpack::dtype_code;
  const auto type = imported.dtype();
  const auto code = static_cast<Code>(type.code);
  const bool known =
      (code == Code::Float && (type.bits == 32 || type.bits == 16)) || (code == Code::Bfloat && type.bits == 16);
  matrix.type = code == Code::Bfloat ? PM_BF16 : type.bits == 16 ? PM_F16 : PM_F32;
  if (!known || (only_float32 && matrix.type != PM_F32)) {
    Refuse(name, "is of " + TypeName(type) + "; pass float32" + (only_float32 ? "" : ", bfloat16 or float16"));
  }
  if (imported.ndim() != 2) Refuse(name, "has the shape " + ShapeText(imported) + "; pass a matrix, one row a token");
  if (!IsDense(imported)) {
    Refuse(name,
           "of shape " + ShapeText(imported) + " is not contiguous; pass numpy.ascontiguousarray(x) or x.contiguous()");
  }
  matrix.data = const_cast<void*>(imported.data());
  matrix.rows = imported.shape(0);
  matrix.columns = imported.shape(1);
  return matrix;
}

Vector VectorOf(const char* name, nb::handle array, nb::dlpack::dtype type, const char* type_name) {
  Vector vector{.owner = Import(name, array, Access::kRead)};
  const auto& imported = vector.owner;
  if (imported.dtype() != type) Refuse(name, "is of " + TypeName(imported.dtype()) + "; pass " + type_name);
  if (imported.ndim() != 1) Refuse(name, "has the shape " + ShapeText(imported) + "; pass a vector");
  if (!IsDense(imported)) Refuse(name, "is not contiguous; pass numpy.ascontiguousarray(x) or x.contiguous()");
  vector.data = imported.data();
  vector.length = imported.shape(0);
  return vector;
}

}  // namespace pointsman::python
