// Which core of OpenBLAS fits a processor.
#include "kernels/cpu/blas_core.h"

#include <gtest/gtest.h>

namespace headway {
namespace {

TEST(BlasCore, AnOldCoreIsReplacedByWhatTheProcessorHas) {
  for (const char* core : {"Prescott", "Core2", "Nehalem", "Sandybridge", "Bulldozer"}) {
    EXPECT_EQ(better_blas_core(core, VectorWidth::avx512), "SkylakeX") << core;
    EXPECT_EQ(better_blas_core(core, VectorWidth::avx2), "Haswell") << core;
    EXPECT_EQ(better_blas_core(core, VectorWidth::older), "") << core;
  }
}

TEST(BlasCore, ACoreThatUsesAllOfTheProcessorStays) {
  for (const char* core : {"SkylakeX", "COOPERLAKE", "sapphirerapids"})
    for (const VectorWidth processor : {VectorWidth::older, VectorWidth::avx2, VectorWidth::avx512})
      EXPECT_EQ(better_blas_core(core, processor), "") << core;
  EXPECT_EQ(better_blas_core("never heard of", VectorWidth::avx512), "");
  EXPECT_EQ(better_blas_core("Zen", VectorWidth::avx2), "");
  EXPECT_EQ(better_blas_core("Haswell", VectorWidth::avx512), "SkylakeX");
}

TEST(BlasCore, TheWidthsAreOrdered) {
  EXPECT_LT(width_of_blas_core("Prescott"), width_of_blas_core("haswell"));
  EXPECT_LT(width_of_blas_core("ZEN"), width_of_blas_core("SkylakeX"));
  EXPECT_NE(describe_blas_core().find("OpenBLAS "), std::string::npos);
}

}  // namespace
}  // namespace headway
