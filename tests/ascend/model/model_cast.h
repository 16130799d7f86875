// Casts, comparisons and selections.
#ifndef MODEL_CAST_H
#define MODEL_CAST_H

#include "model_vector.h"

namespace AscendC {

enum class RoundMode { CAST_NONE, CAST_RINT, CAST_FLOOR, CAST_CEIL, CAST_ROUND, CAST_TRUNC, CAST_ODD };
enum class CMPMODE : uint8_t { LT, GT, EQ, LE, GE, NE };
enum class SELMODE : uint8_t { VSEL_CMPMASK_SPR, VSEL_TENSOR_SCALAR_MODE, VSEL_TENSOR_TENSOR_MODE };

}  // namespace AscendC

namespace model {

using AscendC::RoundMode;

inline double rounded(double x, RoundMode mode)
{
    switch (mode) {
    case RoundMode::CAST_RINT: return round_even(x);
    case RoundMode::CAST_FLOOR: return std::floor(x);
    case RoundMode::CAST_CEIL: return std::ceil(x);
    case RoundMode::CAST_ROUND: return std::round(x);
    case RoundMode::CAST_TRUNC: return std::trunc(x);
    default: refuse("a cast with this rounding");
    }
}

// Pairs of types that Cast has on a vector core (Ascend C reference, Cast).
template <class T, class U>
constexpr bool castable()
{
    if (std::is_same<U, float>::value) {
        return one_of<T, float, half, bfloat16_t, int16_t, int32_t, int64_t>;
    }
    if (std::is_same<U, half>::value) {
        return one_of<T, float, int16_t, int32_t, int8_t, uint8_t>;
    }
    if (std::is_same<U, bfloat16_t>::value) {
        return one_of<T, float, int32_t>;
    }
    if (std::is_same<U, int32_t>::value) {
        return one_of<T, float, int16_t, int64_t>;
    }
    if (std::is_same<U, int16_t>::value) {
        return one_of<T, half, float>;
    }
    return std::is_same<U, int64_t>::value ? one_of<T, int32_t, float> : one_of<T, half>;
}

// The roundings that a pair of types has on 910B and on 310P; there CAST_NONE is to nearest even where it loses.
template <class T, class U>
void check_mode(RoundMode& mode)
{
    constexpr bool cut = (std::is_same<U, int64_t>::value && std::is_same<T, int32_t>::value) ||
                         (std::is_same<U, int32_t>::value && std::is_same<T, int16_t>::value);
    if (cut && mode != RoundMode::CAST_NONE) {
        refuse("a cast that cuts bits takes CAST_NONE");
    }
    if constexpr (__NPU_ARCH__ == 2002) {
        constexpr bool wide = one_of<U, int8_t, uint8_t> || (std::is_same<U, half>::value && std::is_same<T, float>::value);
        constexpr bool nearest = (std::is_same<U, float>::value && std::is_same<T, half>::value) ||
                                 (std::is_same<U, int32_t>::value && std::is_same<T, float>::value) ||
                                 (std::is_same<U, int16_t>::value && std::is_same<T, half>::value);
        constexpr bool bytes = std::is_same<U, half>::value && one_of<T, int8_t, uint8_t>;
        constexpr bool words = std::is_same<U, half>::value && one_of<T, int16_t, int32_t>;
        static_assert(cut || wide || nearest || bytes || words, "Cast on a fused core");
        if (((cut || wide || nearest) && mode != RoundMode::CAST_NONE) || (bytes && mode == RoundMode::CAST_RINT)) {
            refuse("a rounding that this cast has not on a fused core");
        }
        if ((nearest || bytes) && mode == RoundMode::CAST_NONE) {
            mode = RoundMode::CAST_RINT;
        }
    }
}

template <class T, class U>
T cast(U x, RoundMode mode)
{
    static_assert(castable<T, U>(), "Cast");
    check_mode<T, U>(mode);
    const auto whole = [mode](double v) { return rounded(v, mode); };
    if constexpr (floating<T>) {
        const double value = static_cast<double>(x);  // exact, but for wide integers
        if constexpr (std::is_same<T, U>::value) {
            return round_to<T>(whole(value));
        } else if constexpr (std::is_same<U, int64_t>::value) {
            if (mode != RoundMode::CAST_RINT) {
                refuse("from 64-bit integers only CAST_RINT is modelled");
            }
            return static_cast<T>(x);
        } else {
            return mode == RoundMode::CAST_NONE ? round_to<T>(value) : round_to<T>(value, whole);
        }
    } else if constexpr (floating<U>) {
        return saturated<T>(whole(static_cast<double>(x)));
    } else {
        return static_cast<T>(x);
    }
}

template <class T>
bool compared(T a, T b, AscendC::CMPMODE mode)
{
    const double x = static_cast<double>(a), y = static_cast<double>(b);
    switch (mode) {
    case AscendC::CMPMODE::LT: return x < y;
    case AscendC::CMPMODE::GT: return x > y;
    case AscendC::CMPMODE::EQ: return x == y;
    case AscendC::CMPMODE::LE: return x <= y;
    case AscendC::CMPMODE::GE: return x >= y;
    default: return x != y;
    }
}

// Bits of whole repeats, one behind the other; what lies beyond a tensor is compared as well.
template <class T, class F>
void compare(const AscendC::LocalTensor<uint8_t>& dst, int64_t repeats, F f)
{
    static_assert(one_of<T, half, float>, "Compare");
    operand(dst, "Compare");
    const int64_t per = 256 / int64_t(sizeof(T));
    for (int64_t r = 0; r < repeats; ++r) {
        std::vector<uint8_t> bits(static_cast<size_t>(per / 8));
        for (int64_t l = 0; l < per; ++l) {
            bits[static_cast<size_t>(l / 8)] |= static_cast<uint8_t>(f(r, l) << l % 8);
        }
        for (int64_t i = 0; i < per / 8; ++i) {
            *dst.at(dst.byte + r * per / 8 + i) = bits[static_cast<size_t>(i)];
        }
    }
}

template <class T>
int64_t whole_repeats(uint32_t count)
{
    if (count * sizeof(T) % 256 != 0) {
        refuse("a comparison of %u elements, no multiple of 256 bytes", count);
    }
    return static_cast<int64_t>(count * sizeof(T) / 256);
}

}  // namespace model

namespace AscendC {

template <class T, class U>
void Cast(const LocalTensor<T>& dst, const LocalTensor<U>& src, const RoundMode& roundMode, const uint32_t count)
{
    model::operand(dst, "Cast"), model::operand(src, "Cast");
    for (int64_t i = 0; i < count; ++i) {
        *dst.at(dst.byte + i * int64_t(sizeof(T))) =
            model::cast<T, U>(*src.at(src.byte + i * int64_t(sizeof(U))), roundMode);
    }
}

template <class T, class U, bool isSetMask = true>
void Cast(const LocalTensor<T>& dst, const LocalTensor<U>& src, const RoundMode& roundMode, const uint64_t mask,
          model::Exact<uint8_t> repeatTime, const UnaryRepeatParams& p)
{
    model::operand(dst, "Cast"), model::operand(src, "Cast");
    const int64_t per = 256 / int64_t(sizeof(T) > sizeof(U) ? sizeof(T) : sizeof(U));
    model::masked(mask, per, repeatTime, [&](int64_t r, int64_t l) {
        *dst.at(model::byte_of(dst, {p.dstBlkStride, p.dstRepStride}, r, l)) =
            model::cast<T, U>(*src.at(model::byte_of(src, {p.srcBlkStride, p.srcRepStride}, r, l)), roundMode);
    });
}

// Two integers a byte, that of the lower half first.
inline void Cast(const LocalTensor<half>& dst, const LocalTensor<int4b_t>& src, const RoundMode& roundMode,
                 const uint32_t count)
{
    model::operand(dst, "Cast"), model::operand(src, "Cast");
    if (__NPU_ARCH__ == 2002 || roundMode != RoundMode::CAST_NONE || count % 2 != 0) {
        model::refuse("a cast of %u integers of 4 bits", count);
    }
    for (int64_t i = 0; i < count; ++i) {
        const int code = src.at(src.byte + i / 2)->pair >> i % 2 * 4 & 15;
        *dst.at(dst.byte + i * 2) = half(float(code < 8 ? code : code - 16));
    }
}

template <class T, class U>
void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, CMPMODE cmpMode,
             uint32_t count)
{
    Compare(dst, src0, src1, cmpMode, uint64_t(256 / sizeof(T)), model::whole_repeats<T>(count),
            BinaryRepeatParams(1, 1, 1, 8, 8, 8));
}

// The mask has no effect: whole repeats are compared.
template <class T, class U, bool isSetMask = true>
void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, CMPMODE cmpMode,
             const uint64_t mask, model::Exact<uint8_t> repeatTime, const BinaryRepeatParams& p)
{
    (void)mask;
    model::operand(src0, "Compare"), model::operand(src1, "Compare");
    model::compare<T>(dst, repeatTime, [&](int64_t r, int64_t l) {
        return model::compared(src0.beyond(model::byte_of(src0, {p.src0BlkStride, p.src0RepStride}, r, l)),
                               src1.beyond(model::byte_of(src1, {p.src1BlkStride, p.src1RepStride}, r, l)), cmpMode);
    });
}

template <class T, class U>
void CompareScalar(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const T src1Scalar, CMPMODE cmpMode,
                   uint32_t count)
{
    model::operand(src0, "CompareScalar");
    model::compare<T>(dst, model::whole_repeats<T>(count), [&](int64_t r, int64_t l) {
        return model::compared(src0.beyond(model::byte_of(src0, {1, 8}, r, l)), src1Scalar, cmpMode);
    });
}

template <class T, class U>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0,
            const LocalTensor<T>& src1, SELMODE selMode, uint32_t count)
{
    static_assert(model::one_of<T, half, float> && sizeof(U) == 1, "Select");
    if (selMode != SELMODE::VSEL_TENSOR_TENSOR_MODE) {
        model::refuse("Select of two tensors in another mode");
    }
    model::operand(dst, "Select"), model::operand(selMask, "Select");
    model::operand(src0, "Select"), model::operand(src1, "Select");
    for (int64_t i = 0; i < count; ++i) {
        const int64_t at = i * int64_t(sizeof(T));
        const bool first = *selMask.at(selMask.byte + i / 8) >> i % 8 & 1;
        *dst.at(dst.byte + at) = first ? *src0.at(src0.byte + at) : *src1.at(src1.byte + at);
    }
}

template <class T, class U>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0, T src1,
            SELMODE selMode, uint32_t count)
{
    static_assert(model::one_of<T, half, float> && sizeof(U) == 1, "Select");
    if (selMode != SELMODE::VSEL_TENSOR_SCALAR_MODE) {
        model::refuse("Select of a tensor and a number in another mode");
    }
    model::operand(dst, "Select"), model::operand(selMask, "Select"), model::operand(src0, "Select");
    for (int64_t i = 0; i < count; ++i) {
        const int64_t at = i * int64_t(sizeof(T));
        const bool first = *selMask.at(selMask.byte + i / 8) >> i % 8 & 1;
        *dst.at(dst.byte + at) = first ? *src0.at(src0.byte + at) : src1;
    }
}

}  // namespace AscendC

#endif
