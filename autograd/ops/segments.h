// What the segments of sequences that several ranks share tell each other (core/comm/sequence_split.h). Each
// is one exchange forward and one backward, at the same place of every rank's graph.
#pragma once

#include "autograd/variable.h"
#include "core/context.h"

namespace headway {

/// x [2B,H,F,W] fp32 or fp64, what each segment of this rank adds to a linear attention's state, that state
/// faded by exp(-slope) a token, slope [H] or undefined -> [2B,H,F,W], the state before each segment.
/// segment_length in tokens. Collective: ctx.split must be set.
Variable states_before_segments(Context&, const Variable& x, const Tensor& slope, int64_t segment_length);

/// x [2B,...] of each segment -> [2B,...], that of the segment before it in the sequence, zero for the first.
/// Collective: ctx.split must be set.
Variable from_segments_before(Context&, const Variable& x);

}  // namespace headway
