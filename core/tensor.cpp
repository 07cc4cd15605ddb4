#include "core/tensor.h"

#include <fmt/format.h>

#include <cstring>

#include "core/backend.h"

namespace headway {
namespace {

Shape contiguous_strides(const Shape& shape) {
  Shape strides = shape;
  int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = stride;
    stride *= shape[i];
  }
  return strides;
}

}  // namespace

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  Tensor tensor;
  tensor.shape_ = shape;
  tensor.strides_ = contiguous_strides(shape);
  tensor.dtype_ = dtype;
  tensor.storage_ = Storage::allocate(tensor.bytes(), device);
  return tensor;
}

Tensor Tensor::over(std::shared_ptr<Storage> storage, const Shape& shape, DType dtype) {
  Tensor tensor;
  tensor.shape_ = shape;
  tensor.strides_ = contiguous_strides(shape);
  tensor.dtype_ = dtype;
  HEADWAY_CHECK(tensor.bytes() <= storage->bytes(), ShapeError,
                fmt::format("a tensor {} of {} does not fit {} bytes of memory", shape.to_string(),
                            to_string(dtype), storage->bytes()));
  tensor.storage_ = std::move(storage);
  return tensor;
}

Tensor Tensor::empty_on_host(const Shape& shape, DType dtype, Device copied_to) {
  const size_t bytes = static_cast<size_t>(shape.numel()) * size_of(dtype);
  return over(Storage::allocate_host(bytes, copied_to), shape, dtype);
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Stream& stream) {
  Tensor tensor = empty(shape, dtype, stream.device());
  tensor.fill_zero(stream);
  return tensor;
}

Tensor Tensor::from_bytes(const void* values, const Shape& shape, DType dtype) {
  const Tensor tensor = empty(shape, dtype, Device{});
  if (tensor.bytes()) std::memcpy(tensor.raw(), values, tensor.bytes());
  return tensor;
}

bool Tensor::is_contiguous() const {
  int64_t expected = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (shape_[i] != 1 && strides_[i] != expected) return false;
    expected *= shape_[i];
  }
  return true;
}

void* Tensor::raw() const {
  HEADWAY_CHECK(defined(), ShapeError, "a tensor that was never set is used");
  return static_cast<std::byte*>(storage_->data()) + static_cast<size_t>(offset_) * size_of(dtype_);
}

Tensor Tensor::reshape(Shape shape) const {
  HEADWAY_CHECK(is_contiguous(), ShapeError,
                "reshape: the tensor " + shape_.to_string() + " is not contiguous");
  int unknown = -1;
  int64_t known = 1;
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] == -1)
      unknown = i;
    else
      known *= shape[i];
  }
  if (unknown >= 0 && known > 0) shape[unknown] = numel() / known;
  HEADWAY_CHECK(shape.numel() == numel(), ShapeError,
                fmt::format("reshape: {} has {} elements, {} has another number", shape_.to_string(), numel(),
                            shape.to_string()));
  Tensor result = *this;
  result.shape_ = shape;
  result.strides_ = contiguous_strides(shape);
  return result;
}

Tensor Tensor::slice(int dim, int64_t lo, int64_t hi) const {
  HEADWAY_CHECK(0 <= lo && lo <= hi && hi <= size(dim), ShapeError,
                fmt::format("slice: {}..{} is outside dimension {} of {}", lo, hi, dim, shape_.to_string()));
  Tensor result = *this;
  result.offset_ += lo * stride(dim);
  result.shape_[dim] = hi - lo;
  return result;
}

Tensor Tensor::transpose(int a, int b) const {
  Tensor result = *this;
  std::swap(result.shape_[a], result.shape_[b]);
  std::swap(result.strides_[a], result.strides_[b]);
  return result;
}

Tensor Tensor::to(Stream& stream) const {
  if (!defined() || device() == stream.device()) return *this;
  HEADWAY_CHECK(is_contiguous(), ShapeError, "to: the tensor " + shape_.to_string() + " is not contiguous");
  const Tensor result = empty(shape_, dtype_, stream.device());
  result.copy_from(*this, stream);
  // The source may be freed or changed by the host as soon as this returns.
  stream.synchronize();
  return result;
}

Tensor Tensor::clone(Stream& stream) const {
  const Tensor result = empty(shape_, dtype_, device());
  result.copy_from(*this, stream);
  return result;
}

void Tensor::copy_from(const Tensor& other, Stream& stream) const {
  HEADWAY_CHECK(shape_ == other.shape_ && dtype_ == other.dtype_ && is_contiguous() && other.is_contiguous(),
                ShapeError,
                fmt::format("copy: {} {} from {} {}, both contiguous, is not possible", to_string(dtype_),
                            shape_.to_string(), to_string(other.dtype_), other.shape_.to_string()));
  backend(stream.device()).copy(raw(), other.raw(), bytes(), stream);
}

void Tensor::fill_zero(Stream& stream) const {
  HEADWAY_CHECK(is_contiguous(), ShapeError,
                "fill_zero: the tensor " + shape_.to_string() + " is not contiguous");
  backend(stream.device()).fill_zero(raw(), bytes(), stream);
}

void Tensor::check_dtype(DType expected, const char* name) const {
  HEADWAY_CHECK(
      dtype_ == expected, ShapeError,
      fmt::format("{}: dtype {} where {} is expected", name, to_string(dtype_), to_string(expected)));
}

void Tensor::check_rank(int expected, const char* name) const {
  HEADWAY_CHECK(
      rank() == expected, ShapeError,
      fmt::format("{}: shape {} where {} dimensions are expected", name, shape_.to_string(), expected));
}

void Tensor::copy_to_host(void* to, Stream& stream) const {
  HEADWAY_CHECK(is_contiguous(), ShapeError,
                "to_vector: the tensor " + shape_.to_string() + " is not contiguous");
  backend(device()).copy(to, raw(), bytes(), stream);
  stream.synchronize();
}

std::vector<double> to_doubles(const Tensor& tensor, Stream& stream) {
  std::vector<double> values;
  dispatch<double, float, bf16>(tensor.dtype(), "to_doubles", [&]<class T>() {
    for (const T value : tensor.to_vector<T>(stream)) {
      if constexpr (std::is_same_v<T, bf16>)
        values.push_back(static_cast<double>(static_cast<float>(value)));
      else
        values.push_back(static_cast<double>(value));
    }
  });
  return values;
}

}  // namespace headway
