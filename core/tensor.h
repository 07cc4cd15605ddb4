// A handle to typed, strided memory. Copying a Tensor copies the handle; a const Tensor still allows writing
// its elements, as a span does. There are no arithmetic operators: arithmetic lives in operations, so that
// every floating-point operation has a name, a test and a cost.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/dtype.h"
#include "core/shape.h"
#include "core/storage.h"
#include "core/stream.h"
#include "core/view.h"

namespace headway {

class Tensor {
 public:
  /// An undefined tensor: stands for an absent optional input or an unwanted gradient.
  Tensor() = default;

  static Tensor empty(const Shape&, DType, Device);
  /// Host memory whose copies to and from the device run while the host goes on (Storage::allocate_host).
  static Tensor empty_on_host(const Shape&, DType, Device copied_to);
  static Tensor zeros(const Shape&, DType, Stream&);
  /// A contiguous tensor at the start of memory that exists; ShapeError when it does not fit.
  static Tensor over(std::shared_ptr<Storage>, const Shape&, DType);
  /// Copies host values to the stream's device. ShapeError when the count does not fit the shape.
  template <class T>
  static Tensor from(std::span<const T> values, const Shape& shape, Stream& stream) {
    HEADWAY_CHECK(
        static_cast<int64_t>(values.size()) == shape.numel(), ShapeError,
        "Tensor::from: " + std::to_string(values.size()) + " values for shape " + shape.to_string());
    const Tensor host = from_bytes(values.data(), shape, dtype_of<T>);
    return host.to(stream);
  }

  bool defined() const { return storage_ != nullptr; }
  explicit operator bool() const { return defined(); }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t size(int dim) const { return shape_[dim]; }
  /// Elements from one index to the next along dim.
  int64_t stride(int dim) const { return strides_[dim]; }
  int64_t numel() const { return shape_.numel(); }
  size_t bytes() const { return static_cast<size_t>(numel()) * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return storage_ ? storage_->device() : Device{}; }
  bool is_contiguous() const;
  const std::shared_ptr<Storage>& storage() const { return storage_; }
  /// First element, whatever the dtype.
  void* raw() const;

  /// Same memory, other sizes; one size may be -1. The tensor must be contiguous.
  Tensor reshape(Shape) const;
  /// Indices lo <= i < hi along dim; same memory.
  Tensor slice(int dim, int64_t lo, int64_t hi) const;
  Tensor transpose(int a, int b) const;
  /// The tensor on the stream's device: itself if it is there already. Must be contiguous to move.
  Tensor to(Stream&) const;
  /// A contiguous copy in new memory on the same device. The tensor must be contiguous.
  Tensor clone(Stream&) const;
  /// Work of the stream: on a GPU the memory of both must live until the stream is past it.
  void copy_from(const Tensor& other, Stream&) const;
  void fill_zero(Stream&) const;

  /// First element as T; ShapeError naming the tensor when the dtype is another.
  template <class T>
  T* data(const char* name = "tensor") const {
    check_dtype(dtype_of<T>, name);
    return static_cast<T*>(raw());
  }
  template <class T, int Rank>
  View<T, Rank> view(const char* name) const {
    check_dtype(dtype_of<T>, name);
    check_rank(Rank, name);
    View<T, Rank> view;
    view.data = static_cast<T*>(raw());
    for (int i = 0; i < Rank; ++i) view.size[i] = shape_[i], view.stride[i] = strides_[i];
    return view;
  }
  /// view(), or a view without memory where the tensor is undefined.
  template <class T, int Rank>
  View<T, Rank> optional_view(const char* name) const {
    return defined() ? view<T, Rank>(name) : View<T, Rank>{};
  }
  /// The elements as host values, waiting for the stream. The tensor must be contiguous.
  template <class T>
  std::vector<T> to_vector(Stream& stream) const {
    check_dtype(dtype_of<T>, "to_vector");
    std::vector<T> values(static_cast<size_t>(numel()));
    copy_to_host(values.data(), stream);
    return values;
  }

 private:
  static Tensor from_bytes(const void* values, const Shape&, DType);
  void check_dtype(DType expected, const char* name) const;
  void check_rank(int expected, const char* name) const;
  void copy_to_host(void* to, Stream&) const;

  std::shared_ptr<Storage> storage_;
  int64_t offset_ = 0;  // elements
  Shape shape_;
  Shape strides_;
  DType dtype_ = DType::f32;
};

/// All elements of a tensor of floating-point numbers; waits for the stream.
std::vector<double> to_doubles(const Tensor&, Stream&);

}  // namespace headway
