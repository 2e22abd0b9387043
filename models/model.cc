#include "models/model.h"

#include <ATen/Functions.h>
#include <fmt/format.h>
#include <malloc.h>

#include <exception>

#include "models/families/olmoe.h"
#include "models/fingerprint.h"
#include "models/safetensors.h"

extern "C" void openblas_set_num_threads(int);  // its header is named differently by each way of installing it

namespace pointsman {
namespace {

Result<std::unique_ptr<MoeModel>> LoadFamily(const std::filesystem::path& directory) {
  POINTSMAN_TRY(MoeConfig config, LoadConfig(directory));
  POINTSMAN_TRY(const SafetensorsFiles files, SafetensorsFiles::Open(directory));
  POINTSMAN_TRY(std::unique_ptr<const Tokenizer> tokenizer, Tokenizer::Load(directory / "tokenizer.json"));
  POINTSMAN_CHECK_OK(CheckVocabulary(config, *tokenizer, directory));
  POINTSMAN_TRY(Fingerprint fingerprint, ComputeFingerprint(config, files, *tokenizer));
  if (config.model_type == "olmoe") {
    return OlmoeModel::Create(std::move(config), files, std::move(tokenizer), std::move(fingerprint));
  }
  return Error{ErrorCode::kUnsupported, fmt::format("{}: model_type \"{}\" is not supported: use an OLMoE model",
                                                    (directory / "config.json").string(), config.model_type)};
}

}  // namespace

Result<std::unique_ptr<MoeModel>> MoeModel::Load(const std::filesystem::path& directory) {
  try {
    return LoadFamily(directory);
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kInternal,
                 fmt::format("{}: not enough memory for the weights in fp32: use a machine with more memory, or a "
                             "smaller model",
                             directory.string())};
  } catch (const std::exception& exception) {
    const std::string text = exception.what();
    return Error{ErrorCode::kInternal, fmt::format("{}: LibTorch could not hold the model ({}): free memory and retry",
                                                   directory.string(), text.substr(0, text.find('\n')))};
  }
}

at::Tensor MoeModel::Losses(const at::Tensor& ids, const at::Tensor& targets, RoutingHook* hook,
                            const std::vector<uint32_t>& slots) const {
  ForwardOptions options;
  options.hook = hook;
  options.slots = slots;
  options.last_only = !targets.defined();
  const at::Tensor logits = Forward(ids, options);
  if (!targets.defined()) return {};
  const at::Tensor flat =
      at::cross_entropy_loss(logits.view({-1, logits.size(-1)}), targets.view({-1}), {}, at::Reduction::None);
  return flat.view(ids.sizes());
}

bool MoeModel::ExpertsAreEqual() const {
  bool equal = true;
  for (const auto& [name, value] : Weights()) {
    if (name.find(".mlp.experts.") == std::string::npos) continue;  // fused: [E, ...]
    equal = equal && value.eq(value.narrow(0, 0, 1)).all().item<bool>();
  }
  return equal;
}

void TuneRuntime() {
  // MKL's products depend on where an array begins in memory, unless asked not to. It reads this at its first call.
  setenv("MKL_CBWR", "AUTO,STRICT", /*overwrite=*/0);
  // Our threads each run their own products. OpenBLAS (FAISS's; and LibTorch's where that has no BLAS of its own) would
  // split every small product over threads of its own that wait in sched_yield: one training of 32,000 tokens on two
  // busy cores took 77 s, and 24 s without them.
  openblas_set_num_threads(1);
  // Activations of one step are freed and allocated again; by default glibc maps each block anew and zeroes its pages,
  // which cost half of a training step (measured with 16 windows of 256 tokens).
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 2147483647);
  mallopt(M_TOP_PAD, 64 << 20);
  // Other arenas hold at most 64 MB each and map what is larger: with them, two training threads took 400,000 page
  // faults in 6 steps; with one arena for all, 225.
  mallopt(M_ARENA_MAX, 1);
}

}  // namespace pointsman
