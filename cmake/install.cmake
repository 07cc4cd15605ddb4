# `cmake --install`: the program, and the libraries up to the layers with a package that find_package(headway) finds.
# `cpack -G DEB`: the same as two Debian packages, headway and libheadway-dev.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

if(HEADWAY_NATIVE)
  install(CODE [[message(WARNING "This build runs only on processors with every instruction of this machine's: \
the preset `package` builds for other machines too")]])
endif()

# --- The program, its recipes and pages -------------------------------------------------------------------
install(TARGETS headway COMPONENT program)
install(DIRECTORY recipes DESTINATION ${CMAKE_INSTALL_DATADIR}/headway COMPONENT program)
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT program)
install(FILES README.md CHANGELOG.md NOTICE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT program)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright COMPONENT program)

# --- The libraries: headway::core, headway::kernels, headway::autograd, headway::layers ---------------------
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/headway)
set(libraries headway_flags headway_core headway_kernels_cpu headway_kernels headway_autograd headway_layers_archive
  headway_layers)
if(HEADWAY_CUDA)
  list(APPEND libraries headway_kernels_cuda headway_cuda_options)
endif()
foreach(library IN LISTS libraries)
  string(REPLACE headway_ "" name ${library})
  set_target_properties(${library} PROPERTIES EXPORT_NAME ${name})
endforeach()
install(TARGETS ${libraries} EXPORT headway-targets COMPONENT libraries INCLUDES DESTINATION include/headway)
install(EXPORT headway-targets NAMESPACE headway:: DESTINATION ${package_folder} COMPONENT libraries)
install(DIRECTORY core kernels autograd layers DESTINATION include/headway COMPONENT libraries
  FILES_MATCHING PATTERN "*.h")
configure_package_config_file(cmake/headway-config.cmake.in ${CMAKE_BINARY_DIR}/headway-config.cmake
  INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/headway-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/headway-config.cmake ${CMAKE_BINARY_DIR}/headway-config-version.cmake
  cmake/dependencies.cmake DESTINATION ${package_folder} COMPONENT libraries)

# --- Debian packages --------------------------------------------------------------------------------------
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_CONTACT "The Headway authors")
set(CPACK_PACKAGE_VENDOR "The Headway authors")
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_ALL program libraries)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_NAME headway)
set(CPACK_DEBIAN_PROGRAM_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_RECOMMENDS openmpi-bin)  # mpirun, for several ranks
set(CPACK_COMPONENT_PROGRAM_DESCRIPTION "${PROJECT_DESCRIPTION}")
set(CPACK_DEBIAN_LIBRARIES_PACKAGE_NAME libheadway-dev)
set(CPACK_DEBIAN_LIBRARIES_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_LIBRARIES_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_LIBRARIES_PACKAGE_DEPENDS "cmake (>= 3.25), pkg-config, libfmt-dev, libhdf5-dev, \
libopenblas-openmp-dev | libopenblas-dev, libopenmpi-dev, libxxhash-dev, libzstd-dev, zlib1g-dev")
set(CPACK_COMPONENT_LIBRARIES_DESCRIPTION "Tensors, attention kernels, differentiation and layers of Headway, for C++")
# A package must not be built for the processor of this machine alone.
configure_file(cmake/cpack_check.cmake.in ${CMAKE_BINARY_DIR}/cpack_check.cmake @ONLY)
set(CPACK_PROJECT_CONFIG_FILE ${CMAKE_BINARY_DIR}/cpack_check.cmake)
include(CPack)
