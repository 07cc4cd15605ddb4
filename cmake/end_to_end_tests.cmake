# Tests that start the program as a user does. They need mpirun and, to look into checkpoints, the
# distribution's python3 with h5py.
if(NOT MPI_C_FOUND)
  return()
endif()

foreach(subject checkpoints conversion disk eval export machine memory numbers plan ranks recipes report_page resume run_folder
    signals split sweep tasks)
  set(name trainers.end_to_end.${subject})
  add_test(NAME ${name} COMMAND /usr/bin/python3 ${CMAKE_SOURCE_DIR}/tests/trainers/end_to_end/${subject}_test.py)
  set_tests_properties(${name} PROPERTIES LABELS slow PROCESSORS 2 TIMEOUT 600
    ENVIRONMENT "${HEADWAY_MPI_TEST_ENVIRONMENT};HEADWAY_PROGRAM=$<TARGET_FILE:headway>;HEADWAY_MPIEXEC=${MPIEXEC_EXECUTABLE}")
endforeach()

foreach(drill kill damage)
  add_test(NAME scripts.${drill}_drill COMMAND ${CMAKE_SOURCE_DIR}/scripts/${drill}_drill 20)
  set_tests_properties(scripts.${drill}_drill PROPERTIES LABELS slow TIMEOUT 300
    ENVIRONMENT "OMP_NUM_THREADS=1;HEADWAY_PROGRAM=$<TARGET_FILE:headway>")
endforeach()

add_test(NAME scripts.quickstart COMMAND ${CMAKE_SOURCE_DIR}/tests/scripts/quickstart_test.sh ${CMAKE_SOURCE_DIR})
set_tests_properties(scripts.quickstart PROPERTIES LABELS slow RUN_SERIAL ON TIMEOUT 1800)
