// Element-wise instructions, and what fills, spreads, copies and gathers.
#ifndef MODEL_VECTOR_H
#define MODEL_VECTOR_H

#include "model_lanes.h"

namespace model {

template <class T, class F>
void binary(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& a, const AscendC::LocalTensor<T>& b,
            uint64_t mask, int64_t repeats, const AscendC::BinaryRepeatParams& p, const char* what, F f)
{
    operand(dst, what), operand(a, what), operand(b, what);
    masked(mask, 256 / int64_t(sizeof(T)), repeats, [&](int64_t r, int64_t l) {
        *dst.at(byte_of(dst, {p.dstBlkStride, p.dstRepStride}, r, l)) =
            f(*a.at(byte_of(a, {p.src0BlkStride, p.src0RepStride}, r, l)),
              *b.at(byte_of(b, {p.src1BlkStride, p.src1RepStride}, r, l)));
    });
}

template <class T, class F>
void binary(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& a, const AscendC::LocalTensor<T>& b,
            int64_t count, const char* what, F f)
{
    operand(dst, what), operand(a, what), operand(b, what);
    for (int64_t i = 0; i < counted(count) * int64_t(sizeof(T)); i += sizeof(T)) {
        *dst.at(dst.byte + i) = f(*a.at(a.byte + i), *b.at(b.byte + i));
    }
}

template <class T, class F>
void unary(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& a, uint64_t mask, int64_t repeats,
           const AscendC::UnaryRepeatParams& p, const char* what, F f)
{
    operand(dst, what), operand(a, what);
    masked(mask, 256 / int64_t(sizeof(T)), repeats, [&](int64_t r, int64_t l) {
        *dst.at(byte_of(dst, {p.dstBlkStride, p.dstRepStride}, r, l)) =
            f(*a.at(byte_of(a, {p.srcBlkStride, p.srcRepStride}, r, l)));
    });
}

template <class T, class F>
void unary(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& a, int64_t count, const char* what, F f)
{
    operand(dst, what), operand(a, what);
    for (int64_t i = 0; i < counted(count) * int64_t(sizeof(T)); i += sizeof(T)) {
        *dst.at(dst.byte + i) = f(*a.at(a.byte + i));
    }
}

template <class T>
T shifted(T x, int by, bool left)
{
    if (by < 0 || by > static_cast<int>(sizeof(T)) * 8) {
        refuse("a shift by %d bits", by);
    }
    if (by == static_cast<int>(sizeof(T)) * 8) {
        return left || std::is_unsigned<T>::value || x >= 0 ? 0 : static_cast<T>(-1);
    }
    return left ? static_cast<T>(static_cast<std::make_unsigned_t<T>>(x) << by) : static_cast<T>(x >> by);
}

}  // namespace model

// A function of two tensors, by repeats and by count.
#define MODEL_BINARY(Name, expression, ...)                                                                          \
    template <class T, bool isSetMask = true>                                                                        \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, uint64_t mask,      \
              model::Exact<uint8_t> repeatTime, const BinaryRepeatParams& repeatParams)                              \
    {                                                                                                                \
        static_assert(model::one_of<T, __VA_ARGS__>, #Name);                                                         \
        model::binary(dst, src0, src1, mask, repeatTime, repeatParams, #Name, [](T a, T b) -> T { return expression; }); \
    }                                                                                                                \
    template <class T>                                                                                               \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, const int32_t& count) \
    {                                                                                                                \
        static_assert(model::one_of<T, __VA_ARGS__>, #Name);                                                         \
        model::binary(dst, src0, src1, count, #Name, [](T a, T b) -> T { return expression; });                      \
    }

// A function of a tensor and a number.
#define MODEL_SCALAR(Name, expression, ...)                                                                          \
    template <class T, bool isSetMask = true>                                                                        \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalarValue, uint64_t mask,             \
              model::Exact<uint8_t> repeatTime, const UnaryRepeatParams& repeatParams)                               \
    {                                                                                                                \
        static_assert(model::one_of<T, __VA_ARGS__>, #Name);                                                         \
        const T b = scalarValue;                                                                                     \
        model::unary(dst, src, mask, repeatTime, repeatParams, #Name, [b](T a) -> T { return expression; });         \
    }                                                                                                                \
    template <class T, bool isSetMask = true>                                                                        \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalarValue, const int32_t& count)      \
    {                                                                                                                \
        static_assert(model::one_of<T, __VA_ARGS__>, #Name);                                                         \
        const T b = scalarValue;                                                                                     \
        model::unary(dst, src, count, #Name, [b](T a) -> T { return expression; });                                  \
    }

// A function of one tensor.
#define MODEL_UNARY(Name, expression, ...)                                                                           \
    template <class T, bool isSetMask = true>                                                                        \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint64_t mask, model::Exact<uint8_t> repeatTime, \
              const UnaryRepeatParams& repeatParams)                                                                 \
    {                                                                                                                \
        static_assert(model::one_of<T, __VA_ARGS__>, #Name);                                                         \
        model::unary(dst, src, mask, repeatTime, repeatParams, #Name, [](T a) -> T { return expression; });          \
    }                                                                                                                \
    template <class T>                                                                                               \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t& count)                            \
    {                                                                                                                \
        static_assert(model::one_of<T, __VA_ARGS__>, #Name);                                                         \
        model::unary(dst, src, count, #Name, [](T a) -> T { return expression; });                                   \
    }

namespace AscendC {

#define MODEL_NUMBERS half, float, int16_t, int32_t

MODEL_BINARY(Add, model::arithmetic(a, b, [](auto x, auto y) { return x + y; }), MODEL_NUMBERS)
MODEL_BINARY(Sub, model::arithmetic(a, b, [](auto x, auto y) { return x - y; }), MODEL_NUMBERS)
MODEL_BINARY(Mul, model::arithmetic(a, b, [](auto x, auto y) { return x * y; }), MODEL_NUMBERS)
MODEL_BINARY(Div, model::round_to<T>(static_cast<double>(a) / static_cast<double>(b)), half, float)
MODEL_BINARY(Max, model::larger(a, b), MODEL_NUMBERS)
MODEL_BINARY(Min, model::smaller(a, b), MODEL_NUMBERS)
MODEL_BINARY(And, static_cast<T>(a & b), int16_t, uint16_t)
MODEL_BINARY(Or, static_cast<T>(a | b), int16_t, uint16_t)

MODEL_SCALAR(Adds, model::arithmetic(a, b, [](auto x, auto y) { return x + y; }), MODEL_NUMBERS)
MODEL_SCALAR(Muls, model::arithmetic(a, b, [](auto x, auto y) { return x * y; }), MODEL_NUMBERS)
MODEL_SCALAR(Maxs, model::larger(a, b), MODEL_NUMBERS)
MODEL_SCALAR(Mins, model::smaller(a, b), MODEL_NUMBERS)
MODEL_SCALAR(ShiftLeft, model::shifted(a, static_cast<int>(b), true), int16_t, uint16_t, int32_t, uint32_t)
MODEL_SCALAR(ShiftRight, model::shifted(a, static_cast<int>(b), false), int16_t, uint16_t, int32_t, uint32_t)

MODEL_UNARY(Exp, model::round_to<T>(std::exp(static_cast<double>(a))), half, float)
MODEL_UNARY(Ln, model::round_to<T>(std::log(static_cast<double>(a))), half, float)
MODEL_UNARY(Sqrt, model::round_to<T>(std::sqrt(static_cast<double>(a))), half, float)
MODEL_UNARY(Abs, model::round_to<T>(std::fabs(static_cast<double>(a))), half, float)
MODEL_UNARY(Relu, model::larger(a, T(static_cast<float>(0))), half, float, int32_t)
MODEL_UNARY(Not, static_cast<T>(~a), int16_t, uint16_t)

#define MODEL_WORDS int16_t, uint16_t, half, bfloat16_t, int32_t, uint32_t, float

template <class T>
void Duplicate(const LocalTensor<T>& dst, const T& scalarValue, const int32_t& count)
{
    static_assert(model::one_of<T, MODEL_WORDS>, "Duplicate");
    model::unary(dst, dst, count, "Duplicate", [&](T) { return scalarValue; });
}

template <class T, bool isSetMask = true>
void Duplicate(const LocalTensor<T>& dst, const T& scalarValue, uint64_t mask, model::Exact<uint8_t> repeatTime,
               model::Exact<uint16_t> dstBlockStride, model::Exact<uint8_t> dstRepeatStride)
{
    static_assert(model::one_of<T, MODEL_WORDS>, "Duplicate");
    const UnaryRepeatParams p(dstBlockStride.value, dstBlockStride.value, dstRepeatStride.value, dstRepeatStride.value);
    model::unary(dst, dst, mask, repeatTime, p, "Duplicate", [&](T) { return scalarValue; });
}

template <class T, bool isSetMask = true>
void Copy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint64_t mask, model::Exact<uint8_t> repeatTime,
          const CopyRepeatParams& p)
{
    static_assert(model::one_of<T, MODEL_WORDS> && model::split<T>, "Copy");
    model::operand(dst, "Copy"), model::operand(src, "Copy");
    model::masked(mask, 256 / int64_t(sizeof(T)), repeatTime, [&](int64_t r, int64_t l) {
        *dst.at(model::byte_of(dst, {p.dstStride, p.dstRepeatSize}, r, l)) =
            *src.at(model::byte_of(src, {p.srcStride, p.srcRepeatSize}, r, l));
    });
}

template <class T>
void CreateVecIndex(LocalTensor<T> dst, const T& firstValue, uint32_t count)
{
    static_assert(model::one_of<T, int16_t, half, int32_t, float>, "CreateVecIndex");
    model::operand(dst, "CreateVecIndex");
    for (int64_t i = 0; i < count; ++i) {
        T& lane = *dst.at(dst.byte + i * int64_t(sizeof(T)));
        if constexpr (model::floating<T>) {
            lane = model::round_to<T>(static_cast<double>(firstValue) + static_cast<double>(i));
        } else {
            lane = static_cast<T>(firstValue + i);
        }
    }
}

// Eight elements a repeat, each into a block of its own.
template <class T>
void Brcb(const LocalTensor<T>& dst, const LocalTensor<T>& src, model::Exact<uint8_t> repeatTime,
          const BrcbRepeatParams& p)
{
    static_assert(model::one_of<T, MODEL_WORDS>, "Brcb");
    model::operand(dst, "Brcb"), model::operand(src, "Brcb");
    for (int64_t r = 0; r < repeatTime.value; ++r) {
        for (int64_t block = 0; block < 8; ++block) {
            const T x = *src.at(src.byte + (r * 8 + block) * int64_t(sizeof(T)));
            for (int64_t i = 0; i < 32; i += sizeof(T)) {
                *dst.at(dst.byte + (r * p.dstRepStride + block * p.dstBlkStride) * 32 + i) = x;
            }
        }
    }
}

// dst[i] = the element `srcBaseAddr + srcOffset[i]` bytes into the source.
template <class T>
void Gather(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<uint32_t>& srcOffset,
            const uint32_t srcBaseAddr, const uint32_t count)
{
    static_assert(model::one_of<T, MODEL_WORDS>, "Gather");
    model::operand(dst, "Gather"), model::operand(src, "Gather"), model::operand(srcOffset, "Gather");
    for (int64_t i = 0; i < count; ++i) {
        const int64_t at = int64_t(srcBaseAddr) + *srcOffset.at(srcOffset.byte + i * 4);
        model::aligned(src.where, at, sizeof(T), "Gather");
        *dst.at(dst.byte + i * int64_t(sizeof(T))) = *src.at(src.byte + at);
    }
}

struct TransDataTo5HDParams {
    TransDataTo5HDParams() = default;
    TransDataTo5HDParams(const bool dstHighHalfIn, const bool srcHighHalfIn, model::Exact<uint8_t> repeatTimesIn,
                         model::Exact<uint16_t> dstRepStrideIn, model::Exact<uint16_t> srcRepStrideIn)
        : dstHighHalf(dstHighHalfIn), srcHighHalf(srcHighHalfIn), repeatTimes(repeatTimesIn),
          dstRepStride(dstRepStrideIn), srcRepStride(srcRepStrideIn)
    {
        if (repeatTimes == 1 && (dstRepStride != 0 || srcRepStride != 0)) {
            model::refuse("TransDataTo5HD of one repeat would begin a stride further on");
        }
    }
    bool dstHighHalf = false, srcHighHalf = false;
    uint8_t repeatTimes = 1;
    uint16_t dstRepStride = 0, srcRepStride = 0;
};

// 16 blocks turned: element i of block r becomes element r of column i. A column of words fills two blocks.
template <class T>
void TransDataTo5HD(uint64_t dstList[16], uint64_t srcList[16], const TransDataTo5HDParams& p)
{
    static_assert(model::one_of<T, MODEL_WORDS> && !std::is_same<T, bfloat16_t>::value, "TransDataTo5HD");
    const int64_t size = sizeof(T), per = 32 / size;
    for (int64_t repeat = 0; repeat < p.repeatTimes; ++repeat) {
        std::vector<T> blocks;
        for (int64_t r = 0; r < 16; ++r) {
            const int64_t from = model::ub_byte(srcList[r]) + repeat * p.srcRepStride * 32;
            for (int64_t i = 0; i < per; ++i) {
                blocks.push_back(*model::in_ub<T>(from + i * size));
            }
        }
        for (int64_t i = 0; i < per; ++i) {
            for (int64_t r = 0; r < 16; ++r) {
                const int64_t to = model::ub_byte(dstList[size == 2 ? i : 2 * i + r / 8]);
                const int64_t lane = size == 2 ? r : r % 8;
                *model::in_ub<T>(to + repeat * p.dstRepStride * 32 + lane * size) = blocks[size_t(r * per + i)];
            }
        }
    }
}

}  // namespace AscendC

#endif
