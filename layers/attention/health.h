// Figures that tell how an attention layer fares, reported where Context::metrics is present. A block puts
// "attention/<layer>/" before their names.
#pragma once

#include <string>
#include <vector>

#include "core/context.h"
#include "core/tensor.h"

namespace headway {

/// Adds "<name>_min", "<name>_mean" and "<name>_max".
void report_range(Context&, const std::string& name, const std::vector<double>& values);

/// Of a block's output: "max_activation", the largest magnitude, and "activations_above_100x" and
/// "..._1000x", how many are above 100 and 1,000 times the median magnitude (massive activations, arXiv
/// 2402.17762).
void report_activations(Context&, const Tensor& activations);

/// gates [B,H,T] of heads that a token may leave unused, the first shared_heads always used: "load_min" and
/// "load_max", the smallest and largest share of tokens that use a routed head, and "load_entropy", the
/// entropy of the loads over its largest value (1: all heads equally used).
void report_head_load(Context&, const Tensor& gates, int64_t shared_heads);

/// key_end [B,K,T] i32, where key j is kept for the tokens j <= i < key_end: "kept_share", the share of keys
/// kept at all, and "kept_age", for how many tokens on average those are kept.
void report_kept_keys(Context&, const Tensor& key_end);

}  // namespace headway
