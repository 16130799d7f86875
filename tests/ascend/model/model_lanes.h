// Lanes of the vector unit: repeats of 256 bytes with a mask, blocks of 32 bytes and repeats apart by strides.
#ifndef MODEL_LANES_H
#define MODEL_LANES_H

#include "model_transfer.h"

namespace AscendC {

struct BinaryRepeatParams {
    BinaryRepeatParams() = default;
    BinaryRepeatParams(Exact<uint8_t> dstBlk, Exact<uint8_t> src0Blk, Exact<uint8_t> src1Blk, Exact<uint8_t> dstRep,
                       Exact<uint8_t> src0Rep, Exact<uint8_t> src1Rep)
        : dstBlkStride(dstBlk), src0BlkStride(src0Blk), src1BlkStride(src1Blk), dstRepStride(dstRep),
          src0RepStride(src0Rep), src1RepStride(src1Rep)
    {
    }
    uint8_t dstBlkStride = 1, src0BlkStride = 1, src1BlkStride = 1, dstRepStride = 8, src0RepStride = 8;
    uint8_t src1RepStride = 8;
};

struct UnaryRepeatParams {
    UnaryRepeatParams() = default;
    UnaryRepeatParams(Exact<uint16_t> dstBlk, Exact<uint16_t> srcBlk, Exact<uint8_t> dstRep, Exact<uint8_t> srcRep)
        : dstBlkStride(dstBlk), srcBlkStride(srcBlk), dstRepStride(dstRep), srcRepStride(srcRep)
    {
    }
    uint16_t dstBlkStride = 1, srcBlkStride = 1;
    uint8_t dstRepStride = 8, srcRepStride = 8;
};

struct CopyRepeatParams {
    CopyRepeatParams() = default;
    CopyRepeatParams(Exact<uint16_t> dst, Exact<uint16_t> src, Exact<uint16_t> dstRep, Exact<uint16_t> srcRep)
        : dstStride(dst), srcStride(src), dstRepeatSize(dstRep), srcRepeatSize(srcRep)
    {
        if (dstRepeatSize > 4095 || srcRepeatSize > 4095) {
            model::refuse("repeats of Copy %u blocks apart", dstRepeatSize);
        }
    }
    uint16_t dstStride = 1, srcStride = 1, dstRepeatSize = 8, srcRepeatSize = 8;
};

struct BrcbRepeatParams {
    BrcbRepeatParams() = default;
    BrcbRepeatParams(Exact<uint16_t> dstBlk, Exact<uint16_t> dstRep) : dstBlkStride(dstBlk), dstRepStride(dstRep)
    {
        if (dstBlkStride == 0) {
            model::refuse("Brcb with blocks 0 apart");
        }
    }
    uint16_t dstBlkStride = 1, dstRepStride = 8;
};

}  // namespace AscendC

namespace model {

// How an operand moves: blocks between blocks of a repeat, and between repeats.
struct Steps {
    int64_t block, repeat;
};

template <class T>
int64_t byte_of(const AscendC::LocalTensor<T>& t, Steps s, int64_t repeat, int64_t lane)
{
    const int64_t per = 32 / static_cast<int64_t>(sizeof(T));
    return t.byte + repeat * s.repeat * 32 + lane / per * s.block * 32 + lane % per * static_cast<int64_t>(sizeof(T));
}

inline void check_vector(uint64_t mask, int64_t per)
{
    if (mask < 1 || static_cast<int64_t>(mask) > per) {
        refuse("a mask of %llu lanes in repeats of %lld", (unsigned long long)mask, (long long)per);
    }
}

template <class T>
void operand(const AscendC::LocalTensor<T>& t, const char* what)
{
    t.in(Hardware::UB, what);
    t.starts_at(32, what);
}

// Calls f(repeat, lane) for lanes under a mask.
template <class F>
void masked(uint64_t mask, int64_t per, int64_t repeats, F f)
{
    if (repeats == 0) {
        return;
    }
    check_vector(mask, per);
    for (int64_t r = 0; r < repeats; ++r) {
        for (int64_t l = 0; l < static_cast<int64_t>(mask); ++l) {
            f(r, l);
        }
    }
}

inline int64_t counted(int64_t count)
{
    if (count < 0) {
        refuse("a count of %lld", (long long)count);
    }
    return count;
}

}  // namespace model

#endif
