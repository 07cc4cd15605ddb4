# Tests whose ranks are processes of mpirun.
if(NOT MPI_C_FOUND)
  return()
endif()

add_executable(mpi_ranks tests/core/collective_cases.cpp tests/core/mpi_ranks.cpp)
target_link_libraries(mpi_ranks PRIVATE headway_core)
add_executable(grad_reducer_ranks tests/trainers/grad_reducer_case.cpp tests/trainers/grad_reducer_ranks.cpp)
target_link_libraries(grad_reducer_ranks PRIVATE headway_trainers)

# Open MPI 4 reads the OMPI_ names, 5 the PRTE_ ones: more ranks than cores, also for root, none bound.
set(HEADWAY_MPI_TEST_ENVIRONMENT OMP_NUM_THREADS=1
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
  PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1
  PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe PRTE_MCA_hwloc_default_binding_policy=none)

# headway_mpi_test(<name> RANKS <n> STATUS <exit status of mpirun> WITHIN <seconds> SAYS <text> COMMAND <program>...)
function(headway_mpi_test name)
  cmake_parse_arguments(PARSE_ARGV 1 test "" "RANKS;STATUS;WITHIN;SAYS" "COMMAND")
  add_test(NAME ${name} COMMAND ${CMAKE_SOURCE_DIR}/tests/support/expect_status.sh
    ${test_STATUS} ${test_WITHIN} "${test_SAYS}" ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${test_RANKS}
    ${test_COMMAND})
  set_tests_properties(${name} PROPERTIES ENVIRONMENT "${HEADWAY_MPI_TEST_ENVIRONMENT}"
    PROCESSORS ${test_RANKS})
endfunction()

foreach(ranks 1 2 4)
  foreach(case collectives collectives_in_small_messages shared_memory shared_memory_refused mistakes)
    headway_mpi_test(core.mpi.${case}_${ranks} RANKS ${ranks} STATUS 0 WITHIN 100 COMMAND $<TARGET_FILE:mpi_ranks> ${case})
  endforeach()
  foreach(transport shared_memory messages)
    headway_mpi_test(trainers.mpi.gradients_become_sums_by_${transport}_${ranks} RANKS ${ranks} STATUS 0 WITHIN 100
      COMMAND $<TARGET_FILE:grad_reducer_ranks> ${transport})
  endforeach()
endforeach()
headway_mpi_test(core.mpi.a_failing_rank_ends_all_with_its_status RANKS 4 STATUS 6 WITHIN 30 SAYS "rank 1: planted"
  COMMAND $<TARGET_FILE:mpi_ranks> throws_on_rank_1)
headway_mpi_test(core.mpi.a_silent_rank_ends_all_at_the_deadline RANKS 2 STATUS 8 WITHIN 30
  SAYS "rank 0 of 2: all_reduce number 2 (4000 bytes) has not finished within 2 s"
  COMMAND $<TARGET_FILE:mpi_ranks> sleeps_on_rank_1)
headway_mpi_test(core.mpi.a_pending_reduction_keeps_the_deadline RANKS 4 STATUS 8 WITHIN 30
  SAYS "all_reduce number 2 (4000 bytes) has not finished within 2 s"
  COMMAND $<TARGET_FILE:mpi_ranks> sleeps_with_reductions_pending)
headway_mpi_test(core.mpi.a_silent_rank_is_named RANKS 4 STATUS 8 WITHIN 30 SAYS "rank(s) 1 are missing"
  COMMAND $<TARGET_FILE:mpi_ranks> sleeps_in_shared_memory)
headway_mpi_test(core.mpi.long_work_may_take_longer_than_a_collective RANKS 2 STATUS 0 WITHIN 60
  COMMAND $<TARGET_FILE:mpi_ranks> sleeps_in_long_work)
headway_mpi_test(core.mpi.a_rank_that_fails_in_long_work_ends_all RANKS 3 STATUS 6 WITHIN 30 SAYS "rank 1: planted"
  COMMAND $<TARGET_FILE:mpi_ranks> fails_in_long_work)
headway_mpi_test(core.mpi.a_rank_stopped_in_long_work_ends_all_at_the_deadline RANKS 2 STATUS 8 WITHIN 30
  SAYS "has not finished within 2 s" COMMAND $<TARGET_FILE:mpi_ranks> sleeps_stopped_in_long_work)
headway_mpi_test(core.mpi.a_rank_that_never_starts_ends_all RANKS 2 STATUS 8 WITHIN 30
  SAYS "MPI has not started within 2 s" COMMAND $<TARGET_FILE:mpi_ranks> sleeps_before_mpi)
headway_mpi_test(core.mpi.disagreeing_ranks_end_with_a_sentence RANKS 2 STATUS 8 WITHIN 30
  SAYS "ranks disagree about what to reduce" COMMAND $<TARGET_FILE:mpi_ranks> disagreement)
headway_mpi_test(core.mpi.a_killed_rank_ends_all RANKS 2 STATUS 137 WITHIN 30 COMMAND $<TARGET_FILE:mpi_ranks> killed_on_rank_1)
headway_mpi_test(core.mpi.unwinding_past_the_communicator_does_not_hang RANKS 2 STATUS 3 WITHIN 30
  COMMAND $<TARGET_FILE:mpi_ranks> leaves_while_throwing)

# Ranks with GPUs; several share one where there are not enough.
if(HEADWAY_CUDA)
  add_executable(gpu_ranks tests/core/collective_cases.cpp tests/cuda/gpu_ranks.cpp)
  target_link_libraries(gpu_ranks PRIVATE headway_core)
  headway_mpi_test(cuda.ranks.collectives RANKS 2 STATUS 0 WITHIN 100 COMMAND $<TARGET_FILE:gpu_ranks> collectives)
  headway_mpi_test(cuda.ranks.a_failing_rank_ends_all_with_its_status RANKS 2 STATUS 6 WITHIN 60 SAYS "rank 1: planted"
    COMMAND $<TARGET_FILE:gpu_ranks> throws_on_rank_1)
  headway_mpi_test(cuda.ranks.a_silent_rank_ends_all_at_the_deadline RANKS 2 STATUS 8 WITHIN 60
    SAYS "all_reduce number 2 (4000 bytes) has not finished within 5 s" COMMAND $<TARGET_FILE:gpu_ranks> sleeps_on_rank_1)
  add_test(NAME cuda.ranks.training COMMAND /usr/bin/python3 ${CMAKE_SOURCE_DIR}/tests/cuda/gpu_ranks_test.py)
  set_tests_properties(cuda.ranks.training PROPERTIES PROCESSORS 2 TIMEOUT 600
    ENVIRONMENT "${HEADWAY_MPI_TEST_ENVIRONMENT};HEADWAY_PROGRAM=$<TARGET_FILE:headway>;HEADWAY_MPIEXEC=${MPIEXEC_EXECUTABLE}")
  foreach(test collectives a_failing_rank_ends_all_with_its_status a_silent_rank_ends_all_at_the_deadline training)
    set_tests_properties(cuda.ranks.${test} PROPERTIES LABELS gpu SKIP_RETURN_CODE 77)
  endforeach()
endif()
