#include "kernels/cpu/linear_attention.h"

namespace headway {
namespace {

constexpr int64_t kChunk = 64;

HEADWAY_KERNEL(cpu, chunked::linear_attention_forward<kChunk, float>);
HEADWAY_KERNEL(cpu, chunked::linear_attention_forward<kChunk, double>);
HEADWAY_KERNEL(cpu, chunked::linear_attention_backward<kChunk, float>);
HEADWAY_KERNEL(cpu, chunked::linear_attention_backward<kChunk, double>);

}  // namespace
}  // namespace headway
