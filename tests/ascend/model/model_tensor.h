// Tensors in the memories of a core and in global memory.
#ifndef MODEL_TENSOR_H
#define MODEL_TENSOR_H

#include "model_core.h"
#include "model_numbers.h"

namespace model {

inline Hardware hardware_of(AscendC::TPosition position)
{
    using AscendC::TPosition;
    switch (position) {
    case TPosition::A1:
    case TPosition::B1:
    case TPosition::C1: return Hardware::L1;
    case TPosition::A2: return Hardware::L0A;
    case TPosition::B2: return Hardware::L0B;
    case TPosition::CO1: return Hardware::L0C;
    case TPosition::C2: return Hardware::BIAS;
    case TPosition::C2PIPE2GM: return Hardware::FIXBUF;
    case TPosition::GM: refuse("a local tensor in global memory");
    default: return Hardware::UB;
    }
}

inline const char* name_of(Hardware where)
{
    static const char* const names[] = {"GM", "UB", "L1", "L0A", "L0B", "L0C", "BIAS", "FIXBUF"};
    return names[static_cast<int>(where)];
}

inline void aligned(Hardware where, int64_t byte, int64_t to, const char* what)
{
    if (byte % to != 0) {
        refuse("%s: byte %lld of %s is not a multiple of %lld", what, (long long)byte, name_of(where), (long long)to);
    }
}

}  // namespace model

namespace AscendC {

// A byte of two integers of 4 bits: tensors of them count bytes here.
struct int4b_t {
    uint8_t pair;
};

template <class T>
class LocalTensor {
public:
    using PrimType = T;
    LocalTensor() = default;
    LocalTensor(TPosition pos, uint32_t addr, uint32_t tileSize)
        : where(model::hardware_of(pos)), position(pos), byte(addr), begin(addr), end(addr + uint64_t(tileSize) * sizeof(T))
    {
        if (end > static_cast<int64_t>(model::capacity(where))) {
            model::refuse("a tensor ends at byte %lld of %s", (long long)end, model::name_of(where));
        }
        model::aligned(where, addr, where == Hardware::L0A || where == Hardware::L0B ? 512 : 32, "a tensor");
        const bool cube = where != Hardware::UB;
        const model::Kind kind = model::core().kind;
        if (kind != model::Kind::Fused && cube != (kind == model::Kind::Cube)) {
            model::refuse("this core has no %s", model::name_of(where));
        }
    }

    LocalTensor operator[](model::Exact<uint32_t> offset) const
    {
        LocalTensor moved = *this;
        moved.byte += static_cast<int64_t>(offset.value) * sizeof(T);
        return moved;
    }

    template <class U>
    LocalTensor<U> ReinterpretCast() const
    {
        LocalTensor<U> other;
        other.where = where, other.position = position, other.byte = byte, other.begin = begin, other.end = end;
        return other;
    }

    T GetValue(const uint32_t index) const { return *at(byte + index * sizeof(T)); }
    void SetValue(const uint32_t index, const T value) const { *at(byte + index * sizeof(T)) = value; }
    // An address that names the byte of the unified buffer.
    uint64_t GetPhyAddr() const { return uint64_t(1) << 40 | static_cast<uint64_t>(byte); }
    uint32_t GetSize() const { return static_cast<uint32_t>((end - byte) / sizeof(T)); }
    TPosition GetPosition() const { return position; }

    // The element at a byte of the memory, inside the tensor as it was declared.
    T* at(int64_t at) const
    {
        if (at < begin || at + static_cast<int64_t>(sizeof(T)) > end) {
            model::refuse("byte %lld of %s, outside the tensor at %lld to %lld", (long long)at, model::name_of(where),
                          (long long)begin, (long long)end);
        }
        return reinterpret_cast<T*>(model::core().memory(where) + at);
    }

    // The same for reads that hardware does beyond a tensor and whose values end nowhere.
    T beyond(int64_t at) const
    {
        if (at < 0 || at + static_cast<int64_t>(sizeof(T)) > static_cast<int64_t>(model::capacity(where))) {
            model::refuse("byte %lld of %s, outside the memory", (long long)at, model::name_of(where));
        }
        return *reinterpret_cast<T*>(model::core().memory(where) + at);
    }

    void starts_at(int64_t multiple, const char* what) const { model::aligned(where, byte, multiple, what); }

    void in(Hardware wanted, const char* what) const
    {
        if (where != wanted) {
            model::refuse("%s: a tensor in %s, not in %s", what, model::name_of(where), model::name_of(wanted));
        }
    }

    Hardware where = Hardware::UB;
    TPosition position = TPosition::VECCALC;
    int64_t byte = 0, begin = 0, end = 0;
};

template <class T>
class GlobalTensor {
public:
    using PrimType = T;
    void SetGlobalBuffer(__gm__ T* buffer, uint64_t bufferSize)
    {
        base_ = buffer, size_ = static_cast<int64_t>(bufferSize), offset_ = 0;
    }

    GlobalTensor operator[](const int64_t offset) const
    {
        GlobalTensor moved = *this;
        moved.offset_ += offset;
        return moved;
    }

    T GetValue(const int64_t index) const { return *at(index); }
    void SetValue(const int64_t index, const T value) const { *at(index) = value; }

    T* at(int64_t index) const
    {
        const int64_t i = offset_ + index;
        if (i < 0 || i >= size_) {
            model::refuse("element %lld of a global tensor of %lld", (long long)i, (long long)size_);
        }
        return base_ + i;
    }

    // The same where a transfer moves whole blocks of 32 bytes. What is written may fill the last block of the tensor,
    // what is read may begin at its last element: aclrtMalloc gives that much more than was asked for.
    T* in_blocks(int64_t index, bool read) const
    {
        const int64_t i = offset_ + index, per = 32 / static_cast<int64_t>(sizeof(T));
        if (i < 0 || i >= (read ? size_ + per - 1 : (size_ + per - 1) / per * per)) {
            model::refuse("element %lld of a global tensor of %lld", (long long)i, (long long)size_);
        }
        return base_ + i;
    }

private:
    T* base_ = nullptr;
    int64_t size_ = 0, offset_ = 0;
};

}  // namespace AscendC

namespace model {

// The number that SetAtomicAdd leaves for a type; 0 for those that nothing here adds.
template <class T>
constexpr int atomic_of = std::is_same<T, float>::value        ? 1
                          : std::is_same<T, half>::value       ? 2
                          : std::is_same<T, bfloat16_t>::value ? 3
                          : std::is_same<T, int32_t>::value    ? 4
                                                               : 0;

// Of transfers to global memory only the fixpipe adds here.
inline void does_not_add()
{
    if (core().atomic != 0) {
        refuse("a transfer to global memory between SetAtomicAdd and SetAtomicNone that is no Fixpipe");
    }
}

inline int64_t ub_byte(uint64_t address)
{
    const int64_t byte = static_cast<int64_t>(address & 0xFFFFFFFFu);
    if (address >> 40 != 1) {
        refuse("an address that is not of a tensor");
    }
    aligned(Hardware::UB, byte, 32, "an address");
    return byte;
}

template <class T>
T* in_ub(int64_t byte)
{
    if (byte < 0 || byte + static_cast<int64_t>(sizeof(T)) > static_cast<int64_t>(capacity(Hardware::UB))) {
        refuse("byte %lld of UB, outside the memory", (long long)byte);
    }
    return reinterpret_cast<T*>(core().memory(Hardware::UB) + byte);
}

}  // namespace model

#endif
