// Which of OpenBLAS's sets of kernels multiplies matrices. OpenBLAS chooses one by the processor's model when
// it is loaded, and takes its oldest where it does not know the model: Debian 12's 0.3.21 on an Intel model
// of 2023 runs at a quarter of the speed that the processor's own instructions allow.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace headway {

enum class VectorWidth : uint8_t { older, avx2, avx512 };

/// The widest instructions that a core of OpenBLAS uses, by its name ("Haswell", any case); nothing for a
/// core that came later than this list.
std::optional<VectorWidth> width_of_blas_core(std::string_view core);
/// The widest that this processor has of those OpenBLAS has kernels for.
VectorWidth width_of_processor();
/// The core to ask for in place of `core`; empty where it uses all that the processor has, or is not known.
std::string better_blas_core(std::string_view core, VectorWidth processor);

/// Call it first in main. Where OpenBLAS took a core older than the processor and the environment does not
/// say which to take (OPENBLAS_CORETYPE), starts the program again with a better one; it returns otherwise.
void restart_with_better_blas_core(char** argv);

/// "OpenBLAS SkylakeX", with a remark where it was chosen by restart_with_better_blas_core or is older than
/// the processor allows.
std::string describe_blas_core();

}  // namespace headway
