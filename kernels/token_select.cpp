#include "_loops.h"

extern "C" void select_forward(const float* tokens, const float* scores, const int64_t* kept, const int64_t* dropped,
                               float* out, int64_t B, int64_t N, int64_t D, int64_t M, int64_t K, int64_t fuse,
                               int64_t threads) {
  const int64_t P = N - M, rows = P + K + fuse;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t b = 0; b < B; ++b) {
    const float* x = tokens + b * N * D;
    float* o = out + b * rows * D;
    std::copy_n(x, P * D, o);
    for (int64_t k = 0; k < K; ++k)
      std::copy_n(x + (P + kept[b * K + k]) * D, D, o + (P + k) * D);
    if (!fuse) continue;
    float* f = o + (P + K) * D;
    std::fill_n(f, D, 0.0f);
    for (int64_t i = 0; i < M - K; ++i) {
      const int64_t m = dropped[b * (M - K) + i];
      const float weight = scores[b * M + m];
      const float* t = x + (P + m) * D;
      for (int64_t d = 0; d < D; ++d) f[d] += weight * t[d];
    }
  }
}

// Of dtokens and dscores, what is null is not asked for.
extern "C" void select_backward(const float* grad, const float* tokens, const float* scores, const int64_t* rank,
                                float* dtokens, float* dscores, int64_t B, int64_t N, int64_t D, int64_t M, int64_t K,
                                int64_t fuse, int64_t threads) {
  const int64_t P = N - M, rows = P + K + fuse;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t b = 0; b < B; ++b) {
    const float* g = grad + b * rows * D;
    float* dx = dtokens ? dtokens + b * N * D : nullptr;
    if (dx) std::copy_n(g, P * D, dx);
    const float* f = g + (P + K) * D;
    for (int64_t m = 0; m < M; ++m) {
      const int64_t r = rank[b * M + m];
      const bool fused = fuse && r >= K;
      if (dscores) dscores[b * M + m] = fused ? dot(f, tokens + (b * N + P + m) * D, D) : 0;
      if (!dx) continue;
      float* d_token = dx + (P + m) * D;
      const float weight = scores[b * M + m];
      if (fused) for (int64_t d = 0; d < D; ++d) d_token[d] = weight * f[d];
      else if (r < K) std::copy_n(g + (P + r) * D, D, d_token);
      else std::fill_n(d_token, D, 0.0f);
    }
  }
}
