// Auxiliary losses that layers add beside the main one (the balance loss of a mixture of heads).
#pragma once

#include <string>
#include <vector>

#include "autograd/variable.h"

namespace headway {

struct AuxiliaryLoss {
  std::string name;
  Variable loss;  // scalar, unweighted
  double weight;  // in the training loss, of the mean over the layers that add a loss of this name
};

class LossCollector {
 public:
  void add(AuxiliaryLoss loss) { losses_.push_back(std::move(loss)); }
  const std::vector<AuxiliaryLoss>& losses() const { return losses_; }

 private:
  std::vector<AuxiliaryLoss> losses_;
};

}  // namespace headway
