# The CUDA backend's kernels. `cuda_attention_units` holds the units written for the softmax variants.
add_library(headway_kernels_cuda OBJECT
  kernels/cuda/activation.cu
  kernels/cuda/adamw.cu
  kernels/cuda/add_blocks.cu
  kernels/cuda/affine_scale.cu
  kernels/cuda/argmax.cu
  kernels/cuda/attention/backward_hopper_128.cu
  kernels/cuda/attention/backward_hopper_64.cu
  kernels/cuda/attention/backward_hopper_slices.cu
  kernels/cuda/attention/forward_hopper_128.cu
  kernels/cuda/attention/forward_hopper_64.cu
  kernels/cuda/attention_transfer.cu
  kernels/cuda/causal_conv.cu
  kernels/cuda/cca_prologue.cu
  kernels/cuda/column_sum.cu
  kernels/cuda/cross_entropy.cu
  kernels/cuda/dynamic_mask.cu
  kernels/cuda/elementwise.cu
  kernels/cuda/embedding.cu
  kernels/cuda/gate.cu
  kernels/cuda/gated_norm.cu
  kernels/cuda/hedgehog_map.cu
  kernels/cuda/linear/one_pass.cu
  kernels/cuda/linear/sweeps_128.cu
  kernels/cuda/linear/sweeps_256.cu
  kernels/cuda/linear/sweeps_64.cu
  kernels/cuda/linear_attention.cu
  kernels/cuda/linear_by_rows.cu
  kernels/cuda/lrpe.cu
  kernels/cuda/matmul.cpp
  kernels/cuda/matmul_trial.cu
  kernels/cuda/merge_attention.cu
  kernels/cuda/moh_gates.cu
  kernels/cuda/norm.cu
  kernels/cuda/norm_aware_map.cu
  kernels/cuda/norm_rope.cu
  kernels/cuda/repeat_heads.cu
  kernels/cuda/rope.cu
  kernels/cuda/round.cu
  kernels/cuda/step_control.cu
  kernels/cuda/token_shift.cu
  ${cuda_attention_units}
)

# How units of CUDA kernels are compiled, those of tests too.
add_library(headway_cuda_options INTERFACE)
target_compile_definitions(headway_cuda_options INTERFACE HEADWAY_CUDA_ARCHITECTURES="${CMAKE_CUDA_ARCHITECTURES}")
target_compile_options(headway_cuda_options INTERFACE
  # 554: a false alarm about conversions that a requires clause rules out
  $<$<COMPILE_LANGUAGE:CUDA>:--diag-suppress=554;--expt-relaxed-constexpr;--extended-lambda;-lineinfo;-Xcompiler=-Wall,-Wextra>
  $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${HEADWAY_WERROR}>>:-Werror=all-warnings>)
target_link_libraries(headway_kernels_cuda PUBLIC headway_core
  PRIVATE headway_cuda_options CUDA::cudart_static CUDA::cublasLt)
