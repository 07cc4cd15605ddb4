// A learned tensor: its master value, the copy that kernels read, and where its gradient collects.
#pragma once

#include <memory>
#include <string>

#include "autograd/variable.h"
#include "core/rng.h"

namespace headway {

/// How a parameter starts.
struct Init {
  enum class Kind : uint8_t { constant, normal, uniform, geometric, identity };
  Kind kind = Kind::constant;
  double value = 0;  // the constant, standard deviation, largest magnitude, ratio, or diagonal

  static Init zeros() { return {Kind::constant, 0}; }
  static Init ones() { return {Kind::constant, 1}; }
  static Init constant(double value) { return {Kind::constant, value}; }
  static Init normal(double standard_deviation) { return {Kind::normal, standard_deviation}; }
  static Init uniform(double largest) { return {Kind::uniform, largest}; }
  /// Element i is ratio^i.
  static Init geometric(double ratio) { return {Kind::geometric, ratio}; }
  /// One where the last two indices are equal, else zero.
  static Init identity() { return {Kind::identity, 1}; }
};

struct Parameter {
  Shape shape;
  Init init;
  bool decay = false;            // weight decay applies: matrices, not vectors
  bool frozen = false;           // keeps its value: no gradient, no moments
  bool keeps_precision = false;  // operations read the value itself also where matrices are rounded to bf16

  Tensor value;    // fp32 (fp64 in gradient checks); undefined until the model is materialised
  Tensor compute;  // what operations read: value itself, or for matrices of a bf16 model a copy in bf16
  std::shared_ptr<GradBuffer> gradient = std::make_shared<GradBuffer>();

  bool is_rounded() const { return compute.dtype() == DType::bf16; }
  /// What operations take as input: a leaf, or a constant when frozen.
  Variable variable() const { return frozen ? Variable(compute) : Variable::leaf(compute, gradient); }
};

}  // namespace headway
