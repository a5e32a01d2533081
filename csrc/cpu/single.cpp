// A small batch in two calls: its whole matrix is one tile, and a sweep's calls would cost more than its arithmetic. The first
// goes from raw dot products to the mean loss and the negatives' weights W; after two products of the caller's, W y and W^T x,
// the second turns those into gradients. Row i's positive is column i, or in NT-Xent (`views`) column i + N of 2N.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "operators.h"

namespace clipfast {
namespace {

constexpr double kSmallest = std::numeric_limits<float>::min() / std::numeric_limits<float>::epsilon();
constexpr float kLargest = std::numeric_limits<float>::max();

double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }
double logistic(double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); }

// The column of row i's positive, and the row of column i's.
int64 partner_of(int64 i, int64 count, bool views) { return views ? (i + count / 2) % count : i; }

std::vector<double> dots(const Tensor& x, const Tensor& y, const int64* partner, int64 count) {
  std::vector<double> d(count);
  const int64 width = x.size(1);
  loops().paired_dots({data<float>(x), data<float>(y), width, width, width, partner, d.data()}, 0, count);
  return d;
}

// One side's inverse norms as F.normalize has them, and its longest row.
struct Norms {
  std::vector<double> inverse, projection;
  std::vector<float> rounded;  // the inverse norms in float32, as the loops take them
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
    if (normalize) rounded.assign(inverse.begin(), inverse.end());
  }
  const float* inner() const { return rounded.empty() ? nullptr : rounded.data(); }
};

struct Single {
  Norms left, right;
  int64 rows, cols;
  double bound;  // no logit is larger in absolute value
  std::vector<int64> partner, excluded;
  std::vector<double> row_scale, positive;  // positive: logits without the bias

  Single(const Tensor& x, const Tensor& y, double scale, bool views, bool normalize)
      : left(x, normalize), right(y, normalize), rows(x.size(0)), cols(y.size(0)),
        bound(std::abs(scale) * (normalize ? 1 + 1e-6 : left.longest * right.longest)), partner(rows), row_scale(rows) {
    for (int64 i = 0; i < rows; ++i) {
      partner[i] = partner_of(i, cols, views);
      excluded.push_back(partner[i]);
      if (views) excluded.push_back(i);
      row_scale[i] = scale * left.inverse[i];
    }
    positive = dots(x, y, partner.data(), rows);
    for (int64 i = 0; i < rows; ++i) positive[i] *= row_scale[i] * right.inverse[partner[i]];
  }

  // NaN, infinity and lengths whose product overflows are the sweep's: it has their rules and their errors.
  bool plain() const { return std::isfinite(bound) && left.longest * right.longest <= kLargest / 16; }
  // What finish_single needs, [3, cols]: each row's positive_pull as in FinishRows, and both sides' projections. `pull` is
  // minus the loss's derivative by each row's positive logit.
  void save(const std::vector<double>& pull, bool views, double* state) const {
    for (int64 i = 0; i < rows; ++i)
      state[i] = (pull[i] + (views ? pull[partner[i]] : 0.0)) * left.inverse[i] * right.inverse[partner[i]];
    std::copy(left.projection.begin(), left.projection.end(), state + cols);
    std::copy(right.projection.begin(), right.projection.end(), state + 2 * cols);
  }
  Tile tile(const float* scores, float* target) const {
    const int64 per_row = static_cast<int64>(excluded.size()) / rows;
    return {scores, target, cols, row_scale.data(), right.inner(), excluded.data(), per_row, 0};
  }
};

// The smallest whole number under which, as a shift in base 2, no sum of `count` exponentials overflows, while the float32
// logits are right to within 2.
double choose_shift_log2(double bound, int64 count) {
  const double headroom = std::log(kLargest) - 2 - std::log(count);
  return std::max(0.0, std::ceil((bound - headroom) * kLog2e));
}

// The guard of that shift (`shift` in natural units): whether a sum is so small that terms of it may have been lost.
bool underflowed(const Single& s, double shift, const std::vector<double>& row_sum, const std::vector<double>& col_sum) {
  const double smallest = s.cols * kSmallest;
  const auto small = [&](double sum) { return sum < smallest; };
  return -s.bound - shift < std::log(smallest) &&
         (std::any_of(row_sum.begin(), row_sum.end(), small) || std::any_of(col_sum.begin(), col_sum.end(), small));
}

// Closes lines that have their negatives' sums in units of exp(shift), each with the weight `upstream` in the mean: returns the
// sum of their losses, adds upstream * (1 - p) to the lines' `pull`, and writes their factors u or v,
// upstream * exp(shift - lse).
double close_lines(const std::vector<double>& sums, const Single& s, double shift, double upstream, float* factor,
                   double* pull) {
  double total = 0.0;
  for (size_t i = 0; i < sums.size(); ++i) {
    const double gap = std::log(sums[i]) + shift - s.positive[i], nll = softplus(gap);
    total += nll;
    factor[i] = static_cast<float>(upstream * std::exp(shift - s.positive[i] - nll));
    pull[i] += upstream * logistic(gap);
  }
  return total;
}

// Pass 1, strip by strip; the exponentials take the scores' place. col_sum is empty where columns have no softmax.
void exp_sums(const Single& s, float* scores, double shift_log2, std::vector<double>& row_sum, std::vector<double>& col_sum) {
  std::vector<float> partial(s.cols);
  for_strips(s.rows, 0, strips(s.rows), [&](int64, int64 first, int64 last) {
    std::fill(partial.begin(), partial.end(), 0.0f);
    const ExpSums sums{shift_log2, row_sum.data(), nullptr};
    loops().exp_sums(s.tile(scores, scores), sums, first, last, partial.data(), nullptr);
    add_partials(col_sum.data(), partial.data(), 1, static_cast<int64>(col_sum.size()));
  });
}

}  // namespace

// False where one float32 window does not hold every sum, or the features are not plain: the sweep serves those.
bool softmax_single(Tensor scores, Tensor left, Tensor right, double scale, bool both, bool views, bool normalize, Tensor loss,
                    MaybeTensor state) {
  const Single s(left, right, scale, views, normalize);
  if (!s.plain()) return false;
  const double shift_log2 = choose_shift_log2(s.bound, s.cols), shift = shift_log2 / kLog2e;
  std::vector<double> row_sum(s.rows, 0.0), col_sum(both ? s.cols : 0, 0.0);
  float* x = out<float>(scores);
  exp_sums(s, x, shift_log2, row_sum, col_sum);
  if (underflowed(s, shift, row_sum, col_sum)) return false;
  const double upstream = 1.0 / (row_sum.size() + col_sum.size());
  std::vector<float> u(s.rows), v(s.cols, 0.0f);
  std::vector<double> pull(s.rows, 0.0);
  double total = close_lines(row_sum, s, shift, upstream, u.data(), pull.data());
  total += close_lines(col_sum, s, shift, upstream, v.data(), pull.data());
  *out<float>(loss) = static_cast<float>(total * upstream);
  if (!state) return true;
  s.save(pull, views, out<double>(*state));
  loops().softmax_weights(s.tile(x, x), {shift_log2, true, u.data(), v.data(), s.left.inner()}, 0, s.rows);
  return true;
}

// The sigmoid loss likewise, and its derivative by the bias.
bool sigmoid_single(Tensor scores, Tensor left, Tensor right, double scale, double bias, bool normalize, Tensor loss,
                    MaybeTensor state, Tensor by_bias) {
  const Single s(left, right, scale, false, normalize);
  if (!s.plain() || !std::isfinite(bias)) return false;
  const double upstream = 1.0 / s.rows;
  std::vector<double> row_loss(s.rows, 0.0), row_sigmoid_sum(s.rows, 0.0), pull(s.rows);
  const std::vector<float> upstreams(s.rows, static_cast<float>(upstream));
  float* x = out<float>(scores);
  const Sigmoid sums{bias, state.has_value(), upstreams.data(), s.left.inner(), row_loss.data(), row_sigmoid_sum.data()};
  loops().sigmoid(s.tile(x, x), sums, 0, s.rows);
  double total = 0.0, derivative = 0.0;
  for (int64 i = 0; i < s.rows; ++i) {
    const double z = s.positive[i] + bias;
    pull[i] = upstream * logistic(-z);
    total += row_loss[i] + softplus(-z);
    derivative += row_sigmoid_sum[i] * upstream - pull[i];
  }
  *out<float>(loss) = static_cast<float>(total * upstream);
  *out<float>(by_bias) = static_cast<float>(derivative);
  if (state) s.save(pull, false, out<double>(*state));
  return true;
}

// In place, the products W y and W^T x become gradients; the scale's is the sum over a side of <x_i, g_i>, with g
// as in FinishRows, before the projection and the scale. With `views` both
// sides are one: `by_rows` holds the sum of both products.
void finish_single(MaybeTensor by_rows, MaybeTensor by_cols, Tensor left, Tensor right, double scale, bool views,
                   bool normalize, Tensor state, Tensor by_scale) {
  const int64 rows = left.size(0), cols = right.size(0), width = left.size(1);
  const double *positive_pull = data<double>(state), *left_projection = positive_pull + cols,
               *right_projection = left_projection + cols;
  std::vector<double> dot(cols);
  const auto finish = [&](const Tensor& g, const Tensor& x, const Tensor& y, int64 count, const double* projection) {
    std::vector<int64> partner(count, -1);
    for (int64 i = 0; i < rows; ++i) partner[i] = partner_of(i, cols, views);
    const FinishRows f{out<float>(g), data<float>(x), data<float>(y), width, width, width, partner.data(), positive_pull,
                       normalize ? projection : nullptr, 1.0, scale, dot.data()};
    loops().finish_rows(f, 0, count);
    *out<float>(by_scale) = static_cast<float>(std::accumulate(dot.begin(), dot.begin() + count, 0.0) / (views ? 2 : 1));
  };
  if (by_rows) finish(*by_rows, left, right, rows, left_projection);
  if (by_cols) finish(*by_cols, right, left, cols, right_projection);
}

}  // namespace clipfast
