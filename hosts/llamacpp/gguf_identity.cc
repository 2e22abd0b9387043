#include "hosts/llamacpp/gguf_identity.h"

#include <fmt/format.h>

#include <memory>
#include <utility>
#include <vector>

#include "ggml.h"
#include "gguf.h"
#include "memory/file_layer.h"
#include "memory/hash.h"

namespace pointsman {
namespace {

using Gguf = std::unique_ptr<gguf_context, decltype(&gguf_free)>;

std::string TextOf(const gguf_context* file, const char* key) {
  const int64_t id = gguf_find_key(file, key);
  return id < 0 || gguf_get_kv_type(file, id) != GGUF_TYPE_STRING ? "" : gguf_get_val_str(file, id);
}

std::string FingerprintName(const std::string& architecture) {
  if (architecture == "qwen2moe") return "qwen2_moe";
  if (architecture == "qwen3moe") return "qwen3_moe";
  return architecture;
}

// Adds one router, widened to fp32, to the digest.
Status HashRouter(const std::string& name, std::span<const std::byte> bytes, ggml_type type, int64_t count,
                  Sha256Stream& digest) {
  const ggml_type_traits* traits = ggml_get_type_traits(type);
  if (bytes.size() != ggml_row_size(type, count)) {
    return Error{ErrorCode::kCorrupt, fmt::format("{}: the file ends within it; copy the GGUF anew", name)};
  }
  if (type == GGML_TYPE_F32) {
    digest.Update(bytes);
    return {};
  }
  std::vector<float> values(static_cast<size_t>(count));
  traits->to_float(bytes.data(), values.data(), count);
  digest.Update(std::as_bytes(std::span(values)));
  return {};
}

}  // namespace

Result<GgufIdentity> ReadGgufIdentity(const std::filesystem::path& path) {
  POINTSMAN_TRY(const auto mapped, FileSystem::Real().Map(path));
  const auto bytes = mapped->bytes();
  const Gguf file(gguf_init_from_buffer(bytes.data(), bytes.size(), {.no_alloc = true, .ctx = nullptr}), &gguf_free);
  if (file == nullptr) {
    return Error{ErrorCode::kCorrupt, path.string() +
                                          ": not a GGUF file that this llama.cpp reads; write it anew with "
                                          "convert_hf_to_gguf.py"};
  }

  GgufIdentity identity;
  identity.architecture = FingerprintName(TextOf(file.get(), "general.architecture"));
  const int64_t blocks = [&] {
    const int64_t id = gguf_find_key(file.get(), (TextOf(file.get(), "general.architecture") + ".block_count").c_str());
    return id < 0 || gguf_get_kv_type(file.get(), id) != GGUF_TYPE_UINT32 ? 0 : gguf_get_val_u32(file.get(), id);
  }();
  if (const int64_t id = gguf_find_tensor(file.get(), "token_embd.weight"); id >= 0) {
    identity.vocabulary = gguf_get_tensor_ne(file.get(), id)[1];
  }
  Sha256Stream digest;
  bool quantised = false;
  for (int64_t block = 0; block < blocks; ++block) {
    const std::string name = fmt::format("blk.{}.ffn_gate_inp.weight", block);
    const int64_t id = gguf_find_tensor(file.get(), name.c_str());
    if (id < 0) continue;  // a dense layer
    const ggml_type type = gguf_get_tensor_type(file.get(), id);
    const int64_t* shape = gguf_get_tensor_ne(file.get(), id);
    if (identity.layers++ == 0) {
      identity.router_type = ggml_type_name(type);
      identity.hidden = shape[0];
      identity.experts = shape[1];
      const int64_t expert = gguf_find_tensor(file.get(), fmt::format("blk.{}.ffn_down_exps.weight", block).c_str());
      if (expert >= 0) identity.expert_type = ggml_type_name(gguf_get_tensor_type(file.get(), expert));
    }
    quantised |= ggml_is_quantized(type);
    if (quantised) continue;
    const uint64_t start = gguf_get_data_offset(file.get()) + gguf_get_tensor_offset(file.get(), id);
    const uint64_t size = gguf_get_tensor_size(file.get(), id);
    const auto part =
        start > bytes.size() ? bytes.first(0) : bytes.subspan(start, std::min(size, bytes.size() - start));
    const Status hashed = HashRouter(name, part, type, shape[0] * shape[1], digest);
    if (!hashed.ok()) return Error{hashed.error().code, path.string() + ": " + hashed.error().message};
  }
  if (identity.layers == 0) {
    return Error{ErrorCode::kCorrupt,
                 path.string() +
                     ": no tensor blk.N.ffn_gate_inp.weight: not a Mixture-of-Experts model, or one part of "
                     "a split file; merge the parts with llama-gguf-split"};
  }
  if (!quantised) identity.router_sha256 = digest.Hex();
  return identity;
}

Result<std::string> CheckGguf(const GgufIdentity& model, const Memory& memory) {
  const Fingerprint& built_for = memory.manifest().fingerprint;
  const auto mismatch = [&](const std::string& what) {
    return Error{ErrorCode::kMismatch, fmt::format("{}: built for another model: {}; use a GGUF of the model it was "
                                                   "built for or build a memory for this one",
                                                   memory.directory().string(), what)};
  };
  if (model.architecture != built_for.architecture) {
    return mismatch(fmt::format("architecture {} (memory) != {} (model)", built_for.architecture, model.architecture));
  }
  if (model.router_sha256.empty()) {
    return mismatch(
        fmt::format("its routers are quantised to {}, so they are not those of the memory's model", model.router_type));
  }
  if (model.router_sha256 != built_for.router_sha256) {
    return mismatch(
        fmt::format("router_sha256 {} (memory) != {} (model)", built_for.router_sha256, model.router_sha256));
  }
  const bool full_size = model.expert_type == "f32" || model.expert_type == "f16" || model.expert_type == "bf16";
  if (full_size) return std::string();
  return fmt::format(
      "{}: this model's experts are {}: its router inputs drift from those the memory was built from, and "
      "its verdict may not hold",
      memory.directory().string(), model.expert_type);
}

Result<GgufMemory> OpenMemoryFor(const std::filesystem::path& gguf, const std::filesystem::path& directory,
                                 const GgufMemoryOptions& options) {
  POINTSMAN_TRY(const GgufIdentity identity, ReadGgufIdentity(gguf));
  POINTSMAN_TRY(const std::shared_ptr<const Memory> memory, Memory::Open(directory, {}));
  POINTSMAN_TRY(const std::string warning, CheckGguf(identity, *memory));
  GgufMemory opened;
  const VerdictSummary& verdict = memory->manifest().verdict;
  if (verdict.verdict == "reject" && !options.allow_rejected) {
    return Error{ErrorCode::kMismatch, directory.string() +
                                           ": its verdict is reject: it does not help on its own test "
                                           "split; allow rejected memories to use it all the same"};
  }
  if (verdict.verdict != "adopt" || verdict.stale) {
    opened.warnings.push_back(
        fmt::format("{}: its verdict is {}{}", directory.string(), verdict.verdict, verdict.stale ? " (stale)" : ""));
  }
  if (!warning.empty()) opened.warnings.push_back(warning);
  // The tables are a part of the memory: sharing its ownership keeps both alive.
  opened.tables = std::shared_ptr<const RoutingTables>(memory, &memory->tables());
  return opened;
}

}  // namespace pointsman
