# Tests of the sources themselves: the direction of includes, and that every header compiles by itself.
find_package(Python3 REQUIRED COMPONENTS Interpreter)

add_test(NAME scripts.check_layers COMMAND Python3::Interpreter ${CMAKE_SOURCE_DIR}/scripts/check_layers.py)
add_test(NAME scripts.check_layers_test
  COMMAND Python3::Interpreter ${CMAKE_SOURCE_DIR}/tests/scripts/check_layers_test.py)

add_test(NAME scripts.packages COMMAND ${CMAKE_SOURCE_DIR}/tests/scripts/packages_test.sh ${CMAKE_SOURCE_DIR})

# One unit per header, which includes it twice: alone, and again to see its #pragma once. The units are built by
# the test, so an ordinary build does not wait for them.
file(GLOB_RECURSE HEADWAY_HEADERS CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR}
  autograd/*.h bench/*.h core/*.h kernels/*.h layers/*.h tests/*.h trainers/*.h)
# What belongs to CUDA includes its headers, which a machine without it does not have.
if(NOT HEADWAY_CUDA)
  list(FILTER HEADWAY_HEADERS EXCLUDE REGEX "(^|/)cuda/")
endif()
set(units)
foreach(HEADER IN LISTS HEADWAY_HEADERS)
  set(unit ${CMAKE_BINARY_DIR}/headers_alone/${HEADER}.cpp)
  file(CONFIGURE OUTPUT ${unit} CONTENT "#include \"@HEADER@\"\n#include \"@HEADER@\"\n" @ONLY)
  list(APPEND units ${unit})
endforeach()
add_library(headers_alone OBJECT EXCLUDE_FROM_ALL ${units})
target_link_libraries(headers_alone PRIVATE headway_trainers hdf5::hdf5 GTest::gtest)
target_compile_options(headers_alone PRIVATE -O0)
add_test(NAME scripts.headers_compile_alone
  COMMAND ${CMAKE_COMMAND} --build ${CMAKE_BINARY_DIR} --target headers_alone --parallel 2)

# Some kernels for a GPU before Hopper: those that use what Hopper has must compile without it.
if(HEADWAY_CUDA)
  add_library(kernels_before_hopper OBJECT EXCLUDE_FROM_ALL
    kernels/cuda/add_blocks.cu kernels/cuda/attention/backward_hopper_64.cu kernels/cuda/column_sum.cu
    kernels/cuda/linear/sweeps_64.cu kernels/cuda/norm_rope.cu
    ${CMAKE_BINARY_DIR}/kernels/cuda/attention/row_affine.cu)
  set_target_properties(kernels_before_hopper PROPERTIES CUDA_ARCHITECTURES 80)
  target_link_libraries(kernels_before_hopper PRIVATE headway_core headway_cuda_options CUDA::cudart_static)
  add_test(NAME scripts.kernels_compile_before_hopper
    COMMAND ${CMAKE_COMMAND} --build ${CMAKE_BINARY_DIR} --target kernels_before_hopper --parallel 2)
  # Two builds in one folder at a time would be one too many.
  set_tests_properties(scripts.kernels_compile_before_hopper scripts.headers_compile_alone PROPERTIES
    RESOURCE_LOCK build_folder)
endif()
