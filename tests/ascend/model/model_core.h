// Cores of the model: their memories, their flags, and who runs.
#ifndef MODEL_CORE_H
#define MODEL_CORE_H

#include <condition_variable>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#define __aicore__
#define __global__
#define __gm__
#define __vector__
#define __cube__
#define __mix__(cube, vector)
#define GM_ADDR __gm__ uint8_t*
#define KERNEL_TASK_TYPE_DEFAULT(kind) (void)AscendC::kind

namespace model {

// What hardware would do wrong, or could not do.
struct Refused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

[[noreturn]] inline void refuse(const char* format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    throw Refused(text);
}

// A parameter of the type T that a wider number is passed for: it has to fit.
template <class T>
struct Exact {
    T value;
    template <class U>
    Exact(U given) : value(static_cast<T>(given))
    {
        if (static_cast<long long>(given) != static_cast<long long>(value)) {
            refuse("%lld does not fit a parameter of %d bytes", static_cast<long long>(given), int(sizeof(T)));
        }
    }
    operator T() const { return value; }
};

}  // namespace model

namespace AscendC {

enum class Hardware : uint8_t { GM, UB, L1, L0A, L0B, L0C, BIAS, FIXBUF, MAX };
enum class TPosition : uint8_t { GM, A1, A2, B1, B2, C1, C2, CO1, CO2, VECIN, VECOUT, VECCALC, C2PIPE2GM };

}  // namespace AscendC

namespace model {

using AscendC::Hardware;

// Bytes of the memories (CANN platform files of 910B and 310P).
inline size_t capacity(Hardware where)
{
    const bool fused = __NPU_ARCH__ == 2002;
    switch (where) {
    case Hardware::UB: return fused ? 256 << 10 : 192 << 10;
    case Hardware::L1: return fused ? 1024 << 10 : 512 << 10;
    case Hardware::L0A:
    case Hardware::L0B: return 64 << 10;
    case Hardware::L0C: return fused ? 256 << 10 : 128 << 10;
    case Hardware::BIAS: return 1 << 10;
    case Hardware::FIXBUF: return 7 << 10;
    default: return 0;
    }
}

enum class Kind { Cube, Vector, Fused };

class Group;

struct Core {
    Kind kind;
    int64_t block, blocks, sub, subs;
    Group* group = nullptr;
    int number = 0;
    std::vector<uint8_t> memories[static_cast<int>(Hardware::MAX)];
    std::map<std::pair<int, int>, int> flags;  // by (event, id)
    uint64_t scales = 0;                        // address of the fixpipe's scales, as SetFixPipeConfig leaves it
    int atomic = 0;                             // what SetAtomicAdd left: which type is added to global memory, or none
    bool ready = false;                         // InitSocState was called

    // Memory that nobody has written is NaN.
    uint8_t* memory(Hardware where)
    {
        auto& bytes = memories[static_cast<int>(where)];
        if (bytes.empty()) {
            bytes.assign(capacity(where), 0xFF);
        }
        return bytes.data();
    }
};

inline thread_local Core* current = nullptr;

inline Core& core()
{
    if (current == nullptr) {
        refuse("a kernel function runs outside a launch");
    }
    return *current;
}

// The cores of a group: one runs until it waits for another or ends; then the next.
class Group {
public:
    std::vector<Core> cores;
    // Sets of cross-core flags not yet waited for, by (receiver, flag, sender).
    std::map<std::pair<int, std::pair<int, int>>, int> crossed;

    void enter(int number)
    {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [&] { return turn_ == number; });
    }

    void leave(int number)
    {
        std::unique_lock<std::mutex> lock(mutex_);
        done_.resize(cores.size());
        done_[number] = true;
        idle_ = 0;
        pass(number);
    }

    // Let others run; returns when it is this core's turn again.
    void yield(int number)
    {
        std::unique_lock<std::mutex> lock(mutex_);
        if (++idle_ > static_cast<int>(2 * cores.size())) {
            failed_ = true;
        }
        pass(number);
        changed_.wait(lock, [&] { return turn_ == number; });
        if (failed_) {
            refuse("cores wait for each other for ever");
        }
    }

    void progress() { idle_ = 0; }

    void fail() { failed_ = true; }

private:
    void pass(int number)
    {
        done_.resize(cores.size());
        for (size_t step = 1; step <= cores.size(); ++step) {
            const int next = static_cast<int>((number + step) % cores.size());
            if (!done_[next]) {
                turn_ = next;
                break;
            }
        }
        changed_.notify_all();
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<bool> done_;
    int turn_ = 0, idle_ = 0;
    bool failed_ = false;
};

}  // namespace model

#endif
