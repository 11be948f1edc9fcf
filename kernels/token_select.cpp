#include "_loops.h"

extern "C" void select_forward(const float* tokens, const float* scores, const int64_t* kept, const int64_t* dropped,
                               float* out, int64_t B, int64_t N, int64_t D, int64_t M, int64_t K, int64_t fuse,
                               int64_t threads) {
  const int64_t P = N - M, rows = P + K + fuse;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t b = 0; b < B; ++b) {
    const float* x = tokens + b * N * D;
    float* o = out + b * rows * D;
    std::memcpy(o, x, P * D * sizeof(float));
    for (int64_t k = 0; k < K; ++k)
      std::memcpy(o + (P + k) * D, x + (P + kept[b * K + k]) * D, D * sizeof(float));
    if (!fuse) continue;
    float* f = o + (P + K) * D;
    std::memset(f, 0, D * sizeof(float));
    for (int64_t i = 0; i < M - K; ++i) {
      const int64_t m = dropped[b * (M - K) + i];
      const float weight = scores[b * M + m];
      const float* t = x + (P + m) * D;
      for (int64_t d = 0; d < D; ++d) f[d] += weight * t[d];
    }
  }
}

extern "C" void select_backward(const float* grad, const float* tokens, const float* scores, const int64_t* rank,
                                float* dtokens, float* dscores, int64_t B, int64_t N, int64_t D, int64_t M, int64_t K,
                                int64_t fuse, int64_t threads) {
  const int64_t P = N - M, rows = P + K + fuse;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t b = 0; b < B; ++b) {
    const float* g = grad + b * rows * D;
    float* dx = dtokens + b * N * D;
    std::memcpy(dx, g, P * D * sizeof(float));
    const float* f = g + (P + K) * D;
    for (int64_t m = 0; m < M; ++m) {
      const int64_t r = rank[b * M + m];
      float* d_token = dx + (P + m) * D;
      dscores[b * M + m] = 0;
      if (r < K) std::memcpy(d_token, g + (P + r) * D, D * sizeof(float));
      else if (!fuse) std::memset(d_token, 0, D * sizeof(float));
      else {
        const float weight = scores[b * M + m];
        for (int64_t d = 0; d < D; ++d) d_token[d] = weight * f[d];
        dscores[b * M + m] = dot(f, tokens + (b * N + P + m) * D, D);
      }
    }
  }
}
