# What every target is compiled with. Programs that link an installed Headway inherit none of the warnings.
add_library(headway_flags INTERFACE)
target_include_directories(headway_flags INTERFACE $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}>)
target_compile_options(headway_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wconversion -Wno-sign-conversion>
  # false alarms of GCC 12 inside fmt and the standard library
  $<$<CXX_COMPILER_ID:GNU>:$<$<COMPILE_LANGUAGE:CXX>:-Wno-stringop-overflow;-Wno-restrict>>
  # Loops over sqrt and comparisons vectorise. Nobody reads errno or the floating-point status flags; the values stay
  # those of IEEE arithmetic, NaN and infinity too.
  $<$<COMPILE_LANGUAGE:CXX>:-fno-math-errno;-fno-trapping-math>
  # GCC's false alarms of these two come and go with the processor that it optimises for
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${HEADWAY_WERROR}>>:-Werror;-Wno-error=array-bounds;-Wno-error=maybe-uninitialized>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${HEADWAY_NATIVE}>>:-march=native>)
target_link_libraries(headway_flags INTERFACE OpenMP::OpenMP_CXX fmt::fmt)
if(HEADWAY_SANITIZE)
  target_compile_options(headway_flags INTERFACE -fsanitize=${HEADWAY_SANITIZE} -fno-omit-frame-pointer -g)
  target_link_options(headway_flags INTERFACE -fsanitize=${HEADWAY_SANITIZE})
endif()
