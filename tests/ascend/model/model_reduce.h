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

}  // namespace AscendC

#endif
