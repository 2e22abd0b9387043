# libpointsman.so: the C interface (router/c_api.h, models/c_api.h) and nothing else. It is loaded into other people's
# processes beside other copies of the same libraries, so it shows no symbol but pm_*.
add_library(pointsman_core SHARED router/c_api_memory.cc router/c_api_router.cc models/c_api.cc)
set_target_properties(pointsman_core PROPERTIES OUTPUT_NAME pointsman CXX_VISIBILITY_PRESET hidden
                      VISIBILITY_INLINES_HIDDEN ON)
target_link_libraries(pointsman_core PRIVATE pointsman_router pointsman_model_files)
target_link_options(pointsman_core PRIVATE LINKER:--as-needed LINKER:--no-undefined
                    LINKER:--version-script=${CMAKE_CURRENT_LIST_DIR}/pointsman_core.map)
set_target_properties(pointsman_core PROPERTIES LINK_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/pointsman_core.map)
target_include_directories(pointsman_core INTERFACE ${CMAKE_SOURCE_DIR})
set_target_properties(pointsman_memory_reader pointsman_router pointsman_model_files PROPERTIES POSITION_INDEPENDENT_CODE ON)
