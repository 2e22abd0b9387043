# LibTorch is the C++ side of the torch wheel in the project's own virtual environment (tools/setup). Without it there is
# libpointsman and the Python package only.
set(POINTSMAN_LIBTORCH ON CACHE STRING "ON: what needs LibTorch, too; AUTO: where this Python's torch has it; OFF")
if(NOT POINTSMAN_LIBTORCH)
  return()
endif()
if(POINTSMAN_LIBTORCH STREQUAL "AUTO")
  # The wheel's build: pip hides the environment's packages from the build, but not where they lie.
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)
  execute_process(COMMAND ${Python_EXECUTABLE} -c "import sysconfig; print(sysconfig.get_path('platlib'))"
                  OUTPUT_VARIABLE TORCH_PREFIX OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  find_package(Torch QUIET PATHS ${TORCH_PREFIX}/torch/share/cmake)
  if(NOT Torch_FOUND)
    message(STATUS "No torch in ${TORCH_PREFIX}: the package gets no `pointsman` command")
    set(POINTSMAN_LIBTORCH OFF)
    return()
  endif()
elseif(NOT Torch_DIR AND EXISTS ${CMAKE_SOURCE_DIR}/.venv/bin/python)
  execute_process(COMMAND ${CMAKE_SOURCE_DIR}/.venv/bin/python -c "import torch; print(torch.utils.cmake_prefix_path)"
                  OUTPUT_VARIABLE TORCH_PREFIX OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  list(APPEND CMAKE_PREFIX_PATH ${TORCH_PREFIX})
endif()
find_package(Torch REQUIRED)
find_library(TORCH_CPU_LIBRARY torch_cpu PATHS ${TORCH_INSTALL_PREFIX}/lib NO_DEFAULT_PATH REQUIRED)
