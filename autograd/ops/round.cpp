#include "autograd/ops/round.h"

#include "autograd/ops/flat.h"
#include "kernels/ops/accumulate.h"

namespace headway {

void round_to(const Tensor& to, const Tensor& from, Stream& stream) {
  launch(
      Accumulate<bf16, float>{
          .to = flat<bf16>(to, "to"), .from = flat<const float>(from, "from"), .overwrite = true},
      stream);
}

}  // namespace headway
