// One number for each repeat.
#ifndef MODEL_REDUCE_H
#define MODEL_REDUCE_H

#include "model_vector.h"

namespace AscendC {

enum class ReduceOrder { ORDER_VALUE_INDEX, ORDER_INDEX_VALUE, ORDER_ONLY_VALUE, ORDER_ONLY_INDEX };

}  // namespace AscendC

namespace model {

template <class T, class F>
void reduce(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src, int32_t mask, int32_t repeats,
            int32_t dst_step, int32_t block_step, int32_t repeat_step, const char* what, F fold)
{
    static_assert(one_of<T, half, float>, "a reduction");
    dst.in(Hardware::UB, what);
    dst.starts_at(sizeof(T), what);
    operand(src, what);
    if (repeats < 0 || repeats > 255 || dst_step < 0 || dst_step > 65535 || block_step < 0 || block_step > 65535 ||
        repeat_step < 0 || repeat_step > 65535) {
        refuse("%s of %d repeats, %d and %d apart", what, repeats, dst_step, repeat_step);
    }
    if (repeats == 0) {
        return;
    }
    check_vector(static_cast<uint64_t>(mask), 256 / int64_t(sizeof(T)));
    for (int64_t r = 0; r < repeats; ++r) {
        std::vector<T> lanes;
        for (int64_t l = 0; l < mask; ++l) {
            lanes.push_back(*src.at(byte_of(src, {block_step, repeat_step}, r, l)));
        }
        *dst.at(dst.byte + r * dst_step * int64_t(sizeof(T))) = fold(lanes);
    }
}

// Neighbours are added, then neighbouring sums; an odd one out goes up as it is.
template <class T>
T tree_sum(std::vector<T> x)
{
    while (x.size() > 1) {
        std::vector<T> sums;
        for (size_t i = 0; i + 1 < x.size(); i += 2) {
            sums.push_back(round_to<T>(static_cast<float>(x[i]) + static_cast<float>(x[i + 1])));
        }
        if (x.size() % 2) {
            sums.push_back(x.back());
        }
        x = sums;
    }
    return x[0];
}

template <class T>
T best(const std::vector<T>& x, bool largest)
{
    T found = largest ? larger(x[0], x[0]) : smaller(x[0], x[0]);
    for (const T lane : x) {
        found = largest ? larger(found, lane) : smaller(found, lane);
    }
    return found;
}

// One number for each block of 32 bytes of a repeat, by a mask of bits. For a block without a lane parts differ in what
// they write, or whether they do: here something that nobody expects.
template <class T, class F>
void reduce_blocks(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src, const uint64_t mask[],
                   int32_t repeats, int32_t dst_step, int32_t block_step, int32_t repeat_step, const char* what, F fold)
{
    static_assert(one_of<T, half, float>, "a reduction of blocks");
    const int64_t per = 32 / int64_t(sizeof(T));
    dst.in(Hardware::UB, what);
    dst.starts_at(8 * sizeof(T), what);
    operand(src, what);
    if (repeats < 0 || repeats > 255 || dst_step < 1 || dst_step > 65535 || block_step < 0 || block_step > 65535 ||
        repeat_step < 0 || repeat_step > 65535) {
        refuse("%s of %d repeats, %d and %d apart", what, repeats, dst_step, repeat_step);
    }
    if (repeats > 0 && mask[0] == 0 && (mask[1] == 0 || sizeof(T) == 4)) {
        refuse("%s of no lanes", what);
    }
    for (int64_t r = 0; r < repeats; ++r) {
        for (int64_t block = 0; block < 8; ++block) {
            std::vector<T> lanes;
            for (int64_t l = block * per; l < (block + 1) * per; ++l) {
                if (mask[l / 64] >> (l % 64) & 1) {
                    lanes.push_back(*src.at(byte_of(src, {block_step, repeat_step}, r, l)));
                }
            }
            *dst.at(dst.byte + (r * dst_step * 8 + block) * int64_t(sizeof(T))) =
                lanes.empty() ? static_cast<T>(-777.0f) : fold(lanes);
        }
    }
}

inline void only_value(AscendC::ReduceOrder order)
{
    if (order != AscendC::ReduceOrder::ORDER_ONLY_VALUE || __NPU_ARCH__ != 2201) {
        refuse("a reduction that also writes indices is not modelled");
    }
}

}  // namespace model

namespace AscendC {

template <class T, bool isSetMask = true>
void WholeReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t mask, const int32_t repeatTime,
                    const int32_t dstRepStride, const int32_t srcBlkStride, const int32_t srcRepStride)
{
    model::reduce(dst, src, mask, repeatTime, dstRepStride, srcBlkStride, srcRepStride, "WholeReduceSum",
                  [](const std::vector<T>& x) { return model::tree_sum(x); });
}

template <class T, bool isSetMask = true>
void WholeReduceMax(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t mask, const int32_t repeatTime,
                    const int32_t dstRepStride, const int32_t srcBlkStride, const int32_t srcRepStride,
                    ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX)
{
    model::only_value(order);
    model::reduce(dst, src, mask, repeatTime, dstRepStride, srcBlkStride, srcRepStride, "WholeReduceMax",
                  [](const std::vector<T>& x) { return model::best(x, true); });
}

template <class T, bool isSetMask = true>
void WholeReduceMin(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t mask, const int32_t repeatTime,
                    const int32_t dstRepStride, const int32_t srcBlkStride, const int32_t srcRepStride,
                    ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX)
{
    model::only_value(order);
    model::reduce(dst, src, mask, repeatTime, dstRepStride, srcBlkStride, srcRepStride, "WholeReduceMin",
                  [](const std::vector<T>& x) { return model::best(x, false); });
}

#define MODEL_BLOCK_REDUCTION(NAME, FOLD)                                                                              \
    template <class T, bool isSetMask = true>                                                                          \
    void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeatTime, const uint64_t mask[],   \
              const int32_t dstRepStride, const int32_t srcBlkStride, const int32_t srcRepStride)                      \
    {                                                                                                                  \
        model::reduce_blocks(dst, src, mask, repeatTime, dstRepStride, srcBlkStride, srcRepStride, #NAME,              \
                             [](const std::vector<T>& x) { return FOLD; });                                            \
    }

MODEL_BLOCK_REDUCTION(BlockReduceSum, model::tree_sum(x))
MODEL_BLOCK_REDUCTION(BlockReduceMax, model::best(x, true))
MODEL_BLOCK_REDUCTION(BlockReduceMin, model::best(x, false))

}  // namespace AscendC

#endif
