#include "_loops.h"

extern "C" void gather_forward(const float* tokens, const float* positions, const int64_t* visible, float* out,
                               int64_t B, int64_t L, int64_t K, int64_t D, int64_t with_positions, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t row = 0; row < B * K; ++row) {
    const float* t = tokens + (row / K * L + visible[row]) * D;
    if (with_positions) {
      const float* p = positions + visible[row] * D;
      for (int64_t d = 0; d < D; ++d) out[row * D + d] = t[d] + p[d];
    } else {
      std::copy_n(t, D, out + row * D);
    }
  }
}

// Of the gradients, what is null is not asked for.
extern "C" void gather_backward(const float* grad, const int64_t* rank, float* dtokens, float* dpositions, int64_t B,
                                int64_t L, int64_t K, int64_t D, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t l = 0; l < L; ++l) {
    float* p = dpositions ? dpositions + l * D : nullptr;
    if (p) std::fill_n(p, D, 0.0f);
    for (int64_t b = 0; b < B; ++b) {
      const int64_t r = rank[b * L + l];
      if (r >= K) {
        if (dtokens) std::fill_n(dtokens + (b * L + l) * D, D, 0.0f);
        continue;
      }
      const float* g = grad + (b * K + r) * D;
      if (dtokens) std::copy_n(g, D, dtokens + (b * L + l) * D);
      if (p) for (int64_t d = 0; d < D; ++d) p[d] += g[d];
    }
  }
}

extern "C" void restore_forward(const float* tokens, const float* mask_token, const float* positions,
                                const int64_t* rank, float* out, int64_t B, int64_t L, int64_t K, int64_t D,
                                int64_t with_positions, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t row = 0; row < B * L; ++row) {
    const float* t = rank[row] < K ? tokens + (row / L * K + rank[row]) * D : mask_token;
    if (with_positions) {
      const float* p = positions + row % L * D;
      for (int64_t d = 0; d < D; ++d) out[row * D + d] = t[d] + p[d];
    } else {
      std::copy_n(t, D, out + row * D);
    }
  }
}

// dmask (L, D): the mask token's share by position. Of the gradients, what is null is not asked for.
extern "C" void restore_backward(const float* grad, const int64_t* rank, float* dtokens, float* dmask,
                                 float* dpositions, int64_t B, int64_t L, int64_t K, int64_t D, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t l = 0; l < L; ++l) {
    float *p = dpositions ? dpositions + l * D : nullptr, *m = dmask ? dmask + l * D : nullptr;
    if (m) std::fill_n(m, D, 0.0f);
    if (p) std::fill_n(p, D, 0.0f);
    for (int64_t b = 0; b < B; ++b) {
      const int64_t r = rank[b * L + l];
      const float* g = grad + (b * L + l) * D;
      if (r < K && dtokens) std::copy_n(g, D, dtokens + (b * K + r) * D);
      if (r >= K && m) for (int64_t d = 0; d < D; ++d) m[d] += g[d];
      if (p) for (int64_t d = 0; d < D; ++d) p[d] += g[d];
    }
  }
}
