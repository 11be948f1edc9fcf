#include "_loops.h"

// e to a difference from the largest: 0 where float32 has none, which fast_exp has not.
static inline float share(float x) { return x < -87.0f ? 0.0f : fast_exp(x); }

// Sixteen side by side, as in dot: no compiler may reorder comparisons of numbers that may be NaN.
static inline float largest_of(const float* x, int64_t n) {
  float lanes[16];
  std::fill_n(lanes, 16, -1e30f);
  int64_t v = 0;
  for (; v + 16 <= n; v += 16)
    for (int l = 0; l < 16; ++l) lanes[l] = std::max(lanes[l], x[v + l]);
  float largest = -1e30f;
  for (int l = 0; l < 16; ++l) largest = std::max(largest, lanes[l]);
  for (; v < n; ++v) largest = std::max(largest, x[v]);
  return largest;
}

static inline float sum(const float* x, int64_t n) {
  float lanes[16] = {0};
  int64_t v = 0;
  for (; v + 16 <= n; v += 16)
    for (int l = 0; l < 16; ++l) lanes[l] += x[v + l];
  float total = 0;
  for (int l = 0; l < 16; ++l) total += lanes[l];
  for (; v < n; ++v) total += x[v];
  return total;
}

extern "C" void distill_kl(const float* logits, const float* expert, float* losses, float* lse, float* expert_lse,
                           int64_t N, int64_t V, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t n = 0; n < N; ++n) {
    const float *q = logits + n * V, *p = expert + n * V;
    const float top_q = largest_of(q, V), top_p = largest_of(p, V);
    float sum_q = 0, sum_p = 0, apart = 0;
    // Shares of a block first, then their sums: each loop is vector code, in one that does both none is.
    constexpr int64_t block = 512;
    float of_q[block], of_p[block], weighted[block];
    for (int64_t start = 0; start < V; start += block, q += block, p += block) {
      const int64_t size = std::min(block, V - start);
      for (int64_t v = 0; v < size; ++v) of_q[v] = share(q[v] - top_q);
      for (int64_t v = 0; v < size; ++v) of_p[v] = share(p[v] - top_p);
      for (int64_t v = 0; v < size; ++v) weighted[v] = of_p[v] > 0 ? of_p[v] * (p[v] - q[v]) : 0.0f;
      sum_q += sum(of_q, size), sum_p += sum(of_p, size), apart += sum(weighted, size);
    }
    lse[n] = top_q + std::log(sum_q);
    expert_lse[n] = top_p + std::log(sum_p);
    losses[n] = apart / sum_p - expert_lse[n] + lse[n];
  }
}

extern "C" void distill_kl_backward(const float* grad, const float* lse, const float* expert_lse, const float* logits,
                                    const float* expert, float* dlogits, int64_t N, int64_t V, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t n = 0; n < N; ++n) {
    const float *q = logits + n * V, *p = expert + n * V;
    float* d = dlogits + n * V;
    const float g = grad[n], of_q = lse[n], of_p = expert_lse[n];
    if (g == 0) {
      std::fill_n(d, V, 0.0f);
      continue;
    }
    for (int64_t v = 0; v < V; ++v) d[v] = g * (share(q[v] - of_q) - share(p[v] - of_p));
  }
}
