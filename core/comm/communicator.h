// Collectives between the ranks of a run. They take tensors, so count and type cannot disagree with the
// buffer. Tensors in host memory are always accepted, those of a GPU where ranks have GPUs; with these a
// collective is work of the stream: nothing here waits for the GPU.
#pragma once

#include <memory>
#include <string>

#include "core/device.h"
#include "core/stream.h"
#include "core/tensor.h"

namespace headway {

enum class Reduce : uint8_t { sum, max, min };

/// A reduction under way. Its tensor must not be touched until wait() returns.
class PendingReduce {
 public:
  virtual ~PendingReduce() = default;
  /// Lets the transport move on; true when finished. Never blocks.
  virtual bool poll() = 0;
  /// Past the communicator's deadline the run ends: see create(). On a GPU the stream waits, not the caller.
  virtual void wait() = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Rank among those on this machine.
  virtual int local_rank() const = 0;
  /// Uninitialised memory whose reductions are the fastest this transport has; any other tensor can be
  /// reduced too. Collective: every rank allocates the same shape and dtype.
  virtual Tensor allocate(const Shape& shape, DType dtype, Device device) {
    return Tensor::empty(shape, dtype, device);
  }
  /// In place; equal bits on every rank. f32, f64, i32, i64.
  virtual void all_reduce(const Tensor&, Reduce, Stream&) = 0;
  /// Ranks must start their all-reduces in the same order.
  virtual std::unique_ptr<PendingReduce> start_all_reduce(const Tensor&, Reduce, Stream&) = 0;
  /// Of a tensor of size() equal parts, part r becomes the reduction on rank r; what the other parts hold
  /// afterwards is undefined. The same bits as all_reduce gives where the transport adds in rank order.
  virtual std::unique_ptr<PendingReduce> start_reduce_scatter(const Tensor&, Reduce, Stream&) = 0;
  /// Of a tensor of size() equal parts, part r becomes what rank r has there. Any dtype.
  virtual void all_gather(const Tensor&, Stream&) = 0;
  virtual void broadcast(const Tensor&, int root, Stream&) = 0;
  virtual void barrier() = 0;
  /// Collective. The ranks that give the same color, in their order here, with collectives of their own,
  /// which must not outlive this communicator.
  virtual std::unique_ptr<Communicator> split(int color) = 0;
  /// Ends every rank with this exit status.
  [[noreturn]] virtual void abort(int exit_status) = 0;

  /// The ranks mpirun started, or a single rank where there is no mpirun (or no MPI in this build). On a GPU
  /// each rank has one of its own, and NCCL moves what is in its memory.
  /// timeout_s: longest time a rank waits for a collective (the first one: three times as long) before it
  /// writes what it waits for to stderr and ends every rank with status 8. CommError when MPI or NCCL cannot
  /// start, DeviceError where two ranks have the same GPU.
  static std::unique_ptr<Communicator> create(Device, double timeout_s);
};

}  // namespace headway
