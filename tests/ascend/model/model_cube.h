// The cube unit: fractals into L0, products, sums on their way out.
#ifndef MODEL_CUBE_H
#define MODEL_CUBE_H

#include <algorithm>

#include "model_numbers.h"
#include "model_transfer.h"

enum class QuantMode_t : uint8_t {
    NoQuant, F322F16, F322BF16, DEQF16, VDEQF16, QF322B8_PRE, VQF322B8_PRE, REQ8, VREQ8,
};

namespace AscendC {

struct LoadData2DParams {
    LoadData2DParams() = default;
    LoadData2DParams(Exact<uint16_t> startIndexIn, Exact<uint8_t> repeatTimesIn, Exact<uint16_t> srcStrideIn,
                     Exact<uint8_t> sidIn, Exact<uint16_t> dstGapIn, const bool ifTransposeIn,
                     Exact<uint8_t> addrModeIn)
        : startIndex(startIndexIn), repeatTimes(repeatTimesIn), srcStride(srcStrideIn), sid(sidIn), dstGap(dstGapIn),
          ifTranspose(ifTransposeIn), addrMode(addrModeIn)
    {
    }
    uint16_t startIndex = 0;
    uint8_t repeatTimes = 0;
    uint16_t srcStride = 0;
    uint8_t sid = 0;
    uint16_t dstGap = 0;
    bool ifTranspose = false;
    uint8_t addrMode = 0;
};

struct MmadParams {
    MmadParams() = default;
    MmadParams(Exact<uint16_t> mIn, Exact<uint16_t> nIn, Exact<uint16_t> kIn, Exact<uint8_t> unitFlagIn,
               const bool cmatrixSourceIn, const bool cmatrixInitValIn)
        : m(mIn), n(nIn), k(kIn), unitFlag(unitFlagIn), cmatrixSource(cmatrixSourceIn), cmatrixInitVal(cmatrixInitValIn)
    {
        if (m > 4095 || n > 4095 || k > 4095) {
            model::refuse("a product of %u x %u x %u", m, n, k);
        }
        if (m == 1) {
            model::refuse("a product of one row reads L0A row-major, which is not modelled");
        }
    }
    uint16_t m = 0, n = 0, k = 0;
    uint8_t unitFlag = 0;
    bool cmatrixSource = false, cmatrixInitVal = true;
};

// Fractals of 512 bytes; 16-bit ones may be turned.
template <class T>
void LoadData(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LoadData2DParams& p)
{
    if (dst.where != Hardware::L0A) {
        dst.in(Hardware::L0B, "LoadData");
    }
    src.in(Hardware::L1, "LoadData");
    dst.starts_at(512, "LoadData");
    src.starts_at(32, "LoadData");
    if (p.ifTranspose && sizeof(T) != 2) {
        model::refuse("LoadData turns fractals of 16-bit elements only");
    }
    const int64_t size = sizeof(T);
    for (int64_t repeat = 0; repeat < p.repeatTimes; ++repeat) {
        const int64_t to = dst.byte + repeat * (1 + p.dstGap) * 512;
        const int64_t from = src.byte + (p.startIndex + repeat * p.srcStride) * 512;
        for (int64_t i = 0; i < 512 / size; ++i) {
            const int64_t other = p.ifTranspose ? i % 16 * 16 + i / 16 : i;
            *dst.at(to + i * size) = *src.at(from + other * size);
        }
    }
}

struct LoadData2dTransposeParams {
    uint16_t startIndex = 0;
    uint8_t repeatTimes = 0;
    uint16_t srcStride = 0, dstGap = 0, dstFracGap = 0;
    uint8_t addrMode = 0;
};

// Squares of two 16 x 8 fractals of 32-bit elements, which lie side by side, turned into two fractals.
template <class T>
void LoadDataWithTranspose(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LoadData2dTransposeParams& p)
{
    static_assert(sizeof(T) == 4, "other types are not modelled");
    if (dst.where != Hardware::L0A) {
        dst.in(Hardware::L0B, "LoadDataWithTranspose");
    }
    src.in(Hardware::L1, "LoadDataWithTranspose");
    dst.starts_at(512, "LoadDataWithTranspose");
    src.starts_at(32, "LoadDataWithTranspose");
    for (int64_t repeat = 0; repeat < p.repeatTimes; ++repeat) {
        const int64_t from = src.byte + (p.startIndex + repeat * p.srcStride) * 1024;
        const int64_t to = dst.byte + repeat * (1 + p.dstGap) * 512;
        for (int64_t row = 0; row < 16; ++row) {
            for (int64_t column = 0; column < 16; ++column) {
                const int64_t half = to + row / 8 * (1 + p.dstFracGap) * 512;
                *dst.at(half + column * 32 + row % 8 * 4) = *src.at(from + column / 8 * 512 + row * 32 + column % 8 * 4);
            }
        }
    }
}

}  // namespace AscendC

namespace model {

// Sums of one product: float steps of 32 bytes of elements added in double, each rounded once into the sum.
inline void add_step(float& sum, const double* products, int count)
{
    double step = 0;
    for (int i = 0; i < count; ++i) {
        step += products[i];
    }
    sum = round_to<float>(static_cast<double>(sum) + step);
}

template <class S, class T, class Start>
void product(const AscendC::LocalTensor<S>& dst, const AscendC::LocalTensor<T>& fm,
             const AscendC::LocalTensor<T>& filter, const AscendC::MmadParams& p, Start start)
{
    static_assert((std::is_same<T, int8_t>::value && std::is_same<S, int32_t>::value) ||
                      (floating<T> && std::is_same<S, float>::value),
                  "Mmad");
    static_assert(__NPU_ARCH__ == 2201 || std::is_same<T, half>::value || std::is_same<T, int8_t>::value, "Mmad");
    dst.in(Hardware::L0C, "Mmad");
    fm.in(Hardware::L0A, "Mmad");
    filter.in(Hardware::L0B, "Mmad");
    dst.starts_at(1024, "Mmad");
    fm.starts_at(512, "Mmad");
    filter.starts_at(512, "Mmad");
    const int64_t size = sizeof(T), c0 = 32 / size;
    const int64_t deep = (p.k + c0 - 1) / c0, wide = (p.n + 15) / 16, high = (p.m + 15) / 16 * 16;
    for (int64_t i = 0; i < p.m; ++i) {
        for (int64_t j = 0; j < p.n; ++j) {
            S& out = *dst.at(dst.byte + (j / 16 * high * 16 + i * 16 + j % 16) * 4);
            S sum = start(j, out);
            for (int64_t step = 0; step < p.k; step += c0) {
                const int64_t a = fm.byte + (i / 16 * deep + step / c0) * 512 + i % 16 * 32;
                const int64_t b = filter.byte + (step / c0 * wide + j / 16) * 512 + j % 16 * 32;
                const int count = static_cast<int>(std::min<int64_t>(c0, p.k - step));
                if constexpr (std::is_same<S, int32_t>::value) {
                    for (int l = 0; l < count; ++l) {
                        sum = static_cast<int32_t>(static_cast<uint32_t>(sum) +
                                                   static_cast<uint32_t>(int32_t(*fm.at(a + l)) * *filter.at(b + l)));
                    }
                } else {
                    double products[16];
                    for (int l = 0; l < count; ++l) {
                        products[l] = static_cast<double>(*fm.at(a + l * size)) *
                                      static_cast<double>(*filter.at(b + l * size));
                    }
                    add_step(sum, products, count);
                }
            }
            out = sum;
        }
    }
}

}  // namespace model

namespace AscendC {

template <class T, class U, class S>
void Mmad(const LocalTensor<T>& dst, const LocalTensor<U>& fm, const LocalTensor<S>& filter, const MmadParams& p)
{
    if (p.cmatrixSource) {
        model::refuse("Mmad without a table of biases begins from one");
    }
    model::product(dst, fm, filter, p, [&](int64_t, T old) { return p.cmatrixInitVal ? T() : old; });
}

template <class T, class U, class S, class V>
void Mmad(const LocalTensor<T>& dst, const LocalTensor<U>& fm, const LocalTensor<S>& filter, const LocalTensor<V>& bias,
          const MmadParams& p)
{
    static_assert(std::is_same<T, V>::value && model::split<T>, "Mmad with a bias");
    bias.in(Hardware::BIAS, "Mmad");
    bias.starts_at(64, "Mmad");
    model::product(dst, fm, filter, p, [&](int64_t j, T) { return *bias.at(bias.byte + j * 4); });
}

enum class CO2Layout : uint8_t { NZ, ROW_MAJOR };
struct FixpipeConfig {
    CO2Layout format;
};
constexpr FixpipeConfig CFG_NZ = {CO2Layout::NZ};
constexpr FixpipeConfig CFG_ROW_MAJOR = {CO2Layout::ROW_MAJOR};

struct FixpipeParamsV220 {
    FixpipeParamsV220() = default;
    FixpipeParamsV220(Exact<uint16_t> nSizeIn, Exact<uint16_t> mSizeIn, Exact<uint16_t> srcStrideIn,
                      Exact<uint32_t> dstStrideIn, const bool reluEnIn, const QuantMode_t quantPreIn,
                      const int64_t deqScalarIn, Exact<uint16_t> ndNumIn, Exact<uint16_t> srcNdStrideIn,
                      Exact<uint16_t> dstNdStrideIn, Exact<uint8_t> unitFlagIn)
        : nSize(nSizeIn), mSize(mSizeIn), srcStride(srcStrideIn), dstStride(dstStrideIn), reluEn(reluEnIn),
          quantPre(quantPreIn), deqScalar(static_cast<uint64_t>(deqScalarIn)), ndNum(ndNumIn),
          srcNdStride(srcNdStrideIn), dstNdStride(dstNdStrideIn), unitFlag(unitFlagIn)
    {
        if (nSize > 4095 || mSize > 8192) {
            model::refuse("a fixpipe of %u x %u", mSize, nSize);
        }
    }
    uint16_t nSize = 0, mSize = 0, srcStride = 0;
    uint32_t dstStride = 0;
    bool reluEn = false;
    QuantMode_t quantPre = QuantMode_t::NoQuant;
    uint64_t deqScalar = 0;
    uint16_t ndNum = 1, srcNdStride = 0, dstNdStride = 0;
    uint8_t unitFlag = 0;
};

struct DataCopyCO12DstParams {
    DataCopyCO12DstParams() = default;
    DataCopyCO12DstParams(Exact<uint16_t> nSizeIn, Exact<uint16_t> mSizeIn, Exact<uint32_t> dstStrideIn,
                          Exact<uint16_t> srcStrideIn, const QuantMode_t quantPreIn, Exact<uint8_t> reluPreIn,
                          const bool channelSplitIn, const bool nz2ndEnIn)
        : nSize(nSizeIn), mSize(mSizeIn), dstStride(dstStrideIn), srcStride(srcStrideIn), quantPre(quantPreIn),
          reluPre(reluPreIn), channelSplit(channelSplitIn), nz2ndEn(nz2ndEnIn)
    {
    }
    uint16_t nSize = 0, mSize = 0;
    uint32_t dstStride = 0;
    uint16_t srcStride = 0;
    QuantMode_t quantPre = QuantMode_t::NoQuant;
    uint8_t reluPre = 0;
    bool channelSplit = false, nz2ndEn = false;
};

}  // namespace AscendC

namespace model {

// One number on its way out: times the scale, relu, rounded, with the offset, kept in range.
template <class T, class U>
T out_of_l0c(U value, QuantMode_t mode, uint64_t word, bool relu)
{
    using M = QuantMode_t;
    const float scale = float_of(static_cast<uint32_t>(word) & 0xFFFFE000u);  // the unit keeps 19 bits
    const bool scaled = mode >= M::DEQF16;
    if constexpr (std::is_same<T, U>::value) {
        return relu ? larger(value, U()) : value;
    } else {
        float x = static_cast<float>(value);
        if (scaled) {
            x = x * scale;
        }
        if (relu) {
            x = larger(x, 0.0f);
        }
        if constexpr (std::is_same<T, int8_t>::value) {
            int offset = static_cast<int>(word >> 37 & 0x1FF);
            offset = offset >= 256 ? offset - 512 : offset;
            return saturated<int8_t>(round_even(x) + offset);
        } else {
            return static_cast<T>(x);
        }
    }
}

template <class T, class U>
void check_mode(QuantMode_t mode)
{
    using M = QuantMode_t;
    constexpr bool same = std::is_same<T, U>::value, wide = std::is_same<U, float>::value;
    const bool right = same                                    ? mode == M::NoQuant
                       : std::is_same<T, bfloat16_t>::value ? wide && mode == M::F322BF16
                       : std::is_same<T, half>::value
                           ? (wide ? mode == M::F322F16 : mode == M::DEQF16 || mode == M::VDEQF16)
                           : (wide ? mode == M::QF322B8_PRE || mode == M::VQF322B8_PRE
                                   : mode == M::REQ8 || mode == M::VREQ8);
    if (!right) {
        refuse("quantization mode %d does not make this type", static_cast<int>(mode));
    }
}

// Sums of NZ order; `store(row, column, value)` puts them where they go.
template <class T, class U, class Store>
void drain(const AscendC::LocalTensor<U>& src, int64_t rows, int64_t columns, int64_t pitch, QuantMode_t mode,
           bool relu, uint64_t word, Store store)
{
    static_assert(one_of<U, float, int32_t>, "Fixpipe");
    static_assert(model::split<T>, "Fixpipe");
    src.in(Hardware::L0C, "Fixpipe");
    src.starts_at(64, "Fixpipe");
    check_mode<T, U>(mode);
    const bool by_channel = mode == QuantMode_t::VDEQF16 || mode == QuantMode_t::VQF322B8_PRE ||
                            mode == QuantMode_t::VREQ8;
    for (int64_t c = 0; c < columns; ++c) {
        if (by_channel) {
            const int64_t at = static_cast<int64_t>(core().scales) + c * 8;
            if (at + 8 > static_cast<int64_t>(capacity(Hardware::FIXBUF))) {
                refuse("scales at byte %lld of FIXBUF", (long long)at);
            }
            std::memcpy(&word, core().memory(Hardware::FIXBUF) + at, 8);
        }
        for (int64_t r = 0; r < rows; ++r) {
            store(r, c, out_of_l0c<T, U>(*src.at(src.byte + (c / 16 * pitch * 16 + r * 16 + c % 16) * 4), mode, word, relu));
        }
    }
}

}  // namespace model

namespace AscendC {

// From here on sums that leave L0C for global memory are added to what it holds.
template <class T>
void SetAtomicAdd()
{
    static_assert(model::split<T> && model::atomic_of<T> != 0, "SetAtomicAdd");
    model::core().atomic = model::atomic_of<T>;
}

inline void SetAtomicNone() { model::core().atomic = 0; }

template <class T, class U, const FixpipeConfig& config = CFG_ROW_MAJOR>
void Fixpipe(const GlobalTensor<T>& dst, const LocalTensor<U>& src, const FixpipeParamsV220& p)
{
    const int64_t c0 = sizeof(T) == 1 ? 32 : 16, apart = int64_t(p.dstStride);
    const bool adds = model::core().atomic != 0;
    if (adds && (config.format == CO2Layout::NZ || model::core().atomic != model::atomic_of<T>)) {
        model::refuse("an addition to global memory of fractals or of another type than SetAtomicAdd said");
    }
    model::drain<T>(src, p.mSize, p.nSize, p.srcStride, p.quantPre, p.reluEn, p.deqScalar,
                    [&](int64_t r, int64_t c, T x) {
                        const int64_t fractal = c / c0 * (apart * 32 / int64_t(sizeof(T))) + r * c0 + c % c0;
                        T& out = *dst.at(config.format == CO2Layout::NZ ? fractal : r * apart + c);
                        out = adds ? model::arithmetic(out, x, [](auto a, auto b) { return a + b; }) : x;
                    });
}

template <class T, class U, const FixpipeConfig& config = CFG_ROW_MAJOR>
void Fixpipe(const LocalTensor<T>& dst, const LocalTensor<U>& src, const FixpipeParamsV220& p)
{
    static_assert(config.format == CO2Layout::NZ, "fractals to L1");
    dst.in(Hardware::L1, "Fixpipe");
    const int64_t c0 = 32 / sizeof(T);
    model::drain<T>(src, p.mSize, p.nSize, p.srcStride, p.quantPre, p.reluEn, p.deqScalar,
                    [&](int64_t r, int64_t c, T x) {
                        *dst.at(dst.byte + (c / c0 * p.dstStride + r) * 32 + c % c0 * int64_t(sizeof(T))) = x;
                    });
}

inline void SetFixPipeConfig(const LocalTensor<uint64_t>& preData, bool isUnitFlag = false)
{
    (void)isUnitFlag;
    preData.in(Hardware::FIXBUF, "SetFixPipeConfig");
    model::core().scales = static_cast<uint64_t>(preData.byte);
}

inline void SetFixpipeNz2ndFlag(uint16_t ndNum, uint16_t srcNdStride, uint16_t dstNdStride)
{
    if (ndNum != 1 || srcNdStride != 0 || dstNdStride != 0) {
        model::refuse("several matrices in one fixpipe are not modelled");
    }
}

template <class T, class U>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<U>& src, const DataCopyCO12DstParams& p)
{
    model::does_not_add();
    if (!p.nz2ndEn) {
        model::refuse("fractals to global memory are not modelled");
    }
    model::drain<T>(src, p.mSize, p.nSize, p.srcStride, p.quantPre, p.reluPre != 0, 0,
                    [&](int64_t r, int64_t c, T x) { *dst.at(r * int64_t(p.dstStride) + c) = x; });
}

template <class T, class U>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const DataCopyCO12DstParams& p)
{
    const int64_t c0 = 32 / sizeof(T);
    model::drain<T>(src, p.mSize, p.nSize, p.srcStride, p.quantPre, p.reluPre != 0, 0, [&](int64_t r, int64_t c, T x) {
        *dst.at(dst.byte + (c / c0 * p.dstStride + r) * 32 + c % c0 * int64_t(sizeof(T))) = x;
    });
}

enum class BlockMode : uint8_t { BLOCK_MODE_NORMAL, BLOCK_MODE_MATRIX, BLOCK_MODE_VECTOR, BLOCK_MODE_SMALL_CHANNEL };
enum class DeqScale : uint8_t { DEQ_NONE, DEQ, VDEQ, DEQ8, VDEQ8, DEQ16, VDEQ16 };
enum class pad_t : uint8_t { PAD_NONE };

struct DataCopyEnhancedParams {
    DataCopyEnhancedParams() = default;
    DataCopyEnhancedParams(const BlockMode blockModeIn, const DeqScale deqScaleIn, const uint64_t deqValueIn,
                           Exact<uint8_t> sidStoreModeIn, const bool isReluIn, const pad_t padModeIn,
                           const uint64_t padValueIn)
        : blockMode(blockModeIn), deqScale(deqScaleIn), deqValue(deqValueIn), sidStoreMode(sidStoreModeIn),
          isRelu(isReluIn), padMode(padModeIn), padValue(padValueIn)
    {
    }
    BlockMode blockMode = BlockMode::BLOCK_MODE_NORMAL;
    DeqScale deqScale = DeqScale::DEQ_NONE;
    uint64_t deqValue = 0;
    uint8_t sidStoreMode = 0;
    bool isRelu = false;
    pad_t padMode = pad_t::PAD_NONE;
    uint64_t padValue = 0;
};

// Whole fractals of sums into the unified buffer of a fused core.
template <class T, class U>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const DataCopyParams& p,
              const DataCopyEnhancedParams& how)
{
    constexpr bool plain = std::is_same<T, U>::value || (std::is_same<T, half>::value && std::is_same<U, float>::value);
    constexpr bool scaled = std::is_same<T, half>::value && std::is_same<U, int32_t>::value;
    static_assert(plain || scaled, "DataCopy from L0C");
    dst.in(Hardware::UB, "DataCopy"), src.in(Hardware::L0C, "DataCopy");
    dst.starts_at(32, "DataCopy"), src.starts_at(64, "DataCopy");
    if (how.blockMode != BlockMode::BLOCK_MODE_MATRIX || how.isRelu ||
        how.deqScale != (scaled ? DeqScale::DEQ : DeqScale::DEQ_NONE)) {
        model::refuse("a transfer from L0C in another mode");
    }
    half scale;
    scale.bits = static_cast<uint16_t>(how.deqValue);
    for (int64_t block = 0; block < p.blockCount; ++block) {
        const int64_t to = dst.byte + block * (p.blockLen * 256 * int64_t(sizeof(T)) + p.dstGap * 32);
        const int64_t from = src.byte + block * (p.blockLen + p.srcGap) * 1024;
        for (int64_t i = 0; i < p.blockLen * 256; ++i) {
            const U x = *src.at(from + i * 4);
            T& out = *dst.at(to + i * int64_t(sizeof(T)));
            if constexpr (scaled) {
                out = static_cast<T>(static_cast<float>(x) * static_cast<float>(scale));
            } else {
                out = std::is_same<T, U>::value ? static_cast<T>(x) : static_cast<T>(static_cast<float>(x));
            }
        }
    }
}

template <class T>
struct LoadData3DParamsV2 {
    LoadData3DParamsV2() = default;
    LoadData3DParamsV2(const uint8_t padListIn[4], Exact<uint16_t> l1HIn, Exact<uint16_t> l1WIn,
                       Exact<uint16_t> channelSizeIn, Exact<uint16_t> kExtensionIn, Exact<uint16_t> mExtensionIn,
                       Exact<uint16_t> kStartPtIn, Exact<uint16_t> mStartPtIn, Exact<uint8_t> strideWIn,
                       Exact<uint8_t> strideHIn, Exact<uint8_t> filterWIn, Exact<uint8_t> filterHIn,
                       Exact<uint8_t> dilationFilterWIn, Exact<uint8_t> dilationFilterHIn, const bool enTransposeIn,
                       const bool enSmallKIn, const T padValueIn)
        : l1H(l1HIn), l1W(l1WIn), channelSize(channelSizeIn), kExtension(kExtensionIn), mExtension(mExtensionIn),
          kStartPt(kStartPtIn), mStartPt(mStartPtIn), strideW(strideWIn), strideH(strideHIn), filterW(filterWIn),
          filterH(filterHIn), dilationFilterW(dilationFilterWIn), dilationFilterH(dilationFilterHIn),
          enTranspose(enTransposeIn), enSmallK(enSmallKIn), padValue(padValueIn)
    {
        std::copy(padListIn, padListIn + 4, padList);
        const bool none = l1H == 0 || l1W == 0 || strideW == 0 || strideH == 0 || filterW == 0 || filterH == 0;
        const bool large = strideW > 63 || strideH > 63 || l1H > 32767 || l1W > 32767 || mStartPt > 32767;
        if (none || large || mExtension % 16 != 0 || enTranspose || enSmallK) {
            model::refuse("an image of %u x %u with strides %u and %u", l1H, l1W, strideH, strideW);
        }
    }
    uint8_t padList[4] = {0, 0, 0, 0};
    uint16_t l1H = 0, l1W = 0, channelSize = 0, kExtension = 0, mExtension = 0, kStartPt = 0, mStartPt = 0;
    uint8_t strideW = 1, strideH = 1, filterW = 1, filterH = 1, dilationFilterW = 1, dilationFilterH = 1;
    bool enTranspose = false, enSmallK = false;
    T padValue = T();
};

// Rows of windows: row i is the window of output pixel mStartPt + i, column by channel block, then kernel point.
template <class T>
void LoadData(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LoadData3DParamsV2<T>& p)
{
    dst.in(Hardware::L0A, "LoadData"), src.in(Hardware::L1, "LoadData");
    dst.starts_at(512, "LoadData"), src.starts_at(32, "LoadData");
    // With 4, 8 or (of bytes) 16 channels a pixel is that wide, and there is one plane.
    const int64_t size = sizeof(T), fine = 32 / size, deep = (p.kExtension + fine - 1) / fine;
    const bool few = p.channelSize == 4 || p.channelSize == 8 || (p.channelSize == 16 && size == 1);
    const int64_t c0 = few ? int64_t(p.channelSize) : fine;
    const int64_t reach = (p.filterW - 1) * p.dilationFilterW + 1;
    const int64_t wide = (p.l1W + p.padList[0] + p.padList[1] - reach) / p.strideW + 1;
    if (p.kStartPt % fine != 0 || p.channelSize % c0 != 0) {
        model::refuse("windows from column %u of %u channels", p.kStartPt, p.channelSize);
    }
    for (int64_t i = 0; i < p.mExtension; ++i) {
        const int64_t pixel = p.mStartPt + i;
        for (int64_t k = 0; k < p.kExtension; ++k) {
            const int64_t column = p.kStartPt + k, point = column / c0 % (p.filterH * p.filterW);
            const int64_t y = pixel / wide * p.strideH + point / p.filterW * p.dilationFilterH - p.padList[2];
            const int64_t x = pixel % wide * p.strideW + point % p.filterW * p.dilationFilterW - p.padList[0];
            const int64_t plane = column / c0 / (p.filterH * p.filterW);
            T lane = p.padValue;
            if (y >= 0 && y < p.l1H && x >= 0 && x < p.l1W && plane * c0 < p.channelSize) {
                lane = *src.at(src.byte + ((plane * p.l1H + y) * p.l1W + x) * c0 * size + column % c0 * size);
            }
            *dst.at(dst.byte + ((i / 16 * deep + k / fine) * 16 + i % 16) * 32 + k % fine * size) = lane;
        }
    }
}

}  // namespace AscendC

#endif
