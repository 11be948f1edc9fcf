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

// Fold a tile into the running maximum and sum of its rows. With a width, the tile becomes the weights, and the rows of
// `mean` fade to the new maximum.
extern "C" void fold_rows(float* tile, float* tops, float* sums, float* mean, int64_t R, int64_t C, int64_t width,
                          double inverse_temperature, int64_t threads) {
  const float scale = static_cast<float>(inverse_temperature);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t r = 0; r < R; ++r) {
    float* s = tile + r * C;
    const float top = highest(s, C, scale, tops[r]);
    const float fade = fast_exp(tops[r] - top);
    for (int64_t d = 0; d < width; ++d) mean[r * width + d] *= fade;
    sums[r] = sums[r] * fade + (width ? sum_exp<true>(s, C, scale, top) : sum_exp<false>(s, C, scale, top));
    tops[r] = top;
  }
}

static void put_at_own_and_positive(float* s, int64_t C, int64_t row, int64_t column, int64_t N, float of_positive) {
  const int64_t own = row - column, positive = (row + N / 2) % N - column;
  if (positive >= 0 && positive < C) s[positive] = of_positive;
  if (own >= 0 && own < C) s[own] = 0;
}

// A tile of a symmetric matrix: similarities of unit rows from `row` and columns from `column` become exp((s - 1) / t),
// 0 at a row's own column and its positive's, and are added to the sums of the rows and, off the diagonal, of the
// columns, which are the rows of the tile on the other side.
extern "C" void add_exponentials(float* tile, float* row_sums, float* column_sums, int64_t R, int64_t C, int64_t row,
                                 int64_t column, int64_t N, double inverse_temperature, int64_t threads) {
  constexpr int64_t W = 64;
  const float scale = static_cast<float>(inverse_temperature);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
#pragma omp for
    for (int64_t r = 0; r < R; ++r) {
      float* s = tile + r * C;
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) s[c] = fast_exp((s[c] - 1.0f) * scale);
      put_at_own_and_positive(s, C, row + r, column, N, 0);
      float total = 0;
#pragma omp simd reduction(+ : total)
      for (int64_t c = 0; c < C; ++c) total += s[c];
      row_sums[r] += total;
    }
#pragma omp for
    for (int64_t start = 0; start < (row == column ? 0 : C); start += W) {
      const int64_t n = std::min(W, C - start);
      float total[W] = {0};
      for (int64_t r = 0; r < R; ++r) {
        const float* s = tile + r * C + start;
#pragma omp simd
        for (int64_t c = 0; c < n; ++c) total[c] += s[c];
      }
      for (int64_t c = 0; c < n; ++c) column_sums[start + c] += total[c];
    }
  }
}

// Similarities of the same tile become the weights w of the backward pass, exp((s - 1) / t) (a_row + a_column), where a
// is exp(1 / t - lse); that of each row's positive is given.
extern "C" void weights(float* tile, const float* inverse_sums, const float* of_positive, int64_t R, int64_t C,
                        int64_t row, int64_t column, int64_t N, double inverse_temperature, int64_t threads) {
  const float scale = static_cast<float>(inverse_temperature);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t r = 0; r < R; ++r) {
    float* s = tile + r * C;
    const float mine = inverse_sums[row + r];
    const float* others = inverse_sums + column;
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) s[c] = fast_exp((s[c] - 1.0f) * scale) * (mine + others[c]);
    put_at_own_and_positive(s, C, row + r, column, N, of_positive[row + r]);
  }
}
