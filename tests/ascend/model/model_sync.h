// Flags between pipes and between cores. Pipes run in program order here, so that a wait must find its set.
#ifndef MODEL_SYNC_H
#define MODEL_SYNC_H

#include "model_core.h"

enum pipe_t { PIPE_S, PIPE_V, PIPE_M, PIPE_MTE1, PIPE_MTE2, PIPE_MTE3, PIPE_ALL, PIPE_FIX };
enum event_t { EVENT_ID0, EVENT_ID1, EVENT_ID2, EVENT_ID3, EVENT_ID4, EVENT_ID5, EVENT_ID6, EVENT_ID7 };

#define ASCEND_IS_AIC (AscendC::ModelIs(model::Kind::Cube))
#define ASCEND_IS_AIV (AscendC::ModelIs(model::Kind::Vector))

namespace AscendC {

enum KernelTaskType { KERNEL_TYPE_AIV_ONLY, KERNEL_TYPE_AIC_ONLY, KERNEL_TYPE_MIX_AIC_1_2 };

enum class HardEvent : uint8_t {
    MTE2_MTE1, MTE1_MTE2, MTE1_M, M_MTE1, MTE2_V, V_MTE2, MTE3_V, V_MTE3, M_V, V_M, V_V, MTE3_MTE1, MTE1_MTE3, MTE1_V,
    MTE2_M, M_MTE2, V_MTE1, M_FIX, FIX_M, MTE3_MTE2, MTE2_MTE3, S_V, V_S, S_MTE2, MTE2_S, S_MTE3, MTE3_S, MTE2_FIX,
    FIX_MTE2, FIX_S, M_S, FIX_MTE3, MTE1_FIX, FIX_MTE1, FIX_FIX,
};

inline bool ModelIs(model::Kind kind) { return model::core().kind == kind; }

inline void InitSocState() { model::core().ready = true; }
inline int64_t GetBlockNum() { return model::core().blocks; }
inline int64_t GetSubBlockIdx() { return model::core().sub; }
inline int64_t GetSubBlockNum() { return model::core().subs; }
// The number of a vector core of a group counts all vector cores.
inline int64_t GetBlockIdx()
{
    const model::Core& core = model::core();
    return core.kind == model::Kind::Vector ? core.block * core.subs + core.sub : core.block;
}

template <HardEvent event>
void SetFlag(int32_t eventID)
{
    if (eventID < 0 || eventID > 7) {
        model::refuse("event %d, of which there are 8", eventID);
    }
    if (!model::core().ready) {
        model::refuse("InitSocState was not called");
    }
    if (++model::core().flags[{static_cast<int>(event), eventID}] > 1) {
        model::refuse("flag %d of event %d set twice before it was waited for", eventID, static_cast<int>(event));
    }
}

template <HardEvent event>
void WaitFlag(int32_t eventID)
{
    if (model::core().flags[{static_cast<int>(event), eventID}]-- < 1) {
        model::refuse("a wait for flag %d of event %d, which nobody has set", eventID, static_cast<int>(event));
    }
}

template <pipe_t pipe>
void PipeBarrier()
{
}

template <uint8_t modeId, pipe_t pipe>
void CrossCoreSetFlag(uint16_t flagId)
{
    static_assert(modeId == 2, "between a cube core and its vector cores");
    static_assert(pipe != PIPE_S && pipe != PIPE_ALL, "pipes that can set");
    model::Core& core = model::core();
    if (flagId > 10) {
        model::refuse("cross-core flag %d", flagId);
    }
    for (const model::Core& other : core.group->cores) {
        if (other.kind != core.kind && ++core.group->crossed[{other.number, {flagId, core.number}}] > 15) {
            model::refuse("cross-core flag %d is set more than 15 times ahead", flagId);
        }
    }
    core.group->progress();
}

template <uint8_t modeId = 0, pipe_t pipe = PIPE_S>
void CrossCoreWaitFlag(uint16_t flagId)
{
    model::Core& core = model::core();
    const auto all = [&](int step) {
        bool set = true;
        for (const model::Core& other : core.group->cores) {
            if (other.kind != core.kind) {
                int& count = core.group->crossed[{core.number, {flagId, other.number}}];
                set = set && count > 0;
                count -= step;
            }
        }
        return set;
    };
    while (!all(0)) {
        core.group->yield(core.number);
    }
    all(1);
    core.group->progress();
}

}  // namespace AscendC

#endif
