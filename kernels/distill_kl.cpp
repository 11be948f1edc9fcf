#include "_loops.h"

// e to a difference from the largest: 0 where float32 has none, which fast_exp has not.
static inline float share(float x) { return x < -87.0f ? 0.0f : fast_exp(x); }

static inline float largest_of(const float* x, int64_t n) {
  float lanes[16];
  for (int l = 0; l < 16; ++l) lanes[l] = -1e30f;
  int64_t v = 0;
  for (; v + 16 <= n; v += 16)
    for (int l = 0; l < 16; ++l) lanes[l] = x[v + l] > lanes[l] ? x[v + l] : lanes[l];
  float largest = -1e30f;
  for (int l = 0; l < 16; ++l) largest = std::max(largest, lanes[l]);
  for (; v < n; ++v) largest = x[v] > largest ? x[v] : largest;
  return largest;
}

extern "C" void distill_kl(const float* logits, const float* expert, float* losses, float* lse, float* expert_lse,
                           int64_t N, int64_t V, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t n = 0; n < N; ++n) {
    const float *q = logits + n * V, *p = expert + n * V;
    const float top_q = largest_of(q, V), top_p = largest_of(p, V);
    float sums_q[16] = {0}, sums_p[16] = {0}, aparts[16] = {0};
    const auto add = [&](int l, int64_t v) {
      const float weight = share(p[v] - top_p);
      sums_q[l] += share(q[v] - top_q);
      sums_p[l] += weight;
      aparts[l] += weight * (weight > 0 ? p[v] - q[v] : 0.0f);
    };
    int64_t v = 0;
    for (; v + 16 <= V; v += 16)
      for (int l = 0; l < 16; ++l) add(l, v + l);
    for (; v < V; ++v) add(0, v);
    float sum_q = 0, sum_p = 0, apart = 0;
    for (int l = 0; l < 16; ++l) sum_q += sums_q[l], sum_p += sums_p[l], apart += aparts[l];
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
