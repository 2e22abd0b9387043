# One static library per module folder: sources are the folder's *.cc files but the tests, headers are included from the
# repository's root ("memory/result.h").

set(POINTSMAN_TORCH_PCH <ATen/ATen.h> <torch/csrc/autograd/autograd.h> <torch/csrc/autograd/variable.h>
    <string> <vector> <map> <memory> <functional> <span>)

function(pointsman_glob out folder)
  set(patterns)
  foreach(pattern ${ARGN})
    list(APPEND patterns ${CMAKE_SOURCE_DIR}/${folder}/${pattern})
  endforeach()
  file(GLOB found CONFIGURE_DEPENDS ${patterns})
  set(${out} ${found} PARENT_SCOPE)
endfunction()

# pointsman_module(name [FOLDER folder] [TORCH] [SOURCES pattern...] [EXCLUDE pattern...] DEPENDS library...)
function(pointsman_module name)
  cmake_parse_arguments(ARG "TORCH" "FOLDER" "SOURCES;EXCLUDE;DEPENDS" ${ARGN})
  if(NOT ARG_FOLDER)
    set(ARG_FOLDER ${name})
  endif()
  if(NOT ARG_SOURCES)
    set(ARG_SOURCES *.cc */*.cc)
  endif()
  pointsman_glob(sources ${ARG_FOLDER} ${ARG_SOURCES})
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  if(ARG_EXCLUDE)
    pointsman_glob(excluded ${ARG_FOLDER} ${ARG_EXCLUDE})
    list(REMOVE_ITEM sources ${excluded})
  endif()
  if(NOT sources)
    add_library(pointsman_${name} INTERFACE)
    target_include_directories(pointsman_${name} INTERFACE ${CMAKE_SOURCE_DIR})
    target_link_libraries(pointsman_${name} INTERFACE ${ARG_DEPENDS})
    return()
  endif()
  add_library(pointsman_${name} STATIC ${sources})
  target_include_directories(pointsman_${name} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(pointsman_${name} PUBLIC ${ARG_DEPENDS})
  if(ARG_TORCH)
    pointsman_use_torch(pointsman_${name})
  endif()
endfunction()

# Links LibTorch and shares one precompiled header: parsing ATen costs tens of seconds a file otherwise.
# LibTorch's include folder carries its own fmt, newer than the library that we link: ours is found first.
function(pointsman_use_torch target)
  set(includes ${CMAKE_BINARY_DIR}/include_first ${TORCH_INCLUDE_DIRS})
  target_include_directories(${target} SYSTEM PUBLIC ${includes})
  target_link_libraries(${target} PUBLIC ${TORCH_LIBRARIES})
  # First in the executable's list of libraries, before FAISS's OpenBLAS: LibTorch's products then run in the BLAS that
  # it brings and is built for, not in whichever name the linker finds (docs/decisions/012-blas.md).
  target_link_options(${target} INTERFACE LINKER:--push-state,--no-as-needed,${TORCH_CPU_LIBRARY},--pop-state)
  if(NOT TARGET pointsman_torch_pch)
    get_target_property(fmt_includes fmt::fmt INTERFACE_INCLUDE_DIRECTORIES)
    list(GET fmt_includes 0 fmt_include)
    file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/include_first)
    file(CREATE_LINK ${fmt_include}/fmt ${CMAKE_BINARY_DIR}/include_first/fmt SYMBOLIC)
    # Written once: a new time stamp at every configure would compile everything anew.
    if(NOT EXISTS ${CMAKE_BINARY_DIR}/torch_pch.cc)
      file(WRITE ${CMAKE_BINARY_DIR}/torch_pch.cc "")
    endif()
    add_library(pointsman_torch_pch OBJECT ${CMAKE_BINARY_DIR}/torch_pch.cc)
    target_include_directories(pointsman_torch_pch SYSTEM PUBLIC ${includes})
    target_link_libraries(pointsman_torch_pch PUBLIC ${TORCH_LIBRARIES})
    # The flags of its users: a precompiled header made without -fopenmp is refused by them.
    target_link_libraries(pointsman_torch_pch PRIVATE OpenMP::OpenMP_CXX)
    target_precompile_headers(pointsman_torch_pch PRIVATE ${POINTSMAN_TORCH_PCH})
    target_compile_options(pointsman_torch_pch PRIVATE -Wno-error)
  endif()
  target_precompile_headers(${target} REUSE_FROM pointsman_torch_pch)
endfunction()

# pointsman_test(name [FOLDER folder] [SOURCES pattern...]): one GoogleTest binary per module, one ctest entry per case.
function(pointsman_test name)
  cmake_parse_arguments(ARG "" "FOLDER" "SOURCES" ${ARGN})
  if(NOT ARG_FOLDER)
    set(ARG_FOLDER ${name})
  endif()
  if(NOT ARG_SOURCES)
    set(ARG_SOURCES *_test.cc */*_test.cc)
  endif()
  pointsman_glob(sources ${ARG_FOLDER} ${ARG_SOURCES})
  if(NOT sources)
    return()
  endif()
  add_executable(${name}_test ${sources})
  target_link_libraries(${name}_test PRIVATE pointsman_${name} GTest::gtest_main GTest::gmock)
  get_target_property(type pointsman_${name} TYPE)
  if(name MATCHES "^(models|adapt|indexer|daemon_engine|daemon)$")
    target_precompile_headers(${name}_test REUSE_FROM pointsman_torch_pch)
  endif()
  # GCC 12 sees impossible lengths in inlined std::string literals (GCC bug 105651, again), most of all in tests.
  target_compile_options(${name}_test PRIVATE -Wno-stringop-overflow)
  if(POINTSMAN_SANITIZE)
    # GCC 12 loses track of an optional's flag between the sanitizers' checks and warns about its unset value.
    target_compile_options(${name}_test PRIVATE -Wno-maybe-uninitialized)
  endif()
  target_compile_definitions(${name}_test PRIVATE
    POINTSMAN_SOURCE_DIR="${CMAKE_SOURCE_DIR}" POINTSMAN_BINARY_DIR="${CMAKE_BINARY_DIR}")
  include(GoogleTest)
  gtest_discover_tests(${name}_test DISCOVERY_MODE PRE_TEST
    PROPERTIES TIMEOUT 300 ENVIRONMENT "OPENBLAS_NUM_THREADS=1;MKL_CBWR=AUTO,STRICT")  # as TuneRuntime() has it
endfunction()

# Compiles the files of `folder` that a browser gets into `target`, as WebFiles() of daemon/web/web_files.h. They are
# read at build time, so a changed file rebuilds one small source.
function(pointsman_embed_web target folder)
  pointsman_glob(files ${folder} *.html *.css *.js *.svg)
  list(APPEND files ${ARGN})
  list(JOIN files "," joined)
  set(script ${CMAKE_SOURCE_DIR}/cmake/EmbedFiles.cmake)
  set(generated ${CMAKE_BINARY_DIR}/${target}_web_files.cc)
  add_custom_command(OUTPUT ${generated}
    COMMAND ${CMAKE_COMMAND} -DFILES=${joined} -DOUT=${generated} -P ${script}
    DEPENDS ${files} ${script} COMMENT "Embedding ${folder}" VERBATIM)
  target_sources(${target} PRIVATE ${generated})
endfunction()
