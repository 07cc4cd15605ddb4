# Independent definitions in plain Python against the golden cases of their kind: tests/golden/<kind>.py.
file(GLOB definitions CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/golden/*.py)
list(REMOVE_ITEM definitions ${CMAKE_SOURCE_DIR}/tests/golden/case.py
  ${CMAKE_SOURCE_DIR}/tests/golden/softmax_family.py)
foreach(definition IN LISTS definitions)
  get_filename_component(kind ${definition} NAME_WE)
  file(GLOB cases CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/golden/${kind}-*.h5)
  add_test(NAME golden.definition.${kind} COMMAND /usr/bin/python3 -B ${definition} ${cases})
  set_tests_properties(golden.definition.${kind} PROPERTIES SKIP_RETURN_CODE 77)
endforeach()

# Every case through the layer of its kind, in float64 and float32.
file(GLOB cases CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/golden/*.h5)
foreach(case IN LISTS cases)
  get_filename_component(name ${case} NAME_WE)
  add_test(NAME golden.parity.${name} COMMAND headway parity ${case})
endforeach()
