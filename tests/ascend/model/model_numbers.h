// half and bfloat16, rounded to nearest, ties to even; conversions between numbers.
#ifndef MODEL_NUMBERS_H
#define MODEL_NUMBERS_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace model {

inline uint32_t bits_of(float x)
{
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float float_of(uint32_t bits)
{
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

inline double round_even(double x)
{
    return std::nearbyint(x);  // the mode of the machine is never changed from "to nearest, ties to even"
}

// A double as a binary number of `fraction` stored bits and an exponent field of `exponent` bits, rounded once by
// `whole`; a NaN is the positive quiet one without payload.
template <class Whole>
uint32_t rounded_bits(double x, int fraction, int exponent, Whole whole)
{
    const uint32_t sign = std::signbit(x) ? 1u << (fraction + exponent) : 0u;
    const uint32_t infinite = ((1u << exponent) - 1) << fraction;
    if (std::isnan(x)) {
        return infinite | 1u << (fraction - 1);
    }
    if (std::isinf(x)) {
        return sign | infinite;
    }
    if (x == 0) {
        return sign;
    }
    int e;
    std::frexp(x, &e);  // |x| = m * 2^e, 0.5 <= m < 1
    const int lowest = 2 - (1 << (exponent - 1));  // exponent of the least normal number
    const int scale = (e - 1 < lowest ? lowest : e - 1) - fraction;
    const double units = std::fabs(whole(std::ldexp(x, -scale)));  // exact scaling, then one rounding
    const double value = std::ldexp(units, scale);
    if (value >= std::ldexp(1.0, 1 << (exponent - 1))) {
        return sign | infinite;
    }
    if (value < std::ldexp(1.0, lowest)) {
        return sign | static_cast<uint32_t>(units);
    }
    std::frexp(value, &e);
    const uint32_t field = static_cast<uint32_t>(e - 1 - lowest + 1);
    const uint32_t mantissa = static_cast<uint32_t>(std::ldexp(value, fraction - (e - 1))) & ((1u << fraction) - 1);
    return sign | field << fraction | mantissa;
}

inline float widened(uint32_t bits, int fraction, int exponent)
{
    const bool negative = bits >> (fraction + exponent);
    const uint32_t field = bits >> fraction & ((1u << exponent) - 1), mantissa = bits & ((1u << fraction) - 1);
    const int lowest = 2 - (1 << (exponent - 1));
    float x;
    if (field == (1u << exponent) - 1) {
        x = mantissa ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    } else if (field == 0) {
        x = std::ldexp(static_cast<float>(mantissa), lowest - fraction);
    } else {
        x = std::ldexp(static_cast<float>(mantissa | 1u << fraction), static_cast<int>(field) - 1 + lowest - fraction);
    }
    return negative ? -x : x;
}

template <int fraction, int exponent>
struct Narrow {
    uint16_t bits = 0;
    Narrow() = default;
    explicit Narrow(float x) : Narrow(static_cast<double>(x)) {}
    explicit Narrow(double x) : Narrow(x, round_even) {}
    template <class Whole>
    Narrow(double x, Whole whole) : bits(static_cast<uint16_t>(rounded_bits(x, fraction, exponent, whole)))
    {
    }
    explicit Narrow(int64_t x) : Narrow(static_cast<double>(x)) {}
    explicit operator float() const { return widened(bits, fraction, exponent); }
    explicit operator double() const { return widened(bits, fraction, exponent); }
};

}  // namespace model

using half = model::Narrow<10, 5>;
using bfloat16_t = model::Narrow<7, 8>;

namespace model {

template <class T>
constexpr bool floating = std::is_same<T, float>::value || std::is_same<T, half>::value ||
                          std::is_same<T, bfloat16_t>::value;

// Whether the cores are split (910B), for what a fused core has not.
template <class T>
constexpr bool split = __NPU_ARCH__ == 2201 && sizeof(T) > 0;

template <class T, class... Allowed>
constexpr bool one_of = (std::is_same<T, Allowed>::value || ...);

// A result computed in double, rounded once to T; a NaN is the positive quiet one without payload.
template <class T>
T round_to(double x)
{
    if constexpr (std::is_same<T, float>::value) {
        return std::isnan(x) ? float_of(0x7FC00000) : static_cast<float>(x);
    } else {
        return static_cast<T>(x);
    }
}

// The same with a rounding of its own to the significand of T, as if its exponent had no upper end.
template <class T, class Whole>
T round_to(double x, Whole whole)
{
    if constexpr (std::is_same<T, float>::value) {
        return float_of(rounded_bits(x, 23, 8, whole));
    } else {
        return T(x, whole);
    }
}

// The nearest value of an integer type; NaN is 0.
template <class T>
T saturated(double x)
{
    if (std::isnan(x)) {
        return 0;
    }
    const double low = static_cast<double>(std::numeric_limits<T>::min());
    const double high = std::ldexp(1.0, std::numeric_limits<T>::digits);
    if (x <= low) {
        return std::numeric_limits<T>::min();
    }
    return x >= high ? std::numeric_limits<T>::max() : static_cast<T>(x);
}

// NaN wins; of two zeros max gives +0 if one of them is, min -0.
template <class T>
T larger(T a, T b)
{
    if constexpr (floating<T>) {
        const float x = static_cast<float>(a), y = static_cast<float>(b);
        if (std::isnan(x) || std::isnan(y)) {
            return round_to<T>(std::numeric_limits<double>::quiet_NaN());
        }
        return x > y || (x == y && !std::signbit(x)) ? a : b;
    } else {
        return a > b ? a : b;
    }
}

template <class T>
T smaller(T a, T b)
{
    if constexpr (floating<T>) {
        const float x = static_cast<float>(a), y = static_cast<float>(b);
        if (std::isnan(x) || std::isnan(y)) {
            return round_to<T>(std::numeric_limits<double>::quiet_NaN());
        }
        return x < y || (x == y && std::signbit(x)) ? a : b;
    } else {
        return a < b ? a : b;
    }
}

// Integers wrap around: the work is done without a sign.
template <class T, class F>
T wrapping(T a, T b, F f)
{
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(f(static_cast<uint32_t>(static_cast<U>(a)), static_cast<uint32_t>(static_cast<U>(b))));
}

// f16 and bf16 are computed in f32 and rounded once; f32 rounds once.
template <class T, class F>
T arithmetic(T a, T b, F f)
{
    if constexpr (floating<T>) {
        return round_to<T>(f(static_cast<float>(a), static_cast<float>(b)));
    } else {
        return wrapping(a, b, f);
    }
}

}  // namespace model

#endif
