# What every target is compiled with. Programs that link an installed Headway inherit none of the warnings.
add_library(headway_flags INTERFACE)
target_include_directories(headway_flags INTERFACE $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}>)
set(warnings
  -Wall -Wextra -Wconversion -Wno-sign-conversion
  # false alarms of GCC 12 inside fmt and the standard library
  $<$<CXX_COMPILER_ID:GNU>:-Wno-stringop-overflow> $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
if(HEADWAY_WERROR)
  # GCC's false alarms of these two depend on the processor that it optimises for
  list(APPEND warnings -Werror -Wno-error=array-bounds -Wno-error=maybe-uninitialized)
endif()
target_compile_options(headway_flags INTERFACE
  "$<BUILD_INTERFACE:$<$<COMPILE_LANGUAGE:CXX>:${warnings}>>"
  # Loops over sqrt and comparisons vectorise. Nobody reads errno or the floating-point status flags; the values stay
  # those of IEEE arithmetic, NaN and infinity too.
  $<$<COMPILE_LANGUAGE:CXX>:-fno-math-errno;-fno-trapping-math>
  # also for programs that link the libraries: what headers define must be compiled alike everywhere
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${HEADWAY_NATIVE}>>:-march=native>)
target_compile_features(headway_flags INTERFACE cxx_std_20)
target_link_libraries(headway_flags INTERFACE OpenMP::OpenMP_CXX fmt::fmt)
if(HEADWAY_SANITIZE)
  target_compile_options(headway_flags INTERFACE -fno-omit-frame-pointer
    $<$<NOT:$<BOOL:$<TARGET_PROPERTY:HEADWAY_UNSANITIZED>>>:-fsanitize=${HEADWAY_SANITIZE}>)
  target_link_options(headway_flags INTERFACE -fsanitize=${HEADWAY_SANITIZE})
endif()

# headway_precompile_headers(<target>): parses the headers that most units share once. Compiler caches do not see
# through a precompiled header, and where there is one it saves more.
function(headway_precompile_headers target)
  if(CCACHE)
    return()
  endif()
  target_precompile_headers(${target} PRIVATE <algorithm> <cmath> <filesystem> <fmt/format.h> <functional> <map>
    <memory> <optional> <span> <string> <vector>)
  # GCC's false alarms inside the standard library, which it silences in headers that are not precompiled
  target_compile_options(${target} PRIVATE -Wno-array-bounds)
endfunction()
