// A stand-in for the acl runtime in host memory, which refuses what a device would get wrong.
//
// Work in streams is done only when somebody waits for it, in order, so that a missing synchronisation shows as wrong
// numbers: copies read their source, and write their target, as late as may be. Device memory is filled with a pattern
// when it is allocated and when it is freed, never handed out again, and has guards on both sides that are looked at when it
// is freed. A wrong call ends the program with status 99 and the reason; memory that is never freed does so at its end.
//
// Environment: STAND_IN_DEVICES (default 1), STAND_IN_MEMORY (bytes, default 1 GiB), STAND_IN_FAIL ("aclrtMalloc:3": its third
// call fails as a device's error would).
#include "stand_in.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "acl/acl.h"

namespace {

constexpr size_t GUARD = 512;
constexpr unsigned char FRESH = 0xA7, FREED = 0xDD, FENCE = 0x5C;
constexpr aclError REFUSED = 107000, NO_MEMORY = 207001, DEVICE_ERROR = 507899;

struct Block {
    size_t bytes;
    bool device, live;
};

struct Stream {
    std::vector<std::function<void()>> work;
};

struct State {
    std::mutex lock;
    std::map<const unsigned char*, Block> blocks;  // by first byte; those that were freed stay
    std::set<Stream*> streams;
    std::map<std::string, int> calls;
    std::string message;
    bool initialized = false, set = false;
    size_t used = 0;
};

State& state()
{
    static State* s = new State;  // outlives every destructor
    return *s;
}

thread_local bool current = false;

[[noreturn]] void refuse(const std::string& why)
{
    std::fprintf(stderr, "acl stand-in: %s\n", why.c_str());
    std::fflush(nullptr);
    std::_Exit(99);
}

size_t number(const char* name, size_t otherwise)
{
    const char* text = std::getenv(name);
    return text != nullptr && *text != 0 ? std::strtoull(text, nullptr, 10) : otherwise;
}

// Whether this call is the one that STAND_IN_FAIL names.
bool fails(const char* name)
{
    const char* wanted = std::getenv("STAND_IN_FAIL");
    const int count = ++state().calls[name];
    if (wanted == nullptr || std::string(wanted) != std::string(name) + ":" + std::to_string(count)) {
        return false;
    }
    state().message = "the device was lost";
    return true;
}

void require_device(const char* call)
{
    if (!state().initialized || !state().set || !current) {
        refuse(std::string(call) + " without aclInit, aclrtSetDevice or a current context of this thread");
    }
}

const Block* find(const void* data, size_t bytes)
{
    auto& blocks = state().blocks;
    auto at = blocks.upper_bound(static_cast<const unsigned char*>(data));
    if (at == blocks.begin()) {
        return nullptr;
    }
    --at;
    const auto* first = static_cast<const unsigned char*>(data);
    return first >= at->first && first < at->first + at->second.bytes + (at->second.bytes == 0) &&
                   bytes <= at->second.bytes - static_cast<size_t>(first - at->first)
               ? &at->second
               : nullptr;
}

void require(const char* call, const char* side, const void* data, size_t bytes, bool device, bool pinned)
{
    const Block* block = find(data, bytes);
    const std::string what = std::string(call) + ": its " + side + ", " + std::to_string(bytes) + " bytes, ";
    if (block == nullptr) {
        if (device) refuse(what + "lies in no device memory, or reaches past its end");
        if (pinned) refuse(what + "is memory that is not page-locked, in an asynchronous copy");
        return;
    }
    if (!block->live) refuse(what + "was freed");
    if (block->device != device) refuse(what + (device ? "is memory of the host" : "is memory of the device"));
}

void check_copy(const char* call, const void* to, size_t room, const void* from, size_t bytes, aclrtMemcpyKind kind, bool async)
{
    const bool to_device = kind == ACL_MEMCPY_HOST_TO_DEVICE || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
    const bool from_device = kind == ACL_MEMCPY_DEVICE_TO_HOST || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
    require_device(call);
    if (bytes == 0) refuse(std::string(call) + " of no bytes");
    if (bytes > room) refuse(std::string(call) + " of more bytes than its target has");
    require(call, "target", to, bytes, to_device, async);
    require(call, "source", from, bytes, from_device, async);
    const auto a = reinterpret_cast<uintptr_t>(to), b = reinterpret_cast<uintptr_t>(from);
    if (a < b + bytes && b < a + bytes) refuse(std::string(call) + ": source and target overlap");
    if (to_device && from_device && (a % 64 != 0 || b % 64 != 0)) {
        refuse(std::string(call) + " on the device between addresses that are no multiples of 64");
    }
}

aclError allocate(void** memory, size_t bytes, bool device)
{
    State& s = state();
    if (device && s.used + bytes > number("STAND_IN_MEMORY", size_t{1} << 30)) {
        s.message = "no memory is left on the device";
        return NO_MEMORY;
    }
    // Starts at multiples of 512 for the device (2 MiB pages in truth), of 64 for the host.
    const size_t align = device ? 512 : 64;
    auto room = std::make_unique<unsigned char[]>(bytes + 2 * GUARD + align);
    const auto start = reinterpret_cast<uintptr_t>(room.get()) + GUARD;
    unsigned char* first = room.get() + GUARD + (align - start % align) % align;
    std::memset(first - GUARD, FENCE, GUARD);
    std::memset(first, FRESH, bytes);
    std::memset(first + bytes, FENCE, GUARD);
    s.blocks[first] = Block{bytes, device, true};
    room.release();  // kept for ever: an address is never given twice
    if (device) s.used += bytes;
    *memory = first;
    return ACL_SUCCESS;
}

void finish(Stream* stream)
{
    auto work = std::move(stream->work);
    stream->work.clear();
    for (auto& each : work) each();
}

aclError release(const char* call, void* memory, bool device)
{
    State& s = state();
    auto at = s.blocks.find(static_cast<unsigned char*>(memory));
    if (at == s.blocks.end() || at->second.device != device) refuse(std::string(call) + " of what was not allocated so");
    if (!at->second.live) refuse(std::string(call) + " twice of the same memory");
    for (Stream* stream : s.streams) {
        if (!stream->work.empty()) refuse(std::string(call) + " while a stream still has work");
    }
    auto* first = static_cast<unsigned char*>(memory);
    for (size_t i = 1; i <= GUARD; ++i) {
        if (first[-static_cast<ptrdiff_t>(i)] != FENCE || first[at->second.bytes + i - 1] != FENCE) {
            refuse(std::string(call) + ": something was written beside a block of " + std::to_string(at->second.bytes) + " bytes");
        }
    }
    std::memset(first, FREED, at->second.bytes);
    at->second.live = false;
    if (device) s.used -= at->second.bytes;
    return ACL_SUCCESS;
}

void look_for_leaks()
{
    State& s = state();
    size_t blocks = 0, bytes = 0;
    for (const auto& each : s.blocks) {
        blocks += each.second.live;
        bytes += each.second.live ? each.second.bytes : 0;
    }
    if (blocks != 0 || !s.streams.empty()) {
        refuse(std::to_string(blocks) + " blocks (" + std::to_string(bytes) + " bytes) and " + std::to_string(s.streams.size()) +
               " streams were never given back");
    }
}

Stream* stream_of(const char* call, aclrtStream stream)
{
    require_device(call);
    auto* found = static_cast<Stream*>(stream);
    if (state().streams.count(found) == 0) refuse(std::string(call) + " in a stream that does not exist");
    return found;
}

}  // namespace

#define GUARDED(name)                                     \
    std::lock_guard<std::mutex> guard(state().lock);      \
    if (fails(name)) return DEVICE_ERROR

extern "C" {

aclError aclInit(const char*)
{
    GUARDED("aclInit");
    if (state().initialized) return ACL_ERROR_REPEAT_INITIALIZE;
    static bool watched = std::atexit(look_for_leaks) == 0;
    (void)watched;
    state().initialized = true;
    return ACL_SUCCESS;
}

aclError aclFinalize(void)
{
    std::lock_guard<std::mutex> guard(state().lock);
    if (!state().initialized) refuse("aclFinalize without aclInit");
    look_for_leaks();
    state().initialized = false;
    return ACL_SUCCESS;
}

const char* aclGetRecentErrMsg(void) { return state().message.empty() ? nullptr : state().message.c_str(); }
const char* aclrtGetSocName(void) { return "a stand-in in host memory"; }

aclError aclrtGetDeviceCount(uint32_t* count)
{
    GUARDED("aclrtGetDeviceCount");
    *count = static_cast<uint32_t>(number("STAND_IN_DEVICES", 1));
    return ACL_SUCCESS;
}

aclError aclrtSetDevice(int32_t device)
{
    GUARDED("aclrtSetDevice");
    if (!state().initialized) refuse("aclrtSetDevice without aclInit");
    if (device < 0 || static_cast<size_t>(device) >= number("STAND_IN_DEVICES", 1)) return REFUSED;
    state().set = current = true;
    return ACL_SUCCESS;
}

aclError aclrtResetDevice(int32_t)
{
    std::lock_guard<std::mutex> guard(state().lock);
    require_device("aclrtResetDevice");
    state().set = current = false;
    return ACL_SUCCESS;
}

aclError aclrtGetCurrentContext(aclrtContext* context)
{
    GUARDED("aclrtGetCurrentContext");
    require_device("aclrtGetCurrentContext");
    *context = &state();
    return ACL_SUCCESS;
}

aclError aclrtSetCurrentContext(aclrtContext context)
{
    GUARDED("aclrtSetCurrentContext");
    if (context != &state() || !state().set) refuse("aclrtSetCurrentContext with none of this device");
    current = true;
    return ACL_SUCCESS;
}

aclError aclrtSynchronizeDevice(void)
{
    GUARDED("aclrtSynchronizeDevice");
    for (Stream* stream : state().streams) finish(stream);
    return ACL_SUCCESS;
}

aclError aclrtGetMemInfo(aclrtMemAttr, size_t* left, size_t* total)
{
    std::lock_guard<std::mutex> guard(state().lock);
    *total = number("STAND_IN_MEMORY", size_t{1} << 30);
    *left = *total - state().used;
    return ACL_SUCCESS;
}

aclError aclrtMalloc(void** memory, size_t bytes, aclrtMemMallocPolicy)
{
    GUARDED("aclrtMalloc");
    require_device("aclrtMalloc");
    if (bytes == 0) return REFUSED;
    return allocate(memory, bytes, true);
}

aclError aclrtMallocHost(void** memory, size_t bytes)
{
    GUARDED("aclrtMallocHost");
    require_device("aclrtMallocHost");
    return bytes == 0 ? REFUSED : allocate(memory, bytes, false);
}

aclError aclrtFree(void* memory)
{
    std::lock_guard<std::mutex> guard(state().lock);
    require_device("aclrtFree");
    return release("aclrtFree", memory, true);
}

aclError aclrtFreeHost(void* memory)
{
    std::lock_guard<std::mutex> guard(state().lock);
    require_device("aclrtFreeHost");
    return release("aclrtFreeHost", memory, false);
}

aclError aclrtMemcpy(void* to, size_t room, const void* from, size_t bytes, aclrtMemcpyKind kind)
{
    GUARDED("aclrtMemcpy");
    check_copy("aclrtMemcpy", to, room, from, bytes, kind, false);
    std::memcpy(to, from, bytes);
    return ACL_SUCCESS;
}

aclError aclrtMemcpyAsync(void* to, size_t room, const void* from, size_t bytes, aclrtMemcpyKind kind, aclrtStream stream)
{
    GUARDED("aclrtMemcpyAsync");
    check_copy("aclrtMemcpyAsync", to, room, from, bytes, kind, true);
    stream_of("aclrtMemcpyAsync", stream)->work.emplace_back([=] { std::memcpy(to, from, bytes); });
    return ACL_SUCCESS;
}

aclError aclrtMemsetAsync(void* to, size_t room, int32_t value, size_t bytes, aclrtStream stream)
{
    GUARDED("aclrtMemsetAsync");
    if (bytes > room) refuse("aclrtMemsetAsync of more bytes than its target has");
    require("aclrtMemsetAsync", "target", to, bytes, true, true);
    stream_of("aclrtMemsetAsync", stream)->work.emplace_back([=] { std::memset(to, value, bytes); });
    return ACL_SUCCESS;
}

aclError aclrtCreateStream(aclrtStream* stream)
{
    GUARDED("aclrtCreateStream");
    require_device("aclrtCreateStream");
    auto* made = new Stream;
    state().streams.insert(made);
    *stream = made;
    return ACL_SUCCESS;
}

aclError aclrtDestroyStream(aclrtStream stream)
{
    std::lock_guard<std::mutex> guard(state().lock);
    Stream* found = stream_of("aclrtDestroyStream", stream);
    if (!found->work.empty()) refuse("aclrtDestroyStream of a stream that still has work");
    state().streams.erase(found);
    delete found;
    return ACL_SUCCESS;
}

aclError aclrtSynchronizeStream(aclrtStream stream)
{
    GUARDED("aclrtSynchronizeStream");
    finish(stream_of("aclrtSynchronizeStream", stream));
    return ACL_SUCCESS;
}

}  // extern "C"

uint32_t stand_in_launch(void* stream, const char* name, const std::vector<const void*>& memory, std::function<uint32_t()> work,
                         std::function<const char*()> reason)
{
    std::lock_guard<std::mutex> guard(state().lock);
    if (fails("launch")) return static_cast<uint32_t>(DEVICE_ERROR);
    for (const void* address : memory) require(name, "argument", address, 1, true, true);
    stream_of(name, stream)->work.emplace_back([=] {
        if (work() != 0) refuse(std::string("kernel ") + name + ": " + reason());
    });
    return 0;
}
