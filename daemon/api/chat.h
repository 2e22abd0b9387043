// From chat messages to the model's tokens.
#pragma once

#include "daemon/api/completion_request.h"
#include "daemon/api/context.h"

namespace pointsman {

// The encoder for this server's model; borrows the context.
ChatEncoder ChatEncoderOf(ApiContext& context);

}  // namespace pointsman
