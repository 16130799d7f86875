// What the stand-in offers to generated launch functions: work that a stream does later.
#ifndef STAND_IN_H
#define STAND_IN_H

#include <cstdint>
#include <functional>
#include <vector>

// Puts `work` into a stream. Every address of `memory` must lie in live device memory; `work` returns 0, or a number with its
// reason in `*reason`.
uint32_t stand_in_launch(void* stream, const char* name, const std::vector<const void*>& memory, std::function<uint32_t()> work,
                         std::function<const char*()> reason);

#endif
