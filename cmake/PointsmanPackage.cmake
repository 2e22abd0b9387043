# `cmake --install` and `cpack -G DEB`: the command with the parts of LibTorch that it needs, which no Debian package has,
# the reference model, the unit and its configuration.
include(GNUInstallDirs)

if(SKBUILD)
  # The wheel: the binary alone, and the version of torch whose libraries pointsman/command.py finds for it.
  install(TARGETS pointsman RUNTIME DESTINATION pointsman/bin COMPONENT python)
  string(REGEX MATCH "^[0-9.]+" POINTSMAN_TORCH_VERSION ${Torch_VERSION})
  file(WRITE ${CMAKE_BINARY_DIR}/torch_version "${POINTSMAN_TORCH_VERSION}\n")
  install(FILES ${CMAKE_BINARY_DIR}/torch_version DESTINATION pointsman/bin COMPONENT python)
  return()
endif()

set(POINTSMAN_LIBRARY_FOLDER ${CMAKE_INSTALL_LIBDIR}/pointsman)
set_target_properties(pointsman PROPERTIES INSTALL_RPATH "$ORIGIN/../${POINTSMAN_LIBRARY_FOLDER}")
install(TARGETS pointsman RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
file(GLOB POINTSMAN_TORCH_LIBRARIES ${TORCH_INSTALL_PREFIX}/lib/libtorch.so ${TORCH_INSTALL_PREFIX}/lib/libtorch_cpu.so
     ${TORCH_INSTALL_PREFIX}/lib/libc10.so ${TORCH_INSTALL_PREFIX}/lib/libgomp*)
install(FILES ${POINTSMAN_TORCH_LIBRARIES} DESTINATION ${POINTSMAN_LIBRARY_FOLDER})
install(DIRECTORY models/reference DESTINATION share/pointsman/models FILES_MATCHING PATTERN "*.json"
        PATTERN "*.safetensors")
install(FILES README.md LICENSE schemas/openapi.yaml DESTINATION share/doc/pointsman)
install(FILES daemon/packaging/pointsman.service DESTINATION lib/systemd/system)
install(FILES daemon/packaging/pointsman.toml DESTINATION /etc/pointsman)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME pointsman)
set(CPACK_PACKAGE_CONTACT "Pointsman's maintainers <maintainers@pointsman.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "kNN routing memories for Mixture-of-Experts language models")
set(CPACK_PACKAGE_DESCRIPTION
    "Builds routing memories from a corpus, judges them, and serves a model with them over an OpenAI-like REST API.")
set(CPACK_SET_DESTDIR ON)  # /etc stands beside /usr
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_DEPENDS adduser)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${TORCH_INSTALL_PREFIX}/lib)
set(CPACK_DEBIAN_COMPRESSION_TYPE zstd)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_SOURCE_DIR}/daemon/packaging/postinst
    ${CMAKE_SOURCE_DIR}/daemon/packaging/prerm ${CMAKE_SOURCE_DIR}/daemon/packaging/postrm
    ${CMAKE_SOURCE_DIR}/daemon/packaging/conffiles)
set(CPACK_STRIP_FILES ON)
include(CPack)
