// Room for weights. Large ones lie in huge pages where the system grants them: decoding reads all weights that it uses
// once a token, and walks to small pages cost a tenth of that (reference model, 8 sequences: 2,700 to 3,100 tokens/s;
// reading 42 MB in order: 28 to 50 GB/s).
#pragma once

#include <ATen/core/Tensor.h>

namespace pointsman {

// fp32, not initialized. Throws std::bad_alloc or c10::Error when memory runs out, as at::empty.
at::Tensor NewWeights(at::IntArrayRef shape);

}  // namespace pointsman
