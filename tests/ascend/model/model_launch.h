// Launching a kernel function on groups of cores, one group after the other.
#ifndef MODEL_LAUNCH_H
#define MODEL_LAUNCH_H

#include <functional>
#include <thread>

#include "model_core.h"

namespace model {

inline std::string& last_error()
{
    static std::string text;
    return text;
}

// The first thing refused; only one core runs at a time.
struct Refusal {
    std::string text;
    void note(const char* what)
    {
        if (text.empty()) {
            text = what;
        }
    }
};

// What one core is left with when it ends.
inline void finish(const Core& core)
{
    if (core.atomic != 0) {
        refuse("transfers to global memory still add at the end of a kernel");
    }
    for (const auto& flag : core.flags) {
        if (flag.second != 0) {
            refuse("flag %d of event %d is set and never waited for", flag.first.second, flag.first.first);
        }
    }
}

inline void run_core(Group& group, Core& core, const std::function<void()>& kernel, Refusal& refusal)
{
    group.enter(core.number);
    current = &core;
    try {
        kernel();
        finish(core);
    } catch (const Refused& refused) {
        refusal.note(refused.what());
        group.fail();
    }
    current = nullptr;
    group.leave(core.number);
}

// Runs the cores of a group, each in a thread of its own.
inline void run_group(std::vector<Core> cores, const std::function<void()>& kernel)
{
    Group group;
    group.cores = std::move(cores);
    Refusal refusal;
    std::vector<std::thread> threads;
    for (size_t i = 0; i < group.cores.size(); ++i) {
        group.cores[i].group = &group;
        group.cores[i].number = static_cast<int>(i);
    }
    for (size_t i = 0; i < group.cores.size(); ++i) {
        threads.emplace_back([&, i] { run_core(group, group.cores[i], kernel, refusal); });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    if (!refusal.text.empty()) {
        throw Refused(refusal.text);
    }
    for (const auto& flag : group.crossed) {
        if (flag.second != 0) {
            refuse("cross-core flag %d is set and never waited for", flag.first.second.first);
        }
    }
}

enum class Shape { Mix, Cube, Vector, Fused };

// Returns 0, or 1 with the reason in last_error().
inline uint32_t launch(uint32_t blocks, Shape shape, const std::function<void()>& kernel)
{
    try {
        if (blocks == 0) {
            refuse("a launch of no blocks");
        }
        for (uint32_t block = 0; block < blocks; ++block) {
            std::vector<Core> cores;
            if (shape == Shape::Mix) {
                cores.push_back(Core{Kind::Cube, block, blocks, 0, 2});
                cores.push_back(Core{Kind::Vector, block, blocks, 0, 2});
                cores.push_back(Core{Kind::Vector, block, blocks, 1, 2});
            } else {
                const Kind kind = shape == Shape::Cube ? Kind::Cube : shape == Shape::Vector ? Kind::Vector : Kind::Fused;
                cores.push_back(Core{kind, block, blocks, 0, 1});
            }
            run_group(std::move(cores), kernel);
        }
        return 0;
    } catch (const std::exception& problem) {
        last_error() = problem.what();
        return 1;
    }
}

}  // namespace model

#endif
