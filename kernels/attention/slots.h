// The slots: optional inputs of the softmax core (equations in softmax_variant.h). HEADWAY_SLOTS is the one
// place that declares them. Bits, argument checks, SlotViews, SlotGradients, what is saved for backward, the
// inputs of softmax_attention and those of the tests are all generated from it, so that a new slot is a row
// here and its use in the kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <tuple>
#include <type_traits>

#include "core/host_device.h"
#include "core/view.h"

namespace headway {

// slot(name, its numbers, whether it has a gradient, its shape). Numbers: real, which is float, or double for
// double inputs; or i32.
//   row_scale: r, O_i = r_i Y_i
//   row_bias: beta, adds beta_i times the sum of the visible values
//   key_bias: delta, added to the score of key j
//   sink: a logit in every row's denominator that carries no value
//   head_parameter, row_parameter, key_parameter: learned numbers that the variant's score reads
//   key_end: e, key j is seen only from positions i < e_j
//   row_index: ascending rows of q to compute, -1 after the last; other rows give zero
// clang-format off
#define HEADWAY_SLOTS(slot)                 \
  slot(row_scale, real, true, B, H, T)      \
  slot(row_bias, real, true, B, H, T)       \
  slot(key_bias, real, true, B, K, Tk)      \
  slot(sink, real, true, H)                 \
  slot(head_parameter, real, true, H, P)    \
  slot(row_parameter, real, true, B, H, T)  \
  slot(key_parameter, real, true, B, K, Tk) \
  slot(key_end, i32, false, B, K, Tk)       \
  slot(row_index, i32, false, B, H, N)
// clang-format on

/// Lengths that slots have: those of q [B,T,H,Dh] and k [B,Tk,K,Dh]; P, the parameters that a head of the
/// variant has; and N, which the caller chooses.
enum class Extent : uint8_t { B, H, K, T, Tk, P, N };
enum class SlotNumber : uint8_t { real, i32 };

#define HEADWAY_SLOT_NAME(name, ...) name,
enum class SlotIndex : uint8_t { HEADWAY_SLOTS(HEADWAY_SLOT_NAME) };
#undef HEADWAY_SLOT_NAME

/// A set of slots, such as those that a variant declares. A slot that is declared must be given.
#define HEADWAY_SLOT_BIT(name, ...) name = 1u << static_cast<unsigned>(SlotIndex::name),
enum class Slots : uint32_t { none = 0, HEADWAY_SLOTS(HEADWAY_SLOT_BIT) };
#undef HEADWAY_SLOT_BIT

constexpr Slots operator|(Slots a, Slots b) {
  return static_cast<Slots>(static_cast<uint32_t>(a) | static_cast<uint32_t>(b));
}
HEADWAY_HD constexpr bool has(Slots set, Slots slot) {
  return (static_cast<uint32_t>(set) & static_cast<uint32_t>(slot)) != 0;
}

/// A row of the table.
struct SlotInfo {
  const char* name;
  Slots bit;
  SlotNumber number;
  bool has_gradient;
  int rank;
  Extent shape[3];

  /// Whether there is one number for each row of q.
  constexpr bool is_per_row() const { return rank == 3 && shape[2] == Extent::T; }

  constexpr SlotInfo(const char* name_in, Slots bit_in, SlotNumber number_in, bool has_gradient_in,
                     std::initializer_list<Extent> shape_in)
      : name(name_in),
        bit(bit_in),
        number(number_in),
        has_gradient(has_gradient_in),
        rank(static_cast<int>(shape_in.size())),
        shape{} {
    int dim = 0;
    for (const Extent extent : shape_in) shape[dim++] = extent;
  }
};

namespace slot_table {
using enum Extent;
#define HEADWAY_SLOT_ROW(name, number, has_gradient, ...) \
  SlotInfo{#name, Slots::name, SlotNumber::number, has_gradient, {__VA_ARGS__}},
inline constexpr SlotInfo kRows[] = {HEADWAY_SLOTS(HEADWAY_SLOT_ROW)};
#undef HEADWAY_SLOT_ROW
}  // namespace slot_table

/// A slot as a type, for generic code: its row of the table, and the type of its numbers.
template <SlotIndex kIndex>
struct Slot {
  static constexpr size_t index = static_cast<size_t>(kIndex);
  static constexpr SlotInfo info = slot_table::kRows[index];
  template <class A>
  using Number = std::conditional_t<info.number == SlotNumber::i32, int32_t, A>;
};

/// Views of the slots that a variant declares; the others stay empty. A is float, or double for double
/// inputs.
template <class A>
struct SlotViews {
#define HEADWAY_SLOT_VIEW(name, ...) \
  View<const typename Slot<SlotIndex::name>::template Number<A>, Slot<SlotIndex::name>::info.rank> name = {};
  HEADWAY_SLOTS(HEADWAY_SLOT_VIEW)
#undef HEADWAY_SLOT_VIEW
};

/// In place of the gradient of a slot that has none.
struct NoGradient {};

/// Views of the gradients of slots, each of its slot's shape; those that nobody asks for stay empty.
template <class A>
struct SlotGradients {
#define HEADWAY_SLOT_GRADIENT(name, ...)                                                                  \
  std::conditional_t<Slot<SlotIndex::name>::info.has_gradient, View<A, Slot<SlotIndex::name>::info.rank>, \
                     NoGradient>                                                                          \
      name = {};
  HEADWAY_SLOTS(HEADWAY_SLOT_GRADIENT)
#undef HEADWAY_SLOT_GRADIENT
};

/// One T for each input of the core, by name: q, k, v and every slot. Constant stands for the slots without a
/// gradient.
template <class T, class Constant = T>
struct SoftmaxRecord {
  T q = {}, k = {}, v = {};
#define HEADWAY_SLOT_MEMBER(name, ...) \
  std::conditional_t<Slot<SlotIndex::name>::info.has_gradient, T, Constant> name = {};
  HEADWAY_SLOTS(HEADWAY_SLOT_MEMBER)
#undef HEADWAY_SLOT_MEMBER

#define HEADWAY_SLOT_COMMA(name, ...) , name
  auto all() { return std::tie(q, k, v HEADWAY_SLOTS(HEADWAY_SLOT_COMMA)); }
  auto all() const { return std::tie(q, k, v HEADWAY_SLOTS(HEADWAY_SLOT_COMMA)); }
#undef HEADWAY_SLOT_COMMA
};

/// Calls visit(Slot<...>{}, records.<name>...) for every slot; records are structs with a member for each.
template <class Visit, class... Records>
constexpr void for_each_slot(const Visit& visit, Records&&... records) {
#define HEADWAY_SLOT_VISIT(name, ...) visit(Slot<SlotIndex::name>{}, records.name...);
  HEADWAY_SLOTS(HEADWAY_SLOT_VISIT)
#undef HEADWAY_SLOT_VISIT
}
/// The same for the slots that have a gradient.
template <class Visit, class... Records>
constexpr void for_each_slot_with_gradient(const Visit& visit, Records&&... records) {
  for_each_slot(
      [&]<class Slot>(Slot slot, auto&&... members) {
        if constexpr (Slot::info.has_gradient) visit(slot, members...);
      },
      records...);
}

}  // namespace headway
