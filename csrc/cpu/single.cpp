// A small batch in two calls: its whole matrix is one tile, and a sweep's calls would cost more than its arithmetic. The first
// goes from raw dot products to the mean loss and the negatives' weights W; after two products of the caller's, W b and W^T a,
// the second turns those into gradients. Row i's positive is column i, or in NT-Xent (`views`) column i + N of 2N.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "operators.h"

namespace clipfast {
namespace {

constexpr int64 kStrip = 32;  // rows that share one float32 partial column sum
constexpr double kSmallest = std::numeric_limits<float>::min() / std::numeric_limits<float>::epsilon();
constexpr float kLargest = std::numeric_limits<float>::max();

double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }
double logistic(double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); }

std::vector<double> dots(const Tensor& x, const Tensor& y, const int64* partner, int64 count) {
  std::vector<double> d(count);
  const int64 width = x.size(1);
  loops().paired_dots({data<float>(x), data<float>(y), width, width, width, partner, d.data()}, 0, count);
  return d;
}

// One side's inverse norms as F.normalize has them, and its longest row.
struct Norms {
  std::vector<double> inverse, projection;
  std::vector<float> factor;
  double longest = 0.0;

  Norms(const Tensor& x, bool normalize) : inverse(x.size(0), 1.0), projection(normalize ? x.size(0) : 0) {
    const std::vector<double> squared = dots(x, x, nullptr, x.size(0));
    for (size_t i = 0; i < squared.size(); ++i) {
      const double norm = std::sqrt(squared[i]);
      longest = norm > longest || std::isnan(norm) ? norm : longest;
      if (!normalize) continue;
      inverse[i] = 1 / std::max(norm, 1e-12);
      projection[i] = norm > 1e-12 ? inverse[i] * inverse[i] : 0.0;
    }
    if (normalize) factor.assign(inverse.begin(), inverse.end());
  }
  const float* factors() const { return factor.empty() ? nullptr : factor.data(); }
  const double* projections() const { return projection.empty() ? nullptr : projection.data(); }
};

struct Single {
  Norms a, b;
  int64 rows, cols;
  double bound;
  std::vector<int64> partner, excluded;
  std::vector<double> row_factor, positive;  // positive: logits without the bias

  Single(const Tensor& left, const Tensor& right, double scale, bool views, bool normalize)
      : a(left, normalize), b(right, normalize), rows(left.size(0)), cols(right.size(0)),
        bound(std::abs(scale) * (normalize ? 1 + 1e-6 : a.longest * b.longest)), partner(rows), row_factor(rows) {
    for (int64 i = 0; i < rows; ++i) {
      partner[i] = views ? (i + cols / 2) % cols : i;
      excluded.push_back(partner[i]);
      if (views) excluded.push_back(i);
      row_factor[i] = scale * a.inverse[i];
    }
    positive = dots(left, right, partner.data(), rows);
    for (int64 i = 0; i < rows; ++i) positive[i] *= row_factor[i] * b.inverse[partner[i]];
  }

  // NaN, infinity and lengths whose product overflows are the sweep's: it has their rules and their errors.
  bool plain() const { return std::isfinite(bound) && a.longest * b.longest <= kLargest / 16; }
  // What finish_single needs, [3, cols]: minus the loss's derivative by each positive's dot product, both sides' projections.
  void save(const std::vector<double>& pull, bool views, double* state) const {
    for (int64 i = 0; i < rows; ++i)
      state[i] = (pull[i] + (views ? pull[partner[i]] : 0.0)) * a.inverse[i] * b.inverse[partner[i]];
    std::copy(a.projection.begin(), a.projection.end(), state + cols);
    std::copy(b.projection.begin(), b.projection.end(), state + 2 * cols);
  }
  Tile tile(const float* scores, float* target) const {
    return {scores, target, cols, row_factor.data(), b.factors(), excluded.data(), static_cast<int64>(excluded.size()) / rows, 0};
  }
};

// The mean's share of lines that have their negatives' sums in units of exp(shift): adds `share * (1 - p)` to the lines'
// `pull`, writes `share * exp(shift - lse)` and returns the sum of the losses.
double finish_lines(const std::vector<double>& sums, const Single& s, double shift, double share, float* weight, double* pull) {
  double total = 0.0;
  for (size_t i = 0; i < sums.size(); ++i) {
    const double gap = std::log(sums[i]) + shift - s.positive[i], nll = softplus(gap);
    total += nll;
    weight[i] = static_cast<float>(share * std::exp(shift - s.positive[i] - nll));
    pull[i] += share * logistic(gap);
  }
  return total;
}

// Pass 1, strip by strip; the exponentials stay in `target`.
void exp_sums(const Single& s, const float* scores, float* target, double shift_log2, double* row_sum, std::vector<double>& col_sum) {
  std::vector<float> partial(s.cols);
  for (int64 i = 0; i < s.rows; i += kStrip) {
    std::fill(partial.begin(), partial.end(), 0.0f);
    loops().exp_sums(s.tile(scores, target), {shift_log2, row_sum, nullptr}, i, std::min(s.rows, i + kStrip), partial.data(), nullptr);
    for (size_t j = 0; j < col_sum.size(); ++j) col_sum[j] += partial[j];
  }
}

}  // namespace

// False where one float32 window does not hold every sum, or the features are not plain: the sweep serves those.
bool softmax_single(Tensor scores, Tensor left, Tensor right, double scale, bool both, bool views, bool normalize, Tensor loss,
                    MaybeTensor state) {
  const Single s(left, right, scale, views, normalize);
  if (!s.plain()) return false;
  const double headroom = std::log(kLargest) - 2 - std::log(s.cols);
  const double shift_log2 = std::max(0.0, std::ceil((s.bound - headroom) * kLog2e)), shift = shift_log2 / kLog2e;
  std::vector<double> row_sum(s.rows, 0.0), col_sum(both ? s.cols : 0, 0.0);
  float* x = out<float>(scores);
  exp_sums(s, x, x, shift_log2, row_sum.data(), col_sum);
  const auto lost = [&](double sum) { return sum < s.cols * kSmallest; };
  if (-s.bound - shift < std::log(s.cols * kSmallest) &&
      (std::any_of(row_sum.begin(), row_sum.end(), lost) || std::any_of(col_sum.begin(), col_sum.end(), lost)))
    return false;
  const double share = 1.0 / (row_sum.size() + col_sum.size());
  std::vector<float> u(s.rows), v(s.cols, 0.0f);
  std::vector<double> pull(s.rows, 0.0);
  double total = finish_lines(row_sum, s, shift, share, u.data(), pull.data());
  total += finish_lines(col_sum, s, shift, share, v.data(), pull.data());
  *out<float>(loss) = static_cast<float>(total * share);
  if (!state) return true;
  s.save(pull, views, out<double>(*state));
  loops().softmax_weights(s.tile(x, x), {shift_log2, true, u.data(), v.data(), s.a.factors()}, 0, s.rows);
  return true;
}

// The sigmoid loss likewise, and its derivative by the bias.
bool sigmoid_single(Tensor scores, Tensor left, Tensor right, double scale, double bias, bool normalize, Tensor loss, MaybeTensor state,
                    Tensor by_bias) {
  const Single s(left, right, scale, false, normalize);
  if (!s.plain() || !std::isfinite(bias)) return false;
  const double share = 1.0 / s.rows;
  std::vector<double> row_loss(s.rows, 0.0), row_weight(s.rows, 0.0);
  const std::vector<float> shares(s.rows, static_cast<float>(share));
  float* x = out<float>(scores);
  loops().sigmoid(s.tile(x, x), {bias, state.has_value(), shares.data(), s.a.factors(), row_loss.data(), row_weight.data()}, 0, s.rows);
  double total = 0.0, derivative = 0.0;
  std::vector<double> pull(s.rows);
  for (int64 i = 0; i < s.rows; ++i) {
    const double z = s.positive[i] + bias;
    pull[i] = share * logistic(-z);
    total += row_loss[i] + softplus(-z);
    derivative += row_weight[i] * share - pull[i];
  }
  *out<float>(loss) = static_cast<float>(total * share);
  *out<float>(by_bias) = static_cast<float>(derivative);
  if (state) s.save(pull, false, out<double>(*state));
  return true;
}

// In place, the products W b and W^T a become gradients; the scale's is the sum of <x_i, dx_i> over a side. With `views` both
// sides are one: `by_rows` holds the sum of both products.
void finish_single(MaybeTensor by_rows, MaybeTensor by_cols, Tensor left, Tensor right, double scale, bool views, bool normalize,
                   Tensor state, Tensor by_scale) {
  const int64 rows = left.size(0), cols = right.size(0), width = left.size(1);
  const double* coef = data<double>(state);
  std::vector<double> dot(cols);
  const auto finish = [&](const Tensor& g, const Tensor& x, const Tensor& y, int64 count, int64 paired, const double* projection) {
    std::vector<int64> partner(count, -1);
    for (int64 i = 0; i < paired; ++i) partner[i] = views ? (i + cols / 2) % cols : i;
    loops().finish_rows({out<float>(g), data<float>(x), data<float>(y), width, width, width, partner.data(), coef,
                         normalize ? projection : nullptr, 1.0, scale, dot.data()}, 0, count);
    *out<float>(by_scale) = static_cast<float>(std::accumulate(dot.begin(), dot.begin() + count, 0.0) / (views ? 2 : 1));
  };
  if (by_rows) finish(*by_rows, left, right, rows, rows, coef + cols);
  if (by_cols) finish(*by_cols, right, left, cols, rows, coef + 2 * cols);
}

}  // namespace clipfast
