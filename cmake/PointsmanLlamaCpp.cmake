# hosts/llamacpp, where llama.cpp is: its headers in POINTSMAN_LLAMACPP/include, its libraries in POINTSMAN_LLAMACPP/lib,
# as `tools/setup llamacpp` puts them. Nothing here is made, and its tests say so, where it is not.
# POINTSMAN_LLAMACPP: given to cmake, else the environment's, else where the set-up puts it by default. Not cached unless
# given, so that the environment counts at every configure.
if(NOT POINTSMAN_LLAMACPP)
  if(DEFINED ENV{POINTSMAN_LLAMACPP})
    set(POINTSMAN_LLAMACPP $ENV{POINTSMAN_LLAMACPP})
  elseif(DEFINED ENV{XDG_CACHE_HOME})
    set(POINTSMAN_LLAMACPP $ENV{XDG_CACHE_HOME}/pointsman/llamacpp-0.3.36)
  else()
    set(POINTSMAN_LLAMACPP $ENV{HOME}/.cache/pointsman/llamacpp-0.3.36)
  endif()
endif()
if(NOT EXISTS ${POINTSMAN_LLAMACPP}/include/llama.h)
  message(STATUS "llama.cpp: not in ${POINTSMAN_LLAMACPP}; hosts/llamacpp is left out (tools/setup llamacpp builds it)")
  return()
endif()
message(STATUS "llama.cpp: ${POINTSMAN_LLAMACPP}")

add_library(llamacpp INTERFACE)
target_include_directories(llamacpp SYSTEM INTERFACE ${POINTSMAN_LLAMACPP}/include)
foreach(name llama ggml ggml-base)
  find_library(LLAMACPP_${name} ${name} PATHS ${POINTSMAN_LLAMACPP}/lib NO_DEFAULT_PATH NO_CACHE REQUIRED)
  target_link_libraries(llamacpp INTERFACE ${LLAMACPP_${name}})
endforeach()

pointsman_module(llamacpp FOLDER hosts/llamacpp SOURCES batch_rows.cc gguf_identity.cc graph_tensor.cc llama_routing.cc
  DEPENDS pointsman_router llamacpp)
foreach(program llama llama_verify llama_probe llama_bench)
  add_executable(pointsman_${program} hosts/llamacpp/pointsman_${program}.cc)
  target_link_libraries(pointsman_${program} PRIVATE pointsman_llamacpp CLI11::CLI11)
  set_target_properties(pointsman_${program} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
endforeach()
