// Context parallelism: N ranks share each sequence, in the segments of Zigzag (core/token_positions.h). Of a
// tensor [B,T,...] of whole sequences a rank holds [B,T/N,...], its two segments one after the other. That is
// the memory of [2B,T/2N,...], where each segment is a sequence of its own: what looks back on earlier tokens
// works on this form, and is told what came before each segment.
#pragma once

#include "core/comm/communicator.h"
#include "core/token_positions.h"

namespace headway {

class SequenceSplit {
 public:
  /// comm: of the ranks that share sequences, and no others. It must outlive this.
  explicit SequenceSplit(Communicator& comm) : comm_(comm) {}

  Zigzag zigzag() const { return {comm_.size()}; }
  int64_t rank() const { return comm_.rank(); }
  /// Of the `count` tokens that this rank holds of a sequence.
  TokenPositions positions(int64_t count) const { return zigzag().positions(rank(), count / 2); }
  /// own [...], the same shape on every rank -> [N,...], that of rank r at r. Collective.
  Tensor gather(const Tensor& own, Stream&) const;

 private:
  Communicator& comm_;
};

}  // namespace headway
