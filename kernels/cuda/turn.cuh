// The rotation of rope.h of the pairs that a thread has.
#pragma once

namespace headway::cuda {

/// Turns (u, w) by the angles (cosine, sine of each pair), or back.
template <int V>
__device__ void turn(float (&u)[V], float (&w)[V], const float (&angle)[2 * V], bool inverse) {
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const float cosine = angle[2 * v], sine = inverse ? -angle[2 * v + 1] : angle[2 * v + 1];
    const float turned = u[v] * cosine - w[v] * sine;
    w[v] = w[v] * cosine + u[v] * sine;
    u[v] = turned;
  }
}

}  // namespace headway::cuda
