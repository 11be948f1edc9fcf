#include "_loops.h"

template <bool keep> static float sum_exp(float* s, int64_t n, float scale, float top) {
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t c = 0; c < n; ++c) {
    const float p = fast_exp(s[c] * scale - top);
    if (keep) s[c] = p;
    total += p;
  }
  return total;
}

static float highest(const float* s, int64_t n, float scale, float top) {
#pragma omp simd reduction(max : top)
  for (int64_t c = 0; c < n; ++c) top = s[c] * scale > top ? s[c] * scale : top;
  return top;
}

// Fold a tile into the running maximum and sum of its rows, leaving out column r + diagonal of row r. With a width,
// the tile becomes the weights, and the rows of `mean` fade to the new maximum.
extern "C" void fold_rows(float* tile, float* tops, float* sums, float* mean, int64_t R, int64_t C, int64_t width,
                          int64_t diagonal, double inverse_temperature, int64_t threads) {
  const float scale = static_cast<float>(inverse_temperature);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t r = 0; r < R; ++r) {
    float* s = tile + r * C;
    const int64_t own = r + diagonal;
    const bool excluded = own >= 0 && own < C;
    const int64_t before = excluded ? own : C, after = excluded ? own + 1 : C;
    if (before + C - after == 0) continue;
    const float top = highest(s + after, C - after, scale, highest(s, before, scale, tops[r]));
    const float fade = fast_exp(tops[r] - top);
    if (width) {
      for (int64_t d = 0; d < width; ++d) mean[r * width + d] *= fade;
      sums[r] = sums[r] * fade + sum_exp<true>(s, before, scale, top);
      sums[r] += sum_exp<true>(s + after, C - after, scale, top);
    } else {
      sums[r] = sums[r] * fade + sum_exp<false>(s, before, scale, top);
      sums[r] += sum_exp<false>(s + after, C - after, scale, top);
    }
    tops[r] = top;
  }
}

// The same of the columns: the other half of a symmetric matrix.
extern "C" void fold_columns(const float* tile, float* tops, float* sums, int64_t R, int64_t C,
                             double inverse_temperature, int64_t threads) {
  constexpr int64_t W = 64;
  const float scale = static_cast<float>(inverse_temperature);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t start = 0; start < C; start += W) {
    const int64_t n = std::min(W, C - start);
    float top[W], total[W];
    for (int64_t c = 0; c < n; ++c) top[c] = tops[start + c];
    for (int64_t r = 0; r < R; ++r) {
      const float* s = tile + r * C + start;
#pragma omp simd
      for (int64_t c = 0; c < n; ++c) top[c] = s[c] * scale > top[c] ? s[c] * scale : top[c];
    }
    for (int64_t c = 0; c < n; ++c) total[c] = sums[start + c] * fast_exp(tops[start + c] - top[c]);
    for (int64_t r = 0; r < R; ++r) {
      const float* s = tile + r * C + start;
#pragma omp simd
      for (int64_t c = 0; c < n; ++c) total[c] += fast_exp(s[c] * scale - top[c]);
    }
    for (int64_t c = 0; c < n; ++c) { tops[start + c] = top[c]; sums[start + c] = total[c]; }
  }
}

// Similarities of rows from `row` and columns from `column` become the weights w of the backward pass; that of each
// row's positive is given.
extern "C" void weights(float* tile, const float* lse, const float* of_positive, int64_t R, int64_t C, int64_t row,
                        int64_t column, int64_t N, double inverse_temperature, int64_t threads) {
  const float scale = static_cast<float>(inverse_temperature);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t r = 0; r < R; ++r) {
    float* s = tile + r * C;
    const float mine = lse[row + r];
    const float* others = lse + column;
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) {
      const float logit = s[c] * scale;
      s[c] = fast_exp(logit - mine) + fast_exp(logit - others[c]);
    }
    const int64_t own = row + r - column, positive = (row + r + N / 2) % N - column;
    if (positive >= 0 && positive < C) s[positive] = of_positive[row + r];
    if (own >= 0 && own < C) s[own] = 0;
  }
}
