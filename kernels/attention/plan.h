// Which tiles of the score matrix a kernel visits, and which of them need no test per element: derived from
// a variant's begin and end, so the block ranges of a kernel cannot drift from the mask.
//
// begin and end never decrease with the row, so for rows q0..q1 and keys k0..k1 of a tile (all inclusive)
//   some pair is visible   when begin(q0) <= k1 and end(q1) > k0     (for some interval)
//   every pair is visible  when begin(q1) <= k0 and end(q0) > k1     (for one interval)
// and the rows that see a key tile are found by binary search on the same two functions.
#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "kernels/attention/softmax_variant.h"

namespace headway {

/// Half-open; empty when first >= last.
struct IndexRange {
  int first;
  int last;
};

/// Rows are rows of q: row t stands at position query_offset + t of the keys.
template <class V>
struct TilePlan {
  typename V::Params params;
  int query_offset;
  int num_queries;
  int num_keys;

  HEADWAY_HD int begin(int row, int interval) const {
    return clamped(V::begin(params, query_offset + row, interval));
  }
  HEADWAY_HD int end(int row, int interval) const {
    return clamped(V::end(params, query_offset + row, interval));
  }
  /// Without branches, and without the clamps that a key which exists does not need.
  HEADWAY_HD bool sees(int row, int key) const {
    const int position = query_offset + row;
    bool seen = false;
    for (int n = 0; n < V::intervals; ++n)
      seen |= (V::begin(params, position, n) <= key) & (key < V::end(params, position, n));
    return seen & (key < num_keys);
  }
  /// Whether a tile may hold a visible pair: always where it does, and only then if no row is empty. The tile
  /// may reach past the last row and key.
  HEADWAY_HD bool visits(int q0, int q1, int k0, int k1) const {
    if (q1 >= num_queries) q1 = num_queries - 1;
    if (k1 >= num_keys) k1 = num_keys - 1;
    for (int n = 0; n < V::intervals; ++n)
      if (begin(q0, n) <= k1 && end(q1, n) > k0) return true;
    return false;
  }
  /// Whether every pair of the tile is visible. The caller clamps the side it holds still to the sequence;
  /// a streamed tile that reaches past the end is not whole.
  HEADWAY_HD bool is_whole(int q0, int q1, int k0, int k1) const {
    if (q1 >= num_queries || k1 >= num_keys) return false;
    for (int n = 0; n < V::intervals; ++n)
      if (begin(q1, n) <= k0 && end(q0, n) > k1) return true;
    return false;
  }
  /// Smallest range that holds every key the rows q0..q1 see.
  HEADWAY_HD IndexRange keys_of(int q0, int q1) const {
    IndexRange keys{num_keys, 0};
    for (int n = 0; n < V::intervals; ++n) {
      if (begin(q0, n) < keys.first) keys.first = begin(q0, n);
      if (end(q1, n) > keys.last) keys.last = end(q1, n);
    }
    return keys;
  }
  /// Smallest range that holds every row that sees one of the keys k0..k1.
  HEADWAY_HD IndexRange rows_of(int k0, int k1) const {
    IndexRange rows{num_queries, 0};
    for (int n = 0; n < V::intervals; ++n) {
      const int first = first_row([&](int row) { return end(row, n) > k0; }, k0 - query_offset);
      const int last = first_row([&](int row) { return begin(row, n) > k1; }, num_queries);
      if (first >= last) continue;
      if (first < rows.first) rows.first = first;
      if (last > rows.last) rows.last = last;
    }
    return rows;
  }

 private:
  HEADWAY_HD int clamped(int key) const { return key < 0 ? 0 : key > num_keys ? num_keys : key; }
  /// First row for which the condition holds, which then holds for all later ones; num_queries if none. A
  /// guess that is right spares the search, which takes a kernel as long as a tile.
  template <class Condition>
  HEADWAY_HD int first_row(Condition holds, int guess) const {
    const bool is_row_or_end = guess >= 0 && guess <= num_queries;
    if (is_row_or_end && (guess == num_queries || holds(guess)) && (guess == 0 || !holds(guess - 1)))
      return guess;
    int low = 0, high = num_queries;
    while (low < high) {
      const int middle = low + (high - low) / 2;
      if (holds(middle))
        high = middle;
      else
        low = middle + 1;
    }
    return low;
  }
};

}  // namespace headway
