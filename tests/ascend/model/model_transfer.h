// Transfers: global memory, the unified buffer, L1 and the small tables.
#ifndef MODEL_TRANSFER_H
#define MODEL_TRANSFER_H

#include "model_numbers.h"
#include "model_tensor.h"

namespace AscendC {

using model::Exact;

struct DataCopyParams {
    DataCopyParams() = default;
    DataCopyParams(Exact<uint16_t> count, Exact<uint16_t> len, Exact<uint16_t> srcGapIn, Exact<uint16_t> dstGapIn)
        : blockCount(count), blockLen(len), srcGap(srcGapIn), dstGap(dstGapIn)
    {
    }
    uint16_t blockCount = 1, blockLen = 0, srcGap = 0, dstGap = 0;
};

struct DataCopyExtParams {
    DataCopyExtParams() = default;
    DataCopyExtParams(Exact<uint16_t> count, Exact<uint32_t> len, Exact<uint32_t> srcStrideIn,
                      Exact<uint32_t> dstStrideIn, Exact<uint32_t> rsvIn)
        : blockCount(count), blockLen(len), srcStride(srcStrideIn), dstStride(dstStrideIn), rsv(rsvIn)
    {
        if (blockCount > 4095 || blockLen > 2097151) {
            model::refuse("a transfer of %u blocks of %u bytes", blockCount, blockLen);
        }
    }
    uint16_t blockCount = 1;
    uint32_t blockLen = 0, srcStride = 0, dstStride = 0, rsv = 0;
};

template <class T>
struct DataCopyPadExtParams {
    DataCopyPadExtParams() = default;
    DataCopyPadExtParams(const bool isPadValue, Exact<uint8_t> left, Exact<uint8_t> right, int padValue)
        : isPad(isPadValue), leftPadding(left), rightPadding(right), paddingValue(static_cast<T>(int64_t(padValue)))
    {
    }
    bool isPad = false;
    uint8_t leftPadding = 0, rightPadding = 0;
    T paddingValue = T();
};

struct Nd2NzParams {
    Nd2NzParams() = default;
    Nd2NzParams(Exact<uint16_t> ndNumIn, Exact<uint16_t> nValueIn, Exact<uint16_t> dValueIn,
                Exact<uint16_t> srcNdMatrixStrideIn, Exact<uint16_t> srcDValueIn, Exact<uint16_t> dstNzC0StrideIn,
                Exact<uint16_t> dstNzNStrideIn, Exact<uint16_t> dstNzMatrixStrideIn)
        : ndNum(ndNumIn), nValue(nValueIn), dValue(dValueIn), srcNdMatrixStride(srcNdMatrixStrideIn),
          srcDValue(srcDValueIn), dstNzC0Stride(dstNzC0StrideIn), dstNzNStride(dstNzNStrideIn),
          dstNzMatrixStride(dstNzMatrixStrideIn)
    {
        if (ndNum > 4095 || nValue > 16384 || srcDValue < 1 || dstNzC0Stride < 1 || dstNzC0Stride > 16384 ||
            dstNzNStride < 1 || dstNzNStride > 16384) {
            model::refuse("ND to NZ of %u x %u, rows %u apart, to columns %u apart", nValue, dValue, srcDValue,
                          dstNzC0Stride);
        }
    }
    uint16_t ndNum = 0, nValue = 0, dValue = 0, srcNdMatrixStride = 0, srcDValue = 0, dstNzC0Stride = 0;
    uint16_t dstNzNStride = 0, dstNzMatrixStride = 0;
};

template <class T>
struct InitConstValueParams {
    InitConstValueParams() = default;
    InitConstValueParams(Exact<uint16_t> repeatTimesIn, Exact<uint16_t> blockNumIn, Exact<uint16_t> dstGapIn,
                         const int initValueIn)
        : repeatTimes(repeatTimesIn), blockNum(blockNumIn), dstGap(dstGapIn),
          initValue(static_cast<T>(int64_t(initValueIn)))
    {
        if (__NPU_ARCH__ != 2201 || repeatTimes > 32767 || blockNum > 32767 || dstGap > 32767) {
            model::refuse("a fill of %u times %u blocks", repeatTimes, blockNum);
        }
    }
    // Repeats of 512 bytes one behind the other, which is all that a fused core has.
    InitConstValueParams(Exact<uint16_t> repeatTimesIn, const int initValueIn)
        : repeatTimes(repeatTimesIn), blockNum(16), initValue(static_cast<T>(int64_t(initValueIn)))
    {
        static_assert(split_or_halves, "InitConstValue");
    }
    static constexpr bool split_or_halves = model::split<T> || model::one_of<T, int16_t, uint16_t, half>;
    uint16_t repeatTimes = 0, blockNum = 0, dstGap = 0;
    T initValue = T();
};

// Blocks of bytes from global memory; each is filled up to 32 bytes with its first element.
template <class T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyExtParams& p,
                 const DataCopyPadExtParams<T>& pad)
{
    static_assert(model::split<T>, "DataCopyPad");
    dst.in(Hardware::UB, "DataCopyPad");
    dst.starts_at(32, "DataCopyPad");
    if (dst.position != TPosition::VECIN && dst.position != TPosition::VECOUT) {
        model::refuse("DataCopyPad to a tensor that is neither VECIN nor VECOUT");
    }
    if (pad.isPad || pad.leftPadding != 0 || pad.rightPadding != 0) {
        model::refuse("DataCopyPad with values of its own is not modelled");
    }
    const int64_t size = sizeof(T), lanes = p.blockLen / size, whole = (p.blockLen + 31) / 32 * 32 / size;
    if (p.blockLen % size != 0 || p.srcStride % size != 0) {
        model::refuse("DataCopyPad of %u bytes %u apart", p.blockLen, p.srcStride);
    }
    for (int64_t block = 0; block < p.blockCount; ++block) {
        const int64_t from = block * (p.blockLen + int64_t(p.srcStride)) / size;
        const int64_t to = dst.byte + block * (whole * size + int64_t(p.dstStride) * 32);
        for (int64_t i = 0; i < (lanes ? whole : 0); ++i) {
            *dst.at(to + i * size) = *src.at(from + (i < lanes ? i : 0));
        }
    }
}

template <class T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyExtParams& p)
{
    static_assert(model::split<T>, "DataCopyPad");
    model::does_not_add();
    src.in(Hardware::UB, "DataCopyPad");
    src.starts_at(32, "DataCopyPad");
    if (src.position != TPosition::VECIN && src.position != TPosition::VECOUT) {
        model::refuse("DataCopyPad from a tensor that is neither VECIN nor VECOUT");
    }
    const int64_t size = sizeof(T), lanes = p.blockLen / size, whole = (p.blockLen + 31) / 32 * 32;
    if (p.blockLen % size != 0 || p.dstStride % size != 0) {
        model::refuse("DataCopyPad of %u bytes %u apart", p.blockLen, p.dstStride);
    }
    for (int64_t block = 0; block < p.blockCount; ++block) {
        const int64_t to = block * (p.blockLen + int64_t(p.dstStride)) / size;
        const int64_t from = src.byte + block * (whole + int64_t(p.srcStride) * 32);
        for (int64_t i = 0; i < lanes; ++i) {
            *dst.at(to + i) = *src.at(from + i * size);
        }
    }
}

// Whole blocks of 32 bytes from global memory, to the unified buffer of a fused core or to L1.
template <class T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& p)
{
    dst.starts_at(32, "DataCopy");
    if (dst.where != Hardware::UB) {
        dst.in(Hardware::L1, "DataCopy");
    }
    if (dst.where == Hardware::UB && (p.blockCount < 1 || p.blockCount > 4095 || p.blockLen < 1)) {
        model::refuse("a transfer of %u runs of %u blocks", p.blockCount, p.blockLen);
    }
    const int64_t size = sizeof(T), per = 32 / size;
    const bool fused = model::core().kind == model::Kind::Fused;
    for (int64_t block = 0; block < p.blockCount; ++block) {
        const int64_t from = block * (p.blockLen + p.srcGap) * per;
        for (int64_t i = 0; i < p.blockLen * per; ++i) {
            *dst.at(dst.byte + block * (p.blockLen + p.dstGap) * 32 + i * size) =
                *(fused ? src.in_blocks(from + i, true) : src.at(from + i));
        }
    }
}

template <class T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& p)
{
    model::does_not_add();
    src.in(Hardware::UB, "DataCopy");
    src.starts_at(32, "DataCopy");
    if (p.blockCount < 1 || p.blockCount > 4095 || p.blockLen < 1) {
        model::refuse("a transfer of %u runs of %u blocks", p.blockCount, p.blockLen);
    }
    const int64_t size = sizeof(T), per = 32 / size;
    for (int64_t block = 0; block < p.blockCount; ++block) {
        for (int64_t i = 0; i < p.blockLen * per; ++i) {
            *dst.in_blocks(block * (p.blockLen + p.dstGap) * per + i, false) =
                *src.at(src.byte + block * (p.blockLen + p.srcGap) * 32 + i * size);
        }
    }
}

// Between memories of a core. The unit is that of the destination: 64 bytes of the bias table, 128 of the scales.
template <class T>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& p)
{
    const bool table = dst.where == Hardware::BIAS, scales = dst.where == Hardware::FIXBUF;
    const int64_t unit = table ? 64 : scales ? 128 : 32;
    if (table || scales) {
        src.in(Hardware::L1, "DataCopy");
    } else {
        dst.in(Hardware::L1, "DataCopy");
        src.in(Hardware::UB, "DataCopy");
    }
    dst.starts_at(table ? 64 : scales ? 128 : 32, "DataCopy");
    src.starts_at(32, "DataCopy");
    for (int64_t block = 0; block < p.blockCount; ++block) {
        const int64_t to = dst.byte + block * (p.blockLen * unit + p.dstGap * unit);
        const int64_t from = src.byte + block * (p.blockLen * unit + p.srcGap * 32);
        for (int64_t i = 0; i < p.blockLen * unit; i += sizeof(T)) {
            *dst.at(to + i) = *src.at(from + i);
        }
    }
}

// A bias of 16 bits is widened on its way into the table; blocks of 64 bytes are those of the source.
template <class T, class U>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const DataCopyParams& p)
{
    static_assert(std::is_same<T, float>::value && std::is_same<U, half>::value && model::split<T>, "DataCopy");
    dst.in(Hardware::BIAS, "DataCopy"), src.in(Hardware::L1, "DataCopy");
    dst.starts_at(64, "DataCopy"), src.starts_at(32, "DataCopy");
    if (p.blockCount != 1) {
        model::refuse("several runs of a bias are not modelled");
    }
    for (int64_t i = 0; i < p.blockLen * 32; ++i) {
        *dst.at(dst.byte + i * 4) = static_cast<float>(*src.at(src.byte + i * 2));
    }
}

// Rows into fractals of 16 rows by 32 bytes; the last column of fractals is filled up with zeros.
template <class T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const Nd2NzParams& p)
{
    dst.in(Hardware::L1, "DataCopy(Nd2NzParams)");
    dst.starts_at(32, "DataCopy(Nd2NzParams)");
    if (p.ndNum > 1) {
        model::refuse("several matrices in one ND to NZ are not modelled");
    }
    const int64_t size = sizeof(T), c0 = 32 / size;
    const int64_t columns = (p.dValue + c0 - 1) / c0 * c0;
    for (int64_t r = 0; r < (p.ndNum && p.dValue ? p.nValue : 0); ++r) {
        for (int64_t c = 0; c < columns; ++c) {
            const int64_t to = (c / c0) * p.dstNzC0Stride * 32 + r * p.dstNzNStride * 32 + c % c0 * size;
            *dst.at(dst.byte + to) = c < p.dValue ? *src.at(r * p.srcDValue + c) : T();
        }
    }
}

template <class T, class U>
void InitConstValue(const LocalTensor<T>& dst, const InitConstValueParams<U>& p)
{
    static_assert(std::is_same<T, U>::value && sizeof(T) > 1, "InitConstValue");
    dst.in(Hardware::L1, "InitConstValue");
    dst.starts_at(32, "InitConstValue");
    for (int64_t repeat = 0; repeat < p.repeatTimes; ++repeat) {
        for (int64_t i = 0; i < p.blockNum * 32; i += sizeof(T)) {
            *dst.at(dst.byte + repeat * (p.blockNum + p.dstGap) * 32 + i) = p.initValue;
        }
    }
}

enum class CacheLine : uint64_t { SINGLE_CACHE_LINE, ENTIRE_DATA_CACHE };
enum class DcciDst : uint64_t { CACHELINE_ALL, CACHELINE_UB, CACHELINE_OUT, CACHELINE_ATOMIC };

template <class T, CacheLine entireType, DcciDst dcciDst>
void DataCacheCleanAndInvalid(const GlobalTensor<T>&)
{
    static_assert(model::split<T>, "with a destination");
}

template <class T, CacheLine entireType>
void DataCacheCleanAndInvalid(const GlobalTensor<T>&)
{
}

}  // namespace AscendC

#endif
