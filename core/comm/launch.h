// How this process was started: which rank of how many, and on how many cores it may run. Read from the
// environment and the affinity mask, so it is known before MPI starts and before the first OpenMP region.
#pragma once

#include <string>

namespace headway {

struct Launch {
  int rank = 0;
  int size = 1;
  int local_rank = 0;
  int local_size = 1;
  /// mpirun, srun with a process manager interface, or the like: MPI must be initialised.
  bool has_launcher = false;
};

/// What Open MPI, MPICH, Intel MPI and Slurm put into the environment; one rank where there is nothing.
Launch read_launch();

struct Cores {
  int allowed = 1;    // in this process's affinity mask
  int available = 1;  // to the job on this machine
  /// OMP_NUM_THREADS, 0 when it is unset or not a positive number.
  int omp_num_threads = 0;
};

Cores read_cores();

struct ThreadPlan {
  int num_threads = 1;
  /// One sentence for the user, empty where cores and threads fit.
  std::string warning;
};

/// OMP_NUM_THREADS where it is set; else the cores of the mask shared among the ranks of this machine, at
/// least one. Warns where a mask is smaller than the threads, where binding leaves cores idle, and where
/// there are more threads than cores.
ThreadPlan plan_threads(const Launch&, const Cores&);

}  // namespace headway
