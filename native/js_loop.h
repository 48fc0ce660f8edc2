#pragma once

#include <vector>

#include "js_values.h"
#include "loop.h"

namespace dmloop {

Napi::Value LoopsValue(Napi::Env env, std::vector<loop::Status>& loops);

}  // namespace dmloop
