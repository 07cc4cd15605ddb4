#include "core/comm/sequence_split.h"

namespace headway {

Tensor SequenceSplit::gather(const Tensor& own, Stream& stream) const {
  const Tensor all = Tensor::empty({comm_.size(), own.numel()}, own.dtype(), own.device());
  all.slice(0, rank(), rank() + 1).copy_from(own.reshape({1, own.numel()}), stream);
  comm_.all_gather(all, stream);
  Shape shape{comm_.size()};
  for (int d = 0; d < own.rank(); ++d) shape.append(own.size(d));
  return all.reshape(shape);
}

}  // namespace headway
