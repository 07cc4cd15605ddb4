#include "kernels/attention/plan.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/kernels/attention/cases.h"

namespace headway::testing {
namespace {

constexpr int kLengths[] = {1, 17, 64, 100, 129, 500};
constexpr int kTileShapes[][2] = {{1, 1},    {16, 16},  {16, 64}, {64, 16}, {64, 64},
                                  {64, 128}, {128, 64}, {96, 80}, {7, 5}};

/// Whether a row may see no key although rows around it do: then a tile may be visited in vain.
template <class V>
constexpr bool kMayBeEmpty = std::is_same_v<V, Documents>;

// Compares, for one plan and every tile shape, what the plan says with what the mask is.
template <class V>
void expect_exact(const typename V::Params& params, int query_offset, int num_queries, int num_keys) {
  const TilePlan<V> plan{params, query_offset, num_queries, num_keys};
  for (int n = 0; n < V::intervals; ++n)
    for (int t = 1; t < num_queries; ++t) {
      ASSERT_LE(plan.begin(t - 1, n), plan.begin(t, n));
      ASSERT_LE(plan.end(t - 1, n), plan.end(t, n));
    }
  // visible[t][j] = number of visible pairs in rows < t and keys < j
  const size_t row_length = static_cast<size_t>(num_keys) + 1;
  std::vector<int> visible((static_cast<size_t>(num_queries) + 1) * row_length, 0);
  for (int t = 0; t < num_queries; ++t)
    for (int j = 0; j < num_keys; ++j)
      visible[(t + 1) * row_length + j + 1] = visible[t * row_length + j + 1] +
                                              visible[(t + 1) * row_length + j] -
                                              visible[t * row_length + j] + plan.sees(t, j);
  const auto count = [&](int q0, int q1, int k0, int k1) {
    return visible[q1 * row_length + k1] - visible[q0 * row_length + k1] - visible[q1 * row_length + k0] +
           visible[q0 * row_length + k0];
  };
  for (const auto& [rows, keys] : kTileShapes) {
    for (int q0 = 0; q0 < num_queries; q0 += rows)
      for (int k0 = 0; k0 < num_keys; k0 += keys) {
        const int q1 = q0 + rows - 1, k1 = k0 + keys - 1;
        const int q_last = std::min(q1, num_queries - 1), k_last = std::min(k1, num_keys - 1);
        const int pairs = count(q0, q_last + 1, k0, k_last + 1);
        const bool full = pairs == (q_last + 1 - q0) * (k_last + 1 - k0);
        const IndexRange key_range = plan.keys_of(q0, q_last), row_range = plan.rows_of(k0, k_last);
        const bool by_rows =
            k0 < key_range.last && k_last >= key_range.first && plan.visits(q0, q_last, k0, k1);
        const bool by_keys =
            q0 < row_range.last && q_last >= row_range.first && plan.visits(q0, q1, k0, k_last);
        if (pairs > 0 || !kMayBeEmpty<V>) {
          ASSERT_EQ(by_rows, pairs > 0) << "rows from " << q0 << ", keys from " << k0;
          ASSERT_EQ(by_keys, pairs > 0) << "rows from " << q0 << ", keys from " << k0;
        }
        const bool whole_by_rows = plan.is_whole(q0, q_last, k0, k1);
        const bool whole_by_keys = plan.is_whole(q0, q1, k0, k_last);
        if constexpr (V::intervals == 1) {
          ASSERT_EQ(whole_by_rows, full && k1 < num_keys);
          ASSERT_EQ(whole_by_keys, full && q1 < num_queries);
        } else {  // a tile that only the intervals together fill is tested element by element
          ASSERT_TRUE(full || !whole_by_rows);
          ASSERT_TRUE(full || !whole_by_keys);
        }
      }
  }
}

template <class V>
void expect_exact_everywhere(const typename V::Params& params) {
  for (const int length : kLengths) {
    expect_exact<V>(params, 0, length, length);
    expect_exact<V>(params, 23, length, length + 23);    // decoding with a cache
    expect_exact<V>(params, 0, length, length / 2 + 1);  // fewer keys than positions
    if (::testing::Test::HasFatalFailure()) return;
  }
}

TEST(TilePlan, PlainTilesAreExact) { expect_exact_everywhere<attention::Plain>({}); }
TEST(TilePlan, WindowTilesAreExact) {
  for (const int window : {1, 2, 16, 63, 64, 65, 200, 1000})
    expect_exact_everywhere<attention::SlidingWindow>({.window = window});
}
TEST(TilePlan, TwoIntervalTilesCoverTheMask) {
  for (const int first : {1, 4, 64, 100})
    for (const int window : {1, 16, 100})
      expect_exact_everywhere<FirstAndWindow>({.first = first, .window = window});
}
TEST(TilePlan, DocumentTilesCoverTheMask) {
  for (const int length : {1, 5, 64, 99}) expect_exact_everywhere<Documents>({.length = length});
}

}  // namespace
}  // namespace headway::testing
