// What every communicator must do, written once: run by threads of one process and by processes of mpirun.
// A case throws std::runtime_error with what went wrong.
#pragma once

#include <cstdint>

#include "core/comm/communicator.h"

namespace headway {

/// Where the tensors of a case come from.
enum class Memory : uint8_t { of_the_device, of_the_communicator };

/// Sum, max and min in every dtype, whole and scattered; sizes from none to larger than a message; broadcasts
/// from every root; gathering.
void check_all_collectives(Communicator&, Memory, Stream&);
/// Many reductions under way at once, waited for in another order than they began.
void check_overlapping_reductions(Communicator&, Memory, Stream&);
/// The same float sums twice, and on all ranks: equal bits, although the order of addition matters.
void check_equal_bits(Communicator&, Memory, Stream&);

/// The parts that every second rank forms have collectives of their own, beside those of all ranks.
void check_split(Communicator&, Memory, Stream&);

/// agree() and broadcast_text() of core/comm/agreement.h.
void check_agreement(Communicator&);

}  // namespace headway
