#include <gtest/gtest.h>

#include "core/backend.h"
#include "core/error.h"
#include "core/storage.h"
#include "core/stream.h"
#include "core/tensor.h"

namespace headway {
namespace {

constexpr size_t kBytes = 123456;

class PrivateMemoryTest : public testing::Test {
 protected:
  void SetUp() override { release_cached_memory(Device{}); }
  void* address_of_new() const { return Storage::allocate(kBytes, Device{})->data(); }
};

TEST_F(PrivateMemoryTest, BlocksServeTheSameMemoryAgainAndNobodyElse) {
  PrivateMemory memory{Device{}};
  void* inside = nullptr;
  {
    const PrivateMemory::Scope scope(memory);
    inside = address_of_new();
    EXPECT_EQ(address_of_new(), inside);
  }
  const auto outside = Storage::allocate(kBytes, Device{});
  EXPECT_NE(outside->data(), inside);
  const PrivateMemory::Scope scope(memory);
  EXPECT_EQ(address_of_new(), inside);
}

TEST_F(PrivateMemoryTest, WhatIsFreedOutsideReturnsToItsOwner) {
  PrivateMemory memory{Device{}};
  std::shared_ptr<Storage> kept;
  {
    const PrivateMemory::Scope scope(memory);
    kept = Storage::allocate(kBytes, Device{});
  }
  void* const inside = kept->data();
  kept.reset();
  const auto outside = Storage::allocate(kBytes, Device{});
  EXPECT_NE(outside->data(), inside);
}

TEST_F(PrivateMemoryTest, EverythingIsSharedAgainAtTheEnd) {
  const size_t in_use = memory_stats(Device{}).in_use_bytes;
  std::shared_ptr<Storage> kept;
  void* inside = nullptr;
  {
    PrivateMemory memory{Device{}};
    const PrivateMemory::Scope scope(memory);
    inside = address_of_new();
    kept = Storage::allocate(2 * kBytes, Device{});
  }
  EXPECT_EQ(address_of_new(), inside);
  void* const outlived = kept->data();
  kept.reset();
  EXPECT_EQ(Storage::allocate(2 * kBytes, Device{})->data(), outlived);
  EXPECT_EQ(memory_stats(Device{}).in_use_bytes, in_use);
}

TEST(HostMemory, OfTheCpuIsMemoryLikeAnyOther) {
  const Tensor tensor = Tensor::empty_on_host({3, 5}, DType::f32, Device{});
  EXPECT_EQ(tensor.device(), Device{});
  EXPECT_EQ(tensor.bytes(), 60u);
}

TEST(Recording, IsRefusedByTheCpu) {
  const auto stream = cpu_backend().make_stream();
  EXPECT_THROW(stream->begin_recording(), DeviceError);
  EXPECT_THROW(stream->end_recording(), DeviceError);
}

}  // namespace
}  // namespace headway
