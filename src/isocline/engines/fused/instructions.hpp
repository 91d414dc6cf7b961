// Instructions of tile programs (program.py) as they are handed over, and what those compute that go number by number.
#pragma once
#include "vectors.hpp"

#include <type_traits>

// In the order of native.py's list.
enum Op : int32_t {
#define UNARY_OPS(X)                                                                                                   \
  X(neg)                                                                                                               \
  X(abs)                                                                                                               \
  X(sign) X(exp) X(expm1) X(log) X(log1p) X(sqrt) X(rsqrt) X(reciprocal) X(sin) X(cos) X(tan) X(sinh) X(cosh) X(tanh)  \
      X(atan) X(sigmoid) X(softplus) X(erf) X(not_)
#define BINARY_OPS(X)                                                                                                  \
  X(add) X(sub) X(mul) X(div) X(pow) X(atan2) X(minimum) X(maximum) X(lt) X(le) X(gt) X(ge) X(eq) X(ne) X(and_) X(or_)
#define NAME(op) OP_##op,
  UNARY_OPS(NAME) BINARY_OPS(NAME) OP_where,
  OP_fill,
  OP_load,
  OP_copy,
  OP_linear,
  OP_linear_T,
  OP_sum,
  OP_max,
  OP_gather,
  OP_total,
  OP_outer,
  OP_tanh_back // g (1 − z²)
#undef NAME
};
enum Kind : int32_t { ROWS, SPLAT, LEAF, ENTRY, NUMBER };

struct Operand {
  int32_t kind, at, leaf, unused;
  double value;
};
struct Instruction {
  int32_t op, out, count, leaf, width, first_row, operands, packed;
  // What becomes of the rows: of a matrix's product OP_tanh, or OP_tanh_back by the third operand; of a sum, difference or
  // product of rows another of these, by the third operand, which comes first where `entry` is 1. Of outer a leaf, for which,
  // from an entry on, the rows of its first operand are summed too. Else −1.
  int32_t then, entry;
  Operand operand[3];
};

#define RULE(name, ...)                                                                                                \
  struct f_##name {                                                                                                    \
    template <class T> INLINE_MEMBER V<T> at(V<T> x) { return __VA_ARGS__; }                                           \
  };
RULE(neg, -x)
RULE(abs, magnitude<T>(x))
RULE(sign, pick<T>(x > 0, all<T>(1), pick<T>(x < 0, all<T>(-1), x)))
RULE(exp, fast_exp(x))
RULE(expm1, v_expm1(x))
RULE(log, v_log(x))
RULE(log1p, v_log1p(x))
RULE(sqrt, v_sqrt<T>(x))
RULE(rsqrt, 1 / v_sqrt<T>(x))
RULE(reciprocal, 1 / x)
RULE(sin, v_sin(x))
RULE(cos, v_cos(x))
RULE(tan, v_tan(x))
RULE(sinh, v_sinh(x))
RULE(cosh, v_cosh(x))
RULE(tanh, fast_tanh(x))
RULE(atan, v_atan(x))
RULE(sigmoid, v_sigmoid<T>(x))
RULE(softplus, v_softplus<T>(x))
RULE(erf, v_erf(x))
RULE(not_, number<T>(x == 0))
#undef RULE
#define RULE(name, ...)                                                                                                \
  struct f_##name {                                                                                                    \
    template <class T> INLINE_MEMBER V<T> at(V<T> x, V<T> y) { return __VA_ARGS__; }                                   \
  };
RULE(add, x + y)
RULE(sub, x - y)
RULE(mul, x *y)
RULE(div, x / y)
RULE(pow, v_pow(x, y))
RULE(atan2, v_atan2(x, y))
RULE(minimum, pick<T>((x < y) | (x != x), x, y))
RULE(maximum, pick<T>((x > y) | (x != x), x, y))
RULE(lt, number<T>(x < y))
RULE(le, number<T>(x <= y))
RULE(gt, number<T>(x > y))
RULE(ge, number<T>(x >= y))
RULE(eq, number<T>(x == y))
RULE(ne, number<T>(x != y))
RULE(and_, number<T>((x != 0) & (y != 0)))
RULE(or_, number<T>((x != 0) | (y != 0)))
RULE(tanh_back, x *(1 - y * y))
#undef RULE

// Two of them in a row; rounded in between, as if they were apart. `SECOND`: the first one's result comes second.
template <class F, class G, bool SECOND> struct Both {
  template <class T> INLINE_MEMBER V<T> at(V<T> x, V<T> y, V<T> z) {
    const V<T> first = in_register<T>(F::template at<T>(x, y));
    if constexpr (SECOND) return G::template at<T>(z, first);
    else return G::template at<T>(first, z);
  }
};
// Calls `visit` with what an instruction computes, and of how many numbers, if it is one of the quickest; returns what that
// returns, else 0.
template <int N> using Arity = std::integral_constant<int, N>;
template <class F, class Visit> INLINE auto with_second(const Instruction &c, Visit visit) {
  switch (c.then) {
  case OP_add: return visit(Both<F, f_add, false>(), Arity<3>());
  case OP_mul: return visit(Both<F, f_mul, false>(), Arity<3>());
  case OP_sub: return c.entry ? visit(Both<F, f_sub, true>(), Arity<3>()) : visit(Both<F, f_sub, false>(), Arity<3>());
  default: return visit(F(), Arity<2>());
  }
}
template <class Visit> INLINE auto quick(const Instruction &c, Visit visit) {
  switch (c.op) {
  case OP_add: return with_second<f_add>(c, visit);
  case OP_sub: return with_second<f_sub>(c, visit);
  case OP_mul: return with_second<f_mul>(c, visit);
  case OP_div: return visit(f_div(), Arity<2>());
  case OP_tanh_back: return visit(f_tanh_back(), Arity<2>());
  case OP_neg: return visit(f_neg(), Arity<1>());
  default: return decltype(visit(f_neg(), Arity<1>()))(0);
  }
}
constexpr int FEW = 4; // entries of a leaf that one may read, one for each of its rows (native.py)
static bool is_quick(const Instruction &c) {
  bool found = quick(c, [](auto, auto) { return true; });
  for (int i = 0; i < c.operands; i++) found &= c.operand[i].kind != LEAF || c.count <= FEW;
  return found;
}
